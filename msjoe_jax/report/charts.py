"""Charts of the pages, as inline SVG: rows of dots with whiskers, bars, stacked bars, and curves.

Horizontal places are percents, so that a chart is as wide as the page and its letters keep their
size. Series differ by marker and dash as well as by colour, parts of a bar by pattern.
"""

import dataclasses
import math
from collections.abc import Sequence

from msjoe_jax.report.page import Html, joined, markup
from msjoe_jax.report.scale import Scale, number_text, scale_of

COLOURS = ("#1c2330", "#0b62a4", "#b3410e", "#00735a", "#8a3a79", "#7a5c00")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4")
MARKS = (
    '<circle r="4"/>',
    '<rect x="-3.6" y="-3.6" width="7.2" height="7.2"/>',
    '<path d="M0-5 4.6 3.6-4.6 3.6Z"/>',
    '<path d="M0-5.4 5.4 0 0 5.4-5.4 0Z"/>',
    '<path d="M0 5-4.6-3.6 4.6-3.6Z"/>',
    '<circle r="3.6" fill="#fff" stroke-width="1.8"/>',
    '<rect x="-3.4" y="-3.4" width="6.8" height="6.8" fill="#fff" stroke-width="1.8"/>',
    '<path d="M0-5 4.6 3.6-4.6 3.6Z" fill="#fff" stroke-width="1.8"/>',
    '<path d="M-4-4 4 4M-4 4 4-4" stroke-width="2"/>',
    '<path d="M-5 0H5M0-5V5" stroke-width="2"/>',
)
PATTERNS = (
    '<rect width="8" height="8" fill="#39465c"/>',
    '<rect width="8" height="8" fill="#fff"/><path d="M-2 6 6-2M2 10 10 2" stroke="#39465c" '
    'stroke-width="1.6"/>',
    '<rect width="8" height="8" fill="#b9c3d3"/>',
    '<rect width="8" height="8" fill="#fff"/><circle cx="2" cy="2" r="1.2" fill="#39465c"/>'
    '<circle cx="6" cy="6" r="1.2" fill="#39465c"/>',
    '<rect width="8" height="8" fill="#7d8aa0"/><path d="M0 4H8M4 0V8" stroke="#fff"/>',
    '<rect width="8" height="8" fill="#fff"/><path d="M0 2H8M0 6H8" stroke="#39465c"/>',
)
EVIDENCE = '<path d="M-2 6 6-2M2 10 10 2" stroke="#1b7f4b" stroke-width="1.2" opacity=".8"/>'
MOST_POINTS = 240  # of a curve; more are averaged

STYLE = """
svg { display: block; overflow: visible; }
svg text { font-size: 11px; fill: var(--soft); }
.row { display: grid; grid-template-columns: minmax(90px, 250px) 1fr auto;
  gap: 0 14px; align-items: center; break-inside: avoid; padding: 1px 0; }
.figures .row { grid-template-columns: minmax(80px, 150px) 1fr auto; }
.row > span { font-size: 13px; line-height: 1.3; overflow-wrap: anywhere; min-width: 0; }
.row > .value { font-variant-numeric: tabular-nums; color: var(--soft); font-size: 12px;
  width: 54px; text-align: right; }
.heat .row > .value { width: 126px; }
.row svg, .plot svg { width: 100%; }
.rows { break-inside: auto; }
.axis { margin-bottom: 6px; }
.plot { padding: 20px 16px 38px 46px; break-inside: avoid; }
.grid { stroke: var(--line); } .base { stroke: #9aa5b6; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; padding: 0; margin: 4px 0 0;
  font-size: 13px; }
.legend span { display: flex; gap: 6px; align-items: center; overflow-wrap: anywhere;
  min-width: 0; }
.legend svg { width: 34px; flex: none; }
figcaption { display: block; margin-top: 4px; }
.figures { display: grid; gap: 18px 26px; grid-template-columns: repeat(auto-fit,
  minmax(min(100%, 400px), 1fr)); }
.figures > * { min-width: 0; }
@media (max-width: 600px) {
  .row, .figures .row { grid-template-columns: 1fr auto; padding: 4px 0; }
  .heat .row > .value { width: 84px; }
  .row > span:first-child { grid-column: 1 / -1; }
  .plot { padding-left: 40px; padding-right: 12px; }
  .axis .t1 { display: none; }
}
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a chart: its name, value and 95 % interval, and what stands at its right.

    value: None: there is none, and nothing is drawn; mark: which of the markers.
    """

    name: str
    value: float | None
    interval: Sequence[float] | None = None
    note: str = ""
    mark: int = 0


@dataclasses.dataclass(frozen=True)
class Series:
    """A curve: its name, points (x, y) in order of x, and an interval for each or none.

    mark: which of the markers, dashes and colours.
    """

    name: str
    points: Sequence[tuple[float, float]]
    intervals: Sequence[Sequence[float] | None] = ()
    mark: int = 0


def definitions() -> Html:
    """Returns the markers and patterns that charts of a page use; once at its beginning."""
    marks = "".join(f'<g id="m{i}">{shape}</g>' for i, shape in enumerate(MARKS))
    size = 'width="8" height="8" patternUnits="userSpaceOnUse"'
    fills = "".join(f'<pattern id="p{i}" {size}>{x}</pattern>' for i, x in enumerate(PATTERNS))
    fills += f'<pattern id="evidence" {size}>{EVIDENCE}</pattern>'
    return Html(
        '<svg width="0" height="0" style="position:absolute" aria-hidden="true">'
        f"<defs>{marks}{fills}</defs></svg>"
    )


def figure(inner: object, caption: str, description: str = "") -> Html:
    """Makes a figure with its caption; `description`: for people who do not see it."""
    label = markup(description or caption)
    text = f"<figcaption>{markup(caption)}</figcaption>" if caption else ""
    return Html(f'<figure role="group" aria-label="{label}">{markup(inner)}{text}</figure>')


def strip(name: object, drawing: str, value: object = "", height: int = 18) -> Html:
    """Makes a row of a chart from its drawing, SVG elements over its whole width."""
    return Html(
        f'<div class="row"><span>{markup(name)}</span><svg height="{height}" '
        f'aria-hidden="true">{drawing}</svg><span class="value">{markup(value)}</span></div>'
    )


def axis_strip(scale: Scale, text: str, ticks: Sequence[tuple[float, str]]) -> Html:
    """Makes the row below a chart's others with the ticks (value, label) of their scale.

    On a narrow screen every other label is left out.
    """
    labels = "".join(
        f'<text class="t{place % 2}" x="{scale.place(tick)}%" y="12" '
        f'text-anchor="{_anchor(scale.place(tick))}">{markup(label)}</text>'
        for place, (tick, label) in enumerate(ticks)
    )
    return Html(f'<div class="axis">{strip(text, labels, height=16)}</div>')


def dot_rows(rows: Sequence[Row], scale: Scale, text: str = "", at: float | None = None) -> Html:
    """Draws a dot with a whisker for each row, over a common scale.

    Args:
      rows: from top to bottom.
      scale: of values and intervals.
      text: what is measured.
      at: a value with a line through all rows, such as 0 for differences.
    """

    def drawing(row: Row) -> str:
        parts = [_grid(scale, at)]
        if row.value is not None:
            colour = COLOURS[row.mark % len(COLOURS)]
            if row.interval:
                parts.append(_whisker(scale, row.interval, colour))
            mark = row.mark % len(MARKS)
            parts.append(_mark(mark, f"{scale.place(row.value)}%", "9", colour))
        return "".join(parts)

    return _rows([strip(row.name, drawing(row), row.note) for row in rows], scale, text)


def bar_rows(rows: Sequence[Row], scale: Scale, text: str = "") -> Html:
    """Draws a bar for each row from the scale's lower end, with a whisker over its end."""

    def drawing(row: Row) -> str:
        parts = [_grid(scale)]
        if row.value is not None:
            fill = f"url(#p{row.mark % len(PATTERNS)})"
            parts.append(
                f'<rect y="2" height="12" width="{scale.place(row.value)}%" fill="{fill}" '
                'stroke="#39465c" stroke-width=".8"/>'
            )
            if row.interval:
                parts.append(_whisker(scale, row.interval, "#c62828"))
        return "".join(parts)

    return _rows([strip(row.name, drawing(row), row.note) for row in rows], scale, text)


def stacked_rows(
    names: Sequence[str], parts: Sequence[str], values: Sequence[Sequence[float]], text: str
) -> Html:
    """Draws for each name a bar of parts one after the other, and the legend of the parts.

    Args:
      names: of the rows.
      parts: of a bar, at most as many as PATTERNS.
      values: of each row, one a part.
      text: what is measured.
    """
    scale = scale_of([sum(row) for row in values], low=0.0)
    strips = []
    for name, row in zip(names, values, strict=True):
        drawing, left = [_grid(scale)], 0.0
        for place, value in enumerate(row):
            x, right = scale.place(left), scale.place(left + value)
            drawing.append(
                f'<rect x="{x}%" y="2" height="12" width="{round(right - x, 3)}%" '
                f'fill="url(#p{place % len(PATTERNS)})" stroke="#39465c" stroke-width=".8"/>'
            )
            left += value
        strips.append(strip(name, "".join(drawing), number_text(_digits(left))))
    keys = "".join(
        f'<span><svg height="12" style="width:18px"><rect width="100%" height="12" '
        f'fill="url(#p{place % len(PATTERNS)})" stroke="#39465c"/></svg>{markup(part)}</span>'
        for place, part in enumerate(parts)
    )
    return Html(f'{_rows(strips, scale, text)}<div class="legend">{keys}</div>')


def curves(
    series: Sequence[Series],
    x: tuple[str, Scale],
    y: tuple[str, Scale],
    *,
    height: int = 220,
    at: tuple[float, str] | None = None,
) -> Html:
    """Draws curves over common axes, and their legend.

    Args:
      series: the curves; points with a y that is not finite are left out.
      x: what the horizontal axis measures, and its scale.
      y: likewise the vertical one.
      height: of the plot, in pixels.
      at: an x with a vertical line, and its name.
    """
    (x_text, across), (y_text, up) = x, y
    parts = [_axes(across, up, height)]
    parts.append(f'<text x="0" y="-10" dx="-38">{markup(y_text)}</text>')
    parts.append(f'<text x="50%" y="{height + 32}" text-anchor="middle">{markup(x_text)}</text>')
    if at:
        place = across.place(at[0])
        parts.append(
            f'<line x1="{place}%" x2="{place}%" y1="0" y2="{height}" stroke="#5b6577" '
            f'stroke-dasharray="3 3"/><text x="{place}%" y="8" dx="{_away(place)}" '
            f'text-anchor="{"end" if place > 50 else "start"}">{markup(at[1])}</text>'
        )
    parts += [_curve(one, across, up, height, len(series)) for one in series]
    keys = joined(legend_entry(one.name, one.mark) for one in series)
    plot = f'<div class="plot"><svg height="{height}" aria-hidden="true">{"".join(parts)}</svg>'
    return Html(f'{plot}</div><div class="legend">{keys}</div>')


def legend_entry(name: str, mark: int) -> Html:
    """Makes the entry of a curve in a legend."""
    colour, dash = COLOURS[mark % len(COLOURS)], DASHES[mark % len(DASHES)]
    line = f'<line x1="0" x2="34" y1="7" y2="7" stroke="{colour}" stroke-width="1.6" '
    line += f'stroke-dasharray="{dash}"/>{_mark(mark % len(MARKS), "17", "7", colour)}'
    return Html(f'<span><svg height="14">{line}</svg>{markup(name)}</span>')


def thinned(points: Sequence[tuple[float, float]]) -> tuple[list[tuple[float, float]], int]:
    """Averages neighbouring points to at most MOST_POINTS.

    Returns:
      The points, and how many of the given ones each stands for.
    """
    finite = [point for point in points if math.isfinite(point[1])]
    size = -(-len(finite) // MOST_POINTS) or 1
    groups = [finite[start : start + size] for start in range(0, len(finite), size)]
    means = [(_mean([x for x, _ in group]), _mean([y for _, y in group])) for group in groups]
    return means, size


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _digits(value: float) -> float:
    """Rounds to three digits."""
    return float(f"{value:.3g}")


def _rows(strips: Sequence[Html], scale: Scale, text: str) -> Html:
    ticks = [(tick, number_text(tick)) for tick in scale.ticks(5)]
    return Html(f'<div class="rows">{joined(strips)}{axis_strip(scale, text, ticks)}</div>')


def _grid(scale: Scale, at: float | None = None) -> str:
    lines = [
        f'<line class="grid" x1="{scale.place(t)}%" x2="{scale.place(t)}%" y1="0" y2="100%"/>'
        for t in scale.ticks(5)
    ]
    if at is not None:
        place = scale.place(at)
        lines.append(
            f'<line x1="{place}%" x2="{place}%" y1="0" y2="100%" stroke="#5b6577" '
            'stroke-dasharray="3 2"/>'
        )
    return "".join(lines)


def _whisker(scale: Scale, interval: Sequence[float], colour: str) -> str:
    low, high = scale.place(interval[0]), scale.place(interval[1])
    style = f'stroke="{colour}" stroke-width="1.4"'
    ends = "".join(f'<line x1="{x}%" x2="{x}%" y1="5" y2="13" {style}/>' for x in (low, high))
    return f'<line x1="{low}%" x2="{high}%" y1="9" y2="9" {style}/>{ends}'


def _mark(mark: int, x: str, y: str, colour: str) -> str:
    return f'<use href="#m{mark}" x="{x}" y="{y}" fill="{colour}" stroke="{colour}"/>'


def _axes(across: Scale, up: Scale, height: int) -> str:
    parts = []
    for tick in up.ticks(5):
        y = round(height * (1 - up.place(tick) / 100), 1)
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        parts.append(f'<text y="{y}" dx="-6" dy="4" text-anchor="end">{number_text(tick)}</text>')
    for tick in across.ticks(5):
        x = across.place(tick)
        parts.append(f'<line class="base" x1="{x}%" x2="{x}%" y1="{height}" y2="{height + 4}"/>')
        parts.append(
            f'<text x="{x}%" y="{height + 17}" text-anchor="middle">{number_text(tick)}</text>'
        )
    parts.append(f'<line class="base" x1="0" x2="100%" y1="{height}" y2="{height}"/>')
    return "".join(parts)


def _curve(one: Series, across: Scale, up: Scale, height: int, number: int) -> str:
    colour, dash = COLOURS[one.mark % len(COLOURS)], DASHES[one.mark % len(DASHES)]
    places = [
        (across.place(x), 100 - up.place(y), place)
        for place, (x, y) in enumerate(one.points)
        if math.isfinite(y)
    ]
    line = " ".join(f"{x:g},{y:g}" for x, y, _ in places)
    parts = [
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" height="{height}">'
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6" '
        f'stroke-dasharray="{dash}" vector-effect="non-scaling-stroke"/></svg>'
    ]
    every = max(1, len(places) // 12)  # a marker on each point would hide a long curve
    # Whiskers of several curves stand beside each other.
    aside = round((one.mark % max(number, 1) - (number - 1) / 2) * min(3, 24 / max(number, 1)), 1)
    for x, y, place in places:
        if place < len(one.intervals) and (interval := one.intervals[place]):
            low, high = (round(height * (1 - up.place(end) / 100), 1) for end in interval)
            parts.append(
                f'<line x1="{x}%" x2="{x}%" y1="{low}" y2="{high}" stroke="{colour}" '
                f'transform="translate({aside} 0)"/>'
            )
        if place % every == 0 or place == len(one.points) - 1:
            parts.append(
                _mark(one.mark % len(MARKS), f"{x}%", f"{round(height * y / 100, 1)}", colour)
            )
    return "".join(parts)


def _anchor(place: float) -> str:
    return "start" if place < 4 else "end" if place > 96 else "middle"


def _away(place: float) -> int:
    return -5 if place > 50 else 5
