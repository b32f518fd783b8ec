"""Every ablation of configs/ablations/, several seeds each, as one table and one picture.

    python -m benchmarks.ablations --workdir=runs/ablations --seeds=1

World, base models, pass rates and pretrained sampler are made once (`--base` names those of another
benchmark); a variant repeats of them what it changes: only pretrain. All are judged on the same
first `--questions` held-out questions and compared with the mean of the default's seeds; the
intervals are over questions, and what other seeds do is seen from the default's. Runs go `--jobs`
at a time, one core each, some seven minutes a run (three with `--steps=100 --questions=500`); what
is finished is not run again. Writes into the workdir:

    table.md, table.json   accuracy, difference from the default, cost, reward at the end
    reward_curves.png      reward and share of right answers of every update's rollouts
    step_times.json        inference time of the steps of an episode under the default
"""

import importlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from benchmarks.parallel_runs import Run, from_base, outcomes, run_all, run_main
from msjoe_jax.data.questions import load_questions
from msjoe_jax.evaluation.statistics import paired_difference, wilson

FAMILIES = ("frames", "parts", "queries", "rewards", "previews", "options", "networks")
SMOOTH = 20  # updates under the mean of a curve, and of the reward at the end
TIMED = 1000  # questions, as the paper's inference times
# Of the base run: everything before joint.
BASE_FIELDS: dict[str, object] = {
    "phases": "('world','warm_up','difficulty','pretrain','evaluate')",
    "evaluate.arms": "('uniform','pretrained')",
}
LABELS = {"uniform": "uniform", "topk_queries": "top-k by the base model's queries"}


class Variant(NamedTuple):
    """A variant of a family: one row of the table."""

    family: str
    name: str

    @property
    def claim(self) -> str:
        """The text of its row in the table."""
        return self._module().VARIANTS[self.name][0]

    def config(self) -> ConfigDict:
        """Makes the variant's config."""
        return self._module().get_config(self.name)

    def folder(self, root: pathlib.Path, seed: int) -> pathlib.Path:
        """Returns the folder of its run with a seed."""
        return root / f"{self.family}-{self.name}-{seed}"

    def _module(self) -> Any:
        return importlib.import_module(f"configs.ablations.{self.family}")


DEFAULT = Variant("frames", "k6")


def parse_variants(names: Sequence[str]) -> list[Variant]:
    """Returns the variants of the given families or FAMILY:VARIANT names, the default first.

    Raises:
      ValueError: there is no such family or variant.
    """
    variants = [DEFAULT]
    for name in names:
        family, _, variant = name.partition(":")
        if family not in FAMILIES:
            raise ValueError(f"--only: {family!r} is not one of {', '.join(FAMILIES)}")
        family_variants = importlib.import_module(f"configs.ablations.{family}").VARIANTS
        if variant and variant not in family_variants:
            raise ValueError(
                f"--only: {family} has no {variant!r}; it has: {', '.join(family_variants)}"
            )
        variants += [Variant(family, v) for v in ([variant] if variant else family_variants)]
    return list(dict.fromkeys(variants))


def make_overrides(variant: Variant, base: pathlib.Path) -> dict[str, object]:
    """Returns the overrides by which a run of `variant` starts from `base` as far as it can."""
    config, fields = variant.config(), from_base(base)
    default = DEFAULT.config()
    alike = config.pretrain == default.pretrain and config.sampler == default.sampler
    if "pretrain" not in config.phases or not alike:
        fields["sampler.checkpoint"] = ""
        own = [name for name in config.phases if name in ("evidence", "pretrain")]
        fields["phases"] = repr((*own, "joint", "evaluate"))
    return fields


# --- the table ------------------------------------------------------------------------------------


def read_curve(folder: pathlib.Path, name: str) -> Float[np.ndarray, "steps"]:
    """Reads a metric of every update of joint; empty if it had none."""
    file = folder / "joint" / "metrics.jsonl"
    rows = map(json.loads, file.read_text().splitlines()) if file.exists() else []
    return np.array([row[name] for row in rows], float)


def summary(
    root: pathlib.Path,
    variant: Variant,
    seeds: int,
    arm: str,
    default: Float[np.ndarray, "seeds n"],
) -> dict[str, Any]:
    """Makes one row of the table.

    Args:
      root: the folder of the runs.
      variant: the variant of the row.
      seeds: the number of its runs.
      arm: the arm of evaluation.
      default: outcomes of the default, for the paired difference.
    """
    folders = [variant.folder(root, seed) for seed in range(seeds)]
    scores = np.stack([outcomes(folder, arm) for folder in folders])
    # A dropped question counts nowhere.
    question_means = scores[:, ~np.isnan(scores).any(0)].mean(0)
    both = ~np.isnan(np.concatenate([scores, default])).any(0)
    rewards, seconds = (
        [read_curve(f, name) for f in folders] for name in ("reward", "time/update_s")
    )
    trained = all(map(len, rewards))
    return {
        "family": variant.family,
        "variant": variant.name,
        "claim": variant.claim,
        "arm": arm,
        "seeds": [float(np.nanmean(row)) for row in scores],
        "accuracy": float(question_means.mean()),
        "ci95": list(wilson(float(question_means.sum()), len(question_means))),
        "minus_default": list(paired_difference(scores[:, both].mean(0), default[:, both].mean(0))),
        "seconds_per_update": float(np.median(np.concatenate(seconds))) if trained else None,
        "reward_at_end": float(np.mean([r[-SMOOTH:].mean() for r in rewards])) if trained else None,
    }


def table(root: pathlib.Path, seeds: Mapping[Variant, int]) -> list[dict[str, Any]]:
    """Makes a row for every variant and arm; `seeds` of every variant, the default among them."""
    judged = {v: list(v.config().evaluate.arms) for v in seeds}
    folders = [DEFAULT.folder(root, seed) for seed in range(seeds[DEFAULT])]
    default = np.stack([outcomes(folder, judged[DEFAULT][-1]) for folder in folders])
    return [summary(root, v, n, name, default) for v, n in seeds.items() for name in judged[v]]


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats rows as Markdown, family by family."""
    lines = [
        "| | variant | accuracy, 95 % (seeds) | minus default, paired, 95 % | s/update | reward |",
        "|---|---|---|---|---|---|",
    ]

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    for family in FAMILIES:
        for row in (r for r in rows if r["family"] == family):
            (low, high), (gap, least, most) = row["ci95"], row["minus_default"]
            trained = row["arm"] not in LABELS
            claim = row["claim"] + ("" if trained else f": {LABELS[row['arm']]}")
            each = " ".join(f"{s:.3f}" for s in row["seeds"])
            seeds = f" ({each})" if len({*row["seeds"]}) > 1 else ""
            cells = [
                f"{family}:{row['variant']}",
                claim,
                f"{row['accuracy']:.3f} [{low:.3f}, {high:.3f}]" + seeds,
                f"{gap:+.3f} [{least:+.3f}, {most:+.3f}]"
                if (gap, least, most) != (0, 0, 0)
                else "",
                number(row["seconds_per_update"] if trained else None),
                number(row["reward_at_end"] if trained else None),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


# --- the picture ----------------------------------------------------------------------------------


def smoothed(values: Float[np.ndarray, "n"], width: int = SMOOTH) -> Float[np.ndarray, "n"]:
    """Computes the mean of each value and up to width − 1 before it."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - width, 0)
    return (total[end] - total[start]) / (end - start)


def curves_figure(root: pathlib.Path, seeds: Mapping[Variant, int]) -> Figure:
    """Draws a column a family: total reward above, right answers below, means over seeds.

    Total rewards of unlike weights do not compare; right answers do.
    """
    families = [f for f in FAMILIES if any(v.family == f for v in seeds)]
    figure = Figure(figsize=(4.6 * len(families), 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(families), sharex=True, sharey="row", squeeze=False)
    names = {"reward": "reward", "rewards/accuracy": "right answers"}
    for column, family in enumerate(families):
        variants = [DEFAULT, *(v for v in seeds if v.family == family and v != DEFAULT)]
        for (metric, label), row in zip(names.items(), axes, strict=True):
            for number, variant in enumerate(variants):
                runs = [
                    read_curve(variant.folder(root, seed), metric) for seed in range(seeds[variant])
                ]
                runs = [r[: min(map(len, runs))] for r in runs]
                if not len(runs[0]):
                    continue
                row[column].plot(
                    1 + np.arange(len(runs[0])),
                    smoothed(np.mean(runs, 0)),
                    color="black" if variant == DEFAULT else f"C{(number - 1) % 10}",
                    linestyle=("-", "--", ":")[(number - 1) // 10] if number else "-",
                    linewidth=1.6 if variant == DEFAULT else 1.0,
                    label="default" if variant == DEFAULT else variant.name,
                )
            row[column].grid(alpha=0.3)
            if not column:
                row[column].set_ylabel(f"{label}, mean of {SMOOTH} updates")
        axes[0, column].set_title(family)
        axes[1, column].set_xlabel("update")
        axes[1, column].legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    return figure


def report(root: pathlib.Path, seeds: Mapping[Variant, int]) -> None:
    """Writes table and picture, prints the table."""
    rows = table(root, seeds)
    text = format_table(rows)
    (root / "table.md").write_text(text)
    (root / "table.json").write_text(json.dumps(rows, indent=2) + "\n")
    curves_figure(root, seeds).savefig(root / "reward_curves.png", dpi=100)
    print(text)


def time_steps(root: pathlib.Path, base: pathlib.Path) -> None:
    """Times inference of the default's first seed, unless it has been timed already."""
    from benchmarks.step_times import (
        format_times,
        measure,
    )  # imported late: JAX starts only after the runs

    file, data = root / "step_times.json", from_base(base)
    questions = load_questions(str(data["data.heldout_questions"]))[:TIMED]
    if not file.exists():
        final = DEFAULT.folder(root, 0) / "final"
        times = measure(final, str(data["data.heldout_records"]), questions, 1)
        file.write_text(json.dumps(times, indent=2) + "\n")
    print(format_times(json.loads(file.read_text()), len(questions), 1))


class Options(NamedTuple):
    """The flags, see `main`."""

    root: pathlib.Path
    base: pathlib.Path
    seeds: int
    default_seeds: int
    only: Sequence[str]
    steps: int
    questions: int
    jobs: int


def run_variants(options: Options) -> None:
    """Runs the base and every variant, and writes their table and picture.

    Raises:
      SystemExit: an unknown name in `only`, or a failed run, whose log is named.
    """
    try:
        variants = parse_variants(options.only)
    except ValueError as error:
        sys.exit(f"error: {error}")
    base, root = options.base, options.root
    if not run_main(Run(base, "configs/tiny.py", BASE_FIELDS)):
        sys.exit(f"error: the base run failed; see {base / 'log.txt'}")
    seeds = {v: options.default_seeds if v == DEFAULT else options.seeds for v in variants}
    runs = [
        Run(
            v.folder(root, seed),
            f"configs/ablations/{v.family}.py:{v.name}",
            {
                **make_overrides(v, base),
                **limits(v, options.steps, options.questions),
                "seed": seed,
            },
        )
        for v in variants
        for seed in range(seeds[v])
    ]
    run_all(runs, options.jobs)
    report(root, seeds)
    time_steps(root, base)


def limits(variant: Variant, steps: int, questions: int) -> dict[str, object]:
    """Returns fields that shorten a run: updates of each training (0: the config's), questions."""
    fields: dict[str, object] = {"evaluate.limit": questions}
    if steps:
        config = variant.config()
        fields |= {f"{t}.steps": min(steps, config[t].steps) for t in ("pretrain", "joint")}
    return fields


def main() -> None:
    """Defines the flags and runs all."""
    workdir = flags.DEFINE_string("workdir", "runs/ablations", "Where runs, table and picture go.")
    base = flags.DEFINE_string("base", "", "A finished base run to start from; default: one here.")
    seeds = flags.DEFINE_integer("seeds", 1, "Seeds of each variant.")
    default_seeds = flags.DEFINE_integer("default_seeds", 5, "Seeds of the default.")
    only = flags.DEFINE_list("only", list(FAMILIES), "Families to run, and FAMILY:VARIANT.")
    steps = flags.DEFINE_integer(
        "steps", 0, "Updates of each training at most; 0: as the config says."
    )
    questions = flags.DEFINE_integer("questions", 500, "Held-out questions.")
    jobs = flags.DEFINE_integer("jobs", 2, "Runs at a time, one core each.")

    def start(_: list[str]) -> None:
        root = pathlib.Path(workdir.value)
        run_variants(
            Options(
                root=root,
                base=pathlib.Path(base.value) if base.value else root / "base",
                seeds=seeds.value,
                default_seeds=default_seeds.value,
                only=only.value,
                steps=steps.value,
                questions=questions.value,
                jobs=jobs.value,
            )
        )

    app.run(start)


if __name__ == "__main__":
    main()
