"""Counts what the videos of a fresh tiny world hold, and fails where something is missing.

    python -m benchmarks.world_placement --version=2 --videos=1000 --seeds=3
    python -m benchmarks.world_placement --records=runs/v2/world/train

The count reads plans as records hold them (a record's `extra`), by the numbers of
docs/world.md that stand here a second time: it shares no code with what plans the videos. One line
a seed, or a record folder; then a line for each thing that is missing, and exit status 1.
"""

import collections
import itertools
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from absl import app, flags

from msjoe_jax.data.questions import load_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.selectors.fixed import oracle_frames
from msjoe_jax.world.build import plan_video
from msjoe_jax.world.phase import WorldConfig

FRAMES, KEY, KINDS_A_VIDEO = 96, 6, 6
SHOWN = 8  # complaints that are printed


class Expected(NamedTuple):
    """What a version's videos hold.

    event: shortest and longest, in frames; forms: of each kind, by form of look-alike: how many
    ("" in version 1, at most), and the bounds of the frames that show one; apart: free frames
    between two things of a kind; shares: of questions by number of events.
    """

    event: tuple[int, int]
    forms: dict[str, tuple[int, tuple[int, int]]]
    apart: int
    words: int
    shares: dict[int, float]


EXPECTED = {
    1: Expected((3, 6), {"": (8, (1, 2))}, 1, 2, {1: 0.5, 2: 0.5}),
    2: Expected(
        (4, 7),
        {"plateau": (1, (10, 17)), "flicker": (2, (3, 5)), "short": (4, (1, 2))},
        2,
        3,
        {1: 0.3, 2: 0.4, 3: 0.3},
    ),
}
Video = tuple[dict[str, Any], Sequence[dict[str, Any]]]  # a record's extra; its questions' fields


def shown_frames(item: dict[str, Any]) -> list[int]:
    """Returns the frames that show an event or a look-alike of a plan in a record."""
    return item.get("frames", [*range(item["start"], item["start"] + item["length"])])


def missing(version: int, plan: dict[str, Any], asked: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields what a video lacks or has wrongly.

    Args:
      version: of the world.
      plan: as its record's extra holds it.
      asked: `extra` of its questions.
    """
    e = EXPECTED[version]
    events, others = plan["events"], plan["look_alikes"]
    kinds = [event["kind"] for event in events]
    if len(set(kinds)) != KINDS_A_VIDEO or len(kinds) != KINDS_A_VIDEO:
        yield f"events of {len(set(kinds))} kinds, not of {KINDS_A_VIDEO}"
    if len(set(plan["words"])) != e.words:
        yield f"{len(set(plan['words']))} words, not {e.words}"
    for word in plan["words"]:
        if 3 * word + plan["setting"] not in kinds:
            yield f"no event of what word {word} means here"
    for event in events:
        yield from _of_an_event(version, event)
    for form, (number, bounds) in e.forms.items():
        for kind in kinds:
            own = [x for x in others if x["kind"] == kind and x.get("form", "") == form]
            if len(own) != number and (version > 1 or len(own) > number):
                yield f"{len(own)} look-alikes {form} of kind {kind}, not {number}"
            yield from _of_look_alikes(form, bounds, own)
    if strange := {x.get("form", "") for x in others} - set(e.forms):
        yield f"look-alikes of the forms {sorted(strange)}"
    yield from _collisions(e, events, others)
    for extra in asked:
        frames = oracle_frames(extra["oracle_frames"], KEY, range(FRAMES))
        if not all(set(frames) & set(shown) for shown in extra["oracle_frames"]):
            yield f"{KEY} oracle frames do not show all of {extra['words']}"


def _of_an_event(version: int, event: dict[str, Any]) -> Iterator[str]:
    low, high = EXPECTED[version].event
    length, visible = event["length"], event["visible"]
    if not low <= length <= high or len(visible) != length:
        yield f"an event of {length} frames"
    third = -(-length // 3)
    if version == 2 and [i for i, v in enumerate(visible) if v] != [*range(length)][-third:]:
        yield f"an event of {length} frames whose colour shows as {visible}"
    if not any(visible):
        yield "an event without a colour"


def _of_look_alikes(
    form: str, bounds: tuple[int, int], items: Iterable[dict[str, Any]]
) -> Iterator[str]:
    step = 2 if form == "flicker" else 1
    for item in items:
        frames = shown_frames(item)
        if not bounds[0] <= len(frames) <= bounds[1]:
            yield f"a look-alike {form} of {len(frames)} frames"
        if any(b - a != step for a, b in itertools.pairwise(frames)):
            yield f"a look-alike {form} in the frames {frames}"


def _collisions(
    e: Expected, events: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]
) -> Iterator[str]:
    """Yields what lies on or beside something else, or outside of the video."""
    everything = [*events, *others]
    drawn = collections.Counter((t, x["cell"]) for x in everything for t in shown_frames(x))
    if max(drawn.values()) > 1:
        yield "two things in one cell of a frame"
    if max(collections.Counter(t for x in events for t in shown_frames(x)).values()) > 1:
        yield "two events in one frame"
    if any(not 0 <= t < FRAMES for t, _ in drawn):
        yield "something outside of the video"
    for kind in {x["kind"] for x in events}:
        spans = sorted(
            (shown_frames(x)[0], shown_frames(x)[-1]) for x in everything if x["kind"] == kind
        )
        for (_, end), (start, _) in itertools.pairwise(spans):
            if start - end - 1 < e.apart:
                yield f"two things of kind {kind} nearer than {e.apart} frames"


def count(version: int, label: str, videos: Iterable[Video]) -> list[str]:
    """Prints what the videos of a world hold; returns what is missing, each with its video."""
    complaints: list[str] = []
    forms: collections.Counter[str] = collections.Counter()
    asked: collections.Counter[int] = collections.Counter()
    answers: collections.Counter[int] = collections.Counter()
    number = incomplete = objects = 0
    for plan, questions in videos:
        number += 1
        found = [*missing(version, plan, [question["extra"] for question in questions])]
        incomplete += bool(found)
        complaints += [f"{label}, video {plan['id']}: {line}" for line in found]
        forms.update(x.get("form", "") or "short" for x in plan["look_alikes"])
        forms.update(["event"] * len(plan["events"]))
        objects += sum(len(shown_frames(x)) for x in (*plan["events"], *plan["look_alikes"]))
        asked.update(len(question["extra"]["words"]) for question in questions)
        answers.update(question["answer"] for question in questions)
    total = asked.total()
    for events, share in EXPECTED[version].shares.items():
        if abs(asked[events] / total - share) > 2 / total**0.5 * 0.5 + 1 / number:
            complaints.append(f"{label}: {asked[events] / total:.3f} of questions about {events}")
    held = ", ".join(f"{forms[name] / number:.2f} {name}" for name in sorted(forms))
    shares = ", ".join(f"{asked[n] / total:.3f} about {n}" for n in sorted(asked))
    letters = ", ".join(f"{answers[n] / total:.3f}" for n in sorted(answers))
    print(
        f"{label}: {number} videos, {number - incomplete} complete; a video: {held}; "
        f"{objects / number / FRAMES:.2f} things a frame; questions: {shares}; answers: {letters}"
    )
    return complaints


def fresh(version: int, seed: int, videos: int) -> Iterator[Video]:
    """Yields the first training videos of a world as records and question files hold them."""
    spec = WorldConfig(version=version, seed=seed).spec()
    for index in range(videos):
        plan, asked = plan_video(spec, "train", index)
        held = json.loads(json.dumps(plan.to_json()))
        yield held, [{"extra": q.extra, "answer": q.answer} for q in asked]


def recorded(folder: pathlib.Path) -> Iterator[Video]:
    """Yields the videos of a world's record folder, with the questions beside it."""
    reader = RecordReader(folder)
    by_video = collections.defaultdict(list)
    for q in load_questions(folder.parent / f"questions-{folder.name}.jsonl"):
        by_video[q.video].append({"extra": q.extra, "answer": q.answer})
    for name in reader.ids:
        yield reader.info(name).extra, by_video[name]


def main() -> None:
    """Defines the flags, counts, and says by its exit status whether something is missing."""
    version = flags.DEFINE_integer("version", 2, "Of the world.", 1, 2)
    videos = flags.DEFINE_integer("videos", 1000, "Of each fresh world.", 1)
    seeds = flags.DEFINE_integer("seeds", 3, "Fresh worlds.", 1)
    first = flags.DEFINE_integer("first_seed", 0, "Seed of the first of them.", 0)
    records = flags.DEFINE_string("records", "", "A record folder in place of fresh worlds.")

    def start(_: Sequence[str]) -> None:
        complaints: list[str] = []
        if records.value:
            folder = pathlib.Path(records.value)
            complaints += count(version.value, str(folder), recorded(folder))
        else:
            for seed in range(first.value, first.value + seeds.value):
                label = f"version {version.value}, seed {seed}"
                complaints += count(version.value, label, fresh(version.value, seed, videos.value))
        for line in complaints[:SHOWN]:
            print(line)
        if complaints:
            sys.exit(f"{len(complaints)} things are missing or wrong")

    app.run(start)


if __name__ == "__main__":
    main()
