"""Measures how hard questions are for a model before training, filters and splits them.

    msjoe difficulty --checkpoint=models/qwen7b --records=records --questions=questions.jsonl
    msjoe difficulty --config=own/own.py --drop=always_right,few,many,blind --split=0.8,0.1,0.1

The model answers each question --config.difficulty.samples times from config.frames.key uniform
frames; the share of right answers is the question's difficulty, as the phase of that name measures
it. --drop takes out of the training part what is too easy or too hard; each filter asks once more
with as many frames as it needs. In --out: questions.jsonl (all, with difficulty), a file for each
part, dropped.jsonl (which filter dropped what) and difficulty.json (counts and histograms). A
killed command goes on where it was.
"""

import collections
import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from msjoe_jax.commands.cli import HostFlags, define_config, given_config, run_app
from msjoe_jax.commands.evaluate_asked import is_trained, models_in
from msjoe_jax.config import Config, base
from msjoe_jax.config_check import check
from msjoe_jax.data.questions import Question, questions_text
from msjoe_jax.data.splits import REST, split_by_video
from msjoe_jax.errors import UserError
from msjoe_jax.fields import plain
from msjoe_jax.phase_data import read_split, tell_thinned
from msjoe_jax.phase_difficulty import Difficulty
from msjoe_jax.phase_models import make_models, stored_weights
from msjoe_jax.phase_prompts import tell_dropped
from msjoe_jax.rollout.model_folder import PARTS, read_settings
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.digest import Remembered
from msjoe_jax.runtime.files import lock, write_whole
from msjoe_jax.runtime.kept_rows import Row
from msjoe_jax.runtime.machine import introduce, make_machine
from msjoe_jax.runtime.stopping import signals_wait
from msjoe_jax.training.difficulty import VALID

SUMMARY, QUESTIONS, DROPPED = "difficulty.json", "questions.jsonl", "dropped.jsonl"
PARTS_OF_SPLIT = (REST, "validation", "heldout")
UNIFORM, NOT_ASKED = "uniform", "not_asked"
FILTERS = ("always_right", "few", "many", "blind")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What was asked for, beside the config.

    drop: names of FILTERS; few, many: frames of two of them; solved, unsolved: the share of right
    answers from which on a question counts as solved, and up to which as not; shares: of the
    videos, by part; seed: of the split.
    """

    drop: tuple[str, ...] = ()
    few: int = 4
    many: int = 64
    solved: float = 0.5
    unsolved: float = 0.0
    shares: tuple[float, ...] = ()
    seed: int = 0

    def frames(self, name: str) -> int:
        """Returns how many frames a filter shows."""
        return {"few": self.few, "many": self.many, "blind": 0}[name]

    def within(self, candidates: int) -> "Asked":
        """Returns the same with no more frames than are searched; says so where it is less."""
        for name in ("few", "many"):
            if name in self.drop and self.frames(name) > candidates:
                print(
                    f"{name}: {candidates} frames are shown, config.frames.candidates={candidates}"
                )
        few, many = min(self.few, candidates), min(self.many, candidates)
        return dataclasses.replace(self, few=few, many=many)

    def drops(self, name: str, rate: float) -> bool:
        """Says whether a filter drops a question of this rate."""
        if name == "always_right":
            return rate == 1.0
        return rate <= self.unsolved if name == "many" else rate >= self.solved

    def reason(self, name: str) -> str:
        """Says what a filter drops."""
        return {
            "always_right": "always right: such a question teaches nothing",
            "few": f"solved from {self.few} frames (at least {self.solved:g} right)",
            "many": f"not solved from {self.many} frames (at most {self.unsolved:g} right)",
            "blind": f"solved without frames (at least {self.solved:g} right)",
        }[name]


def config_of(
    checkpoint: str, records: str, questions: str, task: str, config: ConfigDict
) -> Config:
    """Makes the config that measures a model folder, or the models of a config.

    A run without CLIP does: uniform frames need none.

    Args:
      checkpoint: a model folder, trained or converted; "": the config's.
      records, questions, task: in place of the config's training split; "": that.
      config: says all else.

    Raises:
      UserError: the folder or the config cannot be used.
    """
    if checkpoint:
        for name in models_in(checkpoint):
            config[name].checkpoint = checkpoint
            if name in ("mllm", "clip"):  # the folder has its own
                config[name].size = config[name].tokenizer = ""
        if is_trained(checkpoint):
            settings = read_settings(epath.Path(checkpoint))
            for part in PARTS:
                config[part] = ConfigDict(plain(settings[part]), type_safe=False)
            config.mllm.checkpoint = config.clip.checkpoint = config.sampler.checkpoint = checkpoint
            config.mllm.size = config.mllm.tokenizer = config.clip.size = config.clip.tokenizer = ""
    if not config.clip.checkpoint and config.mllm.checkpoint:  # its sizes are asked for, no more
        config.clip.size, config.clip.tokenizer = "tiny", f"{config.mllm.checkpoint}/mllm"
    config.sampler.signals = ("clip",)
    config.siglip.checkpoint = ""
    config.phases = ("difficulty",)
    if records or questions:
        config.data.train_sets = {}
    config.data.train_records = records or config.data.train_records
    config.data.train_questions = questions or config.data.train_questions
    config.data.task = task or config.data.task
    return check(config)


def measure(config: Config, out: epath.Path, asked: Asked) -> None:
    """Measures, filters and splits the training questions of a config of `config_of` into `out`.

    Raises:
      UserError: data, weights or the folder cannot be used.
    """
    asked = asked.within(config.frames.candidates)
    machine = make_machine(config.mesh)
    introduce(machine)
    held = lock(out) if hosts.is_first() else contextlib.nullcontext()
    with held, jax.set_mesh(machine.mesh):
        models = make_models(config, machine)
        weights = stored_weights(config, models, Remembered(out / "digests.json"))
        questions, reader = read_split(config, "train")
        parts = split_of(questions, asked)  # before work that takes long
        tell_thinned(config)
        tell_dropped(config, models.system, models.text)
        difficulty = Difficulty(config, models, weights, questions, reader)
        rated = difficulty.questions(out / QUESTIONS)
        rows = {UNIFORM: difficulty.rows(out / QUESTIONS)}
        for name in asked.drop:
            if name != "always_right":
                frames = asked.frames(name)
                label = f"difficulty, {frames} frames" if frames else "difficulty, blind"
                file = out / f"rates-{frames or name}.jsonl"
                same = frames == config.frames.key
                rows[name] = rows[UNIFORM] if same else difficulty.rates(file, frames, label)
        about = {"samples": difficulty.asking.samples, "frames": config.frames.key}
        hosts.on_first(
            lambda: write_results(out, rated, parts, rows, asked, about),
            "the filters and the split",
        )


def split_of(questions: Sequence[Question], asked: Asked) -> dict[str, list[Question]]:
    """Splits questions as asked; without shares all are trained on."""
    if not asked.shares:
        return {REST: list(questions)}
    _, *others = zip(PARTS_OF_SPLIT, asked.shares, strict=True)
    return split_by_video(questions, dict(others), asked.seed)


def filtered(
    questions: Sequence[Question], rows: Mapping[str, Mapping[int, Row]], asked: Asked
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Returns why each question is dropped, by id; and of every filter what it could not judge.

    A question that could not be asked at all is dropped for that.
    """
    reasons: dict[str, list[str]] = {}
    unknown: dict[str, int] = collections.Counter()
    for place, question in enumerate(questions):
        if rows[UNIFORM][place]["rate"] is None:
            reasons[question.id] = [NOT_ASKED]
            continue
        for name in asked.drop:
            rate = rows[UNIFORM if name == "always_right" else name][place]["rate"]
            if rate is None:
                unknown[name] += 1
            elif asked.drops(name, rate):
                reasons.setdefault(question.id, []).append(name)
    return reasons, unknown


def histogram(rows: Mapping[int, Row], samples: int) -> dict[str, Any]:
    """Counts questions by how many of their answers were right, and those that were not asked."""
    rates = np.array([row["rate"] for row in rows.values() if row["rate"] is not None])
    valid = [row[VALID] for row in rows.values() if row["rate"] is not None]
    counts = np.bincount(np.round(rates * samples).astype(int), minlength=samples + 1)
    dropped = collections.Counter(
        row["dropped"].partition(":")[0] for row in rows.values() if row["dropped"]
    )
    return {
        "questions": len(rates),
        "mean": float(rates.mean()) if len(rates) else None,
        "valid": float(np.mean(valid)) if valid else None,
        "by_right_answers": counts.tolist(),
        "not_asked": dict(dropped),
    }


def write_results(
    out: epath.Path,
    rated: Sequence[Question],
    parts: Mapping[str, Sequence[Question]],
    rows: Mapping[str, Mapping[int, Row]],
    asked: Asked,
    about: Mapping[str, Any],
) -> None:
    """Writes the parts, what was dropped and the summary, and prints the counts.

    Args:
      out: the folder.
      rated: all questions with their rates.
      parts: of the split.
      rows: of every measurement, by name.
      asked: the filters.
      about: samples and frames, for the summary.
    """
    reasons, unknown = filtered(rated, rows, asked)
    by_id = {question.id: question for question in rated}
    trained = [question.id for question in parts["train"]]
    dropped = [name for name in trained if name in reasons]
    kept = {name: [by_id[q.id] for q in part] for name, part in parts.items()}
    kept["train"] = [by_id[name] for name in trained if name not in reasons]
    counts = collections.Counter(reason for name in dropped for reason in reasons[name])
    filters = {}
    told = {NOT_ASKED: "could not be asked"} if counts[NOT_ASKED] else {}
    for name, reason in (told | {name: asked.reason(name) for name in asked.drop}).items():
        filters[name] = {"reason": reason, "dropped": counts[name], "unknown": unknown[name]}
        more = f"; {unknown[name]} could not be asked so, and stay" if unknown[name] else ""
        print(
            f"{name}: {counts[name]} of {len(trained)} training questions dropped, {reason}{more}"
        )
    place = {question.id: i for i, question in enumerate(rated)}
    lines = []
    for name in dropped:
        rates = {kind: values[place[name]]["rate"] for kind, values in rows.items()}
        row = {"id": name, "video": by_id[name].video, "why": reasons[name], "rates": rates}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_whole(out / DROPPED, "".join(lines))
    splits = {}
    for name in PARTS_OF_SPLIT:  # of another split before
        (out / f"{name}.jsonl").unlink(missing_ok=True)
    for name, part in kept.items():
        videos = len({question.video for question in part})
        splits[name] = {"questions": len(part), "videos": videos}
        if part:
            write_whole(out / f"{name}.jsonl", questions_text(part))
            print(f"{out / name}.jsonl: questions {len(part)}, videos {videos}")
        else:
            print(f"{name}: no question is left, so that there is no {name}.jsonl")
    summary = {
        **about,
        "questions": len(rated),
        "videos": len({question.video for question in rated}),
        "measured": {
            name: {"frames": about["frames"] if name == UNIFORM else asked.frames(name)}
            | histogram(values, about["samples"])
            for name, values in rows.items()
        },
        "filters": filters,
        "dropped": len(dropped),
        "splits": splits,
        "split_seed": asked.seed if asked.shares else None,
    }
    write_whole(out / SUMMARY, json.dumps(summary, indent=1) + "\n")
    if not kept["train"]:
        raise UserError(f"{out}: no question is left to train on; drop less")


def shares_of(values: Sequence[str]) -> tuple[float, ...]:
    """Reads --split.

    Raises:
      UserError: it is not three shares of 1.
    """
    text = ",".join(values)
    try:
        shares = tuple(float(value) for value in values)
    except ValueError:
        shares = (-1.0,)
    fits = len(shares) == 3 and all(share >= 0 for share in shares) and shares[0] > 0
    if values and not (fits and abs(sum(shares) - 1) < 1e-6):
        raise UserError(
            f"--split={text}: give the shares of {', '.join(PARTS_OF_SPLIT)}, which make 1 "
            "together, such as 0.8,0.1,0.1"
        )
    return shares


def filters_of(values: Sequence[str]) -> tuple[str, ...]:
    """Reads --drop.

    Raises:
      UserError: a value is no name of FILTERS.
    """
    for value in values:
        if value not in FILTERS:
            raise UserError(f"--drop={value} is not one of {', '.join(FILTERS)}")
    return tuple(name for name in FILTERS if name in values)


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    config = define_config()
    checkpoint = flags.DEFINE_string(
        "checkpoint", "", "Folder of a converted or trained model; empty: the config's."
    )
    records = flags.DEFINE_string("records", "", "Record folder; empty: the config's training one.")
    questions = flags.DEFINE_string("questions", "", "Question file; empty: the training one.")
    task = flags.DEFINE_string("task", "", "A name of TASKS; empty: config.data.task.")
    out = flags.DEFINE_string("out", "difficulty", "Folder to write.")
    drop = flags.DEFINE_list("drop", [], f"Filters of the training part: {', '.join(FILTERS)}.")
    default = Asked()
    few = flags.DEFINE_integer("few", default.few, "Frames of the filter few.", lower_bound=1)
    many = flags.DEFINE_integer("many", default.many, "Frames of the filter many.", lower_bound=1)
    solved = flags.DEFINE_float(
        "solved", default.solved, "Share of right answers from which on a question is solved.", 0, 1
    )
    unsolved = flags.DEFINE_float(
        "unsolved", default.unsolved, "Share up to which it is not, with many frames.", 0, 1
    )
    split = flags.DEFINE_list(
        "split", [], "Shares of the videos to train on, to validate on, to judge by; empty: none."
    )
    seed = flags.DEFINE_integer("split_seed", 0, "Draws another split.", lower_bound=0)
    host_flags = HostFlags()

    def start() -> None:
        asked = Asked(
            filters_of(drop.value),
            few.value,
            many.value,
            solved.value,
            unsolved.value,
            shares_of(split.value),
            seed.value,
        )
        given = base() if config.value is None else given_config(config)
        folder = checkpoint.value.rstrip("/")
        if not folder and not given.mllm.checkpoint:
            raise UserError("give --checkpoint=DIR, a model folder, or --config=FILE.py")
        host_flags.connect()
        stall = host_flags.watchdog()
        with hosts.only_the_first_talks(), signals_wait(), stall, hosts.failures_told():
            values = given.copy_and_resolve_references()
            made = config_of(folder, records.value, questions.value, task.value, values)
            measure(made, epath.Path(out.value), asked)
            print(f"results in {out.value}")

    run_app(start)
