"""Decodes a list of videos into a record folder, once, so that training never touches a codec.

    msjoe predecode --manifest=videos.jsonl --out=DIR

Each line of the manifest is {"id": "…", "video": "path, relative to the manifest"}, optionally
with an "extra" object that the record keeps. The command may be killed at any moment (even by
kill -9), since all that it has finished is on disk:

    DIR/parts/            single decoded videos, each a shard of its own named by the id's hash
    DIR/frames-NNNNN …    parts packed in the manifest's order; immutable once named
    DIR/progress.json     the shards packed so far; at the end it becomes manifest.json
    DIR/failures.jsonl    id, video and reason of each that gave no frame; absent if none did

With --clip=DIR, the folder of a trained model, its CLIP then embeds every frame:
DIR/clip-FINGERPRINT-NNNNN.arrayrecord, named after the parameters (see data/embed.py). --siglip=DIR
does the same with a SigLIP. Without --manifest they embed what the folder holds.

Videos are decoded side by side (--workers), and embedded while later ones are still being decoded.
The bar counts seconds of video.

The same command resumes: finished videos are kept, unfinished ones are redone, failures are tried
again. A killed and resumed run ends with the same bytes as one that was left alone. Lines added
to the manifest later are decoded into further shards of the same folder.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from msjoe_jax.commands.cli import run_app
from msjoe_jax.commands.predecode_beam import LOCAL, options_of, run_pipeline
from msjoe_jax.data.embed import Encode, ShardEmbedder, embed_records
from msjoe_jax.data.manifest import Entry, load_entries
from msjoe_jax.data.predecode import DecodeSettings, Packer, Part, resume
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.shards import decode_jpeg
from msjoe_jax.data.workers import Failure, decode_all
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import lock, on_disk
from msjoe_jax.runtime.progress import progress
from msjoe_jax.runtime.space import room_for

FAILURES = "failures.jsonl"


def predecode(
    manifest: epath.PathLike,
    out: epath.PathLike,
    settings: DecodeSettings,
    workers: int = 0,
    embedders: Sequence[ShardEmbedder] = (),
    beam: Sequence[str] = (),
) -> tuple[int, int]:
    """Makes, resumes or extends a record folder.

    Args:
      manifest: the list of videos.
      out: the folder.
      settings: how to decode them.
      workers: how many videos to decode at a time; 0: one for each core.
      embedders: embed the frames of the videos that are decoded now, while later ones are.
      beam: options of a Beam pipeline that decodes them (see predecode_beam.py); empty: this
        process and its workers do.

    Returns:
      The number of videos in the folder, and the number of those that could not be decoded.

    Raises:
      UserError: a wrong list, a folder of other settings, a full disk, or no video gave a frame.
    """
    out = epath.Path(out) if beam else on_disk(out, "a record folder that is being made")
    failures = out / FAILURES
    entries = load_entries(manifest)
    with room_for(out), lock(out):
        packer = resume(out, settings)
        failures.unlink(missing_ok=True)
        packed = {video_id for shard in packer.shards for video_id in shard["videos"]}
        todo = [entry for entry in entries if entry.id not in packed]
        if beam and todo:
            num_failed = 0
            for entry, failure in run_pipeline(todo, packer, beam):
                if failure is not None:
                    num_failed += 1
                    _report(entry, failure, packer.out)
        else:
            num_failed = _decode_and_pack(todo, packer, workers or cores(), embedders)
        total = packer.finish()
        if not total:
            raise UserError(f"none of {len(entries)} videos could be decoded; see {failures}")
    return total, num_failed


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode_and_pack(
    entries: list[Entry], packer: Packer, workers: int, embedders: Sequence[ShardEmbedder]
) -> int:
    """Decodes, packs and embeds the videos, and returns how many failed."""
    num_failed = 0
    with progress(f"decode {len(entries)} videos", None, unit="s of video") as bar:
        results = decode_all(entries, packer.parts, packer.settings, workers, bar)
        with contextlib.closing(results):
            for number, (entry, failure) in enumerate(results, 1):
                if failure is not None:
                    num_failed += 1
                    _report(entry, failure, packer.out)
                else:
                    if embedders:
                        _embed(Part(packer.parts, entry.part), embedders)
                    _finish(packer.add(entry), embedders)
                bar.metrics(videos=number, failed=num_failed)
            _finish(packer.flush(), embedders)
    return num_failed


def _embed(part: Part, embedders: Sequence[ShardEmbedder]) -> None:
    def read(start: int, stop: int) -> list[np.ndarray]:
        return [decode_jpeg(data) for data in part.jpegs(start, stop)]

    for embedder in embedders:
        embedder.add(part.info["id"], len(part.times), read)


def _finish(shard: dict[str, Any] | None, embedders: Sequence[ShardEmbedder]) -> None:
    if shard is not None:
        for embedder in embedders:
            embedder.finish(shard)


def _report(entry: Entry, failure: Failure, out: epath.Path) -> None:
    """Notes a failed video; a disk that refuses ends the run instead."""
    with room_for(out):
        if failure.disk:
            raise OSError(failure.disk, os.strerror(failure.disk))
        row = {"id": entry.id, "video": entry.video, "reason": failure.reason}
        with (out / FAILURES).open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def embedder_of(checkpoint: epath.Path, name: str) -> tuple[Encode, str]:
    """Loads encoder and name of a model folder's CLIP or SigLIP; decoding alone imports no JAX."""
    from msjoe_jax.runtime.platform import quiet_cpu_default

    quiet_cpu_default()
    from msjoe_jax.models.params import fingerprint
    from msjoe_jax.rollout.model_folder import load_model_folder
    from msjoe_jax.rollout.programs import clip_encoder
    from msjoe_jax.rollout.siglip import siglip_encoder
    from msjoe_jax.rollout.stored_models import clip_name

    model = load_model_folder(checkpoint, [name])
    params, siglip = model.params[name], model.system.siglip
    if name == "clip":
        return clip_encoder(model.system, params), clip_name(model.system, fingerprint(params))
    assert siglip is not None
    return siglip_encoder(siglip, params), siglip.name(fingerprint(params))


def cli() -> None:
    """Defines the command's flags and runs it.

    They are defined here, not above: other commands have flags of the same names.
    """
    manifest = flags.DEFINE_string("manifest", None, "JSON lines of id and video path.")
    out = flags.DEFINE_string("out", None, "Record folder to make, resume or extend.")
    fps = flags.DEFINE_float("fps", DecodeSettings.fps, "Frames kept per second of video.")
    max_side = flags.DEFINE_integer(
        "max_side", DecodeSettings.max_side, "Longer side of the kept frames, in pixels."
    )
    quality = flags.DEFINE_integer("quality", DecodeSettings.quality, "JPEG quality, 1 to 95.")
    folders = {
        "clip": flags.DEFINE_string("clip", None, "Model folder whose CLIP embeds the frames."),
        "siglip": flags.DEFINE_string(
            "siglip", None, "Model folder whose SigLIP embeds the frames."
        ),
    }
    workers = flags.DEFINE_integer(
        "workers",
        None,
        "Videos decoded at a time, each in a process; by default one for each core.",
    )
    runner = flags.DEFINE_string(
        "runner", None, f"Decode by an Apache Beam pipeline: {LOCAL}, DataflowRunner, …"
    )
    runner_options = flags.DEFINE_string(
        "runner_options", "", "Beam's own options, as one text: '--project=P --region=R'."
    )

    def start() -> None:
        given = {name: flag.value for name, flag in folders.items() if flag.value}
        if not out.value or not (manifest.value or given):
            raise UserError("--manifest=FILE.jsonl and --out=DIR are needed")
        for flag, low, high in ((quality, 1, 95), (max_side, 16, 1 << 14), (workers, 1, 1 << 10)):
            if flag.value is not None and not low <= flag.value <= high:
                raise UserError(f"--{flag.name}={flag.value} must be from {low} to {high}")
        if not 0 < fps.value <= 1000:
            raise UserError(f"--fps={fps.value} must be above 0 and at most 1000")
        if runner_options.value and not runner.value:
            raise UserError("--runner_options are of --runner, which is not given")
        # Loaded before decoding, so that a wrong path is not found out hours later.
        towers = {name: embedder_of(epath.Path(path), name) for name, path in given.items()}
        settings = DecodeSettings(fps.value, max_side.value, quality.value)
        beam = []
        if runner.value:
            beam = options_of(runner.value, runner_options.value, workers.value or cores())
        if manifest.value:
            with contextlib.ExitStack() as stack:
                embedders = [
                    stack.enter_context(
                        contextlib.closing(ShardEmbedder(out.value, encode, own, model=name))
                    )
                    for name, (encode, own) in towers.items()
                ]
                total, num_failed = predecode(
                    manifest.value, out.value, settings, workers.value or 0, embedders, beam
                )
        else:
            total, num_failed = len(RecordReader(out.value, "").ids), 0
        for name, (encode, own) in towers.items():  # of shards that an earlier run has made
            embed_records(out.value, encode, own, model=name)
        ending = (
            f"; {num_failed} failed, see {epath.Path(out.value) / FAILURES}" if num_failed else ""
        )
        print(f"{out.value}: {total} videos{ending}")

    run_app(start)
