"""Compares the expected update of every objective with the exact gradient, by listing all outcomes.

    python -m benchmarks.expectation          # a table; NumPy alone, well under a minute
    python -m benchmarks.expectation --json   # and one JSON object as the last line

Small worlds in float64 (tests/support/small_world.py), the update written once more apart from the
package's (tests/support/expected_update.py), which tests/rl/test_expectation_of_the_step.py holds
against the package's own step. A row is

* of one part, `query`, `sampler` or `answer`: what stands over the denominator, Σ A ∇log π over the
  part's rows (query replies, draws, answers), divided by their number, for one question; or
* `all`: query and answer tokens as the aggregation makes one loss of them, over all questions.

`factor` is the scale of the exact gradient that comes nearest, `stated` what theory gives it, where
it gives one; then the cosine is 1. The gradient is that of what each part is paid, the other parts'
policies fixed.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

if not __package__:  # started as a file: the repository's root is not on the path
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tests.support.expected_update import (
    ACCURACY_ALONE,
    Setting,
    cosine,
    expected_updates,
    factor,
    flat,
    longest,
    numerators,
    stated_factor,
    truth,
)
from tests.support.small_world import Array, Parts, World, make_world

SIZES = ("2x1", "3x1", "2x2", "4x1")  # query rollouts x draws of each
SEEDS = (16, 20, 23, 13)  # of the questions
ADVANTAGES = (("nested", "none"), ("leave_one_out", "none"), ("group", "none"), ("group", "group"))
AGGREGATIONS = ("token-mean", "sequence-mean", "fixed-length")
COLUMNS = {
    "questions": "questions",
    "size": "group",
    "advantage": "advantage",
    "std": "std",
    "sampler_advantage": "sampler's",
    "aggregation": "aggregation",
    "credit": "credit",
    "rewards": "rewards",
    "likelihood": "likelihood",
    "part": "part",
    "cosine": "cosine",
    "factor": "factor",
    "stated_factor": "stated",
}


def make_row(
    setting: Setting,
    questions: int,
    aggregation: str,
    part: str,
    found: Array,
    exact: Array,
    stated: float | None,
) -> dict[str, Any]:
    """Compares two gradients.

    Args:
      setting: the objective and the size of a group.
      questions: in the batch.
      aggregation: how token losses become one.
      part: whose gradient it is.
      found, exact: the gradients.
      stated: theory's factor.
    """
    row = dataclasses.asdict(setting) | {
        "questions": questions,
        "size": f"{setting.query_rollouts}x{setting.frame_draws}",
        "aggregation": aggregation,
        "rewards": "accuracy" if setting.rewards == ACCURACY_ALONE else "all",
        "part": part,
        "cosine": cosine(found, exact),
        "factor": factor(found, exact),
        "stated_factor": stated,
    }
    return {name: row[name] for name in COLUMNS}


def part_rows(world: World, setting: Setting, parts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields a row for each of these parts: its numerator, which token-mean and others share."""
    found, exact = numerators(world, setting), truth(world, setting)
    for part in parts:
        stated = stated_factor(world, setting, part)
        gradients = getattr(found, part), getattr(exact, part)
        yield make_row(setting, 1, "token-mean", part, *gradients, stated)


def joint_row(worlds: Sequence[World], setting: Setting, aggregation: str) -> dict[str, Any]:
    """Compares the update of all query and answer tokens of a batch."""

    def joint(gradients: Sequence[Parts]) -> Array:
        return flat(*(x for g in gradients for x in (g.query, g.answer)))

    found = joint(expected_updates(worlds, setting, aggregation))
    exact = joint([truth(world, setting) for world in worlds])
    stated = None
    if aggregation == "fixed-length" and setting.advantage != "group":
        stated = 1 / (len(worlds) * sum(longest(worlds)))
    return make_row(setting, len(worlds), aggregation, "all", found, exact, stated)


def rows_of(size: str) -> Iterator[dict[str, Any]]:
    """Yields every row of groups of one size, such as "2x1"."""
    num_queries, num_draws = (int(x) for x in size.split("x"))
    group: dict[str, Any] = {"query_rollouts": num_queries, "frame_draws": num_draws}
    worlds = [make_world(seed) for seed in SEEDS]
    for credit, likelihood in itertools.product(("routed", "shared"), ("plackett_luce", "cb")):
        rest = {"credit": credit, "likelihood": likelihood, **group}
        for advantage, std in ADVANTAGES:
            yield from part_rows(worlds[0], Setting(advantage, std, **rest), Parts._fields)
        for kind in ("raw", "counterfactual", "difficulty"):
            setting = Setting(sampler_advantage=kind, **rest)
            yield from part_rows(worlds[0], setting, ["sampler"])
    for credit, kind in itertools.product(("routed", "shared"), ("raw", "relative")):
        setting = Setting("leave_one_out", "none", kind, credit, "marginal", **group)
        yield from part_rows(worlds[0], setting, ["sampler"])
    if num_draws == 1:
        setting = Setting("group", "group", credit="shared", rewards=ACCURACY_ALONE, **group)
        yield from part_rows(worlds[0], setting, Parts._fields)
    for credit, aggregation in itertools.product(("routed", "shared"), AGGREGATIONS):
        # The tokens do not depend on how frames are drawn; of sets there are fewer outcomes.
        setting = Setting("nested", credit=credit, likelihood="cb", **group)
        for count in (1, 2, 4):
            yield joint_row(worlds[:count], setting, aggregation)


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Formats rows as aligned text under the names of the columns."""

    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:.6f}" if isinstance(value, float) else str(value)

    lines = [list(COLUMNS.values()), *([cell(row[name]) for name in COLUMNS] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def main() -> None:
    """Prints the table, and with --json the rows as one object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, last")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES, help="of a group")
    options = parser.parse_args()
    rows = [row for size in options.sizes for row in rows_of(size)]
    print(format_table(rows))
    if options.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
