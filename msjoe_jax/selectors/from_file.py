"""Frames that another tool has chosen: from its file to a selector.

Files are JSON or JSON lines, in one of these forms:

    rows {"id": …, "times": [s, …]}           one a question; our own samples.jsonl is one
    {id: row}, {id: [frame, …]}               the same by id
    {video: [rows]}                           BOLT's, whose "frames" are seconds
    [[source frame, …], …]                    AKS's and FOCUS's: in the order of the questions

A row's question is its `id`, `question_id`, `qid`, `uid` or `problem_id`, if its text, where it has
one, is the question's; where that is none of the questions', or stands in several rows (as in
TSPO's file of MLVU), its video and its text, and of texts that are alike the options. Its
frames are under a name that says the unit (`FIELDS`), or under `frames` with `unit` beside it.
Source frames are numbers of frames in the video file; they become seconds by the row's `fps`, or by
the mean rate that `msjoe predecode` has noted, and then the nearest candidate.
"""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from etils import epath
from jaxtyping import Int

from msjoe_jax.data.pipeline import uniform_indices
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader, VideoInfo
from msjoe_jax.errors import UserError
from msjoe_jax.selectors.base import Candidates, Selection, Selector
from msjoe_jax.text.characters import visible, without_letters

IDS = ("id", "question_id", "qid", "uid", "problem_id")
OPTIONS = ("candidates", "options", "choices")
VIDEOS = ("video", "videoID", "video_path", "video_name", "video_id", "path", "video_uid",
          "video_key", "key")  # fmt: skip
UNITS = ("seconds", "source", "candidate")
# Fields of a row that hold frames, by their unit.
FIELDS = {
    "times": "seconds",
    "seconds": "seconds",
    "frame_idx": "source",
    "source_frames": "source",
    "selected_frames": "source",
    "candidate_indices": "candidate",
}
ENOUGH = 20  # letters and digits of a question that a longer text may hold
SLACK = 0.5  # seconds beyond a video's end that a mean rate may be wrong by


class FileSelection(NamedTuple):
    """What a file says of the questions asked.

    selector: shows these frames; longest: the most frames of a question, which K must not be below;
    note: a line that says what was read, and how far the frames are from candidates.
    """

    selector: Selector
    longest: int
    note: str


class _Row(NamedTuple):
    """One question's frames: where they stand in the file, and in what unit."""

    where: str
    frames: list[float]
    unit: str
    fps: float | None
    names: tuple[str, ...] = ()
    video: str = ""
    text: str = ""
    options: tuple[str, ...] = ()


def read_selection(
    path: epath.PathLike,
    questions: Sequence[Question],
    reader: RecordReader,
    candidates: int,
    *,
    limit: int = 0,
    unit: str = "",
) -> FileSelection:
    """Reads a file of frames and maps them to candidates.

    Args:
      path: the file.
      questions: all of the task's file, in its order.
      reader: the record folder of their videos.
      candidates: T, the most candidates of a video; a longer one is thinned.
      limit: the first questions only are asked and needed; 0: all.
      unit: of frames under `frames` whose row states none: one of `UNITS`.

    Raises:
      UserError: the file cannot be read, lacks a question, has one twice, a frame outside its
        video, or frames in an unknown unit; or source frames of a video whose rate is not known.
    """
    name = os.fspath(path)
    if unit and unit not in UNITS:
        raise UserError(f"unit {unit!r} is unknown; it is one of {', '.join(UNITS)}")
    rows = _rows(name, unit, len(questions))
    asked = questions[: limit or None]
    # Questions of videos that are missing or damaged are dropped, and told of, later.
    infos = {info.id: info for info in reader.infos(question.video for question in asked)}
    matched = _matched(name, rows, asked, infos)
    if empty := [(row.where, question.id) for question, row in matched if not row.frames]:
        where, first = empty[0]
        raise UserError(
            f"{where}: question {first} has an empty list of frames, as {len(empty)} of the "
            f"{len(matched)} asked have; leave them out of the questions"
        )
    places: dict[str, np.ndarray] = {}
    errors: list[tuple[float, str]] = []
    for question, row in matched:
        info = infos[question.video]
        times = info.timestamps[uniform_indices(candidates, info.num_frames)]
        places[question.id], error = _places(row, question, info, times)
        errors += [(error, question.id)] if row.unit != "candidate" else []
    counts = [len(frames) for frames in places.values()]
    note = f"{name}: {sum(counts)} frames of {len(counts)} questions"
    if errors:
        error, worst = max(errors)
        note += f", mapped by time; the largest error is {error:.3f} s (question {worst})"
    return FileSelection(_selector(name, places), max(counts, default=0), note)


def _selector(name: str, places: Mapping[str, np.ndarray]) -> Selector:
    def select(candidates: Candidates, k: int) -> Selection:
        B, I = len(candidates.queries), len(candidates.queries[0])
        frames = np.full((B, I, candidates.num_draws, k), -1, np.int32)
        for b, question in enumerate(candidates.questions):
            own = places.get(question.id, np.zeros(0, np.int32))
            if len(own) > k:
                raise UserError(
                    f"{name}: question {question.id} has {len(own)} frames, more than the {k} "
                    "that are shown; raise the number of key frames"
                )
            frames[b, ..., : len(own)] = own
        return Selection(frames=frames)

    return Selector(select)


# --- the file -------------------------------------------------------------------------------------


def _rows(name: str, unit: str, number: int) -> list[_Row]:
    content = _content(name)
    if isinstance(content, dict) and _is_by_id(list(content.values())):
        content = [
            {"id": key, **(entry if isinstance(entry, dict) else {"frames": entry})}
            for key, entry in content.items()
        ]
    if isinstance(content, dict) and content and all(isinstance(v, list) for v in content.values()):
        return [
            _row(f"{name}, video {video}, entry {i}", row, unit or "seconds", video)
            for video, entries in content.items()
            for i, row in enumerate(entries, 1)
        ] or _none(name)
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list) or not content:
        _none(name)
    if isinstance(content[0], list):
        if len(content) != number:
            raise UserError(
                f"{name}: holds {len(content)} lists without question ids, and there are {number} "
                "questions; it must be made from the same file, with no row refused or repeated"
            )
        return [
            _row(f"{name}, entry {i}", {"frames": row}, unit or "source")
            for i, row in enumerate(content, 1)
        ]
    rows = [_row(f"{name}, entry {i}", row, unit) for i, row in enumerate(content, 1)]
    for row in rows:
        if not row.names and not row.text:
            raise UserError(f"{row.where}: of which question? None of {', '.join(IDS)} is there")
    return rows


def _none(name: str) -> NoReturn:
    raise UserError(f"{name}: holds no list of frames by question")


def _is_by_id(values: Sequence[Any]) -> bool:
    """Says whether what stands under names are a question's frames each, or rows that have them."""
    if values and all(isinstance(value, dict) for value in values):
        return all(any(field in value for field in (*FIELDS, "frames")) for value in values)
    lists = [value for value in values if isinstance(value, list)]
    return (
        len(lists) == len(values)
        and any(lists)
        and all(_is_number(x) for row in lists for x in row)
    )


def _content(name: str) -> Any:
    try:
        text = epath.Path(name).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise UserError(f"{name}: not UTF-8 text; save it as UTF-8 JSON") from None

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Makes an object of JSON, in which Python would let the last of equal names count."""
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [key for key, _ in pairs]
            twice = next(key for key in found if names.count(key) > 1)
            raise UserError(f"{name}: {twice!r} stands there twice in one object; keep one of them")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):  # several lines, each with an object
        rows = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    rows.append(json.loads(line, object_pairs_hook=once))
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{name}:{number}: not JSON ({error})") from None
        return rows


def _row(where: str, row: Any, unit: str, video: str = "") -> _Row:
    if not isinstance(row, dict):
        raise UserError(f"{where}: not a JSON object with a question's frames")
    field = next((field for field in FIELDS if field in row), "frames")
    if field not in row:
        raise UserError(f"{where}: no frames; they stand under {', '.join(FIELDS)} or frames")
    unit = FIELDS.get(field) or row.get("unit") or unit
    if unit not in UNITS:
        said = f"{unit!r} is none" if unit else "it states no unit"
        raise UserError(f"{where}: frames of what unit? {said} of {', '.join(UNITS)}")
    frames, fps = row[field], row.get("fps")
    if not isinstance(frames, list) or not all(_is_number(frame) for frame in frames):
        raise UserError(f"{where}: field {field!r} must be a list of numbers")
    if fps is not None and not (_is_number(fps) and fps > 0):
        raise UserError(f"{where}: field 'fps' is {fps!r}, not a positive number")
    text = row.get("question")
    return _Row(
        where=where,
        frames=[float(frame) for frame in frames],
        unit=unit,
        fps=fps,
        names=tuple(str(row[key]) for key in IDS if row.get(key) is not None),
        video=video or next((str(row[key]) for key in VIDEOS if row.get(key)), ""),
        text=text if isinstance(text, str) else "",
        options=_options(row, text if isinstance(text, str) else ""),
    )


def _options(row: Mapping[str, Any], text: str) -> tuple[str, ...]:
    """Returns a row's options as they are compared: of a field, or the lines below its question."""
    field = next((row[name] for name in OPTIONS if isinstance(row.get(name), list)), None)
    lines = [line for line in _PLACEHOLDER.sub("", text).split("\n")[1:] if line.strip()]
    return _seen(lines if field is None else list(map(str, field)))


def _seen(options: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(visible, without_letters(options)))


def _is_number(value: Any) -> bool:
    """Says whether a JSON value is a number that a frame may have: neither NaN nor huge."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15


# --- rows to questions, frames to candidates ------------------------------------------------------


def _matched(
    name: str, rows: Sequence[_Row], asked: Sequence[Question], there: Collection[str]
) -> list[tuple[Question, _Row]]:
    """Returns every question of the videos that are there, and its row."""
    if not any(row.names or row.text for row in rows):
        return [(q, row) for q, row in zip(asked, rows, strict=False) if q.video in there]
    asked = [question for question in asked if question.video in there]
    by_name: dict[str, list[_Row]] = {}
    by_text: dict[tuple[str, str], list[_Row]] = {}
    for row in rows:
        for key in set(row.names):
            by_name.setdefault(key, []).append(row)
        by_text.setdefault(_key(row.video, row.text), []).append(row)
    out = []
    for question in asked:
        named = by_name.get(question.id, [])
        found = [row for row in named if _agrees(row, question)]
        if len(found) != 1:
            found = by_text.get(_key(question.video, question.question), found)
        if len(found) > 1:
            same = _seen(question.options)
            found = [row for row in found if row.options == same] or found
        if len(found) > 1:
            places = " and ".join(row.where.removeprefix(name).lstrip(", ") for row in found[:2])
            raise UserError(
                f"{name}: question {question.id} stands there twice ({places}); keep one of them"
            )
        if not found:
            other = f"; {named[0].where} has its id and another question's text" if named else ""
            raise UserError(
                f"{name}: question {question.id} is missing; all that are asked must be there"
                f"{other}"
            )
        out.append((question, found[0]))
    return out


def _agrees(row: _Row, question: Question) -> bool:
    """Says whether a row's text, if it has one, is the question's, alone or among other words."""
    asked = _letters(_first_line(question.question))
    return (
        not row.text
        or _letters(_first_line(row.text)) == asked
        or (len(asked) >= ENOUGH and asked in _letters(row.text))
    )


def _letters(text: str) -> str:
    seen = visible(text)
    return "".join(c for c in seen.casefold() if c.isalnum()) or seen


_PLACEHOLDER = re.compile(r"^\s*(?:<(?:image|video)>\s*)*(?:Question:\s*)?")


def _first_line(text: str) -> str:
    return _PLACEHOLDER.sub("", text).split("\n")[0]


def _key(video: str, text: str) -> tuple[str, str]:
    """Names a question by its video, without folder and ending, and its text before the options."""
    stem = os.path.splitext(os.path.basename(video))[0]
    return stem, " ".join(_first_line(text).split())


def _places(
    row: _Row, question: Question, info: VideoInfo, times: np.ndarray
) -> tuple[Int[np.ndarray, "m"], float]:
    """Maps a row's frames to candidates in time order; returns the largest error in seconds too."""
    frames = np.sort(row.frames)
    if row.unit == "candidate":
        if (frames != np.floor(frames)).any() or frames[0] < 0 or frames[-1] >= len(times):
            raise UserError(
                f"{row.where}: question {question.id} names a candidate that is not one of "
                f"0 … {len(times) - 1}"
            )
        return frames.astype(np.int32), 0.0
    if row.unit == "source":
        rate = row.fps or info.source.rate
        if not rate:
            raise UserError(
                f"{row.where}: source frames of question {question.id} cannot be mapped, since the "
                f"rate of video {info.id} is not known; state 'fps' in the row, or decode it again"
            )
        frames = frames / rate - (info.source.start or 0.0)  # a segment has a clock of its own
    end = max(info.duration, times[-1])
    if frames[0] < 0 or frames[-1] > end + SLACK:
        outside = frames[0] if frames[0] < 0 else frames[-1]
        raise UserError(
            f"{row.where}: question {question.id} names a frame at {outside:.2f} s, outside of its "
            f"video of {end:.2f} s"
        )
    nearest = np.abs(frames[:, None] - times).argmin(1)
    return nearest.astype(np.int32), float(np.abs(frames - times[nearest]).max())
