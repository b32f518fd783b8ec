"""The section of one question: what was searched for, where it was found, what was chosen."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from msjoe_jax.report.charts import axis_strip, strip
from msjoe_jax.report.figures import clock
from msjoe_jax.report.looks import Look
from msjoe_jax.report.page import Html, count, joined, markup, paragraph, section, table
from msjoe_jax.report.scale import Scale, clock_ticks, number_text, scale_of

COLUMNS = 360  # of a heat map at the most: more candidates share one
MOST_FRAMES = 16  # that are shown of one choice
WIDTH, HEIGHT = 160, 90  # of a thumbnail's place
STYLE = f"""
.frames {{ display: grid; gap: 8px; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }}
.frames figure {{ break-inside: avoid; }}
.frames svg {{ width: 100%; aspect-ratio: {WIDTH} / {HEIGHT}; background: #11151c;
  overflow: hidden; }}
.frames .seen svg {{ outline: 3px double var(--good); outline-offset: 1px; }}
.frames figcaption {{ display: flex; }}
.heat image {{ image-rendering: pixelated; }}
"""


def look_section(
    look: Look, number: int, chosen: Sequence[str], head: object = "", with_pictures: bool = True
) -> Html:
    """Renders a question.

    Args:
      look: the question.
      number: of the look on the page, which tells its pictures from others'.
      chosen: names in `look.frames` of the choices that are shown, in their order.
      head: markup between the question and its figures, such as the answers.
      with_pictures: whether to show the frames.
    """
    gold = ord(look.gold) - ord("A") if len(look.gold) == 1 else -1
    options = "".join(
        f'<li class="{"chosen" if place == gold else ""}"><b>{chr(ord("A") + place)}</b>'
        f"<span>{markup(option)}</span>"
        f"{'<span class=tag>right</span>' if place == gold else ''}</li>"
        for place, option in enumerate(look.options)
    )
    parts = [
        Html(f"<ol>{options}</ol>") if options else "",
        head,
        _timeline(look, chosen) if len(look.times) else paragraph("Of its video nothing is known."),
        _pictures(look, number, chosen) if with_pictures and look.thumbnails else "",
    ]
    video = f"question {look.id}, video {look.video}"
    return section(look.question, video, joined(part for part in parts if part))


def thumbnail_bytes(look: Look, chosen: Sequence[str]) -> int:
    """Returns how many characters the pictures of a section add to its page."""
    return sum(len(look.thumbnails[place]) for place in _shown(look, chosen))


def shown_frames(candidates: Sequence[int]) -> list[int]:
    """Returns the chosen candidates that are shown: all, or MOST_FRAMES evenly taken of them."""
    places = dict.fromkeys(sorted(candidates))
    if len(places) <= MOST_FRAMES:
        return list(places)
    taken = np.linspace(0, len(places) - 1, MOST_FRAMES).round().astype(int)
    return [list(places)[place] for place in taken]


def _shown(look: Look, chosen: Sequence[str]) -> list[int]:
    """The candidates whose thumbnails a section shows, each once."""
    places = {place for name in chosen for place in shown_frames(look.frames.get(name, ()))}
    return sorted(places & set(look.thumbnails))


def _timeline(look: Look, chosen: Sequence[str]) -> Html:
    ends = look.times[[0, -1]] if look.times[-1] > look.times[0] else look.times[0] + [-0.5, 0.5]
    time = Scale(float(ends[0]), float(ends[1]))
    windows = "".join(
        f'<rect x="{time.place(start)}%" y="0" height="100%" '
        f'width="{round(max(time.place(end) - time.place(start), 0.3), 3)}%" fill="url(#evidence)" '
        'stroke="#1b7f4b" stroke-width=".8"/>'
        for start, end in look.evidence
    )
    parts: list[Html] = []
    if windows:
        texts = ", ".join(f"{clock(start)}–{clock(end)}" for start, end in look.evidence)
        parts.append(strip("evidence: the answer is seen", windows, texts))
    for arms, queries, similarity in _searches(look):
        whose = f"similarity over time to the queries of {', '.join(arms)}"
        parts.append(Html(f"<h3>{markup(whose)}</h3>"))
        parts += _heat(look.times, time, queries, similarity)
    if look.logits:
        parts.append(Html("<h3>logits: the higher, the likelier a frame is chosen</h3>"))
        alike: dict[bytes, list[str]] = {}
        for arm, row in look.logits.items():
            alike.setdefault(row.tobytes(), []).append(arm)
        for arms in alike.values():
            parts.append(_logits(look.times, time, ", ".join(arms), look.logits[arms[0]]))
    parts.append(Html("<h3>chosen frames over time</h3>"))
    for name in chosen:
        parts.append(_choice(look, time, name, windows))
    ticks = [(tick, clock(tick)) for tick in clock_ticks(time)]
    parts.append(axis_strip(time, "time", ticks))
    text = "Hatched: evidence; a chosen frame inside it is a full bar with a head."
    if look.similarity:
        text = f"Heat maps: white is the lowest similarity of a map, black the highest. {text}"
    return Html(f'<figure class="heat">{joined(parts)}<figcaption>{text}</figcaption></figure>')


def _searches(look: Look) -> list[tuple[list[str], tuple[str, ...], Float[np.ndarray, "Q T"]]]:
    """The different (queries, similarity) with the arms that share them."""
    found: list[tuple[list[str], tuple[str, ...], Float[np.ndarray, "Q T"]]] = []
    for arm, similarity in look.similarity.items():
        queries = look.queries[arm]
        for arms, texts, values in found:
            if texts == queries and np.array_equal(values, similarity, equal_nan=True):
                arms.append(arm)
                break
        else:
            found.append(([arm], queries, similarity))
    return found


def _heat(
    times: Float[np.ndarray, "T"],
    time: Scale,
    queries: Sequence[str],
    similarity: Float[np.ndarray, "Q T"],
) -> list[Html]:
    finite = similarity[np.isfinite(similarity)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    rows = []
    for query, row in zip(queries, similarity, strict=True):
        values = np.nan_to_num((_binned(times, time, row) - low) / max(high - low, 1e-9))
        grey = (255 * (1 - values.clip(0, 1))).astype(np.uint8)
        image = (
            f'<image width="100%" height="100%" preserveAspectRatio="none" href="{_png(grey)}"/>'
            '<rect width="100%" height="100%" fill="none" stroke="#9aa5b6"/>'
        )
        ends = (
            f"{number_text(round(float(np.nanmin(row)), 3))} … " if np.isfinite(row).any() else ""
        )
        ends += number_text(round(float(np.nanmax(row)), 3)) if ends else "not a number"
        rows.append(strip(query, image, ends))
    return rows


def _binned(
    times: Float[np.ndarray, "T"], time: Scale, row: Float[np.ndarray, "T"]
) -> Float[np.ndarray, "n"]:
    """The highest value in each column of the map; in one without a candidate the nearest's."""
    n = min(COLUMNS, max(len(times), 1))
    width = (time.high - time.low) / n
    columns = np.minimum(((times - time.low) / width).astype(int), n - 1)
    middles = time.low + (np.arange(n) + 0.5) * width
    nearest = np.abs(times[None] - middles[:, None]).argmin(1)
    out = np.full(n, -np.inf)
    np.maximum.at(out, columns, np.nan_to_num(row, nan=-np.inf))
    return np.where(np.isin(np.arange(n), columns), out, row[nearest])


def _png(grey: UInt8[np.ndarray, "n"]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(grey[None]).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _logits(
    times: Float[np.ndarray, "T"], time: Scale, arm: str, row: Float[np.ndarray, "T"]
) -> Html:
    finite = np.isfinite(row)
    if not finite.any():
        return strip(arm, "", "none is finite")
    up = scale_of(row[finite].tolist())
    every = max(1, len(row) // (2 * COLUMNS))
    kept = _extremes(row, every) if every > 1 else np.arange(len(row))
    points = " ".join(
        f"{time.place(times[place]):g},{100 - up.place(float(row[place])):g}"
        for place in kept
        if finite[place]
    )
    drawing = (
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" height="46">'
        f'<polyline points="{points}" fill="none" stroke="#0b62a4" stroke-width="1.2" '
        'vector-effect="non-scaling-stroke"/></svg>'
        '<rect width="100%" height="100%" fill="none" stroke="#dfe3ea"/>'
    )
    ends = f"{row[finite].min():.3g} … {row[finite].max():.3g}"
    return strip(arm, drawing, ends, height=46)


def _extremes(row: Float[np.ndarray, "T"], every: int) -> list[int]:
    """Returns the places of the lowest and the highest value of every so many, in order."""
    out: list[int] = []
    for start in range(0, len(row), every):
        part = np.nan_to_num(row[start : start + every], nan=0.0)
        out += sorted({start + int(part.argmin()), start + int(part.argmax())})
    return out


def _choice(look: Look, time: Scale, name: str, windows: str) -> Html:
    candidates = look.frames.get(name, ())
    ticks = [f'<rect width="100%" height="100%" fill="none" stroke="#dfe3ea"/>{windows}']
    for candidate in sorted(set(candidates)):
        x, seen = time.place(float(look.times[candidate])), look.is_evidence(candidate)
        top, width = ("2", "3") if seen else ("7", "1.6")
        ticks.append(
            f'<line x1="{x}%" x2="{x}%" y1="{top}" y2="18" stroke="#1c2330" '
            f'stroke-width="{width}"/>'
        )
        if seen:
            ticks.append(f'<circle cx="{x}%" cy="3" r="3.2" fill="#1b7f4b"/>')
    different = len(set(candidates))
    text = count(different, "frame")
    text += f" of {len(candidates)}" if different != len(candidates) else ""
    if look.evidence:
        inside = sum(look.is_evidence(candidate) for candidate in set(candidates))
        text += f", {inside} in evidence"
    return strip(name, "".join(ticks), text)


def _pictures(look: Look, number: int, chosen: Sequence[str]) -> Html:
    images = "".join(
        f'<image id="t{number}-{place}" width="{WIDTH}" height="{HEIGHT}" '
        f'href="data:image/jpeg;base64,{look.thumbnails[place]}"/>'
        for place in _shown(look, chosen)
    )
    parts = [
        '<svg width="0" height="0" style="position:absolute" aria-hidden="true">'
        f"<defs>{images}</defs></svg>"
    ]
    same: dict[tuple[int, ...], list[str]] = {}
    for name in chosen:
        if candidates := tuple(sorted(set(look.frames.get(name, ())))):
            same.setdefault(candidates, []).append(name)
    for candidates, names in same.items():
        shown = shown_frames(candidates)
        of = "" if len(shown) == len(candidates) else f": {len(shown)} of {len(candidates)} frames"
        figures = "".join(_picture(look, number, place) for place in shown)
        parts.append(f"<h3>{markup(', '.join(names) + of)}</h3><div class=frames>{figures}</div>")
    return Html("".join(parts))


def _picture(look: Look, number: int, place: int) -> str:
    time, seen = clock(float(look.times[place])), look.is_evidence(place)
    note = "evidence" if seen else "" if place in look.thumbnails else "no picture"
    use = f'<use href="#t{number}-{place}"/>' if place in look.thumbnails else ""
    return (
        f'<figure class="{"seen" if seen else ""}"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="frame at {time}">{use}</svg>'
        f"<figcaption><span>{time}</span><span>{note}</span></figcaption></figure>"
    )


def answers_table(rows: Sequence[tuple[str, str, bool | None, str]]) -> Html:
    """Makes the table of answers: what chose the frames, the letter, whether right, the reply."""
    words: Mapping[bool | None, str] = {True: "✓ right", False: "✗ wrong", None: "–"}
    cells = [(name, letter or "none", words[right], reply) for name, letter, right, reply in rows]
    return table(("frames chosen by", "answer", "", "reply"), cells, "texts")
