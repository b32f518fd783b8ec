"""A work folder as a finished run leaves it, of made-up numbers and videos."""

import json
import pathlib
from typing import Any

import numpy as np

from msjoe_jax.data.questions import Question, save_questions
from msjoe_jax.data.records import RecordWriter
from msjoe_jax.rollout.log import RolloutRecord, log_row
from msjoe_jax.text.prompts import QueryReply
from tests.support.evaluation_folder import NASTY

FRAMES, K, LISTS, DRAWS = 40, 4, 2, 2
PARTS = ("reason", "select", "answer", "joint_step", "input")


def write_run(folder: pathlib.Path, updates: int = 30) -> pathlib.Path:
    """Writes config, records, questions, the logs of a training, and eval.json."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    shades = np.linspace(0, 255, FRAMES).astype(np.uint8)
    with RecordWriter(folder / "records") as writer:
        pixels = np.broadcast_to(shades[:, None, None, None], (FRAMES, 72, 320, 3))
        writer.add("v", enumerate(pixels.copy()))
    questions = [
        Question(f"q{n}", "v", f"What is shown? {NASTY}", ("a dog", NASTY), 0) for n in range(3)
    ]
    save_questions(folder / "questions.jsonl", questions)
    data = {
        "task": "jsonl",
        "train_questions": str(folder / "questions.jsonl"),
        "train_records": str(folder / "records"),
    }
    config = {"phases": ["joint", "evaluate"], "seed": 7, "data": data}
    _write(folder / "config.json", config)
    joint = folder / "joint"
    joint.mkdir(exist_ok=True)
    _lines(joint / "metrics.jsonl", [_metrics(rng, step) for step in range(1, updates + 1)])
    validations: list[dict[str, Any]] = [
        {
            "step": step,
            "joint": 0.4 + 0.1 * np.sin(step / 9),
            "joint_uniform": 0.3,
            "valid": {"joint": 0.9},
        }
        for step in range(0, updates + 1, 10)
    ]
    _lines(joint / "validation.jsonl", validations)
    error = "prompt too long: 9000 of 8192 tokens"
    dropped = [{"step": step, "id": "q9", "video": "v", "error": error} for step in (3, 8)]
    _lines(joint / "dropped.jsonl", dropped)
    rows = [_rollout(rng, questions[step % 3], step) for step in range(1, 6)]
    _lines(joint / "rollouts.jsonl", rows)
    arms = {
        name: {"label": name, "accuracy": value, "ci95": [value - 0.1, value + 0.1]}
        | {"valid": 0.9, "questions": 50}
        for name, value in (("uniform", 0.4), ("joint", 0.7))
    }
    arms["uniform"]["joint_minus"] = {"difference": 0.3, "ci95": [0.2, 0.4]}
    _write(folder / "eval.json", {"arms": arms, "dropped": {"count": 1, "reasons": {"q9": error}}})
    return folder


def _metrics(rng: np.random.Generator, step: int) -> dict[str, Any]:
    reward = 0.5 + 0.3 * step / (step + 10)
    out: dict[str, Any] = {
        "step": step,
        "reward": reward,
        "rewards/accuracy": reward - 0.1,
        "rewards/diversity": 0.2,
    }
    out |= {"entropy": 1.0 / step, "entropy/query": 1.1 / step, "sampler/entropy": 2.0, "kl": 0.01}
    out |= {"frac_silent": 0.1, "grad_norm/mllm": 1.0, "grad_norm/sampler": None}
    out |= {"completions/query_mean_length": 20.0, "dropped_questions": 1}
    out |= {f"time/{part}_s": 0.1 + 0.1 * place for place, part in enumerate(PARTS)}
    out |= {"time/rollout_s": 0.8, "time/update_s": 2.0 + float(rng.random()), "goodput/share": 0.8}
    return out


def _rollout(rng: np.random.Generator, question: Question, step: int) -> dict[str, Any]:
    frames = np.sort(rng.permuted(np.tile(np.arange(FRAMES), (LISTS, DRAWS, 1)), axis=2)[..., :K])
    record = RolloutRecord(
        question=question,
        replies=[QueryReply(("a red cube", NASTY), 2, True)] * LISTS,
        similarity=0.2 + 0.1 * rng.random((LISTS, 4, FRAMES)),
        logits=rng.normal(size=(LISTS, FRAMES)),
        frames=frames,
        draws=frames,
        frame_mask=np.ones(FRAMES, bool),
        frame_index=np.arange(FRAMES),
        timestamps=np.arange(FRAMES, dtype=float),
        answers=[f"<answer>A</answer>{NASTY}"] * (LISTS * DRAWS),
        correct=np.array([[1.0, 0.0], [1.0, 1.0]]),
        weight=1.0,
    )
    return log_row(record, update=step, seed=7, selector="msjoe", law="plackett_luce")


def _write(file: pathlib.Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content))


def _lines(file: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
