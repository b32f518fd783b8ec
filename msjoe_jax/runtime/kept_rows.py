"""Rows of long work, kept as they are made, so that a killed run goes on with the missing ones."""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.digest import Inputs, differences
from msjoe_jax.runtime.files import is_local, write_whole
from msjoe_jax.runtime.space import room_for

Row = dict[str, Any]


class KeptRows:
    """A JSONL file whose first line states what its rows were made from.

    Rows from the same inputs are gone on with. Rows from others are thrown away, with a printed
    line that names the inputs, and so is what follows a line that a kill has torn.

    Args:
      file: the file; None: in memory alone. On object storage it is written again for new rows.
      inputs: what the rows are made from.

    Attributes:
      rows: those that are there.
      found: whether the file was there, whatever it was made from.
    """

    def __init__(self, file: epath.PathLike | None, inputs: Inputs) -> None:
        self._path, self.found = epath.Path(file) if file else None, False
        self.rows: list[Row] = []
        self._header = {"inputs": dict(inputs)}
        if self._path is not None:
            self.found, self.rows = hosts.on_first(lambda: self._begin(inputs), str(file))

    def _begin(self, inputs: Inputs) -> tuple[bool, list[Row]]:
        """Makes or reads the file; returns whether it was there, and its rows."""
        assert self._path is not None
        with room_for(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        found = self._path.exists()
        header, *rows = _whole_rows(self._path) or [{}]
        before = header.get("inputs")
        before = before if isinstance(before, dict) else {}
        if before != dict(inputs):
            rows = []
            if found:
                different = ", ".join(differences(before, inputs)) or "inputs"
                print(f"{self._path}: made from other {different}; made again")
        text = _lines([self._header, *rows])
        if not found or self._path.read_bytes() != text.encode():
            write_whole(self._path, text)
        return found, rows

    @property
    def on_disk(self) -> bool:
        """Whether the rows outlive the process."""
        return self._path is not None

    def add(self, rows: Sequence[Row]) -> None:
        """Appends rows of all hosts; the first has them in the file when this returns."""
        self.rows += rows
        if self._path is None or not hosts.is_first():
            return
        with room_for(self._path.parent):
            if is_local(self._path):
                with self._path.open("a") as file:
                    file.write(_lines(rows))
            else:
                write_whole(self._path, _lines([self._header, *self.rows]))


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _whole_rows(path: epath.Path) -> list[Row]:
    """Reads the rows before the first line that is torn or damaged."""
    rows: list[Row] = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows
