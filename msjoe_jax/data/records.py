"""Record folders: decoded videos as JPEG frames in ArrayRecord shards, read frame by frame.

docs/records.md has the layout of a folder and every field. All but `manifest.json` comes in shards.
A shard never changes once it has its name, and only shards named in `manifest.json` count: the
manifest is written last. A folder on object storage (gs://…) is read from a copy on the host's
disk (see local_copy.py). Groups of one record, stored without a second compression, make a random
read cost one seek, which is what hour-long videos need.
"""

import contextlib
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath

from msjoe_jax.data.local_copy import local_copy
from msjoe_jax.data.record import Details, Source, VideoInfo, check_frames, unpack_record
from msjoe_jax.data.shards import (
    AUDIO,
    FRAMES,
    MANIFEST,
    SHARD_BYTES,
    VIDEOS,
    Frame,
    ShardWriter,
    check_shards,
    check_stated,
    decode_jpeg,
    kinds_of,
    open_records,
    read_manifest,
    shard_digest,
    shard_path,
    write_manifest,
)
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.digest import digest
from msjoe_jax.runtime.files import LOCK, is_local, lock, partial_path

# Measured: below about 128² pixels PIL holds the GIL for most of a decode, and two threads decode
# fewer 56×56 frames a second (9 k) than one does (14 k).
THREADED_PIXELS = 128 * 128
LOOKED_UP = 8  # videos side by side, which a mounted bucket needs
DECODE_THREADS = min(8, os.cpu_count() or 1)

# Models whose embeddings of frames a folder may have, as people write them.
EMBEDDERS = {"clip": "CLIP", "siglip": "SigLIP"}
EMBEDDINGS_FILE = re.compile(r"(?P<model>[a-z]+)-(?P<fingerprint>.*)-[^-]*\.arrayrecord")

Indices = Sequence[int] | np.ndarray


class RecordWriter:
    """Writes a record folder under `DIRECTORY.partial`; it gets its name when all is on disk.

    On object storage it has its name from the start, and counts once its manifest is there.

    Use it as a context manager. An exception inside removes the partial folder; after kill -9 the
    next writer clears it.

    Args:
      directory: the folder to make.
      quality: JPEG quality of frames that are given as arrays.
      shard_bytes: a shard is closed when its frames have reached this size.
      settings: kept in the manifest for the reader.

    Raises:
      UserError: the folder exists, or another process is writing it.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        quality: int = 92,
        shard_bytes: int = SHARD_BYTES,
        settings: dict[str, Any] | None = None,
    ):
        self.directory = epath.Path(directory)
        self.quality = quality
        self.shard_bytes = shard_bytes
        self.settings = settings or {}
        self._renames = is_local(directory)
        self._partial = partial_path(directory) if self._renames else self.directory
        self._ids: set[str] = set()
        self._shards: list[dict[str, Any]] = []
        self._shard: ShardWriter | None = None
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        there = self.directory if self._renames else self.directory / MANIFEST
        if there.exists():
            raise UserError(f"{self.directory}: exists already; delete it or choose another name")
        self._held.enter_context(lock(self._partial))
        for stale in self._partial.iterdir():
            if stale.name != LOCK:
                stale.unlink()
        return self

    def add(
        self,
        video_id: str,
        frames: Iterable[tuple[float, Frame]],
        *,
        duration: float | Callable[[], float] | None = None,
        fps: float = 1.0,
        extra: dict[str, Any] | None = None,
        source: Source | None = None,
    ) -> None:
        """Adds one video.

        Args:
          video_id: the video's name in the folder, any text.
          frames: (timestamp in seconds, frame) in increasing order; a frame is uint8 [H, W, 3],
            all of one size, or the bytes of a JPEG, stored as they are.
          duration: seconds, or what returns them once the last frame is taken; by default the last
            timestamp plus one frame.
          fps: frames per second of `frames`, for the record.
          extra: fields of the user's own, see `record.check_extra`.
          source: what it was decoded from, if it was.

        Raises:
          UserError: the id was added before, or there are no frames, or frames that do not fit, or
            a field that cannot be held.
        """
        if video_id in self._ids:
            raise UserError(f"{self.directory}: video {video_id} was added twice")
        if self._shard is None:
            self._shard = ShardWriter(self._partial, f"{len(self._shards):05d}", self.quality)

        def tail() -> Details:
            seconds = duration() if callable(duration) else duration
            return Details(seconds, extra or {}, source or Source())

        self._shard.add(video_id, frames, fps, tail)
        self._ids.add(video_id)
        if self._shard.bytes >= self.shard_bytes:
            self._shards.append(self._shard.finish())
            self._shard = None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._held:
            if kind is not None:
                if self._shard is not None:
                    self._shard.discard()
                self._partial.rmtree()
                return
            try:
                if self._shard is not None:
                    self._shards.append(self._shard.finish())
                write_manifest(self._partial, self._shards, self.settings)
            except BaseException:
                self._partial.rmtree()  # it may be what has filled the disk
                raise
            if self._renames:
                self._partial.rename(self.directory)
                (self.directory / LOCK).unlink(missing_ok=True)


class RecordReader:
    """Random access to a record folder; safe to use from several threads.

    Attributes:
      directory: the folder.
      files: where its shards are read from: the folder itself, or its copy on the host's disk.

    Args:
      directory: the folder.
      clip: fingerprint of the CLIP whose embeddings to read; "": none. By default the only one
        present; where there is none, `embeddings` returns None.
      siglip: name of a SigLIP's, likewise; by default none.

    Raises:
      UserError: the folder is missing, unfinished or damaged, lacks a shard, has embeddings of
        several CLIPs of which none is named, or (from the methods) has no such video or frame.
    """

    def __init__(self, directory: epath.PathLike, clip: str | None = None, siglip: str = ""):
        self.directory = epath.Path(directory)
        manifest = read_manifest(self.directory)
        self.files = local_copy(self.directory)
        self.settings: dict[str, Any] = manifest["settings"]
        self.shards: list[dict[str, Any]] = manifest["shards"]
        self._where = {
            video_id: (s, position)
            for s, shard in enumerate(self.shards)
            for position, video_id in enumerate(shard["videos"])
        }
        self._open: dict[epath.Path, ArrayRecordReader] = {}
        self._lock = threading.Lock()
        check_shards(self.files, self.shards)
        self._infos: dict[str, VideoInfo] = {}
        self.clip = self._only_clip() if clip is None else clip or None
        self.siglip = siglip or None

    @property
    def ids(self) -> list[str]:
        """The videos' names, in order."""
        return list(self._where)

    def digest(self, videos: Iterable[str] | None = None) -> str:
        """Computes a digest of what the folder holds of these videos; by default of all.

        A shard never changes, so a folder that has grown keeps the digest of what it had.
        """
        asked = self._where if videos is None else videos
        used = {self._where[video] for video in asked if video in self._where}
        return digest(sorted([shard_digest(self.shards[s]), position] for s, position in used))

    def place(self, video_id: str) -> tuple[dict[str, Any], int]:
        """Returns the manifest's entry of a video's shard, and its place among the shard's videos.

        Raises:
          UserError: there is no such video.
        """
        shard, position = self._locate(video_id)
        return self.shards[shard], position

    def info(self, video_id: str) -> VideoInfo:
        """Reads what the folder says of a video."""
        if video_id not in self._infos:
            shard, position = self._locate(video_id)
            data = self._read(VIDEOS, shard, [position])[0]
            try:
                info = unpack_record(data, shard)
                if info.id != video_id:
                    raise UserError(f"damaged: its record is that of {info.id!r}")
                if info.first_frame + info.num_frames > self.shards[shard]["frames"]:
                    raise UserError("damaged: its record names frames that are not there")
            except UserError as error:
                path = shard_path(self.directory, VIDEOS, self.shards[shard]["name"])
                raise UserError(f"{path}: video {video_id}: {error}") from None
            self._infos[video_id] = info
        return self._infos[video_id]

    def infos(self, video_ids: Iterable[str]) -> list[VideoInfo]:
        """Reads what the folder says of several videos; damaged ones are left out."""

        def info(video_id: str) -> list[VideoInfo]:
            with contextlib.suppress(UserError):  # it is dropped, and told of, when it is due
                return [self.info(video_id)]
            return []

        with ThreadPoolExecutor(LOOKED_UP) as pool:
            return [one for found in pool.map(info, dict.fromkeys(video_ids)) for one in found]

    def frame_bytes(self, video_id: str, indices: Indices) -> list[bytes]:
        """Reads the JPEG bytes of frames `indices` (0 … T−1)."""
        info = self.info(video_id)
        jpegs = self._read(FRAMES, info.shard, self._absolute(info, indices))
        check_frames(info, indices, jpegs, self.directory)
        return jpegs

    def frames(
        self, video_id: str, indices: Indices, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Reads frames `indices` as uint8 [n, H, W, 3], resized to `size` = (H, W) if given."""
        return self.gather([(video_id, indices)], size)[0]

    def gather(
        self,
        requests: Sequence[tuple[str, Indices]],
        size: tuple[int, int] | None = None,
    ) -> list[np.ndarray]:
        """Reads `frames` of many (video id, indices) at once; the rollouts' bulk read.

        Each shard is read once, and a frame that several requests name is decoded once.

        Raises:
          UserError: a frame cannot be decoded.
        """
        infos = [self.info(video_id) for video_id, _ in requests]
        slots: dict[tuple[int, int], int] = {}
        rows = [
            [
                slots.setdefault((info.shard, index), len(slots))
                for index in self._absolute(info, indices)
            ]
            for info, (_, indices) in zip(infos, requests, strict=True)
        ]
        jpegs: list[bytes] = [b""] * len(slots)
        by_shard: dict[int, list[int]] = {}
        for shard, index in slots:
            by_shard.setdefault(shard, []).append(index)
        for shard, indices in by_shard.items():
            for index, data in zip(indices, self._read(FRAMES, shard, indices), strict=True):
                jpegs[slots[shard, index]] = data
        for info, (_, wanted), row in zip(infos, requests, rows, strict=True):
            check_frames(info, wanted, [jpegs[slot] for slot in row], self.directory)

        def decoded(slot: int) -> np.ndarray:
            try:
                return decode_jpeg(jpegs[slot], size)
            except OSError:
                owner = next(v for (v, _), row in zip(requests, rows, strict=True) if slot in row)
                raise UserError(
                    f"{self.directory}: a frame of video {owner} is a damaged JPEG; "
                    "make the folder again"
                ) from None

        large = any(info.height * info.width >= THREADED_PIXELS for info in infos)
        if large and len(jpegs) > 1:
            with ThreadPoolExecutor(DECODE_THREADS) as pool:
                images = list(pool.map(decoded, range(len(jpegs))))
        else:
            images = [decoded(slot) for slot in range(len(jpegs))]
        empty = [np.zeros((0, *(size or (info.height, info.width)), 3), np.uint8) for info in infos]
        return [
            np.stack([images[i] for i in row]) if row else none
            for row, none in zip(rows, empty, strict=True)
        ]

    def sound(self, video_id: str) -> bytes | None:
        """Reads a video's sound track, a FLAC file; b"": the video has none; None: none is kept.

        It has one channel at `sound.RATE`, and begins at second 0 of the record's clock.
        """
        shard, position = self._locate(video_id)
        if AUDIO not in kinds_of(self.shards[shard]):
            return None
        flac = self._read(AUDIO, shard, [position])[0]
        if zlib.crc32(flac) != self.info(video_id).sound_check:
            raise UserError(f"{self.directory}: the sound of video {video_id} is another's")
        return flac

    def name_of(self, model: str) -> str | None:
        """Returns the name of the model of `EMBEDDERS` whose embeddings are read; None: none."""
        return {"clip": self.clip, "siglip": self.siglip}[model]

    def embeddings(self, video_id: str, model: str = "clip") -> np.ndarray | None:
        """Reads a model's embeddings as float32 [T, D], or None if none are to be read.

        Raises:
          UserError: they are damaged, or hold values that are not finite.
        """
        shard, position = self._locate(video_id)
        if (name := self.name_of(model)) is None:
            return None
        kind, frames = f"{model}-{name}", self.info(video_id).num_frames
        raw = self._read(kind, shard, [position])[0]
        values = np.frombuffer(raw[: len(raw) // 2 * 2], "<f2").astype("f4")
        if not raw or len(raw) % (2 * frames) or not np.isfinite(values).all():
            file = shard_path(self.directory, kind, self.shards[shard]["name"])
            raise UserError(
                f"{file}: the embeddings of video {video_id} are damaged; remove the file and "
                "embed the folder again"
            )
        return values.reshape(frames, -1)

    def embedders(self, model: str) -> list[str]:
        """Returns the names of all CLIPs (or SigLIPs) of which the folder has embeddings."""
        # Not glob: the folder's name may hold characters that are patterns to it.
        names = (EMBEDDINGS_FILE.fullmatch(path.name) for path in self.files.iterdir())
        return sorted({name["fingerprint"] for name in names if name and name["model"] == model})

    def _only_clip(self) -> str | None:
        clips = self.embedders("clip")
        if len(clips) > 1:
            listed = ", ".join(clips)
            raise UserError(f"{self.directory}: embeddings of several CLIPs ({listed}); name one")
        return clips[0] if clips else None

    def _locate(self, video_id: str) -> tuple[int, int]:
        if video_id not in self._where:
            raise UserError(f"{self.directory}: no video {video_id!r} among {len(self._where)}")
        return self._where[video_id]

    def _absolute(self, info: VideoInfo, indices: Indices) -> list[int]:
        for index in indices:
            if not 0 <= index < info.num_frames:
                raise UserError(
                    f"{self.directory}: video {info.id} has {info.num_frames} frames, not {index}"
                )
        return [info.first_frame + int(index) for index in indices]

    def _read(self, kind: str, shard: int, indices: list[int]) -> list[bytes]:
        entry = self.shards[shard]
        path = shard_path(self.files, kind, entry["name"])
        with self._lock:
            if path not in self._open:
                expected = entry["frames"] if kind == FRAMES else len(entry["videos"])
                most = expected + (kind.partition("-")[0] in EMBEDDERS)  # see embed.py
                file = open_records(path, expected, most)
                if file.num_records() > expected:
                    check_stated(file, path, entry)
                self._open[path] = file
        try:
            return self._open[path].read(indices) if indices else []
        except (RuntimeError, ValueError, IndexError):
            raise UserError(f"{path}: damaged; copy or make the folder again") from None
