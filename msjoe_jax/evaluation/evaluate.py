"""Evaluates every way to choose frames on the same held-out questions, with intervals."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float

from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import DataConfig, Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import Arm, arm_names, check_extras
from msjoe_jax.evaluation.other_previews import OtherPreviews
from msjoe_jax.evaluation.table import format_table, make_table
from msjoe_jax.fields import option
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.batches import (
    Batch,
    describe_dropped,
    finished_rows,
    full_weight,
    unfinished_batches,
)
from msjoe_jax.rollout.collect import grade_replies
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.results import Selected
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.digest import Inputs
from msjoe_jax.runtime.files import write_whole
from msjoe_jax.runtime.kept_rows import KeptRows, Row
from msjoe_jax.runtime.progress import progress
from msjoe_jax.runtime.stopping import end_if_asked
from msjoe_jax.tasks import TASKS

Queries = list[list[tuple[str, ...]]]
ROWS = "eval_rows.jsonl"  # in the work folder: each question's results as they are made


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
      load: gives the parameters of a set (base, pretrain, joint) and a model (mllm, clip,
        sampler, siglip); one set's MLLM is held at a time.
      batch_size: questions at a time.
    """

    def __init__(
        self,
        episodes: Episodes,
        task: str,
        load: Callable[[str, str], Params],
        batch_size: int,
    ):
        self.episodes, self.task, self.load = episodes, task, load
        self.batch_size = batch_size
        self._other_previews = OtherPreviews(episodes)

    def run(self, arms: Mapping[str, Arm], kept: KeptRows, label: str = "evaluate") -> "Outcome":
        """Evaluates arms on the questions whose rows are not kept yet.

        A question that cannot be asked under one of the arms counts under none, so that all arms
        are judged by the same questions, whatever their order.

        Args:
          arms: by name.
          kept: gets the rows, batch by batch.
          label: of the display of progress.
        """
        episodes, n = self.episodes, len(self.episodes.questions)
        sets = list(dict.fromkeys(arm.mllm for arm in arms.values()))
        finished = {s: finished_rows(row for row in kept.rows if row["mllm"] == s) for s in sets}
        if any(len(rows) < n for rows in finished.values()):
            total = len(sets) * -(-n // self.batch_size)
            initial = sum(len(rows) for rows in finished.values()) // self.batch_size
            with progress(label, total, unit="batch", initial=initial) as bar:
                for name in sets:
                    own = {key: arm for key, arm in arms.items() if arm.mllm == name}
                    params: dict[str, dict[str, Params]] = {}
                    for places, batch in unfinished_batches(
                        episodes, self.batch_size, finished[name]
                    ):
                        params = params or self._load(name, own)
                        made = self._evaluate(own, params, batch, places)
                        kept.add(_of_all_hosts(made, label))
                        bar.update()
                        if kept.on_disk:
                            end_if_asked(f"a batch of {label} ({len(kept.rows)} rows)")
        scores = {name: np.full(n, np.nan) for name in arms}
        valid = {name: np.full(n, np.nan) for name in arms}
        answers = {name: [""] * n for name in arms}
        # Of a question that was asked again the last row counts.
        rows = {(row["index"], row["mllm"]): row for row in kept.rows}
        why: dict[int, set[str]] = {}
        for (index, _), row in rows.items():
            if row["dropped"]:
                why.setdefault(index, set()).update(row["dropped"].split("; "))
        for (index, _), row in rows.items():
            for name, (score, answer, fits) in row["arms"].items() if index not in why else ():
                scores[name][index], answers[name][index] = score, answer
                valid[name][index] = fits
        ids = [question.id for question in episodes.questions]
        dropped = {ids[index]: "; ".join(sorted(why[index])) for index in sorted(why)}
        return Outcome(scores, valid, answers, dropped)

    def _load(self, mllm: str, arms: Mapping[str, Arm]) -> dict[str, dict[str, Params]]:
        """Loads what arms of one set's MLLM take, by the set of the sampler."""
        models = (name for name in self.episodes.system.abstract if name != "sampler")
        shared = {name: self.load(mllm, name) for name in models}
        samplers = dict.fromkeys(arm.sampler for arm in arms.values())
        return {name: {**shared, "sampler": self.load(name, "sampler")} for name in samplers}

    def _evaluate(
        self,
        arms: Mapping[str, Arm],
        params: Mapping[str, dict[str, Params]],
        batch: Batch,
        places: list[int],
    ) -> list[Row]:
        """Evaluates arms of one set's MLLM on a batch, whose questions are at `places` of all."""
        episodes, questions = self.episodes, self.episodes.batch_questions(batch)
        num_failures = len(episodes.failures)
        queries: dict[tuple[str, bool], Queries] = {}
        asked = np.ones(len(questions), bool)  # under every arm
        graded = {}
        for name, arm in arms.items():
            weight = full_weight(batch)
            own = params[arm.sampler]
            selected = self._select(arm, own, batch, queries, weight)
            answered = episodes.answer(
                own["mllm"],
                batch,
                selected.selection,
                0,
                temperature=0.0,
                weight=weight,
            )
            think = episodes.text.prompt.think
            graded[name] = grade_replies(self.task, questions, answered, think)
            asked &= weight > 0
        reasons: dict[str, set[str]] = {}
        for failure in episodes.failures[num_failures:]:
            reasons.setdefault(failure["question"], set()).add(failure["error"])
        rows = []
        for b, index in enumerate(places):
            name = questions[b].id
            why = "; ".join(sorted(reasons.get(name, {"cannot be asked"})))
            grades = {arm: of_batch[b][0] for arm, of_batch in graded.items()}
            results = {
                arm: [float(grade.score), grade.answer, float(grade.valid)]
                for arm, grade in grades.items()
            }
            rows.append(
                {
                    "index": index,
                    "id": name,
                    "mllm": next(iter(arms.values())).mllm,
                    "arms": results if asked[b] else {},
                    "dropped": None if asked[b] else why,
                }
            )
        return rows

    def _select(
        self,
        arm: Arm,
        params: dict[str, Params],
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
                    params["mllm"],
                    batch if arm.own_previews else self._other_previews(batch, weight),
                    0,
                    rollouts=1,
                    temperature=0.0,
                    weight=weight,
                ).queries
            queries = cache[key]
        else:
            queries = [[queries_of(arm.queries, question)] for question in questions]
        return episodes.select(params, batch, queries, 0, selector=arm.selector, weight=weight)


def _of_all_hosts(rows: list[Row], label: str) -> list[Row]:
    return list(hosts.merge({row["index"]: row for row in rows}, f"rows of {label}").values())


class Outcome(NamedTuple):
    """Results of an evaluation.

    Attributes:
      scores: of each question under each arm; NaN: dropped.
      valid: likewise whether the reply was valid, 1 or 0.
      answers: likewise; "": dropped.
      dropped: why a question was dropped, by its id.
    """

    scores: dict[str, Float[np.ndarray, "n"]]
    valid: dict[str, Float[np.ndarray, "n"]]
    answers: dict[str, list[str]]
    dropped: dict[str, str]


def queries_of(kind: str, question: Question) -> tuple[str, ...]:
    """Returns the queries that need no MLLM: none, the question, or the record's oracle queries."""
    if kind == "oracle":
        return tuple(question.extra["oracle_queries"])
    return (question.question,) if kind == "question" else ("",)


def load_split(
    data: DataConfig,
    split: str,
    *,
    limit: int,
    candidates: int,
    previews: int,
    clip: str,
    siglip: str = "",
) -> tuple[list[Question], RecordReader]:
    """Reads a split's questions and their records, and checks that they fit together.

    Args:
      data: the paths of questions and records.
      split: validation or heldout.
      limit: the first questions only; 0: all.
      candidates: most candidate frames of a video.
      previews: number of preview frames of a video.
      clip: fingerprint of the CLIP that has embedded the frames; empty: it does not exist yet.
      siglip: name of a SigLIP's embeddings; empty: likewise, or there is none.

    Raises:
      UserError: an unset or unreadable field of `config.data`, or a question whose video is not
        among the records.
    """
    for name in (f"{split}_questions", f"{split}_records"):
        if not getattr(data, name):
            raise UserError(f"config.data.{name} is not set")
    questions = TASKS[data.task].read(getattr(data, f"{split}_questions"))[: limit or None]
    reader = RecordReader(getattr(data, f"{split}_records"), clip, siglip)
    make_pipeline(  # for its checks alone: it reads nothing before a batch is taken
        questions,
        reader,
        batch_size=1,
        num_candidates=candidates,
        num_preview=previews,
        with_embeddings=bool(clip),
    )
    return questions, reader


def load_heldout(
    data: DataConfig,
    config: EvaluateConfig,
    *,
    candidates: int,
    previews: int,
    max_queries: int,
    clip: str = "",
    siglip: str = "",
) -> tuple[list[Question], RecordReader]:
    """Reads the held-out questions and their records, and checks them for what the arms need.

    Args:
      data: the paths of questions and records.
      config: the arms, and how many questions.
      candidates: most candidate frames of a video.
      previews: number of preview frames of a video.
      max_queries: most queries that a reply may hold.
      clip: fingerprint of the CLIP whose embeddings are read; "": they are not needed yet.
      siglip: name of a SigLIP's embeddings, likewise.

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
        clip=clip,
        siglip=siglip,
    )
    check_extras(config.arms, questions, max_queries)
    return questions, reader


def evaluate(
    evaluator: Evaluator,
    arms: Mapping[str, Arm],
    workdir: epath.PathLike,
    meta: Mapping[str, Any],
    inputs: Inputs,
) -> dict[str, Any]:
    """Evaluates arms, prints the table, and writes it as `eval.json`.

    `eval_questions.jsonl` holds every question's score, for paired intervals; a task with a
    submission format gets one file for each arm, `submission-ARM`. Rows of an evaluation of the
    same inputs that are there already are kept.

    Args:
      evaluator: with the questions and the parameters.
      arms: by name.
      workdir: where the files go.
      meta: further entries of `eval.json`.
      inputs: what the evaluation is made from.
    """
    workdir, task = epath.Path(workdir), TASKS[evaluator.task]
    questions, names = evaluator.episodes.questions, list(arms)
    outcome = evaluator.run(arms, KeptRows(workdir / ROWS, inputs))
    if cut := int(hosts.total([len(evaluator.episodes.cut_queries)], "cut queries")[0]):
        print(evaluator.episodes.text.cut_note(cut))
    scores, dropped = outcome.scores, outcome.dropped
    labels = {name: arm.label for name, arm in arms.items()}
    table = make_table(labels, scores, [task.groups(q) for q in questions], outcome.valid)
    left_out = {"count": len(dropped), "reasons": dropped}
    result = {"arms": table, "dropped": left_out, "task": evaluator.task, **meta}
    if hosts.is_first():
        _write(workdir, evaluator, outcome, names, result)
    if len(dropped) == len(questions):
        raise UserError(
            f"config.data.heldout_questions: none can be asked: {describe_dropped(dropped)}"
        )
    if dropped:
        print(f"{len(dropped)} of {len(questions)} questions are left out of all arms:")
        print(describe_dropped(dropped))
    print(format_table(table))
    return result


def _write(
    workdir: epath.Path,
    evaluator: Evaluator,
    outcome: Outcome,
    names: Sequence[str],
    result: Mapping[str, Any],
) -> None:
    """Writes the files of an evaluation."""
    questions, task, scores = evaluator.episodes.questions, TASKS[evaluator.task], outcome.scores
    write_whole(workdir / "eval.json", json.dumps(result, indent=2) + "\n")
    rows = [
        {"id": q.id, **{n: None if np.isnan(scores[n][i]) else scores[n][i] for n in names}}
        for i, q in enumerate(questions)
    ]
    write_whole(workdir / "eval_questions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for old in workdir.glob("submission-*"):
        old.unlink()
    if task.submission:
        for name in names:
            entries = [
                {
                    "id": q.id,
                    "answer": outcome.answers[name][i],
                    "score": float(scores[name][i]),
                    "question": q,
                }
                for i, q in enumerate(questions)
            ]
            write_whole(workdir / f"submission-{name}", task.submission(entries))
