"""Whether the videos of a record folder are still made from what their list names."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgpack

from msjoe_jax.data.manifest import Entry
from msjoe_jax.data.shards import open_records, shard_path
from msjoe_jax.data.sources import SourceFacts, difference, shown
from msjoe_jax.errors import UserError

if TYPE_CHECKING:
    from msjoe_jax.data.predecode import Packer

NAMED = 5  # changed videos that an error names
READERS = 8  # sources looked at side by side


def stated(entry: Entry, facts: SourceFacts) -> dict[str, Any]:
    """Returns what a record keeps of what it was made from, for `unchanged` to compare."""
    chosen = {name: getattr(entry, name) for name in ("start", "end", "stream", "rate", "max_side")}
    return {"video": shown(entry.video), **chosen, **vars(facts)}


def unchanged(entries: Iterable[Entry], packer: "Packer", refresh: bool) -> set[str]:
    """Returns the ids of packed videos that are made from what the entries name.

    Parts of others are removed if `refresh`, so that they are decoded anew.

    Raises:
      UserError: some are made from something else, and not `refresh`; names some of them.
    """
    known = {entry.id: entry for entry in entries}
    packed: dict[str, Mapping[str, Any]] = {}
    for record in _packed(packer):  # of two of an id the later counts
        if record["id"] in known:
            packed[record["id"]] = record
    parts = {entry.id: record for entry in known.values() for record in _part(packer, entry)}

    def reason(found: tuple[str, Mapping[str, Any]]) -> str:
        return _changed(found[1], known[found[0]], packer.settings.fps)

    with ThreadPoolExecutor(READERS) as pool:
        reasons = {
            name: dict(zip(records, pool.map(reason, records.items()), strict=True))
            for name, records in (("packed", packed), ("parts", parts))
        }
    # A part that is right stands for a packed video that is not: the run that made it was killed.
    good = {video for video, why in reasons["parts"].items() if not why}
    stale = {
        video: why
        for found in reasons.values()
        for video, why in found.items()
        if why and video not in good
    }
    if stale and not refresh:
        lines = [f"{packer.out}: video {video!r}: {why}" for video, why in stale.items()]
        more = [f"{packer.out}: and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
        raise UserError(
            *lines[:NAMED],
            *more,
            "a record keeps to its source: give the changed videos other ids, or decode them anew "
            "with --refresh",
        )
    for video, why in reasons["parts"].items():
        if why:
            for kind in ("videos", "frames"):
                shard_path(packer.parts, kind, known[video].part).unlink(missing_ok=True)
    return {video for video, why in reasons["packed"].items() if not why}


def _changed(record: Mapping[str, Any], entry: Entry, fps: float) -> str:
    """Says in what a record differs from its entry; "" if in nothing, or if it states nothing."""
    before = record["extra"].get("source")
    if not isinstance(before, dict):
        return ""
    if record["fps"] != (entry.fps or fps):
        return f"'fps' was {record['fps']:g}, is {entry.fps or fps:g}"
    if before.get("max_side") != entry.max_side:
        return f"'max_side' was {before.get('max_side')}, is {entry.max_side}"
    try:
        return difference(before, entry.source, entry.video)
    except UserError as error:
        return str(error)


def _packed(packer: "Packer") -> Iterator[dict[str, Any]]:
    for shard in packer.shards:
        videos = open_records(shard_path(packer.out, "videos", shard["name"]), len(shard["videos"]))
        for position in range(len(shard["videos"])):
            yield msgpack.unpackb(videos.read([position])[0])
        videos.close()


def _part(packer: "Packer", entry: Entry) -> Iterator[dict[str, Any]]:
    path = shard_path(packer.parts, "videos", entry.part)
    if path.exists():
        videos = open_records(path, 1)
        yield msgpack.unpackb(videos.read([0])[0])
        videos.close()
