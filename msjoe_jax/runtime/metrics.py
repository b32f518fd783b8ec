"""Metrics of a run: TensorBoard files for people, `metrics.jsonl` for programs."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.event_files import drop_events
from msjoe_jax.runtime.files import is_local, write_whole
from msjoe_jax.runtime.space import room_for


class JsonLines:
    """A JSONL file of rows with a `step`, each on disk when `write` returns.

    On object storage, which cannot append, the rows wait in memory: `flush` and `close` write the
    whole object again.
    Of several hosts the first writes.

    Args:
      path: the file.
      start_step: the first step that will be written. Rows at or after it are dropped on opening,
        so that a resumed run's file equals an uninterrupted one's.
    """

    def __init__(self, path: epath.PathLike, start_step: int = 0) -> None:
        """Opens the file for appending."""
        self._path = epath.Path(path)
        self._writes = hosts.is_first()
        self._file: IO[Any] | None = None
        self._object, self._is_written = bytearray(), False
        if not self._writes:
            return
        with room_for(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            rows = _drop_rows(self._path, start_step)
            if is_local(path):
                self._file = self._path.open("a")
            else:
                self._object += rows
                self.flush()

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row.

        Raises:
          UserError: the disk is full.
        """
        if not self._writes:
            return
        line = json.dumps(row) + "\n"
        if self._file is None:
            self._object += line.encode()
            self._is_written = False
            return
        with room_for(self._path.parent, f"a row of {self._path.name}", len(line)):
            self._file.write(line)
            self._file.flush()

    def flush(self) -> None:
        """Writes what waits in memory; to be called before each checkpoint."""
        if self._writes and self._file is None and not self._is_written:
            write_whole(self._path, self._object)
            self._is_written = True

    def close(self) -> None:
        """Closes the file."""
        if not self._writes:
            return
        with room_for(self._path.parent):  # what `write` could not write is tried again
            if self._file is None:
                self.flush()
            else:
                self._file.close()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with contextlib.suppress(*([] if kind is None else [UserError])):  # the block's is the news
            self.close()


class MetricWriter:
    """Writes scalars to TensorBoard and `metrics.jsonl`, texts and images to TensorBoard.

    The JSONL file has one row a call, `{"step": …, name: number, …}`. Of several hosts the first
    writes. A full disk is a `UserError`, from any method.

    Args:
      workdir: the folder of the files.
      start_step: as in `JsonLines`; TensorBoard's files lose the rows at and after it likewise.
    """

    def __init__(self, workdir: epath.PathLike, start_step: int = 0) -> None:
        """Opens the files."""
        self._folder = epath.Path(workdir)
        self._rows = JsonLines(self._folder / "metrics.jsonl", start_step)
        self._tensorboard: Any = _Nothing()
        if not hosts.is_first():
            return
        # TensorFlow, under CLU, takes over two seconds to import: only runs that write pay.
        from clu import metric_writers

        board = self._folder / "tensorboard"
        with room_for(self._folder):
            board.mkdir(parents=True, exist_ok=True)
            drop_events(board, start_step)
            self._tensorboard = metric_writers.SummaryWriter(os.fspath(board))

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes numbers (Python, NumPy or JAX scalars); JSON has no NaN, so it gets null."""
        row = {name: float(np.asarray(value)) for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._rows.write({"step": step, **finite})
        with room_for(self._folder):
            self._tensorboard.write_scalars(step, row)

    def summaries(self, step: int, values: Mapping[str, float]) -> None:
        """Writes numbers to TensorBoard alone, for what has a JSONL file of its own."""
        with room_for(self._folder):
            self._tensorboard.write_scalars(step, dict(values))

    def texts(self, step: int, values: Mapping[str, str]) -> None:
        """Writes texts, shown verbatim (TensorBoard would read them as Markdown)."""
        escaped = {name: _verbatim(text) for name, text in values.items()}
        with room_for(self._folder, "texts", sum(map(len, escaped.values()))):
            self._tensorboard.write_texts(step, escaped)

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes images, uint8 [height, width, 3]."""
        with room_for(self._folder, "pictures", sum(image.nbytes for image in values.values())):
            self._tensorboard.write_images(step, values)

    def flush(self) -> None:
        """Writes what waits in memory; to be called before each checkpoint."""
        self._rows.flush()
        with room_for(self._folder):
            self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and closes the files."""
        try:
            self._rows.close()
        finally:
            with room_for(self._folder):
                self._tensorboard.close()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with contextlib.suppress(*([] if kind is None else [UserError])):  # the block's is the news
            self.close()


class _Nothing:
    """What a host that does not write has in place of a writer."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def _verbatim(text: str) -> str:
    """Indents a text, which makes it a Markdown block in which nothing is markup."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _drop_rows(path: epath.Path, start_step: int) -> bytes:
    """Keeps the rows before `start_step`, and returns them; a last row torn by a kill goes too."""
    if not path.exists():
        return b""
    rows = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            before = json.loads(line)["step"] < start_step
        except (ValueError, KeyError, TypeError, RecursionError):  # torn or damaged
            continue
        if before and line.endswith(b"\n"):
            rows.append(line)
    write_whole(path, b"".join(rows))
    return b"".join(rows)
