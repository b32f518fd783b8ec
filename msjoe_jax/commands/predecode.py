"""Decodes a list of videos into a record folder, once, so that training never touches a codec.

    msjoe predecode --manifest=videos.jsonl --out=DIR

Each line of the manifest is {"id": "…", "video": "path, relative to the manifest"}, optionally
with an "extra" object that is kept. What it may be killed in the middle of (kill -9 too):

    DIR/parts/            finished single videos, each a shard of its own named by the id's hash
    DIR/frames-NNNNN …    parts packed in the manifest's order; immutable once named
    DIR/progress.json     the shards packed so far; at the end it becomes manifest.json
    DIR/failures.jsonl    id, video and reason of each that gave no frame; absent if none

With --clip=DIR, the folder of a trained model, its CLIP then embeds every frame:
DIR/clip-FINGERPRINT-NNNNN.arrayrecord, named after the parameters (see data/embed.py).

The same command resumes: finished videos are kept, the one in work is redone, failures are tried
again. A killed and resumed run ends with the same bytes as one that was left alone. Lines added
to the manifest later are decoded into further shards of the same folder.
"""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from absl import flags
from tqdm import tqdm

from msjoe_jax.commands.cli import run_app
from msjoe_jax.data.embed import embed_records
from msjoe_jax.data.questions import check_unicode
from msjoe_jax.data.shards import (
    SHARD_BYTES,
    ShardWriter,
    lock_folder,
    open_records,
    read_manifest,
    shard_path,
    write_manifest,
)
from msjoe_jax.data.video import decode
from msjoe_jax.errors import UserError

PROGRESS = "progress.json"
COPY_FRAMES = 64  # frames held in memory while a part is copied into its shard
FULL_DISK = 64 << 20  # with less than this many bytes free a failure is the disk's, not the video's


@dataclass(frozen=True)
class Entry:
    """One line of the manifest; `video` as written there, `path` resolved."""

    id: str
    video: str
    path: Path
    extra: dict[str, Any]

    @property
    def part(self) -> str:
        """An id may hold anything, so its hash names the file."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:32]

    @property
    def size(self) -> int:
        """Bytes; 0 where the system refuses the path, which decoding then says of this video."""
        try:
            return self.path.stat().st_size if self.path.is_file() else 0
        except OSError:
            return 0


def load_entries(path: Path) -> list[Entry]:
    """Raises UserError naming file, line and field."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check --manifest") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: not a JSON object")
        try:
            check_unicode(row)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        for key in ("id", "video"):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise UserError(f"{where}: field {key!r} must be a non-empty string")
        if not isinstance(row.get("extra", {}), dict):
            raise UserError(f"{where}: field 'extra' must be an object")
        if unknown := sorted(set(row) - {"id", "video", "extra"}):
            raise UserError(f"{where}: unknown field {unknown[0]!r}; put it under 'extra'")
        if row["id"] in entries:
            raise UserError(f"{where}: field 'id' repeats {row['id']!r}")
        source = path.parent / row["video"]
        entries[row["id"]] = Entry(row["id"], row["video"], source, row.get("extra", {}))
    if not entries:
        raise UserError(f"{path}: no videos; one JSON object a line is expected")
    return list(entries.values())


class _Stopped(Exception):
    """The run is being given up; a worker leaves its video."""


def _decode_part(entry: Entry, parts: Path, settings: dict, stop: threading.Event) -> None:
    """Decodes one video into its part, if that is not there yet."""
    if shard_path(parts, "videos", entry.part).exists():
        return
    decoding = decode(entry.path, settings["fps"], settings["max_side"])

    def frames() -> Iterator[tuple[float, np.ndarray]]:
        for item in decoding:
            if stop.is_set():
                raise _Stopped
            yield item

    def tail() -> tuple[float, dict[str, Any]]:
        kept = {"video": entry.video, "warnings": decoding.warnings}
        return decoding.duration, {**entry.extra, **kept}

    shard = ShardWriter(parts, entry.part, settings["quality"])
    try:
        shard.add(entry.id, frames(), settings["fps"], tail)
        shard.finish()
    except BaseException:
        shard.discard()
        raise
    finally:
        decoding.close()


class _Packer:
    """Copies parts, in the order given, into shards of about SHARD_BYTES."""

    def __init__(self, out: Path, shards: list[dict[str, Any]], settings: dict):
        self.out = out
        self.shards = shards
        self.settings = settings
        self._waiting: list[Entry] = []
        self._bytes = 0

    def add(self, entry: Entry) -> None:
        self._waiting.append(entry)
        self._bytes += shard_path(self.out / "parts", "frames", entry.part).stat().st_size
        if self._bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes the waiting parts as one shard, records it, and only then drops them."""
        if not self._waiting:
            return
        shard = ShardWriter(self.out, f"{len(self.shards):05d}", self.settings["quality"])
        for entry in self._waiting:
            self._copy(entry, shard)
        self.shards.append(shard.finish())
        write_manifest(self.out, self.shards, self.settings, PROGRESS)
        for entry in self._waiting:
            for kind in ("videos", "frames"):
                shard_path(self.out / "parts", kind, entry.part).unlink()
        self._waiting, self._bytes = [], 0

    def _copy(self, entry: Entry, shard: ShardWriter) -> None:
        videos = open_records(shard_path(self.out / "parts", "videos", entry.part), 1)
        info = msgpack.unpackb(videos.read([0])[0])
        times = np.frombuffer(info["timestamps"], "<f8")
        jpegs = open_records(shard_path(self.out / "parts", "frames", entry.part), len(times))

        def frames() -> Iterator[tuple[float, bytes]]:
            for start in range(0, len(times), COPY_FRAMES):
                indices = list(range(start, min(start + COPY_FRAMES, len(times))))
                yield from zip(times[indices], jpegs.read(indices), strict=True)

        shard.add(info["id"], frames(), info["fps"], lambda: (info["duration"], info["extra"]))
        videos.close()
        jpegs.close()


def _resume(out: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The shards that are done. Raises UserError if the folder was made otherwise."""
    names = [name for name in (PROGRESS, "manifest.json") if (out / name).is_file()]
    if not names:
        if any(path.suffix != ".tmp" for path in out.iterdir()):
            raise UserError(f"{out}: not empty and not a record folder; choose another --out")
        write_manifest(out, [], settings, PROGRESS)
        return []
    before = read_manifest(out, names[0])
    if before["settings"] != settings:
        raise UserError(
            f"{out}: was made with {before['settings']}, not {settings}; choose another --out"
        )
    return before["shards"]


def predecode(
    manifest: Path, out: Path, *, fps: float, max_side: int, quality: int, workers: int
) -> tuple[int, int]:
    """Makes, resumes or extends the record folder `out`; returns (videos in it, failures).

    Raises UserError on a bad manifest, a folder of other settings, or if no video gave a frame.
    """
    entries = load_entries(manifest)
    settings = {"fps": fps, "max_side": max_side, "quality": quality}
    parts, failures = out / "parts", out / "failures.jsonl"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}); check --out") from None
    lock = lock_folder(out)
    try:
        shards = _resume(out, settings)
        parts.mkdir(exist_ok=True)
        for stale in (*out.glob("*.tmp"), *parts.glob("*.tmp"), *out.glob("failures.jsonl")):
            stale.unlink()
        packer = _Packer(out, shards, settings)
        done = {video_id for shard in shards for video_id in shard["videos"]}
        todo = [entry for entry in entries if entry.id not in done]
        failed = _decode_all(todo, packer, parts, failures, workers)
        packer.flush()
        shutil.rmtree(parts)
        total = sum(len(shard["videos"]) for shard in packer.shards)
        if not total:
            raise UserError(f"none of {len(entries)} videos could be decoded; see {failures}")
        write_manifest(out, packer.shards, settings)
        (out / PROGRESS).unlink(missing_ok=True)
    finally:
        os.close(lock)
    return total, failed


def _advance(progress: tqdm, size: int, _: Future[None]) -> None:
    progress.update(size)


def _decode_all(
    todo: list[Entry], packer: _Packer, parts: Path, failures: Path, workers: int
) -> int:
    failed, stop = 0, threading.Event()
    with (
        tqdm(
            total=sum(entry.size for entry in todo),
            desc=f"decoding {len(todo)} videos",
            unit="B",
            unit_scale=True,
        ) as progress,
        ThreadPoolExecutor(workers) as pool,
    ):
        try:
            jobs: list[tuple[Entry, Future[None]]] = []
            for entry in todo:
                future = pool.submit(_decode_part, entry, parts, packer.settings, stop)
                future.add_done_callback(partial(_advance, progress, entry.size))
                jobs.append((entry, future))
            for number, (entry, future) in enumerate(jobs, 1):
                # Whatever a hostile file provokes in the decoder, the other videos go on.
                error = future.exception()
                if error is None:
                    packer.add(entry)
                else:
                    if shutil.disk_usage(parts).free < FULL_DISK:
                        raise UserError(f"{parts}: the disk is full; free some and run again")
                    failed += 1
                    reason = str(error) if isinstance(error, UserError) else repr(error)
                    row = {"id": entry.id, "video": entry.video, "reason": reason}
                    with open(failures, "a", encoding="utf-8") as file:
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
                progress.set_postfix(videos=number, failed=failed, refresh=False)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def _clip_of(checkpoint: Path) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Encoder and fingerprint of a trained model's CLIP. Decoding alone needs no JAX."""
    from msjoe_jax.runtime.platform import quiet_cpu_default

    quiet_cpu_default()
    from msjoe_jax.models.params import fingerprint
    from msjoe_jax.rollout.model_folder import load_bundle
    from msjoe_jax.rollout.programs import clip_encoder

    _, system, params = load_bundle(checkpoint, ["clip"])
    return clip_encoder(system, params["clip"]), fingerprint(params["clip"])


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    manifest = flags.DEFINE_string("manifest", None, "JSON lines of id and video path.")
    out = flags.DEFINE_string("out", None, "Record folder to make, resume or extend.")
    fps = flags.DEFINE_float("fps", 1.0, "Frames kept per second of video.")
    max_side = flags.DEFINE_integer("max_side", 448, "Longer side of the kept frames, in pixels.")
    quality = flags.DEFINE_integer("quality", 92, "JPEG quality, 1 to 95.")
    clip_folder = flags.DEFINE_string(
        "clip", None, "Trained model whose CLIP embeds the frames as well."
    )
    workers = flags.DEFINE_integer("workers", 2, "Videos decoded at a time.")

    def start() -> None:
        if not manifest.value or not out.value:
            raise UserError("--manifest=FILE.jsonl and --out=DIR are needed")
        for flag, low, high in ((quality, 1, 95), (max_side, 16, 1 << 14), (workers, 1, 1 << 10)):
            if not low <= flag.value <= high:
                raise UserError(f"--{flag.name}={flag.value} must be from {low} to {high}")
        if not 0 < fps.value <= 1000:
            raise UserError(f"--fps={fps.value} must be above 0 and at most 1000")
        # Read before the decoding: hours of it should not end at a wrong path.
        clip = _clip_of(Path(clip_folder.value)) if clip_folder.value else None
        total, failed = predecode(
            Path(manifest.value),
            Path(out.value),
            fps=fps.value,
            max_side=max_side.value,
            quality=quality.value,
            workers=workers.value,
        )
        if clip:
            embed_records(out.value, *clip)
        told = f"; {failed} failed, see {Path(out.value) / 'failures.jsonl'}" if failed else ""
        print(f"{out.value}: {total} videos{told}")

    run_app(start)
