"""Compares two evaluations question by question: who is right where, and is it more than chance.

    msjoe compare A B --out=compare.html
    msjoe compare runs/tiny:joint@8 runs/tiny:uniform@16

A and B are folders of evaluations, DIR, or arms of them, DIR:ARM or DIR:ARM@K. Of two folders the
arms of the same name and budget are compared, on the questions that both have. Prints a table;
--out writes a page with the questions that only one answers rightly, in pictures where the
evaluation has looked at them (--looks).
"""

from collections.abc import Iterator, Sequence

from absl import flags

from msjoe_jax.commands.cli import run_app
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.comparison import compare, read_side, unlike
from msjoe_jax.report.compare_page import Pair, Part, p_text, render, verdict
from msjoe_jax.runtime.files import write_whole

MOST_FLIPS = 10  # of a pair that are printed
MOST_DETAILS = 4  # pairs whose groups and flips are printed


def lines_of(pairs: Sequence[Pair]) -> Iterator[str]:
    """Yields the lines that are printed."""
    for pair in pairs:
        yield f"A {pair.a}"
        yield f"B {pair.b}"
        for reason, number in pair.left_out.items():
            yield f"  not counted: {number:,} questions {reason}"
        yield f"  {'':28} {'questions':>9} {'A':>6} {'B':>6}   A − B, 95 %"
        yield _line("all", pair.whole)
        if len(pairs) > MOST_DETAILS:
            continue
        yield from (_line(f"{part.kind} {part.name}", part) for part in pair.groups)
        for flip in pair.flips[:MOST_FLIPS]:
            better = "A" if flip.a_better else "B"
            answers = f"A {flip.a.answer or 'none'}, B {flip.b.answer or 'none'}"
            yield f"  flip {flip.a.id}: {better} is right ({answers}, right {flip.a.gold})"
        if len(pair.flips) > MOST_FLIPS:
            yield f"  and {len(pair.flips) - MOST_FLIPS:,} more flips"
    if len(pairs) > MOST_DETAILS:
        yield f"groups and flips of {len(pairs)} pairs are left out; name one as DIR:ARM@K"


def _line(name: str, part: Part) -> str:
    ends = part.interval
    interval = "" if ends is None else f" [{ends[0]:+.3f}, {ends[1]:+.3f}]"
    return (
        f"  {name:28} {part.questions:9,} {part.a:6.3f} {part.b:6.3f}   {part.difference:+.3f}"
        f"{interval}  A wins {part.a_wins:,}, B {part.b_wins:,}, p {p_text(part.p)}: "
        f"{verdict(part)}"
    )


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    out = flags.DEFINE_string("out", "", "File of the page, such as compare.html; empty: none.")

    def start(words: Sequence[str]) -> None:
        if len(words) != 2:
            raise UserError("name two evaluations: msjoe compare A B")
        a, b = (read_side(word) for word in words)
        pairs, differing = compare(a, b), unlike(a, b)
        for line in (*differing, *lines_of(pairs)):
            print(line)
        if out.value:
            write_whole(out.value, render(a.name, b.name, pairs, differing))
            print(f"page in {out.value}")

    run_app(start, takes_words=True)
