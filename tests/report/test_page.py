"""The frame of a page: nothing that others wrote becomes markup."""

from html.parser import HTMLParser

from msjoe_jax.report.page import (
    POLICY,
    Html,
    count,
    document,
    joined,
    markup,
    paragraph,
    section,
    table,
)

BAD = "<script>alert(1)</script>\"'&"


class Tags(HTMLParser):
    """Collects the tags of a page, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_text_is_escaped_wherever_it_stands():
    inner = joined([table((BAD,), [(BAD, Html("<b>own</b>"))]), paragraph(BAD), BAD])
    page = Tags(document(BAD, [section(BAD, BAD, inner), ""]))
    names = [name for name, _ in page.tags]
    assert "script" not in names and names.count("b") == 1
    assert page.text.count(BAD) == 7  # title, heading, beside it, two cells, paragraph, text


def test_markup_is_told_by_its_type_alone():
    assert markup(Html("<i>")) == "<i>" and markup("<i>") == "&lt;i&gt;"
    assert markup(0.5) == "0.5" and isinstance(markup("a"), Html)
    assert joined(["<", Html("<br>")], "|") == "&lt;|<br>"


def test_a_document_loads_nothing():
    page = Tags(document("t", [], "p { color: red }"))
    policy = next(a["content"] for tag, a in page.tags if "http-equiv" in a)
    assert policy == POLICY and policy.startswith("default-src 'none'") and "script" not in policy
    assert "p { color: red }" in page.text


def test_count_knows_one_and_many():
    assert [count(n, "frame") for n in (0, 1, 1200)] == ["0 frames", "1 frame", "1,200 frames"]
