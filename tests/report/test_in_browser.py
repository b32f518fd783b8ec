"""The pages in a real browser: on a telephone, a laptop and paper."""

import pytest

from msjoe_jax.commands.inspect import Wanted, inspect
from msjoe_jax.commands.report import write_evaluation_report
from msjoe_jax.evaluation.comparison import compare, read_side
from msjoe_jax.report import inspect_page
from msjoe_jax.report.compare_page import render
from msjoe_jax.run_report import write_run_report
from tests.support.browser import REQUIRED, console, find_browser, measured
from tests.support.evaluation_folder import LABELS, write_evaluation
from tests.support.run_folder import write_run

pytestmark = pytest.mark.slow

PAPER = 750  # pixels between the margins of A4


def comparison(folder):
    for name, seed in (("a", 0), ("b", 1)):
        write_evaluation(folder / name, seed=seed)
    sides = [read_side(f"{folder}/{text}") for text in ("a:joint@8", "b:uniform@8")]
    page = folder / "compare.html"
    page.write_text(render(*(side.name for side in sides), compare(*sides)))
    return page


def evaluation(folder):
    return write_evaluation_report(write_evaluation(folder / "e", arms=tuple(LABELS), looks=3))


def inspection(folder):
    run = write_run(folder / "run")
    wanted = Wanted(
        records=f"{run}/records", questions=f"{run}/questions.jsonl", question="q1", video="v"
    )
    found, page = inspect(wanted), folder / "inspection.html"
    page.write_text(inspect_page.render(found.title, found.parts))
    return page


def run(folder):
    return write_run_report(write_run(folder / "run"))


@pytest.mark.parametrize("make", [evaluation, run, comparison, inspection])
def test_pages_fit_telephones_laptops_and_paper(make, tmp_path):
    page = make(tmp_path)
    for width, printed in ((375, False), (1280, False), (PAPER, True)):
        found = measured(page, width, printed=printed)
        assert found["width"] == width
        assert found["content"] <= width and not found["wide"], (width, found["wide"][:5])
        assert found["figures"] >= 3 and not found["empty"], (width, found["empty"][:5])
        assert not found["small"], (width, found["small"][:5])
        assert found["scripts"] == 1, "a script beside the one that measures"
        assert found["loaded"] == []
    assert console(page, 1280) == []


def test_a_page_that_does_not_fit_is_found(tmp_path):
    """The measure itself: of a wide, empty page that loads and complains."""
    page = write_evaluation_report(write_evaluation(tmp_path / "e", looks=0))
    text = page.read_text().replace(
        "</main>",
        '<div style="width:900px">wide</div><figure></figure><img src="data:,x" alt="">'
        '<p style="font-size:5px">small</p><img src="file:///no-such-file.png" alt="x"></main>',
    )
    page.write_text(text)
    found = measured(page, 375)
    assert found["content"] > 375 and any("wide" in name for name in found["wide"])
    assert any(name.startswith("<figure>") for name in found["empty"])
    assert any("small" in name for name in found["small"])
    assert console(page, 375)


def test_without_a_browser_a_test_fails_where_one_is_required(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="install Debian's chromium"):
        find_browser()
    monkeypatch.delenv(REQUIRED)
    with pytest.raises(pytest.skip.Exception):
        find_browser()
