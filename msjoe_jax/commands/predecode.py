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

Videos are decoded side by side (--workers), and embedded while later ones are still being decoded.
The bar counts seconds of video. With --runner an Apache Beam pipeline decodes them; see
docs/predecode.md.

The same command resumes: finished videos are kept, unfinished ones are redone, failures are tried
again; a video whose file has changed is refused, or decoded anew with --refresh. A killed and
resumed run ends with the same bytes as one that was left alone. Lines added to the manifest later
are decoded into further shards of the same folder.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from msjoe_jax.commands.cli import run_app
from msjoe_jax.commands.predecode_beam import LOCAL, options_of, run_pipeline
from msjoe_jax.data.embed import Encode, ShardEmbedder, embed_records
from msjoe_jax.data.made_from import unchanged
from msjoe_jax.data.manifest import Entry, read_entries, with_segments
from msjoe_jax.data.predecode import DecodeSettings, Packer, Part, resume
from msjoe_jax.data.questions import load_questions
from msjoe_jax.data.record import shortfall
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.shards import decode_jpeg
from msjoe_jax.data.sources import RATES, SIDES
from msjoe_jax.data.workers import Board, Failure, Work, decode_all
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import is_local, lock, on_disk, write_whole
from msjoe_jax.runtime.progress import progress
from msjoe_jax.runtime.space import room_for

FAILURES = "failures.jsonl"
NAMED = 5  # lines of a list that an error names, where none is right


def predecode(
    manifest: epath.PathLike,
    out: epath.PathLike,
    settings: DecodeSettings,
    workers: int = 0,
    embedders: Sequence[ShardEmbedder] = (),
    *,
    refresh: bool = False,
    strict: bool = False,
    questions: epath.PathLike | None = None,
    beam: Sequence[str] = (),
) -> tuple[int, int]:
    """Makes, resumes or extends a record folder.

    Args:
      manifest: the list of videos.
      out: the folder.
      settings: how to decode them.
      workers: how many videos to decode at a time; 0: one for each core.
      embedders: embed the frames of the videos that are decoded now, while later ones are.
      refresh: decode videos anew that have changed.
      strict: whether a video that is short has failed.
      questions: a question file, whose segments of videos become videos of their own.
      beam: options of a Beam pipeline that decodes them (see predecode_beam.py); empty: this
        process and its workers do.

    Returns:
      The number of videos in the folder, and the number of those that could not be decoded, lines
      of the list that are wrong among them.

    Raises:
      UserError: a wrong list, a folder of other settings, a full disk, no video gave a frame, or
        `strict` and a video that is short is in the folder already.
    """
    out = epath.Path(out) if beam else on_disk(out, "a record folder that is being made")
    failures = out / FAILURES
    entries, refused = read_entries(manifest, remote=bool(beam))
    if not entries:
        more = [f"and {len(refused) - NAMED} more lines"] if len(refused) > NAMED else []
        raise UserError(*(line.reason for line in refused[:NAMED]), *more)
    if questions is not None:
        entries = with_segments(entries, (q.video for q in load_questions(questions)))
    with room_for(out), lock(out):
        packer = resume(out, settings)
        packed = unchanged(entries, packer, refresh)
        failures.unlink(missing_ok=True)
        _list(out, (line._asdict() for line in refused))
        new = [e for e in entries if e.id not in packed]
        if beam:
            num_failed = _by_beam(new, packer, strict, beam)
        else:
            num_failed = _decode_and_pack(new, packer, strict, workers or cores(), embedders)
        total = packer.finish()
        if not total:
            raise UserError(f"none of {len(entries)} videos could be decoded; see {failures}")
        if is_local(out):
            _tell(entries, RecordReader(out, ""), strict)
    return total, num_failed + len(refused)


def _list(folder: epath.Path, rows: Iterable[dict[str, object]]) -> None:
    """Adds rows to the list of failures and warnings."""
    # A name that is no UTF-8 has surrogates, which JSON escapes as "\\udcXX", and so does this.
    texts = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    added = "".join(texts).encode("utf-8", "backslashreplace")
    path = folder / FAILURES
    with room_for(folder):
        if added and is_local(path):
            with path.open("ab") as file:
                file.write(added)
        elif added:
            write_whole(path, (path.read_bytes() if path.exists() else b"") + added)


def _tell(entries: list[Entry], reader: RecordReader, strict: bool) -> None:
    """Lists what is to be said of the folder's videos among the failures, as warnings."""
    files = {entry.id: entry.video for entry in entries}
    told: list[dict[str, object]] = []
    short = []
    for info in reader.infos(files):
        why = shortfall(info)
        short += [(info.id, why)] if why else []
        for note in (*info.source.notes, *([why] if why else [])):
            told.append({"id": info.id, "video": files[info.id], "warning": note})
    _list(reader.directory, told)
    if short and strict:
        raise UserError(
            f"{reader.directory}: {len(short)} videos were taken in before --strict, such as "
            f"{short[0][0]!r}: {short[0][1]}; choose another --out"
        )
    if told:
        print(f"{reader.directory}: {len(told)} warnings, see {reader.directory / FAILURES}")


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode_and_pack(
    entries: list[Entry],
    packer: Packer,
    strict: bool,
    workers: int,
    embedders: Sequence[ShardEmbedder],
) -> int:
    """Decodes, packs and embeds the videos, and returns how many failed.

    Args:
      entries: the videos.
      packer: of the folder.
      strict: whether a video that is short has failed.
      workers: how many are decoded at a time.
      embedders: of the frames.
    """
    num_failed = 0
    with progress(f"decode {len(entries)} videos", None, unit="s of video") as bar:
        board = Board([entry.size for entry in entries])
        work = Work(packer.parts, packer.settings, board, strict)
        results = decode_all(entries, work, workers, bar)
        with contextlib.closing(results):
            for number, (entry, failure) in enumerate(results, 1):
                if failure is not None:
                    num_failed += 1
                    _report(entry, failure, packer.out)
                else:
                    if embedders:
                        _embed(Part(packer.parts, entry, packer.settings), embedders)
                    _finish(packer.add(entry), embedders)
                bar.metrics(videos=number, failed=num_failed)
            _finish(packer.flush(), embedders)
    return num_failed


def _embed(part: Part, embedders: Sequence[ShardEmbedder]) -> None:
    def read(start: int, stop: int) -> list[np.ndarray]:
        return [decode_jpeg(data) for data in part.jpegs(start, stop)]

    for embedder in embedders:
        embedder.add(part.info.id, part.info.num_frames, read)


def _finish(shard: dict[str, Any] | None, embedders: Sequence[ShardEmbedder]) -> None:
    if shard is not None:
        for embedder in embedders:
            embedder.finish(shard)


def _by_beam(entries: list[Entry], packer: Packer, strict: bool, options: Sequence[str]) -> int:
    """Has a Beam pipeline decode and pack the videos, and returns how many failed."""
    found = run_pipeline(entries, packer, strict, options) if entries else []
    rows: list[dict[str, object]] = [
        {"id": entry.id, "video": entry.video, "warning": note}
        for entry, _, notes in found
        for note in notes
        if not is_local(packer.out)  # else `_tell` lists them, of all videos
    ]
    _list(packer.out, rows)
    failed = [(entry, failure) for entry, failure, _ in found if failure is not None]
    for entry, failure in failed:
        _report(entry, failure, packer.out)
    return len(failed)


def _report(entry: Entry, failure: Failure, out: epath.Path) -> None:
    """Notes a failed video; a disk that refuses ends the run instead."""
    if failure.disk:
        with room_for(out):
            raise OSError(failure.disk, os.strerror(failure.disk))
    _list(out, [{"id": entry.id, "video": entry.video, "reason": failure.reason}])


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


@contextlib.contextmanager
def _embedders(
    out: epath.PathLike, towers: Mapping[str, tuple[Encode, str]]
) -> Iterator[list[ShardEmbedder]]:
    """Makes the embedders of a folder, by the towers and names that `embedder_of` has loaded."""
    with contextlib.ExitStack() as stack:
        made = [ShardEmbedder(out, tower, own, model=name) for name, (tower, own) in towers.items()]
        for embedder in made:
            stack.enter_context(contextlib.closing(embedder))
        yield made


def _check_bounds(flag: flags.FlagHolder, low: float, high: float) -> None:
    if flag.value is not None and not low <= flag.value <= high:
        raise UserError(f"--{flag.name}={flag.value} must be from {low:g} to {high:g}")


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
    audio = flags.DEFINE_bool("audio", False, "Keep the sound tracks, too.")
    strict = flags.DEFINE_bool("strict", False, "Count videos that are cut short as failed.")
    refresh = flags.DEFINE_bool("refresh", False, "Decode videos anew whose files have changed.")
    questions = flags.DEFINE_string(
        "questions", None, "Question file; segments that it asks about become videos."
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
        _check_bounds(quality, 1, 95)
        _check_bounds(max_side, *SIDES)
        _check_bounds(workers, 1, 1024)
        _check_bounds(fps, *RATES)
        if runner_options.value and not runner.value:
            raise UserError("--runner_options are of --runner, which is not given")
        # Loaded before decoding, so that a wrong path is not found out hours later.
        towers = {name: embedder_of(epath.Path(path), name) for name, path in given.items()}
        settings = DecodeSettings(fps.value, max_side.value, quality.value, audio.value)
        beam = []
        if runner.value:
            beam = options_of(runner.value, runner_options.value, workers.value or cores())
        if manifest.value:
            with _embedders(out.value, towers) as embedders:
                total, num_failed = predecode(
                    manifest.value,
                    out.value,
                    settings,
                    workers.value or 0,
                    embedders,
                    refresh=refresh.value,
                    strict=strict.value,
                    questions=questions.value,
                    beam=beam,
                )
        else:
            total, num_failed = len(RecordReader(out.value, "").ids), 0
        for name, (encode, own) in towers.items():  # of shards that an earlier run has made
            embed_records(out.value, encode, own, model=name)
        failures = epath.Path(out.value) / FAILURES
        ending = f"; {num_failed} failed, see {failures}" if num_failed else ""
        print(f"{out.value}: {total} videos{ending}")

    run_app(start)
