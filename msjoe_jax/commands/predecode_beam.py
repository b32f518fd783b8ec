"""Predecode as an Apache Beam pipeline: more videos than one machine decodes (docs/predecode.md).

    videos ─ decode ─┬─ (bytes of each part) ─ plan ─ shards ─ pack ─┬─ result
                     └─ (why one failed) ────────────────────────────┘

The steps are those of the command without Beam (data/predecode.py), and so are the bytes. Each can
be done again: a part or a shard that is there whole is the same. What the pipeline has found out is
one file beside the parts, from which the command goes on where it was started.
"""

import contextlib
import dataclasses
import json
import os
import pickle
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.data.manifest import Entry
from msjoe_jax.data.predecode import DecodeSettings, Packer, hold_parts, pack, part_bytes
from msjoe_jax.data.record import shortfall
from msjoe_jax.data.shards import SHARD_BYTES
from msjoe_jax.data.workers import Board, Failure, Work
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import is_local, read_json, write_whole

LOCAL = "direct"  # the runner that starts processes on this machine
IN_PROCESS = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
VIDEOS, RESULT = "videos.pickle", "result.json"  # beside the parts
NO_BEAM = (
    "--runner needs Apache Beam, which asks for older packages than the rest does: `make beam`, or "
    "pip install 'msjoe_jax[beam]' in an environment of its own"
)


class Decoded(NamedTuple):
    """What became of a video, `number` in the list.

    Attributes:
      bytes: of its part.
      failure: why there is none.
      notes: what is to be said of it.
    """

    number: int
    entry: Entry
    bytes: int
    failure: Failure | None
    notes: tuple[str, ...] = ()


class Job(NamedTuple):
    """What every worker is told: where parts and shards go, and how to decode (see `Work`)."""

    out: str
    parts: str
    settings: DecodeSettings
    strict: bool


def decode_one(numbered: tuple[int, Entry], job: Job) -> Decoded:
    """Decodes a video into its part, on whatever machine this is."""
    number, entry = numbered
    work = Work(epath.Path(job.parts), job.settings, Board([0]), job.strict)
    with hold_parts(work.parts), fetched(entry) as here:
        failure = work.do(0, here)
        if failure:
            named = failure.reason.replace(os.fspath(here.path), os.fspath(entry.path))
            return Decoded(number, entry, 0, failure._replace(reason=named))
        info = work.info(entry)
        notes = (*info.source.notes, *filter(None, [shortfall(info)]))
        return Decoded(number, entry, part_bytes(work.parts, entry, job.settings), None, notes)


@contextlib.contextmanager
def fetched(entry: Entry) -> Iterator[Entry]:
    """Copies a video on object storage to this machine, with its time of change, for the block."""
    if is_local(entry.path):
        yield entry
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = epath.Path(folder) / entry.path.name
        if entry.path.exists():  # else whoever opens the copy says that it is missing
            entry.path.copy(copy)
            changed = entry.path.stat().mtime
            os.utime(copy, (changed, changed))
        yield dataclasses.replace(entry, path=copy)


def plan_shards(decoded: Iterable[Decoded], first: int) -> list[tuple[str, list[Entry]]]:
    """Returns the name and the videos of each new shard, filled in order as `Packer` fills them.

    Args:
      decoded: the videos, in any order.
      first: the number of the first shard.
    """
    shards: list[tuple[str, list[Entry]]] = []
    waiting: list[Entry] = []
    filled = 0
    good = (video for video in decoded if not video.failure)
    for video in sorted(good, key=lambda video: video.number):
        waiting.append(video.entry)
        filled += video.bytes
        if filled >= SHARD_BYTES:
            shards.append((f"{first + len(shards):05d}", waiting))
            waiting, filled = [], 0
    if waiting:
        shards.append((f"{first + len(shards):05d}", waiting))
    return shards


def pack_one(planned: tuple[str, list[Entry]], job: Job) -> dict[str, Any]:
    """Packs a shard from its parts, and returns the manifest's entry of it."""
    name, entries = planned
    with hold_parts(job.parts):
        return pack(job.out, name, job.parts, entries, job.settings)


def write_result(path: str, decoded: Iterable[Decoded], shards: Iterable[dict[str, Any]]) -> str:
    """Writes what the pipeline has found out: the shards, and the videos that failed."""
    found = sorted(decoded, key=lambda video: video.number)
    result = {
        "failed": [[video.number, *video.failure] for video in found if video.failure],
        "notes": [[video.number, *video.notes] for video in found if video.notes],
        "shards": sorted(shards, key=lambda shard: shard["name"]),
    }
    write_whole(path, json.dumps(result))
    return path


def read_videos(path: str) -> list[tuple[int, Entry]]:
    """Reads the videos to decode, which a description of a pipeline has no room for."""
    return list(enumerate(pickle.loads(epath.Path(path).read_bytes())))


def pipeline_of(root: Any, job: Job, first: int) -> Any:
    """Lays the steps behind the root of a Beam pipeline.

    Args:
      root: the pipeline.
      job: of all steps.
      first: the number of the first new shard.
    """
    import apache_beam as beam

    parts = epath.Path(job.parts)

    decoded = (
        root
        | "list" >> beam.Create([os.fspath(parts / VIDEOS)])
        | "videos" >> beam.FlatMap(read_videos)
        | "spread videos" >> beam.Reshuffle()
        | "decode" >> beam.Map(decode_one, job)
    )
    all_decoded = decoded | "all videos" >> beam.combiners.ToList()
    shards = (
        all_decoded
        | "plan" >> beam.FlatMap(plan_shards, first)
        | "spread shards" >> beam.Reshuffle()
        | "pack" >> beam.Map(pack_one, job)
        | "all shards" >> beam.combiners.ToList()
    )
    return (
        root
        | "result" >> beam.Create([os.fspath(parts / RESULT)])
        | "write"
        >> beam.Map(
            write_result,
            beam.pvalue.AsSingleton(all_decoded),
            beam.pvalue.AsSingleton(shards),
        )
    )


def options_of(runner: str, more: str, workers: int) -> list[str]:
    """Returns Beam's options: of `--runner`, of `--runner_options`, and those of the local one."""
    given = shlex.split(more)
    if runner != LOCAL:
        return [f"--runner={runner}", *given]
    # Beam's own default for "direct" starts a program that it downloads.
    own = [
        f"--runner={IN_PROCESS}",
        "--direct_running_mode=multi_processing",
        f"--direct_num_workers={workers}",
        "--default_sdk_harness_log_level=ERROR",
    ]
    return [*own, *given]


def run_pipeline(
    entries: Sequence[Entry], packer: Packer, strict: bool, options: Sequence[str]
) -> list[tuple[Entry, Failure | None, list[str]]]:
    """Decodes videos and packs them into the packer's next shards, by a Beam runner.

    On this machine the pipeline is run again where a worker has died, as long as each run has
    finished more parts than the one before; other runners try again by themselves.

    Args:
      entries: the videos.
      packer: of the folder.
      strict: whether a video that is short has failed.
      options: Beam's.

    Returns:
      The videos in order, with why they failed if they did, and what is to be said of them.

    Raises:
      UserError: Beam is not installed, or the pipeline failed.
    """
    try:
        from apache_beam import Pipeline
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UserError(NO_BEAM) from None
    job = Job(os.fspath(packer.out), os.fspath(packer.parts), packer.settings, strict)
    first, known = len(packer.shards), PipelineOptions(list(options))
    write_whole(packer.parts / VIDEOS, pickle.dumps(list(entries)))
    local = any(option == f"--runner={IN_PROCESS}" for option in options)
    while True:
        before = _number_of_parts(packer)
        try:
            with Pipeline(options=known) as root:
                pipeline_of(root, job, first)
            break
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            if not local or _number_of_parts(packer) == before:
                raise UserError(
                    f"{packer.out}: the pipeline failed: {reason}; what is finished is kept, "
                    "and the same command goes on"
                ) from None
            print(f"the pipeline failed: {reason}; the rest is done again", file=sys.stderr)
    result = read_json(packer.parts / RESULT)
    failed = {number: Failure(reason, disk) for number, reason, disk in result["failed"]}
    notes = {number: told for number, *told in result["notes"]}
    packer.take(result["shards"])
    return [(entry, failed.get(n), notes.get(n, [])) for n, entry in enumerate(entries)]


def _number_of_parts(packer: Packer) -> int:
    return sum(path.name.startswith("videos-") for path in packer.parts.iterdir())
