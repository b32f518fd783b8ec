"""Brings questions, videos and subtitles together: every row is kept or left out with a reason."""

import dataclasses
import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Any, NamedTuple

from msjoe_jax.data.archives import CELL
from msjoe_jax.data.files_by_id import FilesById, agreement
from msjoe_jax.data.questions import Question, is_span, read_row, row_of
from msjoe_jax.data.segments import segment_id
from msjoe_jax.data.sources import VideoSource
from msjoe_jax.data.subtitles import Track, read_subtitles
from msjoe_jax.data.videos_by_id import VideosById, length_of
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.progress import progress
from msjoe_jax.tasks.own_rows import SEGMENT
from msjoe_jax.tasks.reading import LeftOut, Reading, file_of
from msjoe_jax.tasks.values import video_id

REFUSED, DUPLICATED, WITHOUT_VIDEO = "refused", "duplicated", "without video"
# Groups by a video's length: seconds below which each lies.
LENGTHS = {60: "under 1 min", 600: "1 to 10 min", 3600: "10 to 60 min", math.inf: "over 60 min"}
LATE = 1.0  # seconds: evidence may end so much after its video, as lengths are rounded
OPENED_AT_ONCE = 8
START = "starting_timestamp_for_subtitles"


class NotKept(NamedTuple):
    """A row that is not kept: why, in one of the three words above and in full; its question."""

    what: str
    row: LeftOut
    id: str = ""
    video: str = ""


class Video(NamedTuple):
    """A video that is asked about.

    source: what it is made from, but for its segment; seconds: its length, 0 if it is not known;
    segment: first and last second of the part of the file that it is, (): all; track: its
    subtitles.
    """

    source: VideoSource
    seconds: float
    segment: tuple[float, ...] = ()
    track: Track | None = None


class Imported(NamedTuple):
    """What a source gives.

    rows: of the source, which are questions or left out; questions: those kept; videos: theirs, by
    id; left_out: the others; dead: paths of videos that are asked about and cannot be opened;
    notes: how often something else is to be known; broken: cues of subtitles that cannot be read.
    """

    rows: int
    questions: list[Question]
    videos: dict[str, Video]
    left_out: list[NotKept]
    dead: dict[str, str]
    notes: dict[str, int]
    broken: list[str]


def bring_together(
    reading: Reading, videos: VideosById, subtitles: FilesById | None = None
) -> Imported:
    """Finds the videos of questions, and their subtitles.

    Args:
      reading: of the source.
      videos: what to look for them in.
      subtitles: files to look for these in; None: none are wanted.
    """
    left_out = [NotKept(REFUSED, row) for row in reading.refused]
    left_out += [NotKept(DUPLICATED, row) for row in reading.duplicated]
    sound, paths = [], {}

    def leave_out(what: str, question: Question, reason: str) -> None:
        row = LeftOut(reading.places[question.id], reason)
        left_out.append(NotKept(what, row, question.id, question.video))

    for question in reading.questions:
        try:
            # What is written has to be read again.
            read_row(json.loads(json.dumps(row_of(question))))
        except (UserError, ValueError) as error:
            leave_out(REFUSED, question, str(error))
            continue
        try:
            paths[question.id] = videos.find(question.video, file_of(question))
            sound.append(question)
        except UserError as error:
            leave_out(WITHOUT_VIDEO, question, str(error))
    for question, path in _of_others(sound, paths):
        where = file_of(question)
        leave_out(WITHOUT_VIDEO, question, f"{where} is not there; {path} is another's of its name")
    sound = [question for question in sound if question.id in paths]
    lengths, dead = _opened([videos.source(path) for path in sorted(set(paths.values()))])
    ids = _ids(lengths, videos.folder)
    kept, notes, found = [], Counter(reading.notes), dict[str, Video]()
    notes["files passed over, whose names are no UTF-8"] += len(videos.unnamed)
    for question in sound:
        path = paths[question.id]
        if path in dead:
            leave_out(WITHOUT_VIDEO, question, dead[path])
            continue
        segment = _segment(question.extra.get(SEGMENT))
        if segment and 0 < lengths[path] <= segment[0]:
            leave_out(REFUSED, question, f"the segment begins after the video, at {segment[0]:g} s")
            continue
        video = _video(videos.source(path), lengths[path], segment)
        name = segment_id(ids[path], *segment) if segment else ids[path]
        found[name] = video
        kept.append(_of_video(question, name, video.seconds, notes))
    broken: list[str] = []
    if subtitles is not None:
        found = _with_subtitles(found, kept, subtitles, notes, broken)
    return Imported(reading.rows, kept, found, left_out, dead, dict(notes), broken)


def _of_others(questions: Sequence[Question], paths: dict[str, str]) -> list[tuple[Question, str]]:
    """Takes a file away from questions about another one of its name, in another folder."""
    best: Counter[str] = Counter()
    common = {}
    for question in questions:
        path = paths[question.id]
        common[question.id] = agreement(path, file_of(question)) // 2
        best[path] = max(best[path], common[question.id])
    others = [
        (question, paths[question.id])
        for question in questions
        if not common[question.id]
        and best[paths[question.id]]
        and PurePath(file_of(question)).parent.name
    ]
    for question, _ in others:
        del paths[question.id]
    return others


def _opened(sources: Sequence[VideoSource]) -> tuple[dict[str, float], dict[str, str]]:
    """Opens videos; returns by path the seconds of each, and why others cannot be opened."""
    lengths, dead = {}, {}

    def opened(source: VideoSource) -> float | str:
        try:
            return length_of(source)
        except UserError as error:
            return str(error)

    with (
        ThreadPoolExecutor(OPENED_AT_ONCE) as pool,
        progress(f"open {len(sources)} videos", len(sources), unit="video") as bar,
    ):
        for source, found in zip(sources, pool.map(opened, sources), strict=True):
            bar.update()
            if isinstance(found, str):
                dead[source.path] = found
            else:
                lengths[source.path] = found
    return lengths, dead


def _ids(paths: Sequence[str] | dict[str, float], folder: str) -> dict[str, str]:
    """Returns the id of each video: its own name, with its folders if others have it."""
    same: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        same[own_name(path)].append(path)
    ids = {}
    for name, alike in same.items():
        for path in alike:
            inside = PurePath(os.path.relpath(path, folder))
            whole = inside.with_name(video_id(inside.name)).as_posix()
            ids[path] = name if len(alike) == 1 else whole
    return ids


def own_name(path: str) -> str:
    """Returns the name of a video without folders and ending, within an archive that of a member.

    A cell of a table has the table's name.
    """
    inside = VideoSource(path).inside
    return video_id(inside if inside and not CELL.fullmatch(inside) else path)


def _segment(value: Any) -> tuple[float, ...]:
    fits = isinstance(value, list) and len(value) == 2 and is_span(*value)
    return tuple(value) if fits else ()


def _video(source: VideoSource, length: float, segment: tuple[float, ...]) -> Video:
    if not segment:
        return Video(source, length)
    start, end = segment
    return Video(source, min(end, length or end) - start, segment)


def _of_video(question: Question, video: str, seconds: float, notes: Counter[str]) -> Question:
    """Returns a question with its video's id, and with the group of its video's length."""
    extra = dict(question.extra)
    groups = dict(extra.get("groups") or {})
    if seconds and not {"duration", "duration_group"} & set(groups):
        groups["duration_group"] = next(n for most, n in LENGTHS.items() if seconds < most)
    if seconds and any(end > seconds + LATE for _, end in question.evidence):
        notes["evidence that ends after its video"] += 1
    return dataclasses.replace(question, video=video, extra={**extra, "groups": groups})


def _with_subtitles(
    videos: dict[str, Video],
    questions: Sequence[Question],
    files: FilesById,
    notes: Counter[str],
    broken: list[str],
) -> dict[str, Video]:
    """Reads the subtitles of videos onto their clocks, and counts what cannot be read."""
    for what in ("videos with subtitles", "videos without subtitles", "subtitles"):
        notes[what] = 0  # in this order
    said: dict[str, dict[str, Any]] = defaultdict(dict)
    for question in questions:
        for name in ("subtitle_path", START):
            value = said[question.video].setdefault(name, question.extra.get(name))
            if value != question.extra.get(name):
                notes[f"questions whose {name} is not that of their video's first"] += 1
    made = {}
    for name, video in videos.items():
        start = said[name].get(START) or 0
        try:
            named = PurePath(str(said[name].get("subtitle_path") or "")).stem
            whole = name.rpartition("@")[0] if video.segment else name
            path = _subtitle_file(files, named, whole)
            if not isinstance(start, int | float) or not math.isfinite(start):
                raise UserError(f"{path}: field {START!r} is no number")
            start = float(start) + sum(video.segment[:1])
            track = read_subtitles(path, start, video.seconds or math.inf)
        except UserError as error:
            missing = str(error).startswith("no file")
            notes["videos without subtitles"] += missing
            if not missing:
                broken.append(str(error))
            made[name] = video
            continue
        made[name] = video._replace(track=track)
        broken += track.broken
        notes["videos with subtitles"] += 1
        notes["subtitles"] += len(track.subtitles)
        for what in ("empty", "outside", "merged"):
            notes[f"cues of subtitles that are {_WORDS[what]}"] += getattr(track, what)
        if track.encoding != "utf-8":
            notes[f"files of subtitles read as {track.encoding}"] += 1
    return made


_WORDS = {
    "empty": "empty",
    "outside": "outside their video",
    "merged": "part of the one before",
}


def _subtitle_file(files: FilesById, named: str, video: str) -> str:
    if named:
        try:
            return files.find(named)
        except UserError:
            pass
    return files.find_in_a_language(PurePath(video).name)
