"""The second tiny world: look-alikes that smoothing mistakes for events, and late colours.

Renderer, frames, words and settings are the first world's. A video has three words, and events of
two senses of each: the one that its setting means and another. Beside its event, each of the six
kinds has look-alikes of three forms: plateaus of many frames in a row, flickers of single frames
with one between each two, and short ones of one or two frames. An event shows its colour only at
its end. Questions are about one, two or three events.

Unlike in the first world, a frame may show two senses of a word: otherwise 96 frames would not
hold all of this. Every video holds all of it (`python -m benchmarks.world_placement` counts).
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.world.spec import (
    CELLS,
    COLOURS,
    SETTINGS,
    SPLITS,
    WORDS,
    Event,
    LookAlike,
    Plan,
    WorldSpec,
    ask,
    draw_event,
    draw_starts,
    kind_of,
)

FORMS = ("plateau", "flicker", "short")
WORDS_A_VIDEO = 3
SENSES_A_WORD = 2  # that have an event: the setting's and one other
APART = 2  # frames between two things of one kind, so that none prolongs another
LATE = 3  # the colour shows in the last of so many parts of an event, rounded up
ATTEMPTS = 100  # to place the look-alikes of a video; about one is enough
# Questions of a video, by the number of events that each is about; either may come first.
PAIRS = ((1, 2), (1, 3), (2, 3))
GOLDEN = (5**0.5 - 1) / 2  # its multiples, less whole numbers, fill 0 … 1 evenly


@dataclasses.dataclass(frozen=True)
class SecondSpec(WorldSpec):
    """Sizes and difficulty of the second world. Numbers of look-alikes are for each kind."""

    event_frames: tuple[int, int] = (4, 7)
    look_alikes: int = 4  # short ones
    version: int = 2
    plateaus: int = 1
    plateau_frames: tuple[int, int] = (10, 17)
    flickers: int = 2
    flicker_frames: tuple[int, int] = (3, 5)  # single ones
    late_colour: bool = True  # else `colour_visible` of an event's frames show it, at random
    two_events: float = 0.4  # share of questions about whichever of two events comes later
    three_events: float = 0.3


def make_video(spec: SecondSpec, split: str, index: int) -> tuple[Plan, tuple[Question, Question]]:
    """Plans video `index` of a split of the second world, and its two questions.

    The result depends on the arguments alone. Setting, words and the first word's answer cycle with
    the index, as in the first world; the numbers of events that questions are about fill their
    shares evenly, among the first questions of all videos as among the second.

    Raises:
      UserError: the frames do not hold all of it.
    """
    rng = np.random.default_rng([spec.seed, SPLITS.index(split), index, spec.version])
    setting, answer = index % 3, index // 3 % len(COLOURS)
    first = index // 12 % len(WORDS)
    others = rng.permutation([word for word in range(len(WORDS)) if word != first])
    words = (first, *(int(word) for word in others[: WORDS_A_VIDEO - 1]))
    events = _plan_events(rng, spec, _choose_colours(rng, words, setting, answer))
    plan = Plan(
        id=f"{split}-{index:05d}",
        setting=setting,
        words=words,
        events=events,
        look_alikes=_place_look_alikes(rng, spec, events),
        appearance_seed=int(rng.integers(2**31)),
    )
    one, two = (ask(plan, _asked(rng, words, n)) for n in _numbers_of_events(spec, index))
    return plan, (one, two)


def _asked(rng: np.random.Generator, words: tuple[int, ...], number: int) -> tuple[int, ...]:
    """Draws which words are asked about; one is the first, whose answers are balanced."""
    if number == 1:
        return words[:1]
    return tuple(int(word) for word in rng.permutation(words)[:number])


def _numbers_of_events(spec: SecondSpec, index: int) -> tuple[int, int]:
    """Returns how many events the two questions of a video are about.

    Two numbers of a pair differ, or both questions would be the same. So a pair's weight is what
    its third number leaves: the share of one is 1/2 less half of that of the pair (2, 3).
    """
    shares = (1 - spec.two_events - spec.three_events, spec.two_events, spec.three_events)
    pairs = [*PAIRS, *(pair[::-1] for pair in PAIRS)]
    weights = [(1 - 2 * shares[6 - sum(pair) - 1]) / 2 for pair in pairs]
    place = (index + 0.5) * GOLDEN % 1.0
    return pairs[min(int(np.searchsorted(np.cumsum(weights), place, "right")), len(pairs) - 1)]


def _choose_colours(
    rng: np.random.Generator, words: Sequence[int], setting: int, answer: int
) -> dict[int, int]:
    """Chooses the kinds of a video and their colours.

    The targets' differ, and so do those of a word. The first word's is the answer; of any words
    each is equally likely to come last, so that the answers of all questions are balanced.
    """
    others = rng.permutation([c for c in range(len(COLOURS)) if c != answer]).tolist()
    colours: dict[int, int] = {}
    for word, target in zip(words, [answer, *others], strict=False):
        senses = [s for s in range(len(SETTINGS)) if s != setting]
        colours[kind_of(word, setting)] = target
        wrong = [c for c in range(len(COLOURS)) if c != target]
        for sense, colour in zip(
            rng.permutation(senses)[: SENSES_A_WORD - 1], rng.permutation(wrong), strict=False
        ):
            colours[kind_of(word, int(sense))] = int(colour)
    return colours


def _plan_events(
    rng: np.random.Generator, spec: SecondSpec, colours: dict[int, int]
) -> tuple[Event, ...]:
    low, high = spec.event_frames
    lengths = rng.integers(low, high + 1, size=len(colours))
    starts = draw_starts(rng, lengths, spec.num_frames)
    order = rng.permutation(len(lengths))  # the place in time of each kind
    events = []
    for (kind, colour), slot in zip(colours.items(), order, strict=True):
        length = int(lengths[slot])
        late = np.arange(length) >= length - -(-length // LATE) if spec.late_colour else None
        frames = range(starts[slot], starts[slot] + length)
        events.append(draw_event(rng, spec, kind, colour, frames, late))
    return tuple(events)


def _place_look_alikes(
    rng: np.random.Generator, spec: SecondSpec, events: Sequence[Event]
) -> tuple[LookAlike, ...]:
    """Places every look-alike, or begins again.

    Raises:
      UserError: it did not succeed in `ATTEMPTS`.
    """
    for _ in range(ATTEMPTS):
        places = _Places(spec.num_frames, events)
        placed = [
            places.add(rng, kind, form, frames, float(rng.uniform(*spec.amplitude)))
            for kind, form, frames in _look_alikes(rng, spec, [event.kind for event in events])
        ]
        if all(placed):
            return tuple(item for item in placed if item)
    raise UserError(
        f"config.world: {spec.num_frames} frames do not hold {spec.plateaus} plateaus, "
        f"{spec.flickers} flickers and {spec.look_alikes} short look-alikes of each kind"
    )


def _look_alikes(
    rng: np.random.Generator, spec: SecondSpec, kinds: Sequence[int]
) -> Iterator[tuple[int, str, range]]:
    """Yields (kind, form, frames from 0 on) of all, the longest forms of all kinds first."""
    numbers = (spec.plateaus, spec.flickers, spec.look_alikes)
    bounds = (spec.plateau_frames, spec.flicker_frames, (1, 2))
    for form, number, (low, high) in zip(FORMS, numbers, bounds, strict=True):
        for kind, _ in itertools.product(rng.permutation(kinds).tolist(), range(number)):
            shown = int(rng.integers(low, high + 1))
            yield kind, form, range(0, 2 * shown - 1, 2) if form == "flicker" else range(shown)


class _Places:
    """Which frames of each cell, and of each kind, are free."""

    def __init__(self, num_frames: int, events: Sequence[Event]):
        self.taken = np.zeros((CELLS, num_frames), bool)
        self.near = {event.kind: np.zeros(num_frames, bool) for event in events}
        for event in events:
            self._take(event.kind, event.cell, event.start, event.length)

    def _take(self, kind: int, cell: int, start: int, length: int) -> None:
        self.taken[cell, start : start + length] = True
        self.near[kind][max(start - APART, 0) : start + length + APART] = True

    def add(
        self, rng: np.random.Generator, kind: int, form: str, frames: range, amplitude: float
    ) -> LookAlike | None:
        """Adds a look-alike at a random free place; None: there is none.

        Args:
          rng: decides where.
          kind, form: of the look-alike.
          frames: that show it, from 0 on; a flicker has its cell between them, too.
          amplitude: of the look-alike.
        """
        length = frames[-1] + 1
        blocked = np.cumsum(self.taken | self.near[kind], 1)
        before = np.pad(blocked, ((0, 0), (1, 0)))[:, : blocked.shape[1] - length + 1]
        places = np.argwhere(blocked[:, length - 1 :] == before)  # with `length` free frames
        if not len(places):
            return None
        cell, start = places[rng.integers(len(places))].tolist()
        self._take(kind, cell, start, length)
        return LookAlike(kind, start, length, cell, amplitude, form, frames.step)
