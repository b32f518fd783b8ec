"""Runs `msjoe_jax.main` several times side by side, one core each; skips finished runs."""

import concurrent.futures
import itertools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

ROOT = pathlib.Path(__file__).parents[1]


class Run(NamedTuple):
    """One run: its folder, config file (with variant) and overridden fields."""

    workdir: pathlib.Path
    config: str
    fields: Mapping[str, object]


def run_main(run: Run) -> bool:
    """Runs `main` in its own process, on this thread's cores; says whether it finished.

    Its output goes to `log.txt`. A run that was killed resumes.
    """
    workdir = run.workdir.absolute()
    if (workdir / "eval.json").exists():
        return True
    workdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "msjoe_jax.main", f"--config={run.config}"]
    command += [f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in run.fields.items()]
    with (workdir / "log.txt").open("a") as log:
        process = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False)
    return not process.returncode


def run_all(runs: Sequence[Run], jobs: int) -> None:
    """Runs `jobs` runs at a time, one core each, until all have ended.

    Raises:
      SystemExit: some runs failed; their logs are named.
    """
    cores = itertools.cycle(sorted(os.sched_getaffinity(0)))

    def pin() -> None:
        os.sched_setaffinity(0, {next(cores)})  # of this thread and the processes it starts

    with concurrent.futures.ThreadPoolExecutor(jobs, initializer=pin) as pool:
        succeeded = list(tqdm(pool.map(run_main, runs), total=len(runs), desc="runs", unit="run"))
    logs = [str(r.workdir / "log.txt") for r, ok in zip(runs, succeeded, strict=True) if not ok]
    if logs:
        sys.exit(f"error: {len(logs)} of {len(runs)} runs failed; see {', '.join(logs)}")


def from_base(base: pathlib.Path) -> dict[str, object]:
    """Returns the fields by which a run starts from a base run's models, data and pass rates."""
    base = base.absolute()
    world = base / "world"
    return {
        "phases": "('joint','evaluate')",
        "data.train_questions": base / "difficulty" / "questions.jsonl",
        "mllm.tokenizer": world / "tokenizer.json",
        "clip.tokenizer": world / "tokenizer.json",
        "mllm.checkpoint": base / "base",
        "clip.checkpoint": base / "base",
        "sampler.checkpoint": base / "final",
        "data.train_records": world / "train",
        "data.heldout_records": world / "heldout",
        "data.heldout_questions": world / "questions-heldout.jsonl",
    }


def outcomes(workdir: pathlib.Path, arm: str) -> Float[np.ndarray, "n"]:
    """Returns an arm's score of every held-out question, NaN where it was dropped."""
    rows = map(json.loads, (workdir / "eval_questions.jsonl").read_text().splitlines())
    return np.array([np.nan if row[arm] is None else row[arm] for row in rows])
