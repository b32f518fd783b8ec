"""Videos with more frames than candidates, of which evenly spaced ones are searched: said once."""

from collections.abc import Iterable
from typing import NamedTuple

from msjoe_jax.data.records import RecordReader


class Thinned(NamedTuple):
    """How many videos of how many are thinned.

    longest: frames of the longest video; kept: the share of all frames that are candidates.
    """

    videos: int
    of: int
    longest: int
    kept: float


def count_thinned(reader: RecordReader, videos: Iterable[str], candidates: int) -> Thinned:
    """Counts the videos with more than `candidates` frames; unreadable ones are left out."""
    counts = [info.num_frames for info in reader.infos(videos) if info.num_frames]
    kept = sum(min(n, candidates) for n in counts) / max(sum(counts), 1)
    longer = sum(n > candidates for n in counts)
    return Thinned(longer, len(counts), max(counts, default=0), kept if counts else 1.0)


def thinned_line(split: str, thinned: Thinned, candidates: int) -> str:
    """Says what is thinned in a split, and which field decides it; "" if nothing is."""
    if not thinned.videos:
        return ""
    return (
        f"{split}: {thinned.videos:,} of {thinned.of:,} videos have more than "
        f"config.frames.candidates={candidates} frames (the longest {thinned.longest:,}), of which "
        f"only so many, evenly spaced, are searched: {thinned.kept:.0%} of all frames; "
        "raise it to search more"
    )
