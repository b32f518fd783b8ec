"""Times each step of an episode in inference, over many questions.

    python -m benchmarks.step_times --run=runs/tiny --questions=1000

Device seconds are those from a program's dispatch to its result; the others are the host's:
prompts, replies, JPEGs. Greedy, `--batch` questions at a time; the first batch is run once to warm
up.
"""

import json
import pathlib
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from msjoe_jax.data.questions import Question, load_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.rollout.answerer import Answerer
from msjoe_jax.rollout.batches import full_weight
from msjoe_jax.rollout.candidates import BatchCandidates
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.base import Candidates

STEPS = ("reason", "score", "select", "answer")
Times = dict[str, dict[str, float]]


def measure(
    folder: pathlib.Path, records: str, questions: Sequence[Question], batch_size: int
) -> Times:
    """Measures seconds per question of every step, `device` and `total`, with a folder's models."""
    logging.set_verbosity(logging.ERROR)  # Orbax reports every file it reads
    model = Answerer(folder)
    config = EpisodeConfig(model.frames, signals=model.system.signals)
    reader = RecordReader(records)
    episodes = Episodes(config, model.programs, model.text, reader, questions)
    selector, clock = SELECTORS[model.system.network], episodes.clock
    total: dict[str, float] = defaultdict(float)

    def run_steps(batch: dict[str, Any]) -> None:
        weight = full_weight(batch)
        greedy: dict[str, Any] = {"temperature": 0.0, "weight": weight}
        times = [time.perf_counter()]
        reasoned = episodes.reason(model.params["mllm"], batch, 0, rollouts=1, **greedy)
        times.append(time.perf_counter())
        # The two parts of Episodes.select.
        candidates = BatchCandidates(
            episodes,
            model.params,
            batch,
            reasoned.queries,
            update=0,
            draws=1,
            sample=False,
            weight=weight,
        )
        with clock("score"):
            jax.block_until_ready(candidates.similarity)
        times.append(time.perf_counter())
        with clock("select"):
            selection = selector.select(cast(Candidates, candidates), model.frames.key)
        times.append(time.perf_counter())
        episodes.answer(model.params["mllm"], batch, selection, 0, **greedy)
        times.append(time.perf_counter())
        for name, seconds in zip(STEPS, np.diff(times), strict=True):
            total[name] += seconds

    batches = episodes.batches(batch_size)
    run_steps(next(iter(batches)))  # compiles
    clock.take()
    total.clear()
    for batch in tqdm(batches, total=-(-len(questions) // batch_size), desc="time the steps"):
        run_steps(batch)
    busy, _ = clock.take()
    n = len(questions)
    return {name: {"device": busy[name] / n, "total": total[name] / n} for name in STEPS}


def format_times(times: Times, questions: int, batch: int) -> str:
    """Formats the times as a Markdown table."""
    everything = sum(row["total"] for row in times.values())
    head = f"step ({questions} questions, {batch} at a time)"
    lines = [f"| {head} | ms a question | of it device | share |", "|---|---|---|---|"]
    for name, row in times.items():
        total, device = 1e3 * row["total"], 1e3 * row["device"]
        share = row["total"] / everything
        lines.append(f"| {name} | {total:.2f} | {device:.2f} | {share:.0%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Defines the flags and prints the table."""
    run = flags.DEFINE_string("run", "runs/tiny", "Folder of a finished run.")
    limit = flags.DEFINE_integer("questions", 1000, "Held-out questions.")
    batch = flags.DEFINE_integer("batch", 1, "Questions at a time.")

    def print_times(_: list[str]) -> None:
        folder = pathlib.Path(run.value)
        data = json.loads((folder / "config.json").read_text())["data"]
        file = data["heldout_questions"] or folder / "world" / "questions-heldout.jsonl"
        records = data["heldout_records"] or str(folder / "world" / "heldout")
        questions = load_questions(file)[: limit.value]
        times = measure(folder / "final", records, questions, batch.value)
        print(format_times(times, len(questions), batch.value))

    app.run(print_times)


if __name__ == "__main__":
    main()
