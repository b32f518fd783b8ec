"""Rows of long work, kept as they are made, so that a killed run goes on with the missing ones."""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.digest import Inputs, differences
from msjoe_jax.runtime.files import write_whole

Row = dict[str, Any]


class KeptRows:
    """A JSONL file whose first line states what its rows were made from.

    Rows from the same inputs are gone on with. Rows from others are thrown away, with a printed
    line that names the inputs, and so is what follows a line that a kill has torn.

    Args:
      file: the file, on a disk: object storage cannot append; None: in memory alone.
      inputs: what the rows are made from.

    Attributes:
      rows: those that are there.
      found: whether the file was there, whatever it was made from.
    """

    def __init__(self, file: epath.PathLike | None, inputs: Inputs) -> None:
        self._path, self.found = epath.Path(file) if file else None, False
        self.rows: list[Row] = []
        if self._path is not None:
            self.found, self.rows = hosts.on_first(lambda: self._begin(inputs), str(file))

    def _begin(self, inputs: Inputs) -> tuple[bool, list[Row]]:
        """Makes or reads the file; returns whether it was there, and its rows."""
        assert self._path is not None
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
        lines = [{"inputs": dict(inputs)}, *rows]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        if not found or self._path.read_bytes() != text.encode():
            write_whole(self._path, text)
        return found, rows

    @property
    def on_disk(self) -> bool:
        """Whether the rows outlive the process."""
        return self._path is not None

    def add(self, rows: Sequence[Row]) -> None:
        """Appends rows of all hosts; the first has them in the file when this returns."""
        if self._path is not None and hosts.is_first():
            with self._path.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
        self.rows += rows


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
