"""What a record folder holds: counts, durations, sizes, sources, warnings, embeddings, sheets."""

import base64
import collections
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from msjoe_jax.data.embed import EMBEDDERS, GOOD, states_of
from msjoe_jax.data.pipeline import uniform_indices
from msjoe_jax.data.questions import Question
from msjoe_jax.data.record import SHORT, VideoInfo, shortfall
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.shards import encode_jpeg
from msjoe_jax.data.signals import signal_names
from msjoe_jax.errors import UserError
from msjoe_jax.report.figures import clock
from msjoe_jax.report.inspection import Bars, Fact, Facts, Listing, Part, Sheet
from msjoe_jax.report.looks import Look
from msjoe_jax.runtime.files import is_local

FAILURES = "failures.jsonl"
SHOWN = 20  # rows of a table
WIDTH, QUALITY = 160, 70  # of a thumbnail, in pixels
# Durations in seconds up to which a bar of the histogram goes.
DURATIONS = (10, 30, 60, 180, 600, 1800, 3600, 3 * 3600, float("inf"))
MOST_IN_EVIDENCE = 16  # frames of a sheet that are added to the evenly spaced ones


def inspect_records(reader: RecordReader, wrong: Sequence[str] | None = None) -> list[Part]:
    """Counts what a folder holds.

    Args:
      reader: of the folder.
      wrong: what `verify.wrong_shards` has found; None: it was not looked for.
    """
    infos = reader.infos(reader.ids)
    damaged = [_unread(reader, video) for video in _absent(reader, infos)]
    failures = list(_failures(reader.directory))
    parts = [
        _facts(reader, infos, damaged, failures, wrong),
        durations(infos),
        _sizes(reader),
        _warnings(infos),
        _embeddings(reader),
        *_sources(infos),
    ]
    if wrong:
        parts.append(_listing("damaged shards", ("what",), [(line,) for line in wrong]))
    if damaged:
        parts.append(_listing("damaged records", ("video", "why"), damaged))
    if short := [(info.id, why) for info in infos if (why := shortfall(info))]:
        parts.append(_listing("short videos", ("video", "why"), short))
    for title, key in (("failed videos", "reason"), ("warnings of the decoding", "warning")):
        rows = [(row.get("id"), row.get("video"), row[key]) for row in failures if key in row]
        if rows:
            parts.append(_listing(title, ("id", "video", key), rows))
    parts.append(
        _listing("videos", ("video", "frames", "duration", "size", "source"), _rows(infos))
    )
    return parts


def video_sheet(
    reader: RecordReader, video: str, frames: int, questions: Iterable[Question] = ()
) -> Sheet:
    """Makes the contact sheet of a video; windows are those of all its questions.

    Args:
      reader: of the folder.
      video: its id.
      frames: how many frames are shown, evenly spaced; those of the windows come in addition.
      questions: of any videos.

    Raises:
      UserError: there is no such video, or its record is damaged.
    """
    asked = [question for question in questions if question.video == video]
    windows = tuple(sorted({span for question in asked for span in question.evidence}))
    empty = Question(video, video, f"Video {video}", (), None, evidence=windows)
    notes = [f"{question.id}: {question.question}" for question in asked[:SHOWN]]
    notes += [f"and {len(asked) - SHOWN} more questions"] if len(asked) > SHOWN else []
    return _sheet(reader, empty, frames, notes)


def question_sheet(reader: RecordReader, question: Question, frames: int) -> Sheet:
    """Makes the contact sheet of a question; for the arguments see `video_sheet`.

    Raises:
      UserError: its video is not there, or its record is damaged.
    """
    difficulty = question.difficulty
    notes = [] if difficulty is None else [f"pass rate of the base model: {difficulty:g}"]
    return _sheet(reader, question, frames, notes)


def durations(infos: Iterable[VideoInfo]) -> Bars:
    """Returns the histogram of videos' durations."""
    counts = collections.Counter(
        next(end for end in DURATIONS if info.duration <= end) for info in infos
    )
    bars, low = [], 0.0
    for end in DURATIONS:
        name = f"up to {clock(end)}" if np.isfinite(end) else f"over {clock(low)}"
        bars.append((name, counts[end]))
        low = end
    return Bars("durations", bars)


def _facts(
    reader: RecordReader,
    infos: Sequence[VideoInfo],
    damaged: Sequence[Any],
    failures: Sequence[dict[str, Any]],
    wrong: Sequence[str] | None,
) -> Facts:
    lengths = [info.duration for info in infos]
    listed = sum(len(shard["videos"]) for shard in reader.shards)
    checked = "not looked for (--verify)" if wrong is None else len(wrong)
    rows = [
        Fact("folder", str(reader.directory)),
        Fact("videos", len(reader.ids)),
        Fact("frames", sum(info.num_frames for info in infos)),
        Fact("duration", float(sum(lengths)), "s"),
        Fact("shortest", min(lengths, default=None), "s"),
        Fact("median", float(np.median(lengths)) if lengths else None, "s"),
        Fact("longest", max(lengths, default=None), "s"),
        Fact("shards", len(reader.shards)),
        Fact("replaced records", listed - len(reader.ids)),
        Fact("damaged records", len(damaged)),
        Fact("damaged shards", checked),
        Fact("failed videos", sum("reason" in row for row in failures)),
        Fact("videos with warnings", sum(bool(info.source.warnings) for info in infos)),
        Fact(f"videos short of over {SHORT:.0%}", sum(bool(shortfall(info)) for info in infos)),
        Fact("videos with sound tracks", sum(bool(i.sound_check) for i in infos)),
        Fact("videos with subtitles", sum(bool(info.subtitles) for info in infos)),
        Fact("videos with a hash of their source", sum(bool(i.source.sha256) for i in infos)),
    ]
    settings = [Fact(f"setting {name}", value) for name, value in sorted(reader.settings.items())]
    return Facts("records", rows + settings)


def _sizes(reader: RecordReader) -> Listing:
    """The bytes of each kind of file, and how many there are."""
    kinds: dict[str, list[int]] = collections.defaultdict(list)
    for path in sorted(reader.directory.iterdir()):
        if path.name.endswith(".arrayrecord"):
            kinds[path.name.rpartition("-")[0]].append(path.stat().length)
    rows = [(kind, len(sizes), Fact("", sum(sizes), "B")) for kind, sizes in kinds.items()]
    return Listing("files", ("kind", "files", "size"), rows)


def _warnings(infos: Iterable[VideoInfo]) -> Listing:
    times: collections.Counter[str] = collections.Counter()
    videos: collections.Counter[str] = collections.Counter()
    for info in infos:
        times.update(info.source.warnings)
        videos.update(info.source.warnings.keys())
    rows = [(kind, videos[kind], number) for kind, number in times.most_common()]
    return Listing("warnings", ("kind", "videos", "times"), rows)


def _embeddings(reader: RecordReader) -> Listing:
    """The models and signals, and of how many shards there are numbers."""
    rows: list[tuple[Any, ...]] = []
    for model in EMBEDDERS:
        for name in reader.embedders(model):
            own = RecordReader(reader.directory, **{"clip": "", model: name})
            states = collections.Counter(states_of(own, model).values())
            rest = ", ".join(f"{n} {state}" for state, n in sorted(states.items()) if state != GOOD)
            rows.append((f"{model}-{name}", states[GOOD], len(reader.shards), rest))
    for name in signal_names(reader):
        there = sum((reader.files / f"signal-{name}-{s['name']}.arrayrecord").is_file()
                    for s in reader.shards)  # fmt: skip
        rows.append((f"signal-{name}", there, len(reader.shards), ""))
    return Listing("embeddings and signals", ("name", "shards", "of", "the rest"), rows)


def _sources(infos: Sequence[VideoInfo]) -> Iterator[Part]:
    for title, values in (
        ("frame sizes", (f"{info.width}x{info.height}" for info in infos)),
        ("frames a second of the sources", (f"{info.source.rate:.5g}" for info in infos)),
        ("decoders", (info.source.decoder or "not stated" for info in infos)),
        ("user fields", (name for info in infos for name in info.extra)),
    ):
        counts = collections.Counter(values).most_common()
        note = f"and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
        if counts:
            yield Bars(title, counts[:SHOWN], note)


def _rows(infos: Sequence[VideoInfo]) -> list[tuple[Any, ...]]:
    return [
        (i.id, i.num_frames, Fact("", i.duration, "s"), f"{i.width}x{i.height}", i.source.video)
        for i in infos
    ]


def _listing(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Listing:
    return Listing(title, head, rows[:SHOWN], max(0, len(rows) - SHOWN))


def _absent(reader: RecordReader, infos: Iterable[VideoInfo]) -> list[str]:
    read = {info.id for info in infos}
    return [video for video in reader.ids if video not in read]


def _unread(reader: RecordReader, video: str) -> tuple[str, str]:
    try:
        reader.info(video)
    except UserError as error:
        return video, str(error)
    return video, "could be read at the second time"


def _failures(folder: epath.Path) -> Iterator[dict[str, Any]]:
    file = folder / FAILURES
    if not (is_local(folder) and file.exists()):
        return
    for line in file.read_bytes().decode("utf-8", "replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        yield row if isinstance(row, dict) else {"warning": f"{file}: a line that is not JSON"}


def _sheet(reader: RecordReader, question: Question, count: int, notes: Sequence[str]) -> Sheet:
    info = reader.info(question.video)
    even = [int(place) for place in uniform_indices(count, info.num_frames)]
    inside = [
        place
        for place in range(info.num_frames)
        if any(start <= info.timestamps[place] <= end for start, end in question.evidence)
    ]
    chosen = {"evenly spaced": tuple(even)}
    if inside:
        taken = uniform_indices(MOST_IN_EVIDENCE, len(inside))
        chosen["in the evidence"] = tuple(inside[place] for place in taken)
    said = []
    thumbnails: dict[int, str] = {}
    for place in sorted({place for places in chosen.values() for place in places}):
        try:
            thumbnails[place] = _thumbnail(reader, info, place)
        except UserError as error:
            said.append(f"frame {place}: {error}")
    subtitles = [*info.subtitles, *question.subtitles]
    said += [f"{clock(s.start)}–{clock(s.end)} “{s.text}”" for s in subtitles[:SHOWN]]
    if len(subtitles) > SHOWN:
        said.append(f"and {len(subtitles) - SHOWN} more subtitles")
    for start, end in question.evidence:
        if end > info.duration + 1:
            said.append(f"evidence {clock(start)}–{clock(end)} ends after the video")
    look = Look(
        id=question.id,
        question=question.question,
        options=question.options,
        gold=question.letter,
        video=question.video,
        times=np.asarray(info.timestamps),
        queries={},
        similarity={},
        logits={},
        frames=chosen,
        evidence=question.evidence,
        thumbnails=thumbnails,
    )
    return Sheet(look, [*notes, *said])


def _thumbnail(reader: RecordReader, info: VideoInfo, place: int) -> str:
    scale = min(1.0, WIDTH / info.width)
    size = max(1, round(info.height * scale)), max(1, round(info.width * scale))
    return base64.b64encode(encode_jpeg(reader.frames(info.id, [place], size)[0], QUALITY)).decode()
