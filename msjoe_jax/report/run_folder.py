"""The work folder of a run: its config, what its trainings measured, its evaluation."""

import json
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.report.evaluation_folder import SAMPLES, SUMMARY, Evaluation, read_evaluation
from msjoe_jax.runtime.files import read_json

METRICS, VALIDATIONS, DROPPED = "metrics.jsonl", "validation.jsonl", "dropped.jsonl"
CONFIG, TABLE, CHANGES = "config.json", "eval.json", "config_changes.jsonl"
ORDER = ("pretrain", "joint")  # of trainings; others follow by name


class Training(NamedTuple):
    """What a training measured: rows with a `step` each, and the questions that it dropped."""

    name: str
    metrics: list[dict[str, Any]]
    validations: list[dict[str, Any]]
    dropped: list[dict[str, Any]]

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Returns (step, value) of a metric where it was measured and is finite."""
        rows = ((row["step"], row.get(name)) for row in self.metrics)
        return [(step, value) for step, value in rows if isinstance(value, int | float)]

    def names(self) -> list[str]:
        """Returns the names of all metrics, sorted."""
        return sorted({name for row in self.metrics for name in row} - {"step"})


class Run(NamedTuple):
    """A run: its folder, config, trainings, and the table of its evaluation if it got so far.

    table: of eval.json; evaluation: what stands beside it, if it was written.
    """

    folder: str
    config: dict[str, Any]
    trainings: list[Training]
    table: dict[str, Any] | None
    evaluation: Evaluation | None
    changes: list[dict[str, Any]]


def read_run(folder: epath.PathLike) -> Run:
    """Reads a run, finished or not.

    Raises:
      UserError: the folder has none, or a file is damaged; the message names file and line.
    """
    folder = epath.Path(folder)
    if not (folder / CONFIG).exists():
        raise UserError(
            f"{folder}: no {CONFIG} there; name the --workdir of a run (python -m msjoe_jax.main)"
        )
    names = [path.name for path in folder.iterdir() if (path / METRICS).exists()]
    names.sort(key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    evaluated = (folder / SUMMARY).exists() and (folder / SAMPLES).exists()
    return Run(
        folder=str(folder),
        config=read_json(folder / CONFIG),
        trainings=[read_training(folder / name) for name in names],
        table=read_json(folder / TABLE) if (folder / TABLE).exists() else None,
        evaluation=read_evaluation(folder) if evaluated else None,
        changes=finished_lines(folder / CHANGES),
    )


def read_training(folder: epath.Path) -> Training:
    """Reads what a training has written up to now.

    Raises:
      UserError: a line is damaged.
    """
    metrics, validations = (finished_lines(folder / name) for name in (METRICS, VALIDATIONS))
    for name, rows in ((METRICS, metrics), (VALIDATIONS, validations)):
        for number, row in enumerate(rows, 1):
            if not isinstance(row.get("step"), int):
                raise UserError(f"{folder / name}:{number}: field 'step' is no whole number")
    return Training(folder.name, metrics, validations, finished_lines(folder / DROPPED))


def finished_lines(file: epath.Path) -> list[dict[str, Any]]:
    """Reads a JSON object a line; none without the file. A last line without its end is left out.

    That line is being written, or was torn by a kill; a resumed run drops it likewise.

    Raises:
      UserError: a line is damaged.
    """
    rows = []
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}:{number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{file}:{number}: not a JSON object")
        rows.append(row)
    return rows
