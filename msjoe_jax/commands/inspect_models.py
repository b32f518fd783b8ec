"""What `msjoe inspect` says of checkpoints and of runs."""

import collections
import math
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.report.evaluation_page import flat
from msjoe_jax.report.inspection import Bars, Fact, Facts, Listing, Part
from msjoe_jax.report.run_folder import Training, read_run
from msjoe_jax.runtime.checkpoint import leaf_shapes, load_meta
from msjoe_jax.runtime.checkpoint_folders import check_finished, finished_steps
from msjoe_jax.runtime.checkpoint_layout import META
from msjoe_jax.runtime.files import read_json
from msjoe_jax.runtime.heartbeat import FOLDER

SHOWN = 20  # rows of a table
SCORE = "joint"  # the arm of a validation by which the best is chosen


def inspect_checkpoint(folder: epath.PathLike) -> list[Part]:
    """Counts what a model folder, or a checkpoint of a training, holds; reads no parameter.

    Raises:
      UserError: there is none, or it was not written to its end.
    """
    folder = epath.Path(folder)
    kind, inner = "model folder", folder / "params"
    if not inner.is_dir():
        kind, inner = "checkpoint of a training", folder
    check_finished(inner, META)
    meta, leaves = load_meta(inner), leaf_shapes(inner)
    groups: dict[str, list[Any]] = collections.defaultdict(list)
    for name, leaf in leaves.items():
        first, _, rest = name.partition("/")
        groups[f"{first}/{rest.partition('/')[0]}" if first == "params" else first].append(leaf)
    rows = [
        (
            name,
            len(group),
            sum(math.prod(leaf.shape) for leaf in group),
            Fact("", _bytes(group), "B"),
            ", ".join(sorted({leaf.dtype.name for leaf in group})),
        )
        for name, group in sorted(groups.items())
    ]
    trained = meta.get("trained", {}).get("phases", [])
    facts = [
        Fact("folder", str(folder)),
        Fact("kind", kind),
        Fact("files", _size(folder), "B"),
        Fact("arrays", len(leaves)),
        Fact("numbers", sum(math.prod(leaf.shape) for leaf in leaves.values())),
        Fact("trained by", ", ".join(trained) or "none of our trainings, by what it states"),
    ]
    head = ("part", "arrays", "numbers", "size", "types")
    return [
        Facts("checkpoint", facts),
        Listing("parameters", head, rows),
        *(_settings(name, part) for name, part in sorted(meta.items()) if part),
    ]


def inspect_run(workdir: epath.PathLike) -> list[Part]:
    """Counts what a run, finished or not, has done.

    Raises:
      UserError: there is no run, or what it wrote is damaged.
    """
    workdir = epath.Path(workdir)
    run = read_run(workdir)
    facts = [
        Fact("folder", run.folder),
        Fact("phases", ", ".join(run.config.get("phases") or ())),
        Fact("seed", run.config.get("seed")),
        Fact("state", _state(workdir)),
        Fact("files", _size(workdir), "B"),
        Fact("trainings", len(run.trainings)),
        Fact("changes of the config", len(run.changes)),
        Fact("evaluated", run.table is not None),
    ]
    parts: list[Part] = [Facts("run", facts)]
    for training in run.trainings:
        parts += _training(workdir, training)
    arms = (run.table or {}).get("arms", {})
    if isinstance(arms, dict) and arms:
        rows = [
            (name, arm.get("questions"), arm.get("accuracy"), arm.get("valid"))
            for name, arm in arms.items()
            if isinstance(arm, dict)
        ]
        head = ("frames chosen by", "questions", "accuracy", "valid replies")
        parts.append(Listing("held-out questions", head, rows))
        left_out = (run.table or {}).get("dropped", {})
        reasons = left_out.get("reasons") if isinstance(left_out, dict) else None
        if reasons:
            parts.append(_reasons("dropped of the held-out questions", reasons))
    return parts


def _training(workdir: epath.Path, training: Training) -> Iterator[Part]:
    name, last = training.name, training.metrics[-1] if training.metrics else {}
    steps = finished_steps(workdir / name / "checkpoints")
    seconds = sum(value for _, value in training.curve("time/update_s"))
    scores = [row for row in training.validations if isinstance(row.get(SCORE), int | float)]
    best = max(scores, key=lambda row: row[SCORE], default=None)
    yield Facts(
        name,
        [
            Fact("updates", last.get("step", 0)),
            Fact("seconds of updates", seconds, "s"),
            Fact("last reward", last.get("reward")),
            Fact("checkpoints", ", ".join(map(str, steps)) or "none"),
            Fact("validations", len(training.validations)),
            Fact("best validation", best[SCORE] if best else None),
            Fact("at update", best["step"] if best else None),
            Fact("last validation", scores[-1][SCORE] if scores else None),
            Fact("dropped questions", len({row.get("id") for row in training.dropped})),
            Fact("times dropped", len(training.dropped)),
        ],
    )
    if training.dropped:
        yield _reasons(f"{name}: dropped", training.dropped)


def _reasons(title: str, dropped: Any) -> Bars:
    """Counts what was dropped by the first words of the reason."""
    rows = dropped if isinstance(dropped, list) else []
    reasons = collections.Counter(
        str(row.get("error", "no reason")).partition(":")[0] if isinstance(row, dict) else str(row)
        for row in rows
    )
    counts = reasons.most_common()
    return Bars(title, counts[:SHOWN], f"and {len(counts) - SHOWN} more" * (len(counts) > SHOWN))


def _settings(name: str, part: Any) -> Facts:
    return Facts(name, [Fact(key, value) for key, value in flat({name: part} if not isinstance(
        part, Mapping) else part)])  # fmt: skip


def _state(workdir: epath.Path) -> str:
    file = workdir / FOLDER / "0.json"
    if not file.exists():
        return "not known: no heartbeat"
    try:
        row = read_json(file)
    except UserError:
        return f"not known: {file} is damaged"
    return f"{row.get('state')}, {row.get('work')} {row.get('done')} of {row.get('total')}"


def _bytes(leaves: list[Any]) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def _size(folder: epath.Path) -> int:
    return sum(_size(path) if path.is_dir() else path.stat().length for path in folder.iterdir())
