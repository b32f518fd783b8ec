"""Every selector on the tiny world, in one table: accuracy, evidence, tokens, replies read.

    python -m benchmarks.selector_table --workdir=runs/selectors

One base (configs/tiny.py:selectors, whose MLLM has also learnt what selectors ask it), one seed.
From it the U-Net, the MLP, TSPO's agent and the evidential network are trained by the same trainer;
then `msjoe evaluate` judges them and all selectors without weights on the same `--questions`
held-out questions: three draws of what draws, the base MLLM as answerer unless a row says
otherwise, joint at two token budgets, and videos of two and four times the trained length. A
training takes some minutes on a core, an evaluation too; what is finished is not run again. Writes
`table.md` and `table.json` into the workdir; each evaluation's own report lies in its folder under
`evaluations/`.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import app, flags

from benchmarks.ablations import DEFAULT, Variant, make_overrides
from benchmarks.parallel_runs import ROOT, Run, from_base, run_all, run_main
from configs.tiny import get_config
from msjoe_jax.runtime.files import write_whole
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.world.build import build_world, questions_path, records_path
from msjoe_jax.world.spec import WorldSpec

CONFIG = "configs/tiny.py:selectors"
BASE_FIELDS: dict[str, object] = {
    "phases": "('world','warm_up','difficulty','pretrain','evaluate')",
    "evaluate.arms": "('uniform','pretrained')",
    "evaluate.limit": 100,
}
TRAININGS = {
    "joint": DEFAULT,
    "mlp": Variant("networks", "mlp"),
    "tspo": Variant("networks", "tspo"),
    "evidential": Variant("networks", "evidential"),
    "warm_start": Variant("networks", "warm_start"),
}
LENGTHS = (1, 2, 4)  # videos of so many times the trained length


class Evaluation(NamedTuple):
    """One `msjoe evaluate`.

    name: of its folder; model: the run whose `final` is evaluated; arms: its rows; based: whether
    the base MLLM is there too; times: the length of the videos.
    """

    name: str
    model: str
    arms: Sequence[str]
    based: bool = False
    times: int = 1


def evaluations() -> list[Evaluation]:
    """Returns what is evaluated, in the order of the table."""
    rules = [name for name, selector in SELECTORS.items() if selector.network is None]
    longer = ("uniform", "topk_queries", "topk_queries_smooth", "pretrained", "oracle")
    trained = ("joint_frames", "joint")
    made = [
        Evaluation(
            "base",
            "base",
            (
                *("topk_question", "topk_queries", "topk_queries_smooth", "pretrained"),
                *("uniform:twice", "topk_queries_smooth:twice", "oracle_queries"),
                *(name for name in rules if name not in ("topk", "topk_smooth")),
            ),
        ),
        Evaluation(
            "joint",
            "joint",
            (
                *trained,
                *("joint_sampled", "joint_answers", "joint_uniform", "joint_topk", "joint_blind"),
                *("joint:shuffled", "joint_tiers_rank", "joint_tiers_event", "joint:twice"),
            ),
            based=True,
        ),
        Evaluation("mlp", "mlp", trained, based=True),
        Evaluation("warm_start", "warm_start", trained, based=True),
        Evaluation("tspo", "tspo", ("tspo", "tspo_bins")),
        Evaluation("evidential", "evidential", ("evidential", "evidential_bins")),
    ]
    for times in LENGTHS[1:]:
        made.append(Evaluation(f"base-{times}", "base", longer, times=times))
        made.append(Evaluation(f"joint-{times}", "joint", trained, based=True, times=times))
    return made


def run_trainings(root: pathlib.Path, jobs: int) -> None:
    """Runs the base and what starts from it.

    Raises:
      SystemExit: a run failed, whose log is named.
    """
    base = root / "base"
    if not run_main(Run(base, CONFIG, BASE_FIELDS)):
        sys.exit(f"error: the base run failed; see {base / 'log.txt'}")
    prompt = get_config("selectors").prompt
    asking = ("selector_prompt_tokens", "selector_tokens", "numbered_frames")
    fields = {f"prompt.{name}": prompt[name] for name in asking} | {"evaluate.limit": 100}
    runs = [
        Run(
            root / name,
            f"configs/ablations/{variant.family}.py:{variant.name}",
            make_overrides(variant, base) | fields,
        )
        for name, variant in TRAININGS.items()
    ]
    run_all(runs, jobs)


def make_longer_videos(root: pathlib.Path, times: int, videos: int) -> pathlib.Path:
    """Makes held-out videos of so many times the trained length, embedded by the base's CLIP.

    Raises:
      SystemExit: the embedding failed.
    """
    folder = root / f"world-{times}"
    frames = times * get_config("selectors").frames.candidates
    build_world(folder, WorldSpec(0, 1, 1, videos, num_frames=frames))
    command = ["-m", "msjoe_jax", "predecode", f"--out={records_path(folder, 'heldout')}"]
    run(root, [*command, f"--clip={root.absolute() / 'base' / 'base'}"], folder.name)
    return folder


def run(root: pathlib.Path, command: Sequence[str], name: str) -> None:
    """Runs a command of Python; its output goes to a log.

    Raises:
      SystemExit: it failed.
    """
    log = root / f"{name}.log"
    with log.open("a") as out:
        done = subprocess.run([sys.executable, *command], stdout=out, stderr=out, check=False)
    if done.returncode:
        sys.exit(f"error: {name} failed; see {log}")


def evaluate(root: pathlib.Path, one: Evaluation, questions: int) -> None:
    """Runs an evaluation, or goes on with it; one that is there is not run again.

    Raises:
      SystemExit: it failed.
    """
    out = root / "evaluations" / one.name
    if (out / "summary.json").exists():
        return
    frames = one.times * get_config("selectors").frames.candidates
    data = from_base(root / "base")
    records, asked = data["data.heldout_records"], data["data.heldout_questions"]
    if one.times > 1:
        folder = make_longer_videos(root, one.times, (questions + 1) // 2)
        records, asked = records_path(folder, "heldout"), questions_path(folder, "heldout")
    command = ["-m", "msjoe_jax", "evaluate", f"--checkpoint={root / one.model / 'final'}"]
    command += [f"--base={root / 'base' / 'base'}"] if one.based else []
    command += [f"--config={ROOT / CONFIG}", f"--arms={','.join(one.arms)}", f"--workdir={out}"]
    command += [f"--records={records}", f"--questions={asked}", f"--candidates={frames}"]
    out.mkdir(parents=True, exist_ok=True)
    run(root, [*command, f"--config.evaluate.limit={questions}", "--looks=4"], one.name)


def table(root: pathlib.Path) -> dict[str, Any]:
    """Makes the table of all evaluations.

    Returns:
      `rows`, each with the run that it is of and the candidates a video; `same`: arms that take the
      same frames for nearly all questions, group by group.
    """
    made: dict[str, Any] = {"rows": [], "same": []}
    for one in evaluations():
        summary = json.loads((root / "evaluations" / one.name / "summary.json").read_text())
        of = {"run": one.model, "candidates": summary["settings"]["candidates"]}
        for arm in summary["arms"]:
            made["rows"].append(of | {k: arm[k] for k in arm if k not in ("groups", "seconds")})
        for budget, found in summary["overlap"].items():
            made["same"] += [of | {"budget": int(budget), "arms": arms} for arms in found["same"]]
    return made


def format_table(made: Mapping[str, Any]) -> str:
    """Formats the table as Markdown; below it the arms that are the same."""
    lines = [
        "| run: arm | T | queries | answered by | accuracy, 95 % | evidence shown | AUC | frames "
        "| visual tokens | draws | replies read | frames they name | perfect ones would |",
        "|" + "---|" * 13,
    ]

    def cell(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    for row in made["rows"]:
        low, high = row["ci95"]
        void = " **void**" if row["void"] else ""
        each = row["tokens_per_frame"]
        cells = [
            f"{row['run']}: `{row['arm']}`",
            str(row["candidates"]),
            row["queries_by"],
            "base MLLM" if row["answerer"] == "base" else f"{row['run']}'s MLLM",
            f"{row['accuracy']:.3f} [{low:.3f}, {high:.3f}]",
            cell(row["covered"], ".2f"),
            cell(row["auc"] if row["queries_by"] != "none" else None, ".2f"),
            cell(row["frames"], ".1f"),
            cell(None if each is None else each * row["frames"], ".1f"),
            str(row["draws"]),
            cell(row["parsed"], ".0%") + void,
            cell(row["named"], ".0%"),
            cell(row["nameable"], ".0%"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for group in made["same"]:
        where = f"{group['run']}, T = {group['candidates']}, {group['budget']} frames"
        lines += ["", f"The same frames ({where}): {', '.join(f'`{a}`' for a in group['arms'])}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    workdir = flags.DEFINE_string("workdir", "runs/selectors", "Folder of the runs and the table.")
    questions = flags.DEFINE_integer("questions", 500, "Held-out questions, of 2,000.", 2, 2000)
    jobs = flags.DEFINE_integer("jobs", 2, "Trainings at a time, one core each.", 1)

    def start(_: Sequence[str]) -> None:
        root = pathlib.Path(workdir.value).absolute()
        root.mkdir(parents=True, exist_ok=True)
        run_trainings(root, jobs.value)
        for one in evaluations():
            print(one.name, flush=True)
            evaluate(root, one, questions.value)
        made = table(root)
        write_whole(root / "table.json", json.dumps(made, indent=1) + "\n")
        write_whole(root / "table.md", format_table(made))
        print(format_table(made))

    app.run(start)


if __name__ == "__main__":
    main()
