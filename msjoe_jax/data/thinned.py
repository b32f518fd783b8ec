"""Videos with more frames than candidates, of which evenly spaced ones are searched: said once."""

import contextlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError

READERS = 8  # videos looked up side by side, which a mounted bucket needs


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

    def frames(video: str) -> int:
        with contextlib.suppress(UserError):  # what is damaged is dropped, and said, when it is due
            return reader.info(video).num_frames
        return 0

    with ThreadPoolExecutor(READERS) as pool:
        counts = [n for n in pool.map(frames, dict.fromkeys(videos)) if n]
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
