"""Evaluates every way to choose frames on the same held-out questions, with intervals."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import DataConfig, Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import Arm, arm_names, arm_of, check_extras
from msjoe_jax.evaluation.other_previews import OtherPreviews
from msjoe_jax.evaluation.table import format_table, make_table
from msjoe_jax.fields import option
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.batches import Batch
from msjoe_jax.rollout.collect import grade_replies
from msjoe_jax.rollout.episode import Episodes, full_weight
from msjoe_jax.rollout.results import Selected
from msjoe_jax.runtime.files import write_whole
from msjoe_jax.runtime.progress import progress
from msjoe_jax.tasks import TASKS

Queries = list[list[tuple[str, ...]]]


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """The arms that are evaluated on the held-out questions."""

    arms: tuple[str, ...] = option(
        ("uniform", "joint"),
        "Rows of the table: names of ARMS, or of SELECTORS (with the last trained models).",
        choices=arm_names,
    )
    batch: int = option(50, "Questions at a time.", low=1)
    model: str = option(
        "final",
        "Which parameters of the trainings: those that they end with (config.final_model), the "
        "best by validation, or the newest.",
        choices=("final", "best", "newest"),
    )
    limit: int = option(0, "The first questions only; 0: all.", low=0)
    smooth: int = option(5, "Frames under the smoothing of smoothed selectors: odd.", low=1)

    def slips(self) -> Iterator[str]:
        """Yields what cannot be."""
        if self.smooth % 2 == 0:
            yield f"smooth={self.smooth} must be odd, so that a frame is in the middle"


class Evaluator:
    """An evaluator of arms on held-out questions; all decoding is greedy, so that two runs agree.

    Args:
      episodes: over the held-out questions.
      task: name of TASKS, by which replies are graded.
      params: sets of parameters (base, pretrain, joint) of mllm, clip and sampler.
      batch_size: questions at a time.
    """

    def __init__(
        self,
        episodes: Episodes,
        task: str,
        params: Mapping[str, dict[str, Params]],
        batch_size: int,
    ):
        self.episodes, self.task, self.params = episodes, task, params
        self.batch_size = min(batch_size, len(episodes.questions))
        self._other_previews = OtherPreviews(episodes)

    def run(
        self, names: Sequence[str], label: str = "evaluate"
    ) -> tuple[dict[str, Float[np.ndarray, "n"]], dict[str, list[str]]]:
        """Returns score (NaN: dropped) and answer of each question under each arm."""
        episodes, n = self.episodes, len(self.episodes.questions)
        arms = {name: arm_of(name, self.params) for name in names}
        scores = {name: np.full(n, np.nan) for name in names}
        answers = {name: [""] * n for name in names}
        total = -(-n // self.batch_size)
        with progress(label, total, unit="batch") as bar:
            for batch in episodes.batches(self.batch_size):
                queries: dict[tuple[str, bool], Queries] = {}
                for name, arm in arms.items():
                    weight = full_weight(batch)
                    selected = self._select(arm, batch, queries, weight)
                    answered = episodes.answer(
                        self.params[arm.mllm]["mllm"],
                        batch,
                        selected.selection,
                        0,
                        temperature=0.0,
                        weight=weight,
                    )
                    questions = episodes.batch_questions(batch)
                    think = episodes.text.prompt.think
                    grades = grade_replies(self.task, questions, answered, think)
                    for b in np.flatnonzero(weight > 0):
                        index = batch["index"][b]
                        scores[name][index] = grades[b][0].score
                        answers[name][index] = grades[b][0].answer
                bar.update()
        return scores, answers

    def _select(
        self,
        arm: Arm,
        batch: Batch,
        cache: dict[tuple[str, bool], Queries],
        weight: Float[np.ndarray, "B"],
    ) -> Selected:
        """Selects the frames of an arm; `cache` holds the queries that earlier arms wrote."""
        episodes = self.episodes
        questions = episodes.batch_questions(batch)
        if arm.queries == "policy":
            key = arm.mllm, arm.own_previews
            if key not in cache:
                cache[key] = episodes.reason(
                    self.params[arm.mllm]["mllm"],
                    batch if arm.own_previews else self._other_previews(batch),
                    0,
                    rollouts=1,
                    temperature=0.0,
                    weight=weight,
                ).queries
            queries = cache[key]
        else:
            queries = [[queries_of(arm.queries, question)] for question in questions]
        params = {**self.params[arm.sampler], "mllm": self.params[arm.mllm]["mllm"]}
        return episodes.select(params, batch, queries, 0, selector=arm.selector, weight=weight)


def queries_of(kind: str, question: Question) -> tuple[str, ...]:
    """Returns the queries that need no MLLM: none, the question, or the record's oracle queries."""
    if kind == "oracle":
        return tuple(question.extra["oracle_queries"])
    return (question.question,) if kind == "question" else ("",)


def load_split(
    data: DataConfig, split: str, *, limit: int, candidates: int, previews: int, embedded: bool
) -> tuple[list[Question], RecordReader]:
    """Reads a split's questions and their records, and checks that they fit together.

    Args:
      data: the paths of questions and records.
      split: validation or heldout.
      limit: the first questions only; 0: all.
      candidates: most candidate frames of a video.
      previews: number of preview frames of a video.
      embedded: False if CLIP's embeddings of the frames do not exist yet.

    Raises:
      UserError: an unset or unreadable field of `config.data`, or a question whose video is not
        among the records.
    """
    for name in (f"{split}_questions", f"{split}_records"):
        if not getattr(data, name):
            raise UserError(f"config.data.{name} is not set")
    questions = TASKS[data.task].read(getattr(data, f"{split}_questions"))[: limit or None]
    reader = RecordReader(getattr(data, f"{split}_records"))
    make_pipeline(  # for its checks alone: it reads nothing before a batch is taken
        questions,
        reader,
        batch_size=1,
        num_candidates=candidates,
        num_preview=previews,
        with_embeddings=embedded,
    )
    return questions, reader


def load_heldout(
    data: DataConfig,
    config: EvaluateConfig,
    *,
    candidates: int,
    previews: int,
    max_queries: int,
    embedded: bool = True,
) -> tuple[list[Question], RecordReader]:
    """Reads the held-out questions and their records, and checks them for what the arms need.

    Args:
      data: the paths of questions and records.
      config: the arms, and how many questions.
      candidates: most candidate frames of a video.
      previews: number of preview frames of a video.
      max_queries: most queries that a reply may hold.
      embedded: False if CLIP's embeddings of the frames do not exist yet.

    Raises:
      UserError: an unset or unreadable field of `config.data`, a question whose video is not among
        the records, or that lacks what the arms need.
    """
    questions, reader = load_split(
        data,
        "heldout",
        limit=config.limit,
        candidates=candidates,
        previews=previews,
        embedded=embedded,
    )
    check_extras(config.arms, questions, max_queries)
    return questions, reader


def evaluate(
    evaluator: Evaluator, names: Sequence[str], workdir: epath.PathLike, meta: Mapping[str, Any]
) -> dict[str, Any]:
    """Evaluates arms, prints the table, and writes it as `eval.json`.

    `eval_questions.jsonl` holds every question's score, for paired intervals; a task with a
    submission format gets one file for each arm, `submission-ARM`.

    Args:
      evaluator: with the questions and the parameters.
      names: of the arms.
      workdir: where the files go.
      meta: further entries of `eval.json`.
    """
    workdir, task = epath.Path(workdir), TASKS[evaluator.task]
    questions = evaluator.episodes.questions
    scores, answers = evaluator.run(names)
    if cut := len(evaluator.episodes.cut_queries):
        print(evaluator.episodes.text.cut_note(cut))
    labels = {name: arm_of(name, evaluator.params).label for name in names}
    table = make_table(labels, scores, [task.groups(q) for q in questions])
    result = {"arms": table, "task": evaluator.task, **meta}
    write_whole(workdir / "eval.json", json.dumps(result, indent=2) + "\n")
    rows = [
        {"id": q.id, **{n: None if np.isnan(scores[n][i]) else scores[n][i] for n in names}}
        for i, q in enumerate(questions)
    ]
    write_whole(workdir / "eval_questions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    if task.submission:
        for name in names:
            entries = [
                {"id": q.id, "answer": answers[name][i], "score": float(scores[name][i])}
                for i, q in enumerate(questions)
            ]
            write_whole(workdir / f"submission-{name}", task.submission(entries))
    print(format_table(table))
    return result
