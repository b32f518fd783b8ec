"""Making a record folder out of a list of videos, in steps that any runner can distribute.

Each video is decoded into a part of its own (`decode_part`, in any order, by any number of
workers); parts are then packed, in the manifest's order, into shards (`Packer`). What is on disk
in between, and what a kill at any moment leaves for `resume`:

    DIR/parts/            finished single videos, each a shard of its own named by the id's hash
    DIR/frames-NNNNN …    parts packed in the manifest's order; immutable once named
    DIR/progress.json     the shards packed so far; at the end it becomes manifest.json
"""

import os
import threading
from collections.abc import Iterator
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
from msjoe_jax.runtime.files import LOCK, PARTIAL

PARTS = "parts"
PROGRESS = "progress.json"
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


def decode_part(
    entry: Entry,
    parts: epath.PathLike,
    settings: DecodeSettings,
    stop: threading.Event | None = None,
) -> None:
    """Decodes one video into its part, unless that is there already.

    Args:
      entry: the video.
      parts: the folder of parts.
      settings: how to decode it.
      stop: once it is set, the part is given up.

    Raises:
      VideoError: the video gave no frame, or was changed meanwhile.
      Stopped: `stop` was set.
    """
    if shard_path(parts, VIDEOS, entry.part).exists():
        return
    source, fps = entry.source, entry.fps or settings.fps
    facts = facts_of(source)
    with decode_source(source, fps, entry.max_side or settings.max_side) as decoding:

        def frames() -> Iterator[tuple[float, np.ndarray]]:
            for item in decoding:
                if stop is not None and stop.is_set():
                    raise Stopped
                yield item

        def tail() -> Details:
            if status_of(source) != (facts.size, facts.mtime):
                raise VideoError(f"{shown(source.path)}: was changed while it was decoded")
            return details_of(entry, facts, decoding, settings.audio)

        shard = ShardWriter(parts, entry.part, settings.quality, settings.audio)
        try:
            shard.add(entry.id, frames(), fps, tail)
            shard.finish()
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

    def part(self, entry: Entry) -> VideoInfo:
        """Reads the record of a video's part."""
        videos = open_records(shard_path(self.parts, VIDEOS, entry.part), 1)
        try:
            return unpack_record(videos.read([0])[0])
        finally:
            videos.close()

    def add(self, entry: Entry) -> None:
        """Packs the part of one video, at once or with later ones."""
        self._waiting.append(entry)
        self._bytes += sum(
            os.path.getsize(shard_path(self.parts, kind, entry.part))
            for kind in self._kinds
            if kind != VIDEOS
        )
        if self._bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes the waiting parts as one shard, records it, and only then removes them."""
        if not self._waiting:
            return
        name, audio = f"{len(self.shards):05d}", self.settings.audio
        shard = ShardWriter(self.out, name, self.settings.quality, audio)
        for entry in self._waiting:
            self._copy(entry, shard)
        self.shards.append(shard.finish())
        write_manifest(self.out, self.shards, self.settings.stated(), PROGRESS)
        for entry in self._waiting:
            for kind in self._kinds:
                shard_path(self.parts, kind, entry.part).unlink()
        self._waiting, self._bytes = [], 0

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

    @property
    def _kinds(self) -> tuple[str, ...]:
        return (VIDEOS, FRAMES, AUDIO) if self.settings.audio else (VIDEOS, FRAMES)

    def _copy(self, entry: Entry, shard: ShardWriter) -> None:
        info = self.part(entry)
        files = {
            kind: open_records(
                shard_path(self.parts, kind, entry.part),
                info.num_frames if kind == FRAMES else 1,
            )
            for kind in self._kinds
            if kind != VIDEOS
        }

        def frames() -> Iterator[tuple[float, bytes]]:
            for start in range(0, info.num_frames, COPY_FRAMES):
                indices = list(range(start, min(start + COPY_FRAMES, info.num_frames)))
                yield from zip(info.timestamps[indices], files[FRAMES].read(indices), strict=True)

        def tail() -> Details:
            sound = files[AUDIO].read([0])[0] if AUDIO in files else None
            return Details(info.duration, info.extra, info.source, info.subtitles, sound)

        shard.add(info.id, frames(), info.fps, tail)
        for file in files.values():
            file.close()


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
    for path in (*out.iterdir(), *(out / PARTS).iterdir()):
        if path.suffix == PARTIAL:
            path.unlink()
    return Packer(out, shards, settings)
