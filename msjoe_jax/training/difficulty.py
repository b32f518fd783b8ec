"""Measures the base MLLM's pass rates: the share of right answers sampled from uniform frames."""

import dataclasses
from collections.abc import Callable

import numpy as np
from etils import epath

from msjoe_jax.data.questions import Question, questions_text
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
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.digest import Inputs
from msjoe_jax.runtime.files import write_whole
from msjoe_jax.runtime.kept_rows import KeptRows, Row
from msjoe_jax.runtime.progress import progress
from msjoe_jax.runtime.stopping import end_if_asked
from msjoe_jax.selectors.base import Selection
from msjoe_jax.selectors.fixed import uniform_frames

RATES = "rates.jsonl"  # beside the question file: the rates as they are measured
VALID = "valid"  # in its rows: the share of valid replies


@dataclasses.dataclass(frozen=True)
class Asking:
    """How the base model is asked: with uniform frames, `samples` times.

    frames: how many, 0: none; temperature: of the answers, as in training; task: a name of TASKS,
    by which they are graded; batch: questions at a time.
    """

    frames: int
    samples: int
    temperature: float
    task: str
    batch: int


def measure_difficulty(
    file: epath.PathLike,
    episodes: Episodes,
    load: Callable[[], Params],
    asking: Asking,
    inputs: Inputs,
) -> list[Question]:
    """Measures pass rates, and writes the questions with them to `file`.

    Rates that are there from the same inputs are kept: a killed run goes on with the missing
    batches. A question that cannot be asked (see Episodes) keeps its difficulty; trainings that use
    the difficulty leave out those without.

    Args:
      file: a question file (JSON lines).
      episodes: of the base model, over the training questions.
      load: gives the parameters of the MLLM, if rates are missing.
      asking: how it is asked.
      inputs: what the rates are made from.
    """
    file, questions = epath.Path(file), list(episodes.questions)
    before = file.read_bytes() if file.exists() else None
    kept = KeptRows(file.parent / RATES, inputs)
    if before is not None and not kept.found:
        print(f"{file}: does not say what it was made from; made again")
    rows = fill_rates(kept, episodes, load, asking, "difficulty")
    rates = {index: row["rate"] for index, row in rows.items() if row["rate"] is not None}
    rated = [
        dataclasses.replace(question, difficulty=rates.get(index, question.difficulty))
        for index, question in enumerate(questions)
    ]
    text = questions_text(rated)
    if before != text.encode() and hosts.is_first():
        write_whole(file, text)
    return rated


def fill_rates(
    kept: KeptRows, episodes: Episodes, load: Callable[[], Params], asking: Asking, label: str
) -> dict[int, Row]:
    """Measures the pass rates that are missing among kept rows, and says what they come to.

    Args:
      kept: the rows that are there, to which the missing ones are added batch by batch.
      episodes: of the base model, over the questions.
      load: gives the parameters of the MLLM, if rates are missing.
      asking: how it is asked.
      label: for people.

    Returns:
      The row of every question by its position: `rate` and `valid`, or why it was `dropped`.
    """
    number, finished = len(episodes.questions), finished_rows(kept.rows)
    if len(finished) < number:
        episodes = episodes.with_key_frames(asking.frames or episodes.config.frames.key)
        total = -(-number // asking.batch)
        with progress(label, total, unit="batch", initial=len(finished) // asking.batch) as bar:
            mllm = load()
            todo = unfinished_batches(episodes, asking.batch, finished, with_embeddings=False)
            for places, batch in todo:
                own = _measure(episodes, mllm, batch, places, asking)
                by_place = hosts.merge({row["index"]: row for row in own}, "pass rates")
                kept.add(list(by_place.values()))
                bar.update()
                end_if_asked(f"a batch of {label} ({len(kept.rows)} of {number})")
        last = {row["index"]: row for row in kept.rows}  # of one that was asked again
        dropped = {row["id"]: row["dropped"] for row in last.values() if row["dropped"]}
        if dropped:
            print(f"{len(dropped)} of {number} questions have no pass rate:")
            print(describe_dropped(dropped))
        asked = [row for row in last.values() if row["rate"] is not None]
        if asked:
            right, valid = (np.mean([row.get(k, np.nan) for row in asked]) for k in ("rate", VALID))
            print(
                f"{label}: {right:.3f} of the replies are right, {valid:.1%} are valid "
                f"({len(asked)} questions, {asking.samples} answers each)"
            )
    return {row["index"]: row for row in kept.rows}


def _measure(
    episodes: Episodes, mllm: Params, batch: Batch, places: list[int], asking: Asking
) -> list[Row]:
    """Measures the rates of a batch's questions, which are at `places` of all."""
    num_failures, weight = len(episodes.failures), full_weight(batch)
    frames = uniform_frames(batch["frame_mask"], episodes.config.frames.key)
    shown = frames if asking.frames else np.full_like(frames, -1)
    answered = episodes.answer(
        mllm,
        batch,
        Selection(frames=shown[:, None, None]),
        0,
        temperature=asking.temperature,
        weight=weight,
        samples=asking.samples,
    )
    think = episodes.text.prompt.think
    grades = grade_replies(asking.task, episodes.batch_questions(batch), answered, think)
    rates, valid = (
        np.array([[getattr(g, name) for g in row] for row in grades], np.float32).mean(-1)
        for name in ("score", VALID)
    )
    reasons = {row["question"]: row["error"] for row in episodes.failures[num_failures:]}
    rows = []
    for b, index in enumerate(places):
        name, counts = episodes.questions[index].id, bool(weight[b])
        rows.append(
            {
                "index": index,
                "id": name,
                "rate": float(rates[b]) if counts else None,
                VALID: float(valid[b]) if counts else None,
                "dropped": None if counts else reasons.get(name, "cannot be asked"),
            }
        )
    return rows
