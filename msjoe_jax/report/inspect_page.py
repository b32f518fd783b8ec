"""The page of `msjoe inspect`: every part of an inspection, with contact sheets."""

from collections.abc import Sequence

from msjoe_jax.report import charts
from msjoe_jax.report.charts import Row, bar_rows, figure
from msjoe_jax.report.inspection import Bars, Facts, Listing, Part, Sheet, cell
from msjoe_jax.report.look_section import STYLE as LOOK_STYLE
from msjoe_jax.report.look_section import look_section
from msjoe_jax.report.page import Html, document, joined, markup, paragraph, section, table
from msjoe_jax.report.scale import Scale, scale_of


def render(title: str, parts: Sequence[Part]) -> str:
    """Renders the page as HTML; sheets come first, since somebody has asked for them.

    Args:
      title: what was inspected.
      parts: what was found.
    """
    sheets = [part for part in parts if isinstance(part, Sheet)]
    rest = [part for part in parts if not isinstance(part, Sheet)]
    body = [
        charts.definitions(),
        Html(f"<header><div class=facts>msjoe inspect</div><h1>{markup(title)}</h1></header>"),
        *(_sheet(part, number) for number, part in enumerate(sheets)),
        *(_section(part) for part in rest),
    ]
    return document(title, body, charts.STYLE + LOOK_STYLE)


def _sheet(part: Sheet, number: int) -> Html:
    notes = paragraph(joined(part.notes, "<br>")) if part.notes else ""
    return look_section(part.look, number, list(part.look.frames), notes)


def _section(part: Part) -> Html:
    if isinstance(part, Facts):
        return section(part.title, "", table(("", ""), [(f.name, f.text) for f in part.rows]))
    if isinstance(part, Listing):
        more = paragraph(f"and {part.more:,} more") if part.more else ""
        rows = [[cell(value) for value in row] for row in part.rows]
        inner = joined([table(part.head, rows, "texts"), more]) if rows else "None."
        return section(part.title, "", inner)
    assert isinstance(part, Bars)
    return section(part.title, "", _bars(part))


def _bars(part: Bars) -> Html:
    total = sum(count for _, count in part.counts)
    rows = [Row(name or "(empty)", count, note=f"{count:,}") for name, count in part.counts]
    most = max((count for _, count in part.counts), default=0)
    scale = scale_of([most], low=0.0) if most else Scale(0.0, 1.0)
    return figure(bar_rows(rows, scale), f"{total:,} in all. {part.note}".strip(), part.title)
