"""Runs every arm of the tiny world's experiment with several seeds, and makes one table.

    python -m benchmarks.tiny_world --workdir=runs/bench --seeds=5

The base models, pass rates and the pre-trained sampler are made once; every arm starts from them
with the same number of updates and of answer rollouts, and is evaluated on the same held-out
questions. Runs go two at a time, one core each; finished ones are not run again. Writes
`table.md` and `table.json` into the workdir.
"""

import json
import pathlib
import sys
import time
from typing import NamedTuple

import numpy as np
from absl import app, flags
from scipy import stats

from benchmarks.parallel_runs import Run, from_base, outcomes, run_all, run_main
from msjoe_jax.evaluation.statistics import paired_difference

CONFIG = "configs/tiny.py"
# The arms under which the base models are evaluated.
BASE_ARMS = (
    "blind",
    "uniform",
    "topk_question",
    "topk_question_smooth",
    "topk_queries",
    "topk_queries_smooth",
    "pretrained",
    "oracle_queries",
    "oracle",
)
OTHER_PREVIEWS = "joint_other_previews"  # the trained joint model, reason shown another video


class Training(NamedTuple):
    """A training's overrides, and the arm under which it is evaluated."""

    fields: dict[str, object]
    arm: str


TRAININGS = {
    "joint": Training({}, "joint"),
    "sampler_only": Training({"joint.train_mllm": False}, "joint"),
    "mllm_only": Training({"joint.train_sampler": False, "rollout.selector": "topk"}, "joint_topk"),
    "mllm_only_smooth": Training(
        {"joint.train_sampler": False, "rollout.selector": "topk_smooth"},
        "joint_topk_smooth",
    ),
    "uniform_control": Training(
        {"joint.train_sampler": False, "rollout.selector": "uniform"},
        "joint_uniform",
    ),
}
LABELS = {
    "joint": "**joint**",
    "sampler_only": "sampler only",
    "mllm_only": "MLLM only, top-k",
    "mllm_only_smooth": "MLLM only, top-k smoothed",
    "uniform_control": "control: MLLM trained on uniform frames",
    OTHER_PREVIEWS: "joint, its queries written on another video's previews",
    "blind": "no frames (blind)",
    "uniform": "uniform",
    "topk_question": "top-k by the question",
    "topk_question_smooth": "top-k by the question, smoothed",
    "topk_queries": "top-k by the base model's queries",
    "topk_queries_smooth": "top-k by the base model's queries, smoothed",
    "pretrained": "pre-trained sampler (start of all arms)",
    "oracle_queries": "ceiling: oracle queries, top-k smoothed",
    "oracle": "ceiling: oracle frames",
}


class Options(NamedTuple):
    """The flags: where runs and table go, seeds of each training, updates (0: the config's)."""

    root: pathlib.Path
    seeds: int
    steps: int
    jobs: int


def run_trainings(options: Options) -> None:
    """Runs the base and every training, and writes the table.

    Raises:
      SystemExit: a run failed, whose log is named.
    """
    began = time.perf_counter()
    base = options.root / "base"
    fields: dict[str, object] = {
        "phases": "('world','warm_up','difficulty','pretrain','evaluate')",
        "evaluate.arms": str(BASE_ARMS),
    }
    if not run_main(Run(base, CONFIG, fields)):
        sys.exit(f"error: the base run failed; see {base / 'log.txt'}")
    shared = from_base(base)
    if options.steps:
        shared["joint.steps"] = options.steps
    runs = []
    for seed in range(options.seeds):
        for name, training in TRAININGS.items():
            arms = (training.arm, OTHER_PREVIEWS) if name == "joint" else (training.arm,)
            overrides = {**training.fields, "seed": seed, "evaluate.arms": str(arms)}
            runs.append(Run(options.root / f"{name}-{seed}", CONFIG, {**shared, **overrides}))
    run_all(runs, options.jobs)
    report(options.root, options.seeds, time.perf_counter() - began)


def report(root: pathlib.Path, count: int, seconds: float) -> None:
    """Writes accuracy per arm over seeds, and joint minus each with two 95 % intervals.

    By question: of means over seeds, paired by question; covers the choice of questions. By seed:
    of differences seed by seed, Student's t; covers the choice of seeds.
    """
    seeds = range(count)
    scores = {
        name: np.stack([outcomes(root / f"{name}-{s}", training.arm) for s in seeds])
        for name, training in TRAININGS.items()
    }
    scores[OTHER_PREVIEWS] = np.stack(
        [outcomes(root / f"joint-{s}", OTHER_PREVIEWS) for s in seeds]
    )
    for name in BASE_ARMS:
        scores[name] = np.tile(outcomes(root / "base", name), (count, 1))
    counted = ~np.isnan(np.stack([rows.sum(0) for rows in scores.values()])).any(0)
    scores = {
        name: rows[:, counted] for name, rows in scores.items()
    }  # a dropped question counts nowhere
    joint = scores["joint"].mean(0)
    lines = [
        "| arm | accuracy | per seed | joint − arm | 95 % by question | 95 % by seed |",
        "|---|---|---|---|---|---|",
    ]
    t = float(stats.t.ppf(0.975, count - 1))
    table = {}
    for name in (*TRAININGS, OTHER_PREVIEWS, *BASE_ARMS):
        each = scores[name].mean(1)
        mean, low, high = paired_difference(joint, scores[name].mean(0))
        per_seed = " ".join(f"{x:.3f}" for x in each) if name not in BASE_ARMS else "–"
        half = t * float((scores["joint"].mean(1) - each).std(ddof=1)) / count**0.5
        by_seed = [mean - half, mean + half]
        gap = f"{mean:+.3f} | [{low:+.3f}, {high:+.3f}] | [{by_seed[0]:+.3f}, {by_seed[1]:+.3f}]"
        gap = "| |" if name == "joint" else gap
        lines.append(f"| {LABELS[name]} | {each.mean():.3f} | {per_seed} | {gap} |")
        table[name] = {"seeds": each.tolist(), "joint_minus": mean}
        table[name] |= {"by_question": [low, high], "by_seed": by_seed}
    text = "\n".join(lines) + "\n"
    (root / "table.md").write_text(text)
    (root / "table.json").write_text(json.dumps({"arms": table, "seconds": seconds}, indent=2))
    print(text)


def main() -> None:
    """Defines the flags and runs all."""
    workdir = flags.DEFINE_string("workdir", "runs/bench", "Where runs and the table go.")
    seeds = flags.DEFINE_integer("seeds", 5, "Seeds of each arm.", lower_bound=2)
    steps = flags.DEFINE_integer("steps", 0, "Updates of each arm; 0: as configs/tiny.py says.")
    jobs = flags.DEFINE_integer("jobs", 2, "Runs at a time, one core each.")
    app.run(
        lambda _: run_trainings(
            Options(pathlib.Path(workdir.value), seeds.value, steps.value, jobs.value)
        )
    )


if __name__ == "__main__":
    main()
