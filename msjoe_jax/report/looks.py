"""Questions looked at closely: queries, similarities, logits, chosen frames, pictures."""

import base64
import binascii
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from msjoe_jax.errors import UserError
from msjoe_jax.report.checked import Checked
from msjoe_jax.runtime.files import read_json

FOLDER = "looks"
JPEG = b"\xff\xd8"


@dataclasses.dataclass(frozen=True)
class Look:
    """One question, and how frames were chosen for it.

    times [T]: of the candidates, in seconds, ascending; evidence: where the answer is seen, (start,
    end) in seconds; queries, similarity [Q, T] and logits [T] by chooser, Q: the queries of each
    signal in turn; frames: chosen candidates by what chose them, such as "uniform@8"; thumbnails:
    JPEGs in base64 by candidate.
    """

    id: str
    question: str
    options: tuple[str, ...]
    gold: str
    video: str
    times: Float[np.ndarray, "T"]
    queries: Mapping[str, tuple[str, ...]]
    similarity: Mapping[str, Float[np.ndarray, "Q T"]]
    logits: Mapping[str, Float[np.ndarray, "T"]]
    frames: Mapping[str, tuple[int, ...]]
    evidence: tuple[tuple[float, float], ...] = ()
    thumbnails: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def is_evidence(self, candidate: int) -> bool:
        """Says whether a candidate shows the answer."""
        return any(start <= self.times[candidate] <= end for start, end in self.evidence)


def read_looks(folder: epath.PathLike) -> list[Look]:
    """Reads the looks of an evaluation, in the order of their files' names; there may be none.

    Raises:
      UserError: a file is none.
    """
    inside = epath.Path(folder) / FOLDER
    files = sorted(inside.glob("*.json")) if inside.exists() else []
    return [read_look(file) for file in files]


def read_look(file: epath.PathLike) -> Look:
    """Reads one file.

    Raises:
      UserError: it is damaged; the message names file and field.
    """
    row = Checked(read_json(file), str(file))
    times = np.array(row.list("times", int | float), float)
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise row.wrong("times", "a list of seconds in ascending order")
    queries = {
        arm: tuple(row.inner("queries").list(arm, str)) for arm in row.object("queries", {}) or {}
    }
    fields, logits = row.inner("similarity", {}), row.inner("logits", {})
    similarity = {}
    for arm in fields.row:
        rows = _matrix(fields, arm, len(queries.get(arm, ())), len(times))
        if rows.size:
            similarity[arm] = rows
            queries[arm] = _names(queries[arm], len(rows) // len(queries[arm]))
    frames = row.inner("frames", {})
    chosen = {name: tuple(frames.list(name, int)) for name in frames.row}
    for name, candidates in chosen.items():
        if not all(0 <= candidate < len(times) for candidate in candidates):
            raise frames.wrong(name, f"a list of candidates from 0 to {len(times) - 1}")
    windows = row.list("evidence", list, ())
    for window in windows:
        if len(window) != 2 or not all(isinstance(end, int | float) for end in window):
            raise row.wrong("evidence", "a list of [start, end] in seconds")
    return Look(
        id=row.text("id"),
        question=row.text("question"),
        options=tuple(row.list("options", str)),
        gold=row.text("gold", ""),
        video=row.text("video"),
        times=times,
        queries=queries,
        similarity=similarity,
        logits={arm: _row(logits, arm, len(times)) for arm, values in logits.row.items() if values},
        frames=chosen,
        evidence=tuple((float(start), float(end)) for start, end in windows),
        thumbnails=_thumbnails(row.inner("thumbnails", {}), len(times)),
    )


def _names(queries: tuple[str, ...], signals: int) -> tuple[str, ...]:
    """Returns the names of the rows, which are those of each signal in turn."""
    if signals == 1:
        return queries
    return tuple(f"{query} (signal {place + 1})" for place in range(signals) for query in queries)


def _matrix(fields: Checked, name: str, Q: int, T: int) -> Float[np.ndarray, "Q T"]:
    rows = fields.list(name, list, [])
    if not rows:
        return np.zeros((0, T))
    if not Q or len(rows) % Q or any(len(row) != T for row in rows):
        raise fields.wrong(name, f"{Q} rows, one a query, of {T} numbers, one a candidate")
    return np.array([[_number(fields, name, value) for value in row] for row in rows])


def _row(fields: Checked, name: str, T: int) -> Float[np.ndarray, "T"]:
    values = fields.list(name, int | float | None)
    if len(values) != T:
        raise fields.wrong(name, f"{T} numbers, one a candidate")
    return np.array([_number(fields, name, value) for value in values])


def _number(fields: Checked, name: str, value: Any) -> float:
    """Returns a number; JSON has none for what is not finite, so that null is NaN."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fields.wrong(name, "made of numbers")
    return float(value)


def _thumbnails(fields: Checked, T: int) -> dict[int, str]:
    out = {}
    for name in fields.row:
        text = fields.text(name)
        try:
            whole = base64.b64decode(text, validate=True).startswith(JPEG)
        except (binascii.Error, ValueError):
            whole = False
        if not whole:
            raise UserError(f"{fields.place}: field {name!r} is not a JPEG in base64")
        if not (name.isascii() and name.isdigit() and int(name) < T):
            raise UserError(f"{fields.place}: field {name!r} is no candidate from 0 to {T - 1}")
        out[int(name)] = text
    return out
