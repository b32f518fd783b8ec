"""Making a record folder out of a list of videos, in steps that any runner can distribute.

Each video is decoded into a part of its own (`decode_part`, in any order, by any number of
workers); parts are then packed, in the manifest's order, into shards (`Packer`). What is on disk
in between, and what a kill at any moment leaves for `resume`:

    DIR/parts/            finished single videos, each a shard of its own named by the id's hash
    DIR/frames-NNNNN …    parts packed in the manifest's order; immutable once named
    DIR/progress.json     the shards packed so far; at the end it becomes manifest.json
"""

import contextlib
import fcntl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from etils import epath

from msjoe_jax.data.decoded_source import decode_source
from msjoe_jax.data.made_from import details_of
from msjoe_jax.data.manifest import Entry
from msjoe_jax.data.record import Details, VideoInfo, unpack_record
from msjoe_jax.data.shards import (
    AUDIO,
    FRAMES,
    MANIFEST,
    SHARD_BYTES,
    VIDEOS,
    ShardWriter,
    open_records,
    read_manifest,
    shard_path,
    write_manifest,
)
from msjoe_jax.data.sources import facts_of, shown, status_of
from msjoe_jax.data.video import VideoError
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import LOCK, PARTIAL, is_local

PARTS = "parts"
PROGRESS = "progress.json"
BUSY = "workers.lock"  # in the folder of parts: held by those who write them
COPY_FRAMES = 64  # frames held in memory while a part is copied into its shard


@dataclass(frozen=True)
class DecodeSettings:
    """How videos are decoded; a record folder keeps to one.

    Attributes:
      fps: frames kept per second of video.
      max_side: longer side of the kept frames, in pixels.
      quality: JPEG quality, 1 to 95.
      audio: whether the sound track is kept, too.
    """

    fps: float = 1.0
    max_side: int = 448
    quality: int = 92
    audio: bool = False

    def stated(self) -> dict[str, Any]:
        """Returns the settings as a manifest states them: `audio` only where there is any."""
        return {k: v for k, v in asdict(self).items() if (k, v) != (AUDIO, False)}


class Stopped(Exception):
    """The work is being given up, so a worker has left its video."""


@contextlib.contextmanager
def hold_parts(parts: epath.PathLike) -> Iterator[None]:
    """Says to a later run that another process writes parts, until the block or the process ends.

    On object storage nothing is said: there a part appears whole.
    """
    if not is_local(parts):
        yield
        return
    with (epath.Path(parts) / BUSY).open("ab") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_SH)
        yield


def decode_part(
    entry: Entry,
    parts: epath.PathLike,
    settings: DecodeSettings,
    watch: Callable[[float], None] = lambda seconds: None,
) -> None:
    """Decodes one video into its part, unless that is there already.

    Args:
      entry: the video.
      parts: the folder of parts.
      settings: how to decode it.
      watch: called with the time of each frame, in seconds, and at the end with the duration. By
        an exception, which is raised on, it gives the part up.

    Raises:
      VideoError: the video gave no frame, or was changed meanwhile.
    """
    if shard_path(parts, VIDEOS, entry.part).exists():
        return
    source, fps = entry.source, entry.fps or settings.fps
    facts = facts_of(source)
    side = entry.max_side or settings.max_side
    with decode_source(source, fps, side) as decoding:

        def frames() -> Iterator[tuple[float, np.ndarray]]:
            for item in decoding:
                watch(item[0])
                yield item

        def tail() -> Details:
            if status_of(source) != (facts.size, facts.mtime):
                raise VideoError(f"{shown(source.path)}: was changed while it was decoded")
            return details_of(entry, facts, decoding, settings.audio)

        shard = ShardWriter(parts, entry.part, settings.quality, settings.audio)
        try:
            watch(shard.add(entry.id, frames(), fps, tail).duration)
            shard.finish()
        except BaseException:
            shard.discard()
            raise


class Part:
    """The finished part of one video, open for reading.

    Attributes:
      info: what its record says.

    Args:
      parts: the folder of parts.
      entry: the video.
      settings: how it was decoded.

    Raises:
      UserError: the part is missing or damaged.
    """

    def __init__(self, parts: epath.PathLike, entry: Entry, settings: DecodeSettings) -> None:
        videos = open_records(shard_path(parts, VIDEOS, entry.part), 1)
        self.info: VideoInfo = unpack_record(videos.read([0])[0])
        videos.close()
        self._frames = open_records(shard_path(parts, FRAMES, entry.part), self.info.num_frames)
        self._audio = None
        if settings.audio:
            self._audio = open_records(shard_path(parts, AUDIO, entry.part), 1)

    def jpegs(self, start: int, stop: int) -> list[bytes]:
        """Reads the JPEGs of frames `start` to `stop`."""
        return self._frames.read(list(range(start, stop)))

    def copy_to(self, shard: ShardWriter) -> None:
        """Adds the video to a shard."""
        info = self.info

        def frames() -> Iterator[tuple[float, bytes]]:
            for start in range(0, info.num_frames, COPY_FRAMES):
                stop = min(start + COPY_FRAMES, info.num_frames)
                yield from zip(info.timestamps[start:stop], self.jpegs(start, stop), strict=True)

        def tail() -> Details:
            sound = self._audio.read([0])[0] if self._audio else None
            return Details(info.duration, info.extra, info.source, info.subtitles, sound)

        shard.add(info.id, frames(), info.fps, tail)

    def close(self) -> None:
        """Closes the files."""
        self._frames.close()
        if self._audio:
            self._audio.close()


def part_files(parts: epath.PathLike, entry: Entry, settings: DecodeSettings) -> list[epath.Path]:
    """Returns the files of a part; that of its record, without which it does not count, first."""
    kinds = (VIDEOS, FRAMES, AUDIO) if settings.audio else (VIDEOS, FRAMES)
    return [shard_path(parts, kind, entry.part) for kind in kinds]


def part_bytes(parts: epath.PathLike, entry: Entry, settings: DecodeSettings) -> int:
    """Returns how much a part adds to the shard it is packed into."""
    return sum(path.stat().length for path in part_files(parts, entry, settings)[1:])


def pack(
    out: epath.PathLike,
    name: str,
    parts: epath.PathLike,
    entries: Sequence[Entry],
    settings: DecodeSettings,
) -> dict[str, Any]:
    """Writes parts as one shard, and returns the manifest's entry of it.

    Args:
      out: the record folder.
      name: the shard's name.
      parts: the folder of parts, which stay.
      entries: the videos, in order.
      settings: how they were decoded.
    """
    shard = ShardWriter(out, name, settings.quality, settings.audio)
    try:
        for entry in entries:
            part = Part(parts, entry, settings)
            part.copy_to(shard)
            part.close()
        return shard.finish()
    except BaseException:
        shard.discard()
        raise


class Packer:
    """Copies parts, in the order given, into shards of about SHARD_BYTES.

    Args:
      out: the record folder.
      shards: the shards that it has; new ones are appended.
      settings: how the parts were decoded.
    """

    def __init__(
        self, out: epath.PathLike, shards: list[dict[str, Any]], settings: DecodeSettings
    ) -> None:
        self.out = epath.Path(out)
        self.shards = shards
        self.settings = settings
        self._waiting: list[Entry] = []
        self._bytes = 0

    @property
    def parts(self) -> epath.Path:
        """The folder of parts."""
        return self.out / PARTS

    def add(self, entry: Entry) -> dict[str, Any] | None:
        """Packs the part of one video with those before it, or later; returns a shard it filled."""
        self._waiting.append(entry)
        self._bytes += part_bytes(self.parts, entry, self.settings)
        return self.flush() if self._bytes >= SHARD_BYTES else None

    def flush(self) -> dict[str, Any] | None:
        """Writes the waiting parts as a shard, records it, and only then removes them.

        Returns the manifest's entry of the shard; None: no part was waiting.
        """
        if not self._waiting:
            return None
        name = f"{len(self.shards):05d}"
        shard = pack(self.out, name, self.parts, self._waiting, self.settings)
        self.shards.append(shard)
        write_manifest(self.out, self.shards, self.settings.stated(), PROGRESS)
        for entry in self._waiting:
            for path in part_files(self.parts, entry, self.settings):
                path.unlink()
        self._waiting, self._bytes = [], 0
        return shard

    def take(self, shards: Sequence[dict[str, Any]]) -> None:
        """Records shards that were packed elsewhere."""
        self.shards.extend(shards)
        write_manifest(self.out, self.shards, self.settings.stated(), PROGRESS)

    def finish(self) -> int:
        """Packs what is waiting, commits the folder and returns the number of its videos.

        A folder without a video stays uncommitted.
        """
        self.flush()
        self.parts.rmtree()
        # One that was decoded anew is in two shards.
        total = len({video for shard in self.shards for video in shard["videos"]})
        if total:
            write_manifest(self.out, self.shards, self.settings.stated())
            (self.out / PROGRESS).unlink(missing_ok=True)
        return total


def resume(out: epath.PathLike, settings: DecodeSettings) -> Packer:
    """Begins a record folder, or goes on with what is there; half-written files are removed.

    Args:
      out: the folder, which the caller has made and locked.
      settings: how the videos are decoded.

    Raises:
      UserError: the folder holds something else, or was made with other settings.
    """
    out = epath.Path(out)
    names = [name for name in (PROGRESS, MANIFEST) if (out / name).is_file()]
    if names:
        manifest = read_manifest(out, names[0])
        if manifest["settings"] != settings.stated():
            raise UserError(
                f"{out}: was made with {manifest['settings']}, not {settings.stated()}; "
                "choose another --out"
            )
        shards = manifest["shards"]
    else:
        if any(path.suffix != PARTIAL and path.name != LOCK for path in out.iterdir()):
            raise UserError(f"{out}: not empty and not a record folder; choose another --out")
        shards = []
        write_manifest(out, shards, settings.stated(), PROGRESS)
    (out / PARTS).mkdir(exist_ok=True)
    _outlive_workers(out / PARTS)
    for path in (*out.iterdir(), *(out / PARTS).iterdir()):
        if path.suffix == PARTIAL:
            path.unlink()
    return Packer(out, shards, settings)


def _outlive_workers(parts: epath.Path) -> None:
    """Waits until the workers of a run that was killed have ended, which they do by themselves."""
    if is_local(parts):
        with (parts / BUSY).open("ab") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
