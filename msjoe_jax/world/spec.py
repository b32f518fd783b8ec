"""The tiny world: a procedural long-video task for two CPU cores, planned here, drawn elsewhere.

A video is 96 frames at 1 fps in one *setting*. It holds six *events*, each an object of some kind
that shows one of four colours for 3 to 6 frames. The words of a question are ambiguous: each has
three senses, one a setting, and the video holds events of all three, in other colours. Isolated
look-alikes of every kind, told apart only at the full resolution, fool a low-resolution CLIP.
That is its first version; second.py plans the second from the same parts.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from msjoe_jax.data.questions import Question

SETTINGS = ("meadow", "harbour", "studio")
COLOURS = ("red", "green", "blue", "yellow")  # in the order of the options A, B, C, D
WORDS = ("crane", "bat", "jack", "drum", "bolt")
SENSES = {  # what the word means in each setting
    "crane": ("heron", "derrick", "origami"),
    "bat": ("noctule", "paddle", "club"),
    "jack": ("hare", "flag", "card"),
    "drum": ("croaker", "barrel", "snare"),
    "bolt": ("lightning", "rivet", "cloth"),
}
KINDS = tuple(sense for word in WORDS for sense in SENSES[word])
EVENTS = ("one", "two", "three")  # that a question is about
SPLITS = ("train", "validation", "heldout")
CELLS = 4  # a frame is 2 x 2 cells, each holds at most one object or look-alike


@dataclasses.dataclass(frozen=True)
class WorldSpec:
    """Sizes and difficulty of the world. Frames are one second apart."""

    seed: int = 0
    num_train: int = 1024  # videos; each is asked two questions
    num_validation: int = 250
    num_heldout: int = 1000
    num_frames: int = 96
    event_frames: tuple[int, int] = (3, 6)  # shortest and longest event
    colour_visible: float = 0.75  # share of an event's frames that show its colour
    look_alikes: int = 8  # per video, for each kind that has an event
    amplitude: tuple[float, float] = (0.65, 1.35)  # contrast of an event or a look-alike
    noise: float = 5.0  # standard deviation of the pixel noise, grey levels of 255
    drift: float = 18.0  # amplitude of the slow change of light, grey levels
    jpeg_quality: int = 90

    def size(self, split: str) -> int:
        """Returns the number of videos of a split."""
        return getattr(self, f"num_{split}")


@dataclasses.dataclass(frozen=True)
class Event:
    """An object that stays for a few seconds; `visible` says when it shows its colour."""

    kind: int
    start: int
    length: int
    cell: int
    amplitude: float
    colour: int
    visible: tuple[bool, ...]

    @property
    def frames(self) -> range:
        """The frames that show it."""
        return range(self.start, self.start + self.length)

    @property
    def visible_frames(self) -> list[int]:
        return [self.start + i for i, is_visible in enumerate(self.visible) if is_visible]


@dataclasses.dataclass(frozen=True)
class LookAlike:
    """Frames of a texture that has a kind's shape only once it is blurred.

    length: from the first to the last; form: a name of second.py's FORMS, "" in the first world,
    where all last one or two frames; stride: every so manieth frame shows it.
    """

    kind: int
    start: int
    length: int
    cell: int
    amplitude: float
    form: str = ""
    stride: int = 1

    @property
    def frames(self) -> range:
        """The frames that show it."""
        return range(self.start, self.start + self.length, self.stride)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that happens in one video, and the seed of what is merely its appearance."""

    id: str
    setting: int
    words: tuple[int, ...]
    events: tuple[Event, ...]
    look_alikes: tuple[LookAlike, ...]
    appearance_seed: int

    def targets(self, words: Sequence[int]) -> list[Event]:
        """Returns the event that each word means in this video's setting."""
        kinds = [kind_of(word, self.setting) for word in words]
        return [next(e for e in self.events if e.kind == kind) for kind in kinds]

    def to_json(self) -> dict[str, Any]:
        """Returns plain data for the `extra` field of a video record."""
        data = dataclasses.asdict(self)
        for row, item in zip(data["look_alikes"], self.look_alikes, strict=True):
            if item.form:
                row["frames"] = list(item.frames)
            else:  # the first world's records stay as they were
                del row["form"], row["stride"]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """Makes the plan from what `to_json` returned."""
        events = tuple(Event(**{**e, "visible": tuple(e["visible"])}) for e in data["events"])
        names = [field.name for field in dataclasses.fields(LookAlike)]
        look_alikes = tuple(
            LookAlike(**{name: row[name] for name in names if name in row})
            for row in data["look_alikes"]
        )
        words = tuple(data["words"])
        return cls(**{**data, "words": words, "events": events, "look_alikes": look_alikes})


def kind_of(word: int, setting: int) -> int:
    """Returns the kind that a word means in a setting."""
    return 3 * word + setting


def make_video(spec: WorldSpec, split: str, index: int) -> tuple[Plan, tuple[Question, Question]]:
    """Plans video `index` of a split of the first world, and a one- and a two-event question.

    The result depends on the arguments alone. Both answers, the setting and the words cycle with
    the index, so that every split is balanced.
    """
    # The split is part of the seed, so that splits share no video, however large they become.
    rng = np.random.default_rng([spec.seed, SPLITS.index(split), index])
    setting, answer = index % 3, index // 3 % len(COLOURS)
    first = index // 12 % len(WORDS)
    second = (first + 1 + int(rng.integers(len(WORDS) - 1))) % len(WORDS)
    words = (first, second)
    events = _plan_events(rng, spec, setting, words, answer)
    plan = Plan(
        id=f"{split}-{index:05d}",
        setting=setting,
        words=words,
        events=events,
        look_alikes=_plan_look_alikes(rng, spec, events),
        appearance_seed=int(rng.integers(2**31)),
    )
    return plan, (ask(plan, words[:1]), ask(plan, tuple(rng.permutation(words))))


def _plan_events(
    rng: np.random.Generator,
    spec: WorldSpec,
    setting: int,
    words: tuple[int, int],
    answer: int,
) -> tuple[Event, ...]:
    low, high = spec.event_frames
    lengths = rng.integers(low, high + 1, size=2 * 3)
    starts = draw_starts(rng, lengths, spec.num_frames)
    order = rng.permutation(len(lengths))  # the place in time of each of the six kinds
    kinds = [kind_of(word, sense) for word in words for sense in range(3)]
    colours = _choose_colours(rng, words, setting, answer)
    spans = [range(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    return tuple(
        draw_event(rng, spec, kind, colours[kind], spans[slot])
        for kind, slot in zip(kinds, order, strict=True)
    )


def draw_event(
    rng: np.random.Generator,
    spec: WorldSpec,
    kind: int,
    colour: int,
    frames: range,
    visible: Bool[np.ndarray, "n"] | None = None,
) -> Event:
    """Draws what is left open of an event: its cell, its amplitude, when its colour shows.

    Args:
      rng: decides.
      spec: of the world.
      kind, colour: of the event.
      frames: that show it.
      visible: those that show its colour; None: so many as the spec says, at least one.
    """
    if visible is None:
        visible = rng.random(len(frames)) < spec.colour_visible
        if not visible.any():  # every question can be answered
            visible[rng.integers(len(frames))] = True
    return Event(
        kind=kind,
        start=int(frames.start),
        length=len(frames),
        cell=int(rng.integers(CELLS)),
        amplitude=float(rng.uniform(*spec.amplitude)),
        colour=colour,
        visible=tuple(bool(v) for v in visible),
    )


def draw_starts(
    rng: np.random.Generator, lengths: Int[np.ndarray, "N"], num_frames: int
) -> Int[np.ndarray, "N"]:
    """Draws the first frames of events in this order, at least one frame apart."""
    spare = num_frames - int(lengths.sum()) - (len(lengths) - 1)  # distributed over the gaps
    gaps = np.sort(rng.integers(0, spare + 1, size=len(lengths)))
    return gaps + np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])


def _choose_colours(
    rng: np.random.Generator, words: tuple[int, int], setting: int, answer: int
) -> dict[int, int]:
    """Chooses the colours of the six kinds: distinct within a word, and the two targets differ.

    Either target is equally likely to come later, so the answers of both questions are balanced.
    """
    colours: dict[int, int] = {}
    other_answer = (answer + int(rng.integers(1, 4))) % 4
    for word, target in zip(words, (answer, other_answer), strict=True):
        other_colours = rng.permutation([c for c in range(len(COLOURS)) if c != target])
        senses = [kind_of(word, s) for s in range(3) if s != setting]
        colours |= {kind: int(c) for kind, c in zip(senses, other_colours, strict=False)}
        colours[kind_of(word, setting)] = target
    return colours


def _plan_look_alikes(
    rng: np.random.Generator, spec: WorldSpec, events: Sequence[Event]
) -> tuple[LookAlike, ...]:
    occupied = np.zeros((CELLS, spec.num_frames), bool)
    for event in events:
        occupied[event.cell, event.start : event.start + event.length] = True
    look_alikes = []
    # A frame shows at most one sense of a word: two at once would give the highest similarities.
    busy = {event.kind // 3: np.zeros(spec.num_frames, bool) for event in events}
    for event in events:
        busy[event.kind // 3][event.start : event.start + event.length] = True
    for event in events:
        too_close = np.zeros(spec.num_frames, bool)  # frames too close to one of the same kind
        too_close[max(event.start - 1, 0) : event.start + event.length + 1] = True
        count = 0
        for start in _bursts(rng, spec).tolist():
            span = slice(start, start + int(rng.integers(1, 3)))
            if count == spec.look_alikes:
                break
            if too_close[span].any() or busy[event.kind // 3][span].any():
                continue
            free = np.flatnonzero(~occupied[:, span].any(axis=1))
            if free.size == 0:
                continue
            cell = int(rng.choice(free))
            occupied[cell, span] = busy[event.kind // 3][span] = True
            too_close[max(start - 1, 0) : span.stop + 1] = True
            amplitude = float(rng.uniform(*spec.amplitude))
            look_alikes.append(LookAlike(event.kind, start, span.stop - start, cell, amplitude))
            count += 1
    return tuple(look_alikes)


def _bursts(rng: np.random.Generator, spec: WorldSpec) -> np.ndarray:
    """Draws start frames to try, in order: pairs of near ones, which a moving average joins."""
    first = rng.permutation(spec.num_frames - 4)
    return np.stack([first, first + rng.integers(2, 4, first.size)], axis=1).reshape(-1)


def question_about(names: Sequence[str]) -> str:
    """Returns the question about one object, or about whichever of two or three comes last."""
    if len(names) == 1:
        return f"what colour is the {names[0]} ?"
    listed = f"{' , '.join(names[:-1])} and {names[-1]}"
    return f"what colour is whichever of {listed} comes {'later' if len(names) == 2 else 'last'} ?"


def question_text(words: Sequence[int]) -> str:
    """Returns the question about one to three of WORDS."""
    return question_about([WORDS[word] for word in words])


def ask(plan: Plan, words: Sequence[int]) -> Question:
    """Makes the question about these words of a video; a video has one of each number of words."""
    targets = plan.targets(words)
    return Question(
        id=f"{plan.id}-{len(words)}",
        video=plan.id,
        question=question_text(words),
        options=COLOURS,
        answer=max(targets, key=lambda event: event.start).colour,
        extra={
            "kind": EVENTS[len(words) - 1],
            "setting": SETTINGS[plan.setting],
            "words": [WORDS[word] for word in words],
            "oracle_queries": [KINDS[event.kind] for event in targets],
            "events": [[event.start, event.start + event.length] for event in targets],  # [ , )
            "oracle_frames": [event.visible_frames for event in targets],  # a list a target
        },
    )


def describe_frame(plan: Plan, frame: int) -> list[tuple[int, int, int | None]]:
    """Lists what is really in a frame: (cell, kind, colour or None where hidden), by cell."""
    return sorted(
        (e.cell, e.kind, e.colour if e.visible[frame - e.start] else None)
        for e in plan.events
        if frame in e.frames
    )


def apparent_kinds(plan: Plan, frame: int) -> list[int]:
    """Lists the kinds that a frame seems to show at low resolution, look-alikes included."""
    items: tuple[Event | LookAlike, ...] = (*plan.events, *plan.look_alikes)
    return sorted(i.kind for i in items if frame in i.frames)


def oracle_frames(
    visible: Sequence[Sequence[int]], k: int, rng: np.random.Generator, num_frames: int
) -> list[int]:
    """Chooses `k` distinct frames that answer a question, in time order.

    `visible` holds the colour-visible frames of each target (a question's extra.oracle_frames); the
    targets take turns, each in random order. Other frames, at random, fill up the `k`.
    """
    piles = [list(rng.permutation(frames)) for frames in visible]
    selected: list[int] = []
    while any(piles) and len(selected) < k:
        for pile in piles:
            if pile and len(selected) < k:
                selected.append(int(pile.pop()))
    others = rng.permutation(np.setdiff1d(np.arange(num_frames), selected))
    return sorted(selected + [int(f) for f in others[: k - len(selected)]])
