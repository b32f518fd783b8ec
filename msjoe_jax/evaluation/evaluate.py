"""Evaluates every way to choose frames on the same held-out questions, with intervals."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import DataConfig, Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import Arm, arm_names, check_extras
from msjoe_jax.evaluation.evaluator import Evaluator, Outcome
from msjoe_jax.evaluation.grading import READS
from msjoe_jax.evaluation.looks import write_looks
from msjoe_jax.evaluation.preset import anchor_lines, anchors_of
from msjoe_jax.evaluation.samples import sample_rows
from msjoe_jax.evaluation.summary import cost_table, notes, overlap_table, summarize
from msjoe_jax.evaluation.table import format_table, make_table
from msjoe_jax.fields import group, option
from msjoe_jax.rollout.batches import describe_dropped
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.digest import Inputs
from msjoe_jax.runtime.files import write_whole
from msjoe_jax.runtime.kept_rows import KeptRows
from msjoe_jax.selectors.filtered import FilterConfig
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.multiple_choice import rules_of
from msjoe_jax.tasks.presets import Preset

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
    looks: int = option(
        12, "Questions of which `looks/` keeps what pictures show, evenly spread; 0: none.", low=0
    )
    smooth: int = option(5, "Frames under the smoothing of smoothed selectors: odd.", low=1)
    filter: FilterConfig = group(FilterConfig, "A fixed filter over time.")

    def slips(self) -> Iterator[str]:
        """Yields what cannot be."""
        if self.smooth % 2 == 0:
            yield f"smooth={self.smooth} must be odd, so that a frame is in the middle"


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
      UserError: an unset or unreadable field of `config.data`, or none of the questions' videos
        is among the records.
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
      UserError: an unset or unreadable field of `config.data`, none of the questions' videos is
        among the records, or a question lacks what the arms need.
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
    facts: Mapping[str, Any] | None = None,
    preset: Preset | None = None,
) -> dict[str, Any]:
    """Evaluates arms, prints the table, and writes it as `eval.json`.

    `samples.jsonl` has a row for each question, arm, budget and draw, `summary.json` what they come
    to with all that moves a number, and `looks/` what pictures of a few questions show.
    `eval_questions.jsonl` holds every question's score, for paired intervals; a task with a
    submission format gets one file for each arm, `submission-ARM` with the task's ending. Rows of
    an evaluation of the same inputs that are there already are kept.

    Args:
      evaluator: with the questions and the parameters.
      arms: by name.
      workdir: where the files go.
      meta: further entries of `eval.json`.
      inputs: what the evaluation is made from.
      facts: further entries of `summary.json`.
      preset: by which the questions are asked, and whose anchors stand beside the result.
    """
    workdir, task = epath.Path(workdir), TASKS[evaluator.task]
    questions = evaluator.episodes.questions
    outcome = evaluator.run(arms, KeptRows(workdir / ROWS, inputs))
    if cut := int(hosts.total([len(evaluator.episodes.cut_queries)], "cut queries")[0]):
        print(evaluator.episodes.text.cut_note(cut))
    dropped = outcome.dropped
    groups = [task.groups(question) for question in questions]
    videos = [question.video for question in questions]
    table = make_table(outcome.labels, outcome.scores, groups, outcome.valid, videos)
    left_out = {"count": len(dropped), "reasons": dropped}
    result = {"arms": table, "dropped": left_out, "task": evaluator.task}
    result |= {"extractor": evaluator.extractor, **meta}
    summary: dict[str, Any] = {}
    if hosts.is_first():
        _write(workdir, evaluator, outcome, result)
        rows = sample_rows(outcome, evaluator.episodes, evaluator.task, evaluator.extractor)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(workdir / "samples.jsonl", text)
        summary = {
            **summarize(rows, outcome, evaluator.episodes, evaluator.task, evaluator.extractor),
            **(facts or {}),
        }
        if preset:
            anchors = anchors_of(preset, rows, tuple(rules_of(task)))
            summary["preset"] = {"source": preset.source, **summary["preset"], "anchors": anchors}
        write_whole(workdir / "summary.json", json.dumps(summary, indent=1) + "\n")
        write_looks(workdir / "looks", outcome, evaluator.episodes)
    if len(dropped) == len(questions):
        raise UserError(
            f"config.data.heldout_questions: none can be asked: {describe_dropped(dropped)}"
        )
    if dropped:
        print(f"{len(dropped)} of {len(questions)} questions are left out of all arms:")
        print(describe_dropped(dropped))
    if secret := sum(q.answer is None and q.id not in dropped for q in questions):
        print(f"{secret} of {len(questions)} questions have no right answer: asked, not scored")
    print(format_table(table))
    print(f"accuracy by the extractor {evaluator.extractor}: {READS[evaluator.extractor]}")
    if summary:
        for lines in (notes(summary), cost_table(summary), overlap_table(summary)):
            if lines:
                print(lines)
        if preset:
            print("\n".join(anchor_lines(preset, summary["preset"]["anchors"])))
    return result


def _write(
    workdir: epath.Path, evaluator: Evaluator, outcome: Outcome, result: Mapping[str, Any]
) -> None:
    """Writes the table and its questions."""
    questions, task, scores = evaluator.episodes.questions, TASKS[evaluator.task], outcome.scores
    write_whole(workdir / "eval.json", json.dumps(result, indent=2) + "\n")
    rows = [
        {"id": q.id, **{n: None if np.isnan(row[i]) else row[i] for n, row in scores.items()}}
        for i, q in enumerate(questions)
    ]
    write_whole(workdir / "eval_questions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for old in workdir.glob("submission-*"):
        old.unlink()
    if task.submission:
        for column, name in zip(outcome.columns, outcome.names.values(), strict=True):
            entries = [
                {
                    "id": q.id,
                    "answer": entry[column.key][0]["answer"] if entry else "",
                    "reply": entry[column.key][0]["reply"] if entry else "",
                    "score": float(scores[name][i]),
                    "question": q,
                }
                for i, (q, entry) in enumerate(zip(questions, outcome.entries, strict=True))
            ]
            write_whole(workdir / f"submission-{name}{task.ending}", task.submission(entries))
