"""Every arm of the tiny world's experiment, several seeds each, as one table.

    python -m benchmarks.tiny_world --workdir=runs/bench --seeds=5

The base models, pass rates and the pre-trained sampler are made once; every arm starts from them
with the same number of updates and of answer rollouts, and is judged on the same held-out
questions. Runs go two at a time, one core each; what is finished is not run again. Writes
`table.md` and `table.json` into the workdir.
"""

import json
import pathlib
import sys
import time

import numpy as np
from absl import app, flags
from scipy import stats

from benchmarks.parallel_runs import Run, from_base, outcomes, run_all, run_main
from msjoe_jax.evaluation.evaluate import paired_difference

_WORKDIR = flags.DEFINE_string("workdir", "runs/bench", "Where runs and the table go.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Seeds of each arm.", lower_bound=2)
_STEPS = flags.DEFINE_integer("steps", 0, "Updates of each arm; 0: as configs/tiny.py says.")
_JOBS = flags.DEFINE_integer("jobs", 2, "Runs at a time, one core each.")

CONFIG = "configs/tiny.py"
BASE_SELECTORS = (
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
OTHER_PREVIEWS = "joint_other_previews"  # the trained joint model, stage 1 shown another video
# What an arm overrides, and the selector under which it is judged.
ARMS: dict[str, tuple[dict[str, object], str]] = {
    "joint": ({}, "joint"),
    "sampler_only": ({"joint.train_mllm": False}, "joint"),
    "mllm_only": ({"joint.train_sampler": False, "rollout.selector": "topk"}, "joint_topk"),
    "mllm_only_smooth": (
        {"joint.train_sampler": False, "rollout.selector": "topk_smooth"},
        "joint_topk_smooth",
    ),
    "uniform_control": (
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


def main(_: list[str]) -> None:
    root = pathlib.Path(_WORKDIR.value)
    base = root / "base"
    began = time.perf_counter()
    fields: dict[str, object] = {
        "stages": "('world','warm_up','difficulty','pretrain','evaluate')",
        "evaluate.selectors": str(BASE_SELECTORS),
    }
    if not run_main(Run(base, CONFIG, fields)):
        sys.exit(f"error: the base run failed; see {base / 'log.txt'}")
    shared = from_base(base)
    if _STEPS.value:
        shared["joint.steps"] = _STEPS.value
    runs = []
    for seed in range(_SEEDS.value):
        for name, (fields, selector) in ARMS.items():
            selectors = (selector, OTHER_PREVIEWS) if name == "joint" else (selector,)
            own = {**fields, "seed": seed, "evaluate.selectors": str(selectors)}
            runs.append(Run(root / f"{name}-{seed}", CONFIG, {**shared, **own}))
    run_all(runs, _JOBS.value)
    report(root, time.perf_counter() - began)


def report(root: pathlib.Path, seconds: float) -> None:
    """Accuracy per arm over seeds, and joint minus each with two 95 % intervals.

    By question: means over seeds, paired by question (other questions might have been asked). By
    seed: seed by seed, Student's t (other seeds might have been run).
    """
    seeds = range(_SEEDS.value)
    right = {
        name: np.stack([outcomes(root / f"{name}-{s}", selector) for s in seeds])
        for name, (_, selector) in ARMS.items()
    }
    right[OTHER_PREVIEWS] = np.stack([outcomes(root / f"joint-{s}", OTHER_PREVIEWS) for s in seeds])
    for name in BASE_SELECTORS:
        right[name] = np.tile(outcomes(root / "base", name), (len(seeds), 1))
    joint = right["joint"].mean(0)
    lines = [
        "| arm | accuracy | per seed | joint − arm | 95 % by question | 95 % by seed |",
        "|---|---|---|---|---|---|",
    ]
    t = float(stats.t.ppf(0.975, len(seeds) - 1))
    table = {}
    for name in (*ARMS, OTHER_PREVIEWS, *BASE_SELECTORS):
        each = right[name].mean(1)
        mean, low, high = paired_difference(joint, right[name].mean(0))
        per_seed = " ".join(f"{x:.3f}" for x in each) if name not in BASE_SELECTORS else "–"
        half = t * float((right["joint"].mean(1) - each).std(ddof=1)) / len(seeds) ** 0.5
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


if __name__ == "__main__":
    app.run(main)
