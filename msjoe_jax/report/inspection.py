"""What `msjoe inspect` found, in parts: each is shown on a terminal, in JSON, and on a page."""

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msjoe_jax.report.figures import clock
from msjoe_jax.report.looks import Look
from msjoe_jax.runtime.progress import size_text

WIDEST = 72  # letters of a cell on a terminal
BAR = 40  # letters of the longest bar
UNITS = ("", "s", "B", "%")


@dataclass(frozen=True)
class Fact:
    """A value with its name; unit: "s", "B" (bytes) or "%" (of a share), for people."""

    name: str
    value: Any
    unit: str = ""

    @property
    def text(self) -> str:
        """The value for people."""
        value = self.value
        if value is None:
            return "–"
        if self.unit == "s":
            return clock(value)
        if self.unit == "B":
            return size_text(value)
        if self.unit == "%":
            return f"{value:.1%}"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return f"{value:,}"
        return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


@dataclass(frozen=True)
class Facts:
    """Values with their names."""

    title: str
    rows: Sequence[Fact]

    @property
    def json(self) -> Any:
        """The values by name, in seconds, bytes and shares."""
        return {_key(fact.name): _plain(fact.value) for fact in self.rows}


@dataclass(frozen=True)
class Bars:
    """Counts by label; note: a sentence below them."""

    title: str
    counts: Sequence[tuple[str, int]]
    note: str = ""

    @property
    def json(self) -> Any:
        """The counts by label."""
        return dict(self.counts)


@dataclass(frozen=True)
class Listing:
    """A table; more: how many rows it leaves out."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    more: int = 0

    @property
    def json(self) -> Any:
        """Its rows as objects, and the number of all."""
        keys = [_key(name) for name in self.head]
        rows = [dict(zip(keys, map(_plain, row), strict=True)) for row in self.rows]
        return {"count": len(rows) + self.more, "rows": rows}


@dataclass(frozen=True)
class Sheet:
    """Frames of a video, as pictures on a page; notes: what is to be said of them."""

    look: Look
    notes: Sequence[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The question, or the video."""
        return self.look.question

    @property
    def json(self) -> Any:
        """The times of the frames, and which are evidence."""
        look = self.look
        shown = sorted({place for chosen in look.frames.values() for place in chosen})
        return {
            "question": look.id,
            "video": look.video,
            "options": list(look.options),
            "answer": look.gold,
            "evidence": [list(span) for span in look.evidence],
            "frames": [
                {
                    "frame": place,
                    "time": float(look.times[place]),
                    "evidence": look.is_evidence(place),
                }
                for place in shown
            ],
            "notes": list(self.notes),
        }


Part = Facts | Bars | Listing | Sheet


def as_json(parts: Iterable[Part]) -> dict[str, Any]:
    """Returns the parts by their titles, in what JSON can hold; sheets are a list."""
    found: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, Sheet):
            found.setdefault("sheets", []).append(part.json)
        else:
            found[_key(part.title)] = part.json
    return found


def as_text(parts: Iterable[Part]) -> str:
    """Writes the parts for a terminal."""
    return "\n\n".join("\n".join(_lines(part)) for part in parts)


def printable(text: str) -> str:
    """Returns a text in one line: what a terminal would not print as itself is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def cell(value: Any) -> str:
    """Writes a value of a table for people; a `Fact` has a unit."""
    return value.text if isinstance(value, Fact) else Fact("", value).text


def _lines(part: Part) -> list[str]:
    if isinstance(part, Facts):
        wide = max((len(fact.name) for fact in part.rows), default=0)
        return [part.title.upper(), *(f"  {f.name:{wide}}  {f.text}" for f in part.rows)]
    if isinstance(part, Bars):
        wide = max((len(_short(name)) for name, _ in part.counts), default=0)
        total, most = sum(n for _, n in part.counts), max((n for _, n in part.counts), default=0)
        rows = [
            f"  {_short(name):{wide}}  {n:>8,}  {n / max(total, 1):6.1%}  "
            f"{'#' * math.ceil(BAR * n / max(most, 1))}"
            for name, n in part.counts
        ]
        rows = [row.rstrip() for row in rows]
        return [part.title.upper(), *rows, *([f"  {part.note}"] if part.note else [])]
    if isinstance(part, Listing):
        table = _table(part.head, part.rows) if part.rows else ["  none"]
        return [part.title.upper(), *table, *_more(part.more)]
    look = part.look
    gold = f"  right answer: {look.gold}" if look.gold else ""
    windows = ", ".join(f"{clock(start)}-{clock(end)}" for start, end in look.evidence)
    frames = [
        (frame["frame"], clock(frame["time"]), "evidence" if frame["evidence"] else "")
        for frame in part.json["frames"]
    ]
    options = [f"  {chr(ord('A') + i)}  {_short(text)}" for i, text in enumerate(look.options)]
    return [
        printable(look.question),
        f"  video {printable(look.video)}{gold}",
        *options,
        *([f"  evidence: {windows}"] if windows else []),
        *(f"  {printable(note)}" for note in part.notes),
        *_table(("frame", "time", ""), frames),
        "  (--html=FILE shows the pictures)",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [[_short(cell(value)) for value in row] for row in [head, *rows]]
    wide = [max(len(row[place]) for row in cells) for place in range(len(head))]
    room = shutil.get_terminal_size((120, 24)).columns
    lines = ["  ".join(f"{text:{w}}" for text, w in zip(row, wide, strict=True)) for row in cells]
    return [f"  {line}".rstrip()[: max(room, 80)] for line in lines]


def _more(number: int) -> list[str]:
    return [f"  and {number:,} more"] if number else []


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _key(name: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def _plain(value: Any) -> Any:
    if isinstance(value, Fact):
        value = value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
