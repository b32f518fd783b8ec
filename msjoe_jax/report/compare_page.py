"""The page of a comparison of two evaluations: who is right where, by how much, and the flips."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from msjoe_jax.report import charts
from msjoe_jax.report.charts import Row, dot_rows, figure
from msjoe_jax.report.evaluation_folder import Sample
from msjoe_jax.report.evaluation_page import interval_text, number, shortened
from msjoe_jax.report.look_section import STYLE as LOOK_STYLE
from msjoe_jax.report.look_section import answers_table, look_section, thumbnail_bytes
from msjoe_jax.report.looks import Look
from msjoe_jax.report.page import Html, count, document, joined, paragraph, section, table
from msjoe_jax.report.scale import scale_of

MOST_PAIRS = 8  # whose groups and flips are shown
MOST_FLIPS = 100  # of a pair that are listed
MOST_PICTURED = 6  # of a pair that are shown with pictures
MOST_PICTURES = 3_000_000  # characters of pictures on a page


@dataclasses.dataclass(frozen=True)
class Part:
    """A and B on the same questions, all or those of a group.

    a, b: accuracies; difference: a − b and its 95 % interval, None where one video has all;
    a_wins, b_wins: questions on which one scores higher; p: exact McNemar of these.
    """

    kind: str
    name: str
    questions: int
    videos: int
    a: float
    b: float
    interval: tuple[float, float] | None
    a_wins: int
    b_wins: int
    p: float

    @property
    def difference(self) -> float:
        """By how much A is better."""
        return self.a - self.b


@dataclasses.dataclass(frozen=True)
class Flip:
    """A question on which A and B differ, with their rows, and its look if there is one.

    chosen: names in the look's frames, of A and of B.
    """

    a: Sample
    b: Sample
    a_better: bool
    look: Look | None = None
    chosen: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two arms that are compared.

    left_out: why questions do not count, with how many; whole: over the common questions; groups:
    over parts of them.
    """

    a: str
    b: str
    left_out: dict[str, int]
    whole: Part
    groups: Sequence[Part]
    flips: Sequence[Flip]


def render(a: str, b: str, pairs: Sequence[Pair], unlike: Sequence[str] = ()) -> str:
    """Renders the page as HTML.

    Args:
      a, b: what is compared, as the user named it.
      pairs: of their arms.
      unlike: a line for each setting that differs.
    """
    head = Html("<header><div class=facts>msjoe_jax comparison</div><h1>A against B</h1></header>")
    body = [charts.definitions(), head, paragraph(f"A: {a}"), paragraph(f"B: {b}")]
    body += [paragraph(line) for line in unlike]
    body.append(_overall(pairs))
    room = MOST_PICTURES
    for place, pair in enumerate(pairs[:MOST_PAIRS]):
        title = f"{pair.a} against {pair.b}"
        if pair.groups:
            body.append(_groups(pair, title))
        body.append(_flips(pair, title))
        for number_, flip in enumerate(_pictured(pair)):
            assert flip.look is not None
            size = thumbnail_bytes(flip.look, flip.chosen)
            fits = size <= room
            room -= size if fits else 0
            place_ = place * MOST_PICTURED + number_
            body.append(_flip(flip, place_, fits))
    if len(pairs) > MOST_PAIRS:
        text = f"Groups and flips of the first {MOST_PAIRS} of {len(pairs)} pairs; name others as "
        body.append(paragraph(f"{text}DIR:ARM@K."))
    return document(f"{a} against {b}", body, charts.STYLE + LOOK_STYLE)


def verdict(part: Part) -> str:
    """Says who is better, if both the interval and the test tell."""
    if part.interval is None:
        return "not known: the questions are of one video"
    if part.p >= 0.05 or part.interval[0] <= 0 <= part.interval[1]:
        return "no clear difference"
    return "A is better" if part.difference > 0 else "B is better"


def p_text(p: float) -> str:
    """Writes a p-value."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _overall(pairs: Sequence[Pair]) -> Html:
    rows = [_row(f"{pair.a} against {pair.b}", pair.whole) for pair in pairs]
    cells = [(pair.a, pair.b, *_cells(pair.whole), verdict(pair.whole)) for pair in pairs]
    listed = table(("A", "B", *_HEAD, "verdict"), cells)
    left = [
        f"{pair.a} against {pair.b}: "
        + ", ".join(f"{number(n)} {reason}" for reason, n in pair.left_out.items())
        for pair in pairs
        if pair.left_out
    ]
    text = "Differences are paired; their intervals by bootstrap over videos. p: exact McNemar of "
    text += (
        "the questions on which A and B differ, which takes questions of a video as independent."
    )
    notes = [paragraph(text), *(paragraph(f"Not counted in {line}.") for line in left)]
    inner = joined([_drawn(rows), listed, *notes])
    return section("Overall", "A minus B, on the common questions", inner)


_HEAD = ("questions", "videos", "A right", "B right", "A − B", "95 %", "A wins", "B wins", "p")


def _cells(part: Part) -> tuple[str, ...]:
    return (
        number(part.questions),
        number(part.videos),
        number(part.a),
        number(part.b),
        f"{part.difference:+.3f}",
        interval_text(part.interval, "+"),
        number(part.a_wins),
        number(part.b_wins),
        p_text(part.p),
    )


def _row(name: str, part: Part) -> Row:
    return Row(name, part.difference, part.interval, f"{part.difference:+.3f}")


def _drawn(rows: Sequence[Row]) -> Html:
    ends = [e for row in rows for e in (row.value, *(row.interval or ())) if e is not None]
    drawn = dot_rows(rows, scale_of(ends, low=0.0), "accuracy of A minus B", at=0.0)
    text = "Right of the dashed line at 0 A is better; a whisker is the 95 % interval."
    return figure(drawn, text)


def _groups(pair: Pair, title: str) -> Html:
    rows = [_row(f"{part.kind}: {part.name}", part) for part in pair.groups]
    cells = [(part.kind, part.name, *_cells(part), verdict(part)) for part in pair.groups]
    listed = table(("kind", "group", *_HEAD, "verdict"), cells)
    return section("By group", title, joined([_drawn(rows), listed]))


def _flips(pair: Pair, title: str) -> Html:
    rows = [
        (
            flip.a.id,
            flip.a.video,
            flip.a.gold,
            flip.a.answer,
            flip.b.answer,
            "AB"[not flip.a_better],
        )
        for flip in pair.flips[:MOST_FLIPS]
    ]
    if not rows:
        return section("Flips", title, "There is no question that only one answers rightly.")
    text = f"{count(len(pair.flips), 'question')} that only one answers rightly"
    more = len(pair.flips) - len(rows)
    notes = (
        [paragraph(f"The first {len(rows)}; {number(more)} more are not listed.")] if more else []
    )
    if not any(flip.look for flip in pair.flips):
        notes.append(paragraph("None of them was looked at: evaluate with --looks=N for pictures."))
    head = ("question", "video", "right answer", "A answered", "B answered", "right is")
    return section("Flips", f"{title}: {text}", joined([table(head, rows, "texts"), *notes]))


def _pictured(pair: Pair) -> Iterator[Flip]:
    """Yields flips with looks, those of A and those of B in turn while there are both."""
    looked = [flip for flip in pair.flips if flip.look]
    of_a = [flip for flip in looked if flip.a_better]
    of_b = [flip for flip in looked if not flip.a_better]
    turns = sorted([*enumerate(of_a), *enumerate(of_b)], key=lambda item: item[0])
    yield from [flip for _, flip in turns][:MOST_PICTURED]


def _flip(flip: Flip, place: int, fits: bool) -> Html:
    assert flip.look is not None
    rows = [
        (f"{name}: {s.arm} @ {s.budget}", s.answer, right, shortened(s.reply))
        for name, s, right in (("A", flip.a, flip.a_better), ("B", flip.b, not flip.a_better))
    ]
    head: list[object] = [answers_table(rows)]
    if flip.look.thumbnails and not fits:
        head.append(paragraph("Its pictures are left out: the page would be too large."))
    return look_section(flip.look, place, flip.chosen, joined(head), with_pictures=fits)


def merged_look(a: Look | None, b: Look | None, a_sample: Sample, b_sample: Sample) -> Flip:
    """Makes the flip of two rows whose looks may be of two evaluations.

    Where the candidates of both are the same, one look has the frames of both; otherwise it is A's,
    or B's where A has none.
    """
    keys = [f"{sample.arm}@{sample.budget}" for sample in (a_sample, b_sample)]
    a_better = (a_sample.score or 0.0) > (b_sample.score or 0.0)
    sides = [
        (f"{name}: {key}", sample.arm, look, key)
        for name, look, key, sample in zip("AB", (a, b), keys, (a_sample, b_sample), strict=True)
        if look is not None
    ]
    if not sides:
        return Flip(a_sample, b_sample, a_better)
    first = sides[0][2]
    sides = [side for side in sides if _same_times(first, side[2])]
    look = dataclasses.replace(
        first,
        queries={name: look.queries.get(arm, ()) for name, arm, look, _ in sides},
        similarity={n: look.similarity[arm] for n, arm, look, _ in sides if arm in look.similarity},
        logits={name: look.logits[arm] for name, arm, look, _ in sides if arm in look.logits},
        frames={name: look.frames.get(key, ()) for name, _, look, key in sides},
        thumbnails={p: jpeg for _, _, look, _ in sides for p, jpeg in look.thumbnails.items()},
    )
    return Flip(a_sample, b_sample, a_better, look, tuple(look.frames))


def _same_times(a: Look, b: Look) -> bool:
    return len(a.times) == len(b.times) and bool(np.allclose(a.times, b.times))
