"""The page of an inspection: all parts are on it, and nothing that others wrote is markup."""

from msjoe_jax.report.inspect_page import render
from msjoe_jax.report.inspection import Bars, Fact, Facts, Listing, Sheet
from tests.report.test_inspection import LOOK, PARTS
from tests.report.test_page import BAD, Tags


def test_all_parts_are_on_the_page_and_sheets_first():
    page = Tags(render("Records r", PARTS))
    for text in ("Records r", "all of it", "1:01:01", "by kind", "and 2 more", "v2", "None.", "q1"):
        assert text in page.text, text
    assert page.text.index("a note") < page.text.index("all of it")
    seen = [a for name, a in page.tags if name == "figure" and a.get("class") == "seen"]
    assert len(seen) == 3  # 3 and 4 in the evidence, and 4 among the evenly spaced


def test_nothing_becomes_markup():
    parts = [
        Facts(BAD, [Fact(BAD, BAD)]),
        Bars(BAD, [(BAD, 1)], BAD),
        Listing(BAD, (BAD,), [(BAD,)]),
        Sheet(LOOK, [BAD]),
    ]
    page = Tags(render(BAD, parts))
    assert "script" not in [name for name, _ in page.tags]
    assert page.text.count(BAD) >= 11
