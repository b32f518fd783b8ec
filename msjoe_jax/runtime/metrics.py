"""Metrics of a run: TensorBoard files for people, `metrics.jsonl` for programs."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from msjoe_jax.runtime.event_files import drop_events
from msjoe_jax.runtime.files import write_whole


class JsonLines:
    """A JSONL file of rows with a `step`, each on disk when `write` returns.

    Args:
      path: the file, on a disk: object storage cannot append.
      start_step: the first step that will be written. Rows at or after it are dropped on opening,
        so that a resumed run's file equals an uninterrupted one's.
    """

    def __init__(self, path: epath.PathLike, start_step: int = 0) -> None:
        """Opens the file for appending."""
        file = epath.Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        _drop_rows(file, start_step)
        self._file = file.open("a")

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class MetricWriter:
    """Writes scalars to TensorBoard and `metrics.jsonl`, texts and images to TensorBoard.

    The JSONL file has one row a call, `{"step": …, name: number, …}`. In a run of several hosts
    only the first should make a writer.

    Args:
      workdir: the folder of the files.
      start_step: as in `JsonLines`.
    """

    def __init__(self, workdir: epath.PathLike, start_step: int = 0) -> None:
        """Opens the files."""
        # TensorFlow, under CLU, takes over two seconds to import: only runs that write pay.
        from clu import metric_writers

        folder = epath.Path(workdir)
        (folder / "tensorboard").mkdir(parents=True, exist_ok=True)
        drop_events(folder / "tensorboard", start_step)
        self._tensorboard = metric_writers.SummaryWriter(os.fspath(folder / "tensorboard"))
        self._rows = JsonLines(folder / "metrics.jsonl", start_step)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes numbers (Python, NumPy or JAX scalars); JSON has no NaN, so it gets null."""
        row = {name: float(np.asarray(value)) for name, value in values.items()}
        self._tensorboard.write_scalars(step, row)
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._rows.write({"step": step, **finite})

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        """Writes texts, shown verbatim (TensorBoard would read them as Markdown)."""
        escaped = {name: _verbatim(text) for name, text in values.items()}
        self._tensorboard.write_texts(step, escaped)

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes images, uint8 [height, width, 3]."""
        self._tensorboard.write_images(step, values)

    def flush(self) -> None:
        """Writes TensorBoard's rows to disk too; to be called before each checkpoint."""
        self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        self._rows.close()
        self._tensorboard.close()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _verbatim(text: str) -> str:
    """Indents a text, which makes it a Markdown block in which nothing is markup."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _drop_rows(path: epath.Path, start_step: int) -> None:
    """Keeps the rows before `start_step`; a last row torn by a kill goes too."""
    if not path.exists():
        return
    rows = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            before = json.loads(line)["step"] < start_step
        except ValueError:  # torn
            continue
        if before and line.endswith("\n"):
            rows.append(line)
    write_whole(path, "".join(rows))
