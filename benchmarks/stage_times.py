"""Inference time of each of the four stages, over many questions.

    python -m benchmarks.stage_times --run=runs/tiny --questions=1000

Device seconds run from a program's dispatch to its result; the rest is the host's: prompts,
replies, JPEGs. Greedy, `--batch` questions at a time; the first batch is run once before.
"""

# ruff: noqa: E402  (the platform is settled before JAX is imported)
import json
import pathlib
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from msjoe_jax.runtime.platform import quiet_cpu_default

quiet_cpu_default()

import jax
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import Question, load_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.draws.draw import Draw, top_k
from msjoe_jax.rollout.episode import Episodes, time_ordered
from msjoe_jax.rollout.frames import preview_fn
from msjoe_jax.rollout.model_folder import load_bundle
from msjoe_jax.rollout.programs import Programs

STAGES = {
    "reason": "1 query reasoning",
    "similarity": "2 similarity",
    "sampler": "3 sampler",
    "answer": "4 answer",
}
Times = dict[str, dict[str, float]]


def measure(
    folder: pathlib.Path, records: str, questions: Sequence[Question], batch_size: int
) -> Times:
    """Seconds a question of every stage, `device` and `total`, with the models in `folder`."""
    logging.set_verbosity(logging.ERROR)  # Orbax reports every file it reads
    config, system, params = load_bundle(folder)
    reader = RecordReader(records)
    episodes = Episodes(config, Programs(system, config.evaluate.smooth), reader, questions)
    k, clock, total = config.frames.key, episodes.clock, defaultdict(float)

    @jax.jit
    def choose(weights: Any, similarity: Any, query_mask: Any, frame_mask: Any) -> Draw:
        logits = system.sampler(weights)(similarity[:, 0], query_mask[:, 0], frame_mask)
        return top_k(logits[:, None, None], frame_mask[:, None, None], k)

    def answered(batch: dict[str, Any]) -> None:
        weight = batch["valid"].astype(np.float32)
        greedy: dict[str, Any] = {"temperature": 0.0, "weight": weight}
        times = [time.perf_counter()]
        reply = episodes.reason(params["mllm"], batch, 0, rollouts=1, **greedy)
        times.append(time.perf_counter())
        with clock("similarity"):
            rows = jax.block_until_ready(
                episodes.select(
                    params, batch, reply.tokens, reply.mask, 0, selector="topk", draws=1
                ).similarity
            )
        times.append(time.perf_counter())
        with clock("sampler"):
            frames = time_ordered(choose(params["sampler"], rows, reply.mask, batch["frame_mask"]))
        times.append(time.perf_counter())
        episodes.answer(params["mllm"], batch, frames, 0, **greedy)
        times.append(time.perf_counter())
        for name, seconds in zip(STAGES, np.diff(times), strict=True):
            total[name] += seconds

    batches = make_pipeline(
        questions,
        reader,
        batch_size=batch_size,
        num_candidates=config.frames.candidates,
        num_preview=config.frames.preview,
        preview_fn=preview_fn(config, system.qwen.vision),
        shuffle=False,
        num_epochs=1,
    )
    answered(next(iter(batches)))  # compiles
    clock.take()
    total.clear()
    for batch in tqdm(batches, total=-(-len(questions) // batch_size), desc="time the stages"):
        answered(batch)
    busy, _ = clock.take()
    n = len(questions)
    return {name: {"device": busy[name] / n, "total": total[name] / n} for name in STAGES}


def format_times(times: Times, questions: int, batch: int) -> str:
    """The table."""
    everything = sum(row["total"] for row in times.values())
    head = f"stage ({questions} questions, {batch} at a time)"
    lines = [f"| {head} | ms a question | of it device | share |", "|---|---|---|---|"]
    for name, row in times.items():
        total, device = 1e3 * row["total"], 1e3 * row["device"]
        share = row["total"] / everything
        lines.append(f"| {STAGES[name]} | {total:.2f} | {device:.2f} | {share:.0%} |")
    return "\n".join(lines) + "\n"


def main(_: list[str]) -> None:
    f = flags.FLAGS
    run = pathlib.Path(f.run)
    config = json.loads((run / "config.json").read_text())
    data, world = config["data"], run / "world"
    questions = load_questions(data["heldout_questions"] or world / "questions-heldout.jsonl")
    questions = questions[: f.questions]
    records = data["heldout_records"] or str(world / "heldout")
    times = measure(run / "final", records, questions, f.batch)
    print(format_times(times, len(questions), f.batch))


if __name__ == "__main__":  # flags of its own: benchmarks/ablations.py imports the rest
    flags.DEFINE_string("run", "runs/tiny", "Folder of a finished run.")
    flags.DEFINE_integer("questions", 1000, "Held-out questions.")
    flags.DEFINE_integer("batch", 1, "Questions at a time.")
    app.run(main)
