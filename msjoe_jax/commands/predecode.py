"""Decodes a list of videos into a record folder, once, so that training never touches a codec.

    msjoe predecode --manifest=videos.jsonl --out=DIR

Each line of the manifest is {"id": "…", "video": "path, relative to the manifest"}, optionally
with an "extra" object that the record keeps. A video may also be a folder of pictures, a part of a
file, or a member of an archive (docs/sources.md). The command may be killed at any moment (even
by kill -9), since all that it has finished is on disk:

    DIR/parts/            single decoded videos, each a shard of its own named by the id's hash
    DIR/frames-NNNNN …    parts packed in the manifest's order; immutable once named
    DIR/progress.json     the shards packed so far; at the end it becomes manifest.json
    DIR/failures.jsonl    id, video and reason of each that gave no frame, lines of the list that
                          are wrong, and warnings, as of videos of which more than 5 % are
                          missing; absent if there is nothing to say

--strict counts videos of which more is missing (cut downloads) as failed, too. --audio keeps the
sound track of each (FLAC, one channel, 16 kHz). What a record holds is in docs/records.md.

With --clip=DIR, the folder of a trained model, its CLIP then embeds every frame:
DIR/clip-FINGERPRINT-NNNNN.arrayrecord, named after the parameters (see data/embed.py). --siglip=DIR
does the same with a SigLIP. Without --manifest they embed what the folder holds.

The same command resumes: finished videos are kept, unfinished ones are redone, failures are tried
again; a video whose file has changed is refused, or decoded anew with --refresh. A killed and
resumed run ends with the same bytes as one that was left alone. Lines added to the manifest later
are decoded into further shards of the same folder.
"""

import errno
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from absl import flags
from etils import epath

from msjoe_jax.commands.cli import run_app
from msjoe_jax.data.embed import embed_records
from msjoe_jax.data.made_from import unchanged
from msjoe_jax.data.manifest import Entry, read_entries, with_segments
from msjoe_jax.data.predecode import DecodeSettings, Packer, decode_part, resume
from msjoe_jax.data.questions import load_questions
from msjoe_jax.data.record import shortfall
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.sources import RATES, SIDES
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import lock, on_disk
from msjoe_jax.runtime.progress import Progress, progress
from msjoe_jax.runtime.space import FULL, has_code, room_for

FAILURES = "failures.jsonl"
NAMED = 5  # lines of a list that an error names, where none is right
OF_THE_DISK = (*FULL, errno.EROFS)  # errors that no video can cause


def predecode(
    manifest: epath.PathLike,
    out: epath.PathLike,
    settings: DecodeSettings,
    workers: int,
    *,
    refresh: bool = False,
    strict: bool = False,
    questions: epath.PathLike | None = None,
) -> tuple[int, int]:
    """Makes, resumes or extends a record folder.

    Args:
      manifest: the list of videos.
      out: the folder.
      settings: how to decode them.
      workers: how many videos to decode at a time.
      refresh: decode videos anew that have changed.
      strict: whether a video that is short has failed.
      questions: a question file, whose segments of videos become videos of their own.

    Returns:
      The number of videos in the folder, and the number of those that could not be decoded, lines
      of the list that are wrong among them.

    Raises:
      UserError: a wrong list, a folder of other settings, a full disk, no video gave a frame, or
        `strict` and a video that is short is in the folder already.
    """
    failures = on_disk(out, "a record folder that is being made") / FAILURES
    entries, refused = read_entries(manifest)
    if not entries:
        more = [f"and {len(refused) - NAMED} more lines"] if len(refused) > NAMED else []
        raise UserError(*(line.reason for line in refused[:NAMED]), *more)
    if questions is not None:
        entries = with_segments(entries, (q.video for q in load_questions(questions)))
    with room_for(out), lock(out):
        packer = resume(out, settings)
        packed = unchanged(entries, packer, refresh)
        failures.unlink(missing_ok=True)
        for line in refused:
            _list(packer.out, **line._asdict())
        new = [e for e in entries if e.id not in packed]
        num_failed = _decode_all(new, packer, workers, strict)
        total = packer.finish()
        if not total:
            raise UserError(f"none of {len(entries)} videos could be decoded; see {failures}")
        _tell(entries, RecordReader(out, ""), strict)
    return total, num_failed + len(refused)


def _list(folder: epath.Path, **row: object) -> None:
    """Adds a row to the list of failures and warnings."""
    # A name that is no UTF-8 has surrogates, which JSON escapes as "\\udcXX", and so does this.
    text = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")
    with room_for(folder), (folder / FAILURES).open("ab") as file:
        file.write(text + b"\n")


def _tell(entries: list[Entry], reader: RecordReader, strict: bool) -> None:
    """Lists what is to be said of the folder's videos among the failures, as warnings."""
    files = {entry.id: entry.video for entry in entries}
    told, short = 0, []
    for info in reader.infos(files):
        why = shortfall(info)
        short += [(info.id, why)] if why else []
        for note in (*info.source.notes, *([why] if why else [])):
            _list(reader.directory, id=info.id, video=files[info.id], warning=note)
            told += 1
    if short and strict:
        raise UserError(
            f"{reader.directory}: {len(short)} videos were taken in before --strict, such as "
            f"{short[0][0]!r}: {short[0][1]}; choose another --out"
        )
    if told:
        print(f"{reader.directory}: {told} warnings, see {reader.directory / FAILURES}")


def _decode_all(entries: list[Entry], packer: Packer, workers: int, strict: bool) -> int:
    """Decodes and packs the videos, and returns how many failed."""
    stop = threading.Event()
    with (
        progress(
            f"decode {len(entries)} videos", sum(entry.size for entry in entries), unit="B"
        ) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):

        def work(entry: Entry) -> None:
            try:
                decode_part(entry, packer.parts, packer.settings, stop)
            finally:
                bar.update(entry.size)

        try:
            jobs = [(entry, pool.submit(work, entry)) for entry in entries]
            return _pack_all(jobs, packer, bar, strict)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _pack_all(
    jobs: list[tuple[Entry, Future[None]]], packer: Packer, bar: Progress, strict: bool
) -> int:
    num_failed = 0
    for number, (entry, future) in enumerate(jobs, 1):
        # Whatever error a hostile file provokes in the decoder, the other videos are decoded.
        error = future.exception()
        if error is None and strict and (why := shortfall(packer.part(entry))):
            error = UserError(f"{entry.video}: {why}, and --strict is given")
        if error is None:
            packer.add(entry)
        else:
            with room_for(packer.out):
                if has_code(error, OF_THE_DISK):
                    raise error
            num_failed += 1
            reason = str(error) if isinstance(error, UserError) else repr(error)
            _list(packer.out, id=entry.id, video=entry.video, reason=reason)
        bar.metrics(videos=number, failed=num_failed)
    return num_failed


def embedder_of(
    checkpoint: epath.Path, name: str
) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
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
    workers = flags.DEFINE_integer("workers", 2, "Videos decoded at a time.")
    audio = flags.DEFINE_bool("audio", False, "Keep the sound tracks, too.")
    strict = flags.DEFINE_bool("strict", False, "Count videos that are cut short as failed.")
    refresh = flags.DEFINE_bool("refresh", False, "Decode videos anew whose files have changed.")
    questions = flags.DEFINE_string(
        "questions", None, "Question file; segments that it asks about become videos."
    )

    def start() -> None:
        given = {name: flag.value for name, flag in folders.items() if flag.value}
        if not out.value or not (manifest.value or given):
            raise UserError("--manifest=FILE.jsonl and --out=DIR are needed")
        for flag, low, high in ((quality, 1, 95), (max_side, *SIDES), (workers, 1, 1 << 10)):
            if not low <= flag.value <= high:
                raise UserError(f"--{flag.name}={flag.value} must be from {low} to {high}")
        if not RATES[0] <= fps.value <= RATES[1]:
            raise UserError(f"--fps={fps.value} must be from {RATES[0]} to {RATES[1]:g}")
        # Loaded before decoding, so that a wrong path is not found out hours later.
        embedders = {name: embedder_of(epath.Path(path), name) for name, path in given.items()}
        settings = DecodeSettings(fps.value, max_side.value, quality.value, audio.value)
        if manifest.value:
            total, num_failed = predecode(
                manifest.value,
                out.value,
                settings,
                workers.value,
                refresh=refresh.value,
                strict=strict.value,
                questions=questions.value,
            )
        else:
            total, num_failed = len(RecordReader(out.value, "").ids), 0
        for name, (encode, own) in embedders.items():
            embed_records(out.value, encode, own, model=name)
        ending = (
            f"; {num_failed} failed, see {epath.Path(out.value) / FAILURES}" if num_failed else ""
        )
        print(f"{out.value}: {total} videos{ending}")

    run_app(start)
