"""Names of segments: `movie@600-660.5` is the part of the video `movie` between these seconds."""

import re

_SEGMENT = re.compile(r"(?P<video>.+)@(?P<start>\d+(?:\.\d+)?)-(?P<end>\d+(?:\.\d+)?)", re.DOTALL)


def segment_id(video: str, start: float, end: float) -> str:
    """Returns the id of the record of a segment, to the microsecond."""
    return f"{video}@{_plain(start)}-{_plain(end)}"


def split_id(name: str) -> tuple[str, float, float] | None:
    """Returns (video, start, end) of a segment's id; None if it is none."""
    match = _SEGMENT.fullmatch(name)
    return (match["video"], float(match["start"]), float(match["end"])) if match else None


def whole_id(name: str) -> str:
    """Returns the id of the video that an id names a segment of; the id itself if it names none."""
    found = split_id(name)
    return whole_id(found[0]) if found else name


def _plain(seconds: float) -> str:
    """Writes seconds without an exponent and without zeros that say nothing."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
