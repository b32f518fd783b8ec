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

RATES = "rates.jsonl"  # beside the question file: the rates as they are measured
VALID = "valid"  # in its rows: the share of valid replies


def measure_difficulty(
    file: epath.PathLike,
    episodes: Episodes,
    load: Callable[[], dict[str, Params]],
    *,
    samples: int,
    temperature: float,
    task: str,
    batch_size: int,
    inputs: Inputs,
) -> list[Question]:
    """Measures pass rates, and writes the questions with them to `file`.

    Rates that are there from the same inputs are kept: a killed run goes on with the missing
    batches. A question that cannot be asked (see Episodes) keeps its difficulty; trainings that use
    the difficulty leave out those without.

    Args:
      file: a question file (JSON lines).
      episodes: of the base model, over the training questions.
      load: gives the parameters of mllm and clip, if rates are missing.
      samples: answers drawn for each question.
      temperature: of the answers, as in training.
      task: name of TASKS, by which they are graded.
      batch_size: questions at a time.
      inputs: what the rates are made from.
    """
    file, questions = epath.Path(file), list(episodes.questions)
    kept = KeptRows(file.parent / RATES, inputs)
    before = file.read_bytes() if file.exists() else None
    if before is not None and not kept.found:
        print(f"{file}: does not say what it was made from; made again")
    finished = finished_rows(kept.rows)
    if len(finished) < len(questions):
        total = -(-len(questions) // batch_size)
        with progress(
            "difficulty", total, unit="batch", initial=len(finished) // batch_size
        ) as bar:
            params = load()
            for places, batch in unfinished_batches(episodes, batch_size, finished):
                own = _measure(episodes, params, batch, places, samples, temperature, task)
                by_place = hosts.merge({row["index"]: row for row in own}, "pass rates")
                kept.add(list(by_place.values()))
                bar.update()
                end_if_asked(f"a batch of difficulty ({len(kept.rows)} of {len(questions)})")
        last = {row["index"]: row for row in kept.rows}  # of one that was asked again
        dropped = {row["id"]: row["dropped"] for row in last.values() if row["dropped"]}
        if dropped:
            print(f"{len(dropped)} of {len(questions)} questions have no pass rate:")
            print(describe_dropped(dropped))
        asked = [row for row in last.values() if row["rate"] is not None]
        if asked:
            right, valid = (np.mean([row.get(k, np.nan) for row in asked]) for k in ("rate", VALID))
            print(
                f"difficulty: {right:.3f} of the replies are right, {valid:.1%} are valid "
                f"({len(asked)} questions, {samples} answers each)"
            )
    rates = {row["index"]: row["rate"] for row in kept.rows if row["rate"] is not None}
    rated = [
        dataclasses.replace(question, difficulty=rates.get(index, question.difficulty))
        for index, question in enumerate(questions)
    ]
    text = questions_text(rated)
    if before != text.encode() and hosts.is_first():
        write_whole(file, text)
    return rated


def _measure(
    episodes: Episodes,
    params: dict[str, Params],
    batch: Batch,
    places: list[int],
    samples: int,
    temperature: float,
    task: str,
) -> list[Row]:
    """Measures the rates of a batch's questions, which are at `places` of all."""
    num_failures, weight = len(episodes.failures), full_weight(batch)
    selected = episodes.select(
        params, batch, [[("",)]] * len(batch["index"]), 0, selector="uniform"
    )
    answered = episodes.answer(
        params["mllm"],
        batch,
        selected.selection,
        0,
        temperature=temperature,
        weight=weight,
        samples=samples,
    )
    think = episodes.text.prompt.think
    grades = grade_replies(task, episodes.batch_questions(batch), answered, think)
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
