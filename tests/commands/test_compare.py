"""`msjoe compare`: a table, and a page if one is asked for."""

import pytest

from msjoe_jax.commands import compare
from msjoe_jax.evaluation.comparison import compare as compare_sides
from msjoe_jax.evaluation.comparison import read_side
from tests.support.commands import command
from tests.support.evaluation_folder import write_evaluation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    write_evaluation(folder / "a")
    write_evaluation(folder / "b", questions=44, seed=1)
    return folder


def lines(folder, a, b):
    sides = [read_side(f"{folder}/{name}") for name in (a, b)]
    return list(compare.lines_of(compare_sides(*sides)))


def test_the_table_says_who_wins_where(folder):
    text = "\n".join(lines(folder, "a:joint@8", "b:uniform@8"))
    for part in ("A joint @ 8 of a", "B uniform @ 8 of b", "not counted: 4 questions only in B"):
        assert part in text
    assert "duration short" in text and "A wins" in text and ": A is better" in text
    assert text.count("  flip q") == compare.MOST_FLIPS and "more flips" in text


def test_of_many_pairs_only_the_wholes_are_printed(folder):
    text = "\n".join(lines(folder, "a", "b"))
    assert text.count("\nB ") == 7 and "flip q" not in text and "duration" not in text
    assert "groups and flips of 7 pairs are left out; name one as DIR:ARM@K" in text


@pytest.mark.slow
def test_the_command_writes_a_page(folder, tmp_path):
    page = tmp_path / "compare.html"
    done = command("compare", f"{folder}/a:joint@8", f"{folder}/b:uniform@8", f"--out={page}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"page in {page}\n")
    assert "<h1>A against B</h1>" in page.read_text()


@pytest.mark.slow
def test_what_is_wrong_is_one_line(folder):
    cases = {
        (): "name two evaluations: msjoe compare A B",
        (f"{folder}/a", f"{folder}/none"): "none: no such folder; write DIR, DIR:ARM or DIR:ARM@K",
        (f"{folder}/a", f"{folder}"): "no summary.json there",
        (f"{folder}/a", f"{folder}/b:joint@5"): "has no such arm; it has blind@0",
    }
    for words, message in cases.items():
        done = command("compare", *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
        assert done.stderr.startswith("error: ") and message in done.stderr
