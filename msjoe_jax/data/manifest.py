"""The list of videos to decode: a JSON object a line, each checked before any work."""

import hashlib
import os
from dataclasses import dataclass
from typing import Any

from etils import epath

from msjoe_jax.data.questions import check_unicode
from msjoe_jax.data.record import check_extra
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import read_json_lines


@dataclass(frozen=True)
class Entry:
    """One line of the list of videos: `video` as written there, `path` where it lies."""

    id: str
    video: str
    path: epath.Path
    extra: dict[str, Any]

    @property
    def part(self) -> str:
        """The name of the video's part: a hash, since an id may hold anything."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:32]

    @property
    def size(self) -> int:
        """The video's size in bytes; 0 if it cannot be read, which `decode_part` then reports."""
        try:
            return os.path.getsize(self.path) if self.path.is_file() else 0
        except (OSError, ValueError):
            return 0


def load_entries(path: epath.PathLike) -> list[Entry]:
    """Reads a list of videos: JSON lines with id, video and, optionally, extra.

    Raises:
      UserError: the file cannot be read or is empty, or a line is wrong; the message names file,
        line and field.
    """
    path = epath.Path(path)
    entries: dict[str, Entry] = {}
    for number, row in read_json_lines(path):
        try:
            check_unicode(row)
            for key in ("id", "video"):
                if not isinstance(row.get(key), str) or not row[key].strip():
                    raise UserError(f"field {key!r} must be a non-empty string")
            if not isinstance(row.get("extra", {}), dict):
                raise UserError("field 'extra' must be an object")
            check_extra(row.get("extra", {}))
            if unknown := sorted(set(row) - {"id", "video", "extra"}):
                raise UserError(f"unknown field {unknown[0]!r}; put it under 'extra'")
            if row["id"] in entries:
                raise UserError(f"field 'id' repeats {row['id']!r}")
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        source = path.parent / row["video"]
        entries[row["id"]] = Entry(row["id"], row["video"], source, row.get("extra", {}))
    if not entries:
        raise UserError(f"{path}: no videos; one JSON object a line is expected")
    return list(entries.values())
