"""The frame of every HTML page: its style, sections and tables.

Whatever comes from a user or a model is text and escaped; what is markup says so by its type. The
page runs no script and its content policy lets it load nothing but the pictures inside it.
"""

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { --ink: #1c2330; --soft: #5b6577; --line: #dfe3ea; --mark: #c62828; --good: #1b7f4b; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f8; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 24px 20px 40px; }
h1 { font-size: 22px; line-height: 1.3; margin: 4px 0 0; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 0 0 10px; overflow-wrap: anywhere; }
h2 small { font-weight: 400; color: var(--soft); font-size: 13px; margin-left: 8px; }
h3 { font-size: 13px; margin: 16px 0 6px; overflow-wrap: anywhere; }
h3:first-child { margin-top: 0; }
section { background: #fff; border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 16px; margin-top: 14px; }
.facts { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.note { background: #fff6e0; border-color: #ecd9a0; }
.pair { display: flex; flex-wrap: wrap; gap: 14px; }
.pair > section { flex: 1 1 380px; min-width: 0; }
ol { margin: 0; padding: 0; list-style: none; }
li { display: flex; gap: 10px; padding: 4px 8px; border-radius: 6px; overflow-wrap: anywhere; }
li b { color: var(--soft); flex: none; }
li.chosen { background: #e6f4ec; }
li.chosen b { color: var(--good); }
.tag { margin-left: auto; flex: none; font-size: 12px; color: var(--good); }
pre { margin: 0; padding: 8px 10px; background: #f6f7f9; border: 1px solid var(--line);
  border-radius: 6px; font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 320px; overflow: auto; }
.good { color: var(--good); } .bad { color: var(--mark); }
.verdict { margin: 8px 0 0; font-size: 13px; }
.sheet { display: grid; gap: 8px; grid-template-columns: repeat(auto-fill, minmax(118px, 1fr)); }
figure { margin: 0; }
figure img { width: 100%; max-height: 180px; object-fit: contain; background: #11151c;
  border-radius: 5px; display: block; }
figcaption { font-size: 12px; color: var(--soft); display: flex; justify-content: space-between; }
.timeline { width: 100%; display: block; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
td, th { text-align: right; padding: 3px 0 3px 12px; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
th { color: var(--soft); font-weight: 500; }
tr:last-child td { border-bottom: 0; }
section > p:last-child { margin-bottom: 0; }
.scroll { overflow-x: auto; margin: 8px 0; }
.scroll td:not(:first-child) { white-space: nowrap; }
.scroll .texts td, .scroll .texts th { text-align: left; vertical-align: top; }
.scroll .texts td { white-space: normal; min-width: 60px; }
.scroll .texts td:last-child { overflow-wrap: anywhere; min-width: 150px; }
@media (max-width: 600px) { main { padding: 14px 10px 30px; } section { padding: 12px 10px; } }
@media print {
  body { background: #fff; font-size: 12px; print-color-adjust: exact;
    -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  section { border-radius: 0; }
  h2, h3 { break-after: avoid; }
  figure, tr, li { break-inside: avoid; }
  pre { max-height: none; }
  .scroll { overflow: visible; }
  .scroll table { font-size: 9px; }
  .scroll td:not(:first-child) { white-space: normal; }
  .scroll td, .scroll th { padding-left: 6px; overflow-wrap: anywhere; }
}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Markup that stands in a page as it is; any other text is escaped."""


def markup(value: object) -> Html:
    """Returns markup as it is, and anything else as escaped text."""
    return value if isinstance(value, Html) else Html(escape(str(value), quote=True))


def joined(parts: Iterable[object], between: str = "") -> Html:
    """Joins texts and markup to markup; `between` is markup."""
    return Html(between.join(markup(part) for part in parts))


def count(number: int, noun: str) -> str:
    """Writes a number with its noun: "1 frame", "1,200 frames"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def section(title: str, small: str, inner: object, kind: str = "") -> Html:
    """Makes a section of a page: a heading, a smaller line beside it, and what it holds."""
    beside = f"<small>{markup(small)}</small>" if small else ""
    head = f"<h2>{markup(title)}{beside}</h2>" if title else ""
    return Html(f'<section class="{kind}">{head}{markup(inner)}</section>')


def paragraph(text: object, kind: str = "facts") -> Html:
    """Makes a paragraph of the class `kind`."""
    return Html(f'<p class="{kind}">{markup(text)}</p>')


def table(head: Sequence[object], rows: Iterable[Sequence[object]], kind: str = "") -> Html:
    """Makes a table; on a narrow screen it scrolls by itself."""
    titles = Html("".join(f"<th>{markup(name)}</th>" for name in head))
    lines = "".join(
        f"<tr>{''.join(f'<td>{markup(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return Html(f'<div class=scroll><table class="{kind}"><tr>{titles}</tr>{lines}</table></div>')


def document(title: str, body: Iterable[object], style: str = "") -> str:
    """Makes the whole page.

    Args:
      title: of the window.
      body: its parts from top to bottom; empty ones are left out.
      style: rules beside those that all pages have.
    """
    lines = joined((part for part in body if part), "\n")
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{markup(title)}</title><style>{STYLE}{style}</style></head>\n"
        f"<body><main>\n{lines}\n</main></body></html>\n"
    )
