"""Subtitles: SRT, WebVTT and the JSON of benchmarks, read as spans of a video with their text.

JSON is a list of objects, or one a line: `start`, `end` and `line` or `text` ("hh:mm:ss.mmm" or
seconds), `timestamp` ([first second, last second or null]) and `text`, or `start_time`, `end_time`
and `text` of single words, which are joined to lines. Every cue of a file is kept or counted.
"""

import codecs
import html
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.data.questions import Question, Subtitle, is_span, is_unicode, read_details
from msjoe_jax.data.record import VideoInfo
from msjoe_jax.errors import UserError
from msjoe_jax.text.characters import visible

ENDINGS = (".srt", ".vtt", ".json", ".jsonl")
MOMENT = 1.0  # seconds: subtitles are shown that overlap so much around a frame
# Seconds. Words are one line up to a pause, the end of a sentence with a breath, or a full line.
PAUSE, BREATH, LINE = 0.5, 0.1, 8.0
UNKNOWN_END = 2.0  # what a last cue lasts that does not say it
ROLLING = 0.1  # cues so close repeat what is still shown, as captions that roll do

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_TIME = r"(?:(\d+)\s*:\s*)?(\d+)\s*:\s*(\d{1,2})(?:\s*[.,:]\s*(\d+))?"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?$")
_ARROW = re.compile(r"^[\s\d:.,;-]*\d[\s\d:.,;-]*-->|-->\s*[\d:.,;-]*\d\s*(?:$|\s)")
_CLOCK = re.compile(rf"\s*{_TIME}\s*$")
_TAGS = re.compile(r"</?[A-Za-z][^<>]*>|<\d[\d:.]*>|\{\\[^{}]*\}")
_BREAKS = re.compile(r"\\[Nn]|<br\s*/?>", re.IGNORECASE)
_VTT_BLOCKS = ("NOTE", "STYLE", "REGION")
_STARTS, _ENDS, _TEXTS = ("start", "start_time"), ("end", "end_time"), ("line", "text")


class Track(NamedTuple):
    """The subtitles of a file, on the video's clock, by their start.

    cues: how many the file has, which are subtitles or one of these: broken (a line each: place and
    reason); empty; outside the video; merged into the one before. encoding: of the file, as found.
    """

    subtitles: tuple[Subtitle, ...]
    cues: int
    broken: tuple[str, ...]
    empty: int
    outside: int
    merged: int
    encoding: str


class _Cue(NamedTuple):
    """A cue: its place, its seconds (end NaN: not said) and its lines; fault: why it is broken."""

    place: str
    start: float
    end: float
    lines: tuple[str, ...]
    fault: str = ""


def read_subtitles(path: epath.PathLike, start: float = 0.0, duration: float = math.inf) -> Track:
    """Reads a file of subtitles.

    Args:
      path: the file; its form is told by its contents.
      start: second of the subtitles' clock that is the video's second 0.
      duration: of the video, in seconds; later cues are outside.

    Raises:
      UserError: the file cannot be read, or holds no cue whose times can be.
    """
    text, encoding = decoded(read_bytes(path))
    cues, words = _cues_of(str(path), text)
    if all(cue.fault for cue in cues):
        first = f" (the first of {len(cues)}: {cues[0].place}: {cues[0].fault})" if cues else ""
        raise UserError(f"{path}: holds no subtitles; SRT, WebVTT and JSON can be read{first}")
    track = _track(cues, words, start, duration)
    return track._replace(encoding=encoding)


def read_bytes(path: epath.PathLike) -> bytes:
    """Reads the bytes of a file of subtitles.

    Raises:
      UserError: it cannot be read, or is a pipe or the like, which might be read for ever.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise UserError(f"{path}: no regular file")
        return epath.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def decoded(data: bytes) -> tuple[str, str]:
    """Decodes a text file: by its byte order mark, as UTF-8 or UTF-16, else as Windows-1252.

    Returns:
      The text, and the encoding's name.
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            return data.decode(name, "replace"), name.removesuffix("-sig")
    # Letters of most scripts' files have zeros at every second byte, and UTF-8 text has none.
    for name, zeros in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        if zeros.count(0) > len(data) / 8:
            return data.decode(name, "replace"), name.rpartition("-")[0]
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        pass
    try:
        return data.decode("cp1252"), "windows-1252"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"


def shown_at(subtitles: Sequence[Subtitle], times: Sequence[float]) -> tuple[str, ...]:
    """Returns the texts that overlap `MOMENT` around one of these times, each once, in order."""
    half = MOMENT / 2
    return tuple(
        dict.fromkeys(
            line.text
            for line in subtitles
            if any(line.start <= time + half and line.end >= time - half for time in times)
        )
    )


def of_video(question: Question, info: VideoInfo) -> tuple[Subtitle, ...]:
    """Returns a question's subtitles, or else those that its video's record holds.

    Args:
      question: of the video.
      info: of the record; where it has none itself, `subtitles` of the user's own fields count, if
        they are as in a question file.
    """
    if question.subtitles or info.subtitles:
        return question.subtitles or info.subtitles
    try:
        return read_details({"subtitles": info.extra.get("subtitles", [])})["subtitles"]
    except UserError:
        return ()


# --- cues of a file -------------------------------------------------------------------------------


def _cues_of(path: str, text: str) -> tuple[list[_Cue], bool]:
    """Finds the cues of a file, and whether they are single words."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    if text.lstrip()[:1] in ("[", "{"):
        rows = _json_rows(path, text)
        if rows is not None:
            cues = [_json_cue(place, row) for place, row in rows]
            words = any(isinstance(row, dict) and "start_time" in row for _, row in rows)
            return cues, words
    return list(_text_cues(path, text.split("\n"), text.startswith("WEBVTT"))), False


def _text_cues(path: str, lines: list[str], vtt: bool) -> Iterator[_Cue]:
    """Yields the cues of SRT, or of WebVTT, where a blank line ends a cue.

    In SRT text may go on after a blank line; a lone number there begins a cue without times.
    """
    cue: _Cue | None = None  # that is being read
    fresh, skipped = True, False  # after a blank line; in a block without times that is told
    for number, line in enumerate(lines, 1):
        place, text = f"{path}:{number}", line.strip()
        following = lines[number] if number < len(lines) else ""
        if not text:
            fresh = True
            if vtt and cue is not None:
                yield cue
                cue = None
        elif _ARROW.search(line):
            if cue is not None:
                yield cue
            cue, skipped = _timed(place, line), False
            if cue.fault:
                yield cue
                cue, skipped = None, True
            fresh = False
        elif _ARROW.search(following) and (vtt or text.isdecimal()):
            fresh = False  # the number or the name of the next cue
        elif vtt:
            if cue is not None:
                cue = cue._replace(lines=(*cue.lines, line))
            fresh = False
        elif fresh and (text.isdecimal() or (cue is None and not skipped)):
            if cue is not None:
                yield cue
            yield _Cue(place, 0, 0, (), "no times")
            cue, skipped, fresh = None, True, False
        else:
            if cue is not None:
                cue = cue._replace(lines=(*cue.lines, line))
            fresh = False
    if cue is not None:
        yield cue


def _timed(place: str, line: str) -> _Cue:
    found = _TIMES.match(line)
    if not found:
        return _Cue(place, 0, 0, (), f"times {line.strip()[:60]!r} cannot be read")
    start, end = _seconds(found.groups()[:4]), _seconds(found.groups()[4:])
    if start is None or end is None:
        return _Cue(place, 0, 0, (), f"times {line.strip()[:60]!r} cannot be read")
    if end < start:
        return _Cue(place, 0, 0, (), f"ends before it starts ({line.strip()[:60]})")
    return _Cue(place, start, end, ())


def _seconds(parts: Sequence[str | None]) -> float | None:
    hours, minutes, seconds, fraction = parts
    if int(seconds or 0) > 59 or (hours is not None and int(minutes or 0) > 59):
        return None
    whole = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)
    if whole > 1e9:
        return None
    return float(f"{whole}.{fraction or 0}")


def _json_rows(path: str, text: str) -> list[tuple[str, Any]] | None:
    """Returns the cues of JSON with their places; None if it is no JSON."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        lines = [(f"{path}:{i}", line) for i, line in enumerate(text.split("\n"), 1)]
        rows = [(place, _loaded(line)) for place, line in lines if line.strip()]
        return rows if any(isinstance(row, dict) for _, row in rows) else None
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        content = content.get("segments", lists[0] if len(lists) == 1 else [content])
    rows = content if isinstance(content, list) else [content]
    return [(f"{path}: cue {number}", row) for number, row in enumerate(rows, 1)]


def _loaded(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _json_cue(place: str, row: Any) -> _Cue:
    if not isinstance(row, dict):
        return _Cue(place, 0, 0, (), "not a JSON object")
    span = row.get("timestamp")
    if isinstance(span, list) and len(span) == 2:
        start, end = span
    else:
        start, end = (
            next((row[name] for name in names if row.get(name) is not None), None)
            for names in (_STARTS, _ENDS)
        )
    text = next((row[name] for name in _TEXTS if name in row), None)
    if not isinstance(text, str) or not is_unicode(text):
        return _Cue(place, 0, 0, (), "no text")
    first, last = _json_seconds(start), math.nan if end is None else _json_seconds(end)
    if first is None or last is None:
        return _Cue(place, 0, 0, (), f"times {start!r:.30} to {end!r:.30} cannot be read")
    if last < first:
        return _Cue(place, 0, 0, (), f"ends before it starts ({start!r:.30} to {end!r:.30})")
    return _Cue(place, first, last, tuple(text.split("\n")))


def _json_seconds(value: Any) -> float | None:
    if isinstance(value, str):
        found = _CLOCK.match(value)
        if found:
            return _seconds(found.groups())
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if is_span(value, value) and value < 1e9 else None


# --- lines of a video -----------------------------------------------------------------------------


def _track(cues: Sequence[_Cue], words: bool, start: float, duration: float) -> Track:
    """Makes the subtitles of cues; `words`: these are single words."""
    broken = tuple(f"{cue.place}: {cue.fault}" for cue in cues if cue.fault)
    timed = sorted((cue for cue in cues if not cue.fault), key=lambda cue: cue.start)
    empty = outside = merged = 0
    kept: list[tuple[Subtitle, list[str]]] = []
    for cue, end in zip(timed, _ends(timed, start + duration), strict=True):
        first, last = cue.start - start, end - start
        lines = [line for line in map(_plain, cue.lines) if line]
        if not lines:
            empty += 1
            continue
        if last < 0 or first > duration or (last == 0 and first < 0):
            outside += 1
            continue
        first = max(first, 0.0)
        before, its_lines = kept[-1] if kept else (None, [])
        if before is not None and (joined := _joined(before, first, lines, words)):
            kept[-1] = Subtitle(before.start, max(before.end, last), joined), its_lines
            merged += 1
            continue
        if before is not None and not words and first <= before.end + ROLLING:
            lines = _new(its_lines, lines)
            if not lines:
                kept[-1] = Subtitle(before.start, max(before.end, last), before.text), its_lines
                merged += 1
                continue
        kept.append((Subtitle(first, last, " ".join(lines)), lines))
    return Track(
        tuple(line for line, _ in kept), len(cues), broken, empty, outside, merged, encoding=""
    )


def _ends(cues: Sequence[_Cue], duration: float) -> list[float]:
    """Returns the ends of cues in order; one that does not say it ends where the next begins."""
    ends: list[float] = []
    following = later = duration  # the start of the next cue, and of the next at another time
    for cue in reversed(cues):
        if following > cue.start:
            later, following = following, cue.start
        end = cue.start + UNKNOWN_END if math.isinf(later) else max(later, cue.start)
        ends.append(end if math.isnan(cue.end) else cue.end)
    return ends[::-1]


def _joined(before: Subtitle, start: float, lines: list[str], words: bool) -> str:
    """Returns the text of a line with one more word; "" if the word begins a line."""
    if not words:
        return ""
    gap = start - before.end
    over = before.text.endswith((".", "!", "?", "。", "！", "？")) and gap > BREATH
    if gap > PAUSE or over or start - before.start > LINE:
        return ""
    return f"{before.text} {' '.join(lines)}"


def _new(shown: list[str], lines: list[str]) -> list[str]:
    """Returns the lines that follow those which are still shown."""
    for count in range(min(len(shown), len(lines)), 0, -1):
        if shown[-count:] == lines[:count]:
            return lines[count:]
    return lines


def _plain(text: str) -> str:
    """Returns a line of text without tags and styles."""
    text = _TAGS.sub("", _BREAKS.sub(" ", text)).replace("\\h", " ")
    return visible(html.unescape(text))
