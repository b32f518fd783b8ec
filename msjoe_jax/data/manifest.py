"""The list of videos to decode: a JSON object a line, each checked before any work.

    {"id": "a", "video": "clips/a.mp4"}
    {"id": "b", "video": "long.mp4", "start": 600, "end": 660.5, "stream": 0, "fps": 2}
    {"id": "s", "video": "s.mp4", "subtitles": "s.srt"}
    {"id": "c", "video": "frames/c", "rate": 25, "max_side": 336, "extra": {"any": "thing"}}

`video` is a file, a folder of pictures, or a place in an archive (see sources.py), relative to the
list. A question may be about a segment of a video by naming `ID@START-END` in seconds, such as
`long@600-660.5`: `with_segments` adds an entry for each such name.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.data.questions import check_unicode
from msjoe_jax.data.record import check_extra
from msjoe_jax.data.segments import split_id
from msjoe_jax.data.sources import MAX_SECONDS, MAX_STREAM, RATES, SIDES, VideoSource, shown
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import is_local, json_lines

# Name → bounds of the fields that are numbers, and whether they are whole ones.
NUMBERS: dict[str, tuple[float, float, bool]] = {
    "start": (0, MAX_SECONDS, False),
    "end": (0, MAX_SECONDS, False),
    "stream": (0, MAX_STREAM, True),
    "rate": (*RATES, False),
    "fps": (*RATES, False),
    "max_side": (*SIDES, True),
}
FIELDS = {"id", "video", "extra", "subtitles", *NUMBERS}
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Entry:
    """One line of the list of videos.

    Attributes:
      id: the video's name in the record folder.
      video: what it is made from, as written there.
      path: the same, from the current folder.
      extra: what the record keeps of the user's.
      start, end, stream, rate: as in `VideoSource`.
      fps: frames kept a second; None: as for the whole folder.
      max_side: longer side of the kept frames, in pixels; None: likewise.
      subtitles: a file of them, on the clock of the whole file; None: there are none.
    """

    id: str
    video: str
    path: epath.Path
    extra: dict[str, Any]
    start: float | None = None
    end: float | None = None
    stream: int | None = None
    rate: float | None = None
    fps: float | None = None
    max_side: int | None = None
    subtitles: epath.Path | None = None

    @property
    def part(self) -> str:
        """The name of the video's part: a hash, since an id may hold anything."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:32]

    @property
    def source(self) -> VideoSource:
        """What the video is made from."""
        return VideoSource(os.fspath(self.path), self.start, self.end, self.stream, self.rate)

    @property
    def size(self) -> int:
        """The video's size in bytes; 0 if it cannot be read, which `decode_part` then reports."""
        try:
            return os.path.getsize(path) if os.path.isfile(path := self.source.container) else 0
        except (OSError, ValueError):
            return 0


class Refused(NamedTuple):
    """A line that is no entry: its number, its id and video as far as they are known, and why."""

    line: int
    id: str | None
    video: str | None
    reason: str


def read_entries(path: epath.PathLike, remote: bool = False) -> tuple[list[Entry], list[Refused]]:
    """Reads a list of videos; every line that is not blank is either an entry or refused.

    Args:
      path: the list.
      remote: whether videos may be on object storage.

    Raises:
      UserError: the file cannot be read or has no line.
    """
    path = epath.Path(path)
    entries: dict[str, Entry] = {}
    lines: dict[str, int] = {}
    refused: list[Refused] = []
    for number, row in json_lines(path):
        try:
            if isinstance(row, UserError):
                raise row
            entry = _entry(row, path.parent, remote)
            if entry.id in entries:
                raise UserError(f"field 'id' repeats {entry.id!r} of line {lines[entry.id]}")
        except UserError as error:
            known = row if isinstance(row, dict) else {}
            name, video = (
                value if isinstance(value := known.get(key), str) else None
                for key in ("id", "video")
            )
            refused.append(Refused(number, name, video, f"{path}:{number}: {error}"))
        else:
            entries[entry.id], lines[entry.id] = entry, number
    if not entries and not refused:
        raise UserError(f"{path}: no videos; one JSON object a line is expected")
    return list(entries.values()), refused


def load_entries(path: epath.PathLike) -> list[Entry]:
    """Reads a list of videos of which every line must be right.

    Raises:
      UserError: as `read_entries`, or a line is wrong; the message names file, line and field.
    """
    entries, refused = read_entries(path)
    if refused:
        more = f" (and {len(refused) - 1} more lines)" if len(refused) > 1 else ""
        raise UserError(f"{refused[0].reason}{more}")
    return entries


def with_segments(entries: Iterable[Entry], videos: Iterable[str]) -> list[Entry]:
    """Returns the entries, and one more for each segment of them that `videos` names.

    Their seconds count from the start of the entry they are of.

    Raises:
      UserError: a segment ends before it begins, or after the segment that it is of.
    """
    known = {entry.id: entry for entry in entries}
    for video in dict.fromkeys(videos):
        named = split_id(video)
        if video in known or named is None or named[0] not in known:
            continue
        whole = known[named[0]]
        begin = whole.start or 0.0
        start, end = begin + named[1], begin + named[2]
        if not begin <= start < end <= min(MAX_SECONDS, whole.end or MAX_SECONDS):
            raise UserError(f"the segment {video!r} is empty, or not within {whole.id!r}")
        known[video] = replace(whole, id=video, start=start, end=end)
    return list(known.values())


def entry_row(entry: Entry, folder: epath.PathLike) -> bytes:
    """Returns the line of an entry in a list that lies in `folder`, with its end."""
    row: dict[str, Any] = {"id": entry.id, "video": os.path.relpath(entry.path, folder)}
    row |= {name: value for name in NUMBERS if (value := getattr(entry, name)) is not None}
    if entry.extra:
        row["extra"] = entry.extra
    if entry.subtitles:
        row["subtitles"] = os.path.relpath(entry.subtitles, folder)
    # What is no UTF-8 is a surrogate, which JSON escapes as "\\udcXX", and so does this.
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def check_number(key: str, value: Any) -> Any:
    """Returns the value of a field of NUMBERS.

    Raises:
      UserError: it is no such number, or beyond its bounds.
    """
    low, high, whole = NUMBERS[key]
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise UserError(f"field {key!r} is {value!r:.40}, not {kind} from {low:g} to {high:g}")
    return value if whole else float(value)


def _entry(row: dict[str, Any], folder: epath.Path, remote: bool) -> Entry:
    if unknown := sorted(set(row) - FIELDS):
        raise UserError(f"unknown field '{shown(unknown[0])}'; put it under 'extra'")
    check_unicode({key: value for key, value in row.items() if key != "video"})
    for key in ("id", "video"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UserError(f"field {key!r} must be a non-empty string")
    video = row["video"]
    try:
        name = os.fsdecode(os.fsencode(video))
    except UnicodeEncodeError:
        raise UserError(
            "field 'video' holds half of a surrogate pair, which is no character; a byte XX of a "
            "name that is no UTF-8 is \\udcXX"
        ) from None
    if "\0" in name:
        raise UserError("field 'video' holds a NUL character, which no name can")
    if not isinstance(row.get("extra", {}), dict):
        raise UserError("field 'extra' must be an object")
    check_extra(row.get("extra", {}))
    numbers = {key: check_number(key, row[key]) for key in NUMBERS if row.get(key) is not None}
    if numbers.get("end") is not None and numbers["end"] <= numbers.get("start", 0):
        raise UserError(f"field 'end' is {numbers['end']}, not after 'start'")
    path, subtitles = _path(folder, name, remote), row.get("subtitles")
    if subtitles is not None:
        if not isinstance(subtitles, str) or not subtitles.strip() or "\0" in subtitles:
            raise UserError("field 'subtitles' must be the name of a file")
        subtitles = _path(folder, subtitles)
    extra = row.get("extra", {})
    return Entry(row["id"], video, path, extra, **numbers, subtitles=subtitles)


def _path(folder: epath.Path, video: str, remote: bool = False) -> epath.Path:
    """Returns where a video lies whose name is relative to a folder."""
    if remote and (URL.match(video) or not is_local(folder)):
        return epath.Path(video if URL.match(video) else folder / video)
    # Two slashes say the same as one to the system, and another thing to epath.
    path = re.sub("/{2,}", "/", video if os.path.isabs(video) else os.path.join(folder, video))
    if (URL.match(video) or not is_local(folder)) and not os.path.lexists(path):
        raise UserError(
            f"field 'video' is '{shown(video)}', which is on no disk of this host; copy it"
        )
    return epath.Path(path)
