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

import msgpack
import numpy as np
from etils import epath

from msjoe_jax.data.decoded_source import decode_source, notes_of
from msjoe_jax.data.made_from import stated
from msjoe_jax.data.manifest import Entry
from msjoe_jax.data.shards import (
    MANIFEST,
    SHARD_BYTES,
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
    """

    fps: float = 1.0
    max_side: int = 448
    quality: int = 92


class Stopped(Exception):
    """The work is being given up, so a worker has left its video."""


def decode_part(
    entry: Entry,
    parts: epath.PathLike,
    settings: DecodeSettings,
    stop: threading.Event | None = None,
) -> tuple[str, ...]:
    """Decodes one video into its part, unless that is there already.

    Args:
      entry: the video.
      parts: the folder of parts.
      settings: how to decode it.
      stop: once it is set, the part is given up.

    Returns:
      What is to be said of the video, a line each; nothing of a part that was there.

    Raises:
      VideoError: the video gave no frame, or was changed meanwhile.
      Stopped: `stop` was set.
    """
    if shard_path(parts, "videos", entry.part).exists():
        return ()
    source, fps = entry.source, entry.fps or settings.fps
    facts = facts_of(source)
    with decode_source(source, fps, entry.max_side or settings.max_side) as decoding:

        def frames() -> Iterator[tuple[float, np.ndarray]]:
            for item in decoding:
                if stop is not None and stop.is_set():
                    raise Stopped
                yield item

        def tail() -> tuple[float, dict[str, Any]]:
            if status_of(source) != (facts.size, facts.mtime):
                raise VideoError(f"{shown(source.path)}: was changed while it was decoded")
            details = {
                "video": shown(entry.video),
                "warnings": decoding.warnings,
                "source_fps": decoding.rate,  # by which others' frame numbers become seconds
                "source": stated(entry, facts),
            }
            return decoding.duration, {**entry.extra, **details}

        shard = ShardWriter(parts, entry.part, settings.quality)
        try:
            shard.add(entry.id, frames(), fps, tail)
            shard.finish()
        except BaseException:
            shard.discard()
            raise
        return notes_of(source, decoding)


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

    def add(self, entry: Entry) -> None:
        """Packs the part of one video, at once or with later ones."""
        self._waiting.append(entry)
        self._bytes += os.path.getsize(shard_path(self.parts, "frames", entry.part))
        if self._bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes the waiting parts as one shard, records it, and only then removes them."""
        if not self._waiting:
            return
        shard = ShardWriter(self.out, f"{len(self.shards):05d}", self.settings.quality)
        for entry in self._waiting:
            self._copy(entry, shard)
        self.shards.append(shard.finish())
        write_manifest(self.out, self.shards, asdict(self.settings), PROGRESS)
        for entry in self._waiting:
            for kind in ("videos", "frames"):
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
            write_manifest(self.out, self.shards, asdict(self.settings))
            (self.out / PROGRESS).unlink(missing_ok=True)
        return total

    def _copy(self, entry: Entry, shard: ShardWriter) -> None:
        videos = open_records(shard_path(self.parts, "videos", entry.part), 1)
        info = msgpack.unpackb(videos.read([0])[0])
        times = np.frombuffer(info["timestamps"], "<f8")
        jpegs = open_records(shard_path(self.parts, "frames", entry.part), len(times))

        def frames() -> Iterator[tuple[float, bytes]]:
            for start in range(0, len(times), COPY_FRAMES):
                indices = list(range(start, min(start + COPY_FRAMES, len(times))))
                yield from zip(times[indices], jpegs.read(indices), strict=True)

        shard.add(info["id"], frames(), info["fps"], lambda: (info["duration"], info["extra"]))
        videos.close()
        jpegs.close()


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
        if manifest["settings"] != asdict(settings):
            raise UserError(
                f"{out}: was made with {manifest['settings']}, not {asdict(settings)}; "
                "choose another --out"
            )
        shards = manifest["shards"]
    else:
        if any(path.suffix != PARTIAL and path.name != LOCK for path in out.iterdir()):
            raise UserError(f"{out}: not empty and not a record folder; choose another --out")
        shards = []
        write_manifest(out, shards, asdict(settings), PROGRESS)
    (out / PARTS).mkdir(exist_ok=True)
    for path in (*out.iterdir(), *(out / PARTS).iterdir()):
        if path.suffix == PARTIAL:
            path.unlink()
    return Packer(out, shards, settings)
