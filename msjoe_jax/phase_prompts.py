"""Counts, before a run's first phase, the questions that each phase will drop, and says why."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from msjoe_jax.config import TRAININGS, Config
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader, VideoInfo
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import ARMS, Arm, arm_of
from msjoe_jax.evaluation.other_previews import next_of_another_video
from msjoe_jax.phase_data import read_split, splits_of
from msjoe_jax.rollout.prompt_lengths import PromptLengths
from msjoe_jax.rollout.system import System
from msjoe_jax.rollout.text import Text
from msjoe_jax.training.validation import PLAIN

QUERY, ANSWER = "query", "answer"
Tokens = Callable[[int], int]  # of a question's prompt, by the question's place


@dataclasses.dataclass(frozen=True)
class Counted:
    """The questions of a phase, and those of them that cannot be asked.

    Attributes:
      questions: how many there are.
      longest: tokens of the longest prompt, by kind.
      limits: likewise the most that there may be.
      too_long: ids of the questions whose prompt is too long, by the kind that is made first.
      unreadable: ids of the questions whose video's entry in the records is damaged.
    """

    questions: int
    longest: Mapping[str, int]
    limits: Mapping[str, int]
    too_long: Mapping[str, Sequence[str]]
    unreadable: Sequence[str]

    @property
    def dropped(self) -> int:
        """How many questions will be dropped."""
        return len(self.unreadable) + sum(map(len, self.too_long.values()))

    def describe(self) -> str:
        """Says in one line how many questions are dropped, and why."""
        reasons = [
            f"{len(ids):,} by the {kind} prompt (longest {self.longest[kind]:,} tokens, limit "
            f"{field_of(kind)}={self.limits[kind]:,})"
            for kind, ids in self.too_long.items()
            if ids
        ]
        if self.unreadable:
            reasons.append(f"{len(self.unreadable):,} by a video that is missing or cannot be read")
        return f"{self.dropped:,} of {self.questions:,} questions dropped: {', '.join(reasons)}"

    def cure(self) -> str:
        """Says what to change so that nothing is too long."""
        fields = [
            f"{field_of(kind)} to {self.longest[kind]}"
            for kind, ids in self.too_long.items()
            if ids
        ]
        if not fields:
            return "make the records again, with all videos"
        return f"raise {' and '.join(fields)}"


def field_of(kind: str) -> str:
    """Returns the config field that limits prompts of a kind."""
    return f"config.prompt.{kind}_prompt_tokens"


def count_prompts(
    questions: Sequence[Question],
    reader: RecordReader,
    lengths: PromptLengths,
    arms: Collection[Arm],
) -> Counted:
    """Counts the questions whose prompts are too long, exactly as a phase would drop them.

    Args:
      questions: of the phase.
      reader: of the records of their videos.
      lengths: counts tokens.
      arms: what the phase asks every question for.
    """
    videos = {video.id: video for video in reader.infos(q.video for q in questions)}
    unreadable = [q.id for q in questions if q.video not in videos]
    prompts = _prompts(questions, videos, lengths, arms)
    limits = {k: getattr(lengths.prompt, f"{k}_prompt_tokens") for k, _ in prompts}
    longest = dict.fromkeys(limits, 0)
    too_long: dict[str, list[str]] = {kind: [] for kind in limits}
    for place, question in enumerate(questions):
        if question.video not in videos:
            continue
        first = ""
        for kind, tokens in prompts:
            number = tokens(place)
            longest[kind] = max(longest[kind], number)
            first = first or (kind if number > limits[kind] else "")
        if first:
            too_long[first].append(question.id)
    return Counted(len(questions), longest, limits, too_long, unreadable)


def _prompts(
    questions: Sequence[Question],
    videos: Mapping[str, VideoInfo],
    lengths: PromptLengths,
    arms: Collection[Arm],
) -> list[tuple[str, Tokens]]:
    """Lists the prompts that arms make of a question, in the order in which they are made."""
    made: list[tuple[str, Tokens]] = []
    damaged = {question.video for question in questions} - set(videos)

    def own(length: Callable[[Question, VideoInfo], int]) -> Tokens:
        return lambda place: length(questions[place], videos[questions[place].video])

    def of_others(place: int) -> int:
        other = next_of_another_video(questions, place, damaged)
        if other is None:  # the question is dropped, but not for its length
            return 0
        return lengths.query(questions[place], videos[questions[other].video])

    previews = {arm.own_previews for arm in arms if arm.queries == "policy"}
    if True in previews:
        made.append((QUERY, own(lengths.query)))
    if False in previews:
        made.append((QUERY, of_others))
    shows = any(arm.selector != "blind" for arm in arms)
    made.append((ANSWER, own(lengths.answer if shows else lengths.blind)))
    return made


def asked(config: Config) -> dict[str, tuple[str, list[Arm], int]]:
    """Returns of every phase the split that it reads, what it asks for, and its limit of questions.

    A training is validated on a split of its own, which counts as a phase.
    """
    uniform, chosen = ARMS["uniform"], ARMS["joint"]  # a training asks as the arm `joint` does
    phases: dict[str, tuple[str, list[Arm], int]] = {}
    if "difficulty" in config.phases:
        phases["difficulty"] = ("train", [uniform], 0)
    for name in TRAININGS:
        if name in config.phases and getattr(config, name).steps:
            phases[name] = ("train", [chosen], 0)
    splits = splits_of(config)
    if "validation" in splits and any(name in phases for name in TRAININGS):
        validated = [ARMS[name] for name in PLAIN]
        phases["validation"] = ("validation", validated, config.validation_limit)
    if "heldout" in splits:
        arms = [arm_of(name, ("base", *config.phases)) for name in config.evaluate.arms]
        phases["evaluate"] = ("heldout", arms, config.evaluate.limit)
    return phases


def tell_dropped(config: Config, system: System, text: Text) -> None:
    """Prints of every phase that will drop questions how many, and why.

    Raises:
      UserError: a phase would drop all, or more than the share `config.data.max_dropped`.
    """
    lengths = PromptLengths(
        config.frames, config.prompt, system.family, system.mllm_config, text.tokenizer, text.chat
    )
    most = config.data.max_dropped
    told: dict[str, list[str]] = {}  # phases by what is said of them
    refused: dict[str, list[str]] = {}
    for phase, (split, arms, limit) in asked(config).items():
        questions, reader = read_split(config, split)
        counted = count_prompts(questions[: limit or None], reader, lengths, arms)
        why = ""
        if counted.dropped == counted.questions:
            why = "which leaves none"
        elif counted.dropped > most * counted.questions:
            why = f"more than the share config.data.max_dropped={most:g}"
        if why:
            line = f"{counted.describe()}, {why}; {counted.cure()}"
            refused.setdefault(line, []).append(phase)
        elif counted.dropped:
            told.setdefault(counted.describe(), []).append(phase)
    for line, phases in told.items():
        print(f"{', '.join(phases)}: {line}")
    if refused:
        raise UserError(*(f"{', '.join(phases)}: {line}" for line, phases in refused.items()))
