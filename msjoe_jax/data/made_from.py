"""What the videos of a record folder were made from, and whether their list still names it."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from msjoe_jax.data.decoded_source import notes_of
from msjoe_jax.data.manifest import Entry
from msjoe_jax.data.picture_folder import PictureFolder
from msjoe_jax.data.questions import Subtitle
from msjoe_jax.data.record import Details, Source, VideoInfo, unpack_record
from msjoe_jax.data.shards import AUDIO, FRAMES, VIDEOS, open_records, shard_path
from msjoe_jax.data.sound import sound_of
from msjoe_jax.data.sources import SourceFacts, difference, shown
from msjoe_jax.data.subtitles import read_bytes, read_subtitles
from msjoe_jax.data.video import Decoding, versions
from msjoe_jax.errors import UserError

if TYPE_CHECKING:
    from msjoe_jax.data.predecode import Packer

SUBTITLES = "subtitles"
NAMED = 5  # changed videos that an error names
NO_TIMES = np.zeros(0)
READERS = 8  # sources looked at side by side


def details_of(
    entry: Entry, facts: SourceFacts, decoding: Decoding | PictureFolder, audio: bool
) -> Details:
    """Returns what a record keeps of a video beside its frames.

    Subtitles that cannot be read cost themselves alone, and are told of.

    Args:
      entry: the video in its list.
      facts: of its source.
      decoding: of it, exhausted.
      audio: whether the sound track is kept.
    """
    sound = sound_of(entry.source, decoding) if audio else None
    warnings = {**decoding.counts, "sound": sound.damaged if sound else 0}
    notes = list(notes_of(entry.source, decoding))
    if sound and sound.damaged:
        notes.append(f"{sound.damaged} times damage was met in the sound; it is left out")
    subtitles: tuple[Subtitle, ...] = ()
    if entry.subtitles is not None:
        try:
            track = read_subtitles(entry.subtitles, entry.start or 0.0, decoding.duration)
        except UserError as error:
            notes.append(f"without subtitles: {error}")
        else:
            subtitles = track.subtitles
            warnings |= {"subtitles broken": len(track.broken), "subtitles outside": track.outside}
            if track.broken:
                more = f" and {len(track.broken) - 1} more" if len(track.broken) > 1 else ""
                notes.append(f"cues of subtitles are broken: {track.broken[0]}{more}")
            if track.outside:
                notes.append(f"{track.outside} cues of subtitles are outside the video")
    source = Source(
        video=shown(entry.video),
        **vars(facts),
        start=entry.start,
        end=entry.end,
        stream=entry.stream,
        picture_rate=entry.rate,
        max_side=entry.max_side,
        subtitles=_hash(entry.subtitles),
        decoded_stream=decoding.stream if decoding.stream >= 0 else None,
        rate=decoding.rate,
        decoder=versions(),
        frames=np.array(decoding.numbers),
        expected=decoding.expected,
        missing=decoding.missing,
        warnings={kind: count for kind, count in warnings.items() if count},
        notes=tuple(map(shown, notes)),
    )
    flac = None if sound is None else sound.flac
    return Details(decoding.duration, entry.extra, source, subtitles, flac)


def unchanged(entries: Iterable[Entry], packer: "Packer", refresh: bool) -> set[str]:
    """Returns the ids of packed videos that are made from what the entries name.

    Parts of others are removed if `refresh`, so that they are decoded anew.

    Raises:
      UserError: some are made from something else, and not `refresh`; names some of them.
    """
    known = {entry.id: entry for entry in entries}
    packed: dict[str, VideoInfo] = {}
    for record in _packed(packer):  # of two of an id the later counts
        if record.id in known:
            slim = replace(record.source, frames=None)  # there may be many, of hours each
            packed[record.id] = replace(record, timestamps=NO_TIMES, source=slim, subtitles=())
    parts = {entry.id: record for entry in known.values() for record in _part(packer, entry)}

    def reason(found: tuple[str, VideoInfo]) -> str:
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
            for kind in (VIDEOS, FRAMES, AUDIO):
                shard_path(packer.parts, kind, known[video].part).unlink(missing_ok=True)
    return {video for video, why in reasons["packed"].items() if not why}


def _changed(record: VideoInfo, entry: Entry, fps: float) -> str:
    """Says in what a record differs from its entry; "" if in nothing, or if it states nothing."""
    before = record.source
    if not before.sha256:
        return ""
    if record.fps != (entry.fps or fps):
        return f"'fps' was {record.fps:g}, is {entry.fps or fps:g}"
    if before.max_side != entry.max_side:
        return f"'max_side' was {before.max_side}, is {entry.max_side}"
    if why := _other_subtitles(record, entry):
        return why
    try:
        return difference({**vars(before), "rate": before.picture_rate}, entry.source, entry.video)
    except UserError as error:
        return str(error)


def _other_subtitles(record: VideoInfo, entry: Entry) -> str:
    """Says in what an entry's subtitles differ from a record's; those that are gone do not."""
    if record.extra.get(SUBTITLES) != entry.extra.get(SUBTITLES):
        return f"'extra.{SUBTITLES}' are others"  # as `msjoe import` writes them
    before = record.source.subtitles
    if before is None:
        return ""
    if entry.subtitles is None:
        return f"'{SUBTITLES}' were named, and are no more" if before else ""
    now = _hash(entry.subtitles)
    if not now or now == before:
        return ""
    return (
        f"the contents of {shown(str(entry.subtitles))} are others"
        if before
        else f"'{SUBTITLES}' were none, are {shown(str(entry.subtitles))}"
    )


def _hash(path: epath.Path | None) -> str:
    """Returns the SHA-256 of a file; "" if there is none, or it cannot be read."""
    try:
        return hashlib.sha256(read_bytes(path)).hexdigest() if path else ""
    except UserError:
        return ""


def _packed(packer: "Packer") -> Iterator[VideoInfo]:
    for shard in packer.shards:
        count = len(shard["videos"])
        yield from _records(shard_path(packer.out, VIDEOS, shard["name"]), count)


def _part(packer: "Packer", entry: Entry) -> Iterator[VideoInfo]:
    path = shard_path(packer.parts, VIDEOS, entry.part)
    if path.exists():
        yield from _records(path, 1)


def _records(path: epath.Path, count: int) -> Iterator[VideoInfo]:
    videos = open_records(path, count)
    for position in range(count):
        try:
            yield unpack_record(videos.read([position])[0])
        except (UserError, RuntimeError, ValueError, IndexError) as error:
            why = error if isinstance(error, UserError) else "damaged"
            raise UserError(f"{path}: {why}; copy or make the folder again") from None
    videos.close()
