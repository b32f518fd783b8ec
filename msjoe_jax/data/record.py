"""The record of one video: what a folder says of it beside its frames; docs/records.md lists it.

Records of version 2 are written. Of version 1, which states no version, the fields of the decoder
lay among the user's, in `extra`; they are read apart.
"""

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
from jaxtyping import Int

from msjoe_jax.data.questions import Subtitle, is_span, is_unicode
from msjoe_jax.errors import UserError

VERSION = 2
DEEPEST = 100  # objects and lists of a user's field inside one another
SMALLEST, LARGEST = -(2**63), 2**64 - 1  # whole numbers that msgpack can hold
SHORT = 0.05  # a video is short of which a larger share is missing
DAMAGED = "damaged"  # the kind of all warnings of version 1


@dataclass(frozen=True)
class Source:
    """What a video was decoded from, and how; what is not known is None, 0 or empty.

    Attributes:
      video: the file, as the list of videos names it.
      size, mtime, sha256: what it was (see `sources.SourceFacts`).
      start, end, stream: what the list chooses of the file (see `sources.VideoSource`).
      picture_rate: pictures a second of a folder of pictures, as the list says.
      max_side: longer side of this video's frames, where the list says it.
      subtitles: SHA-256 of the file of them that the list names; "" if it names none, or if there
        was none to read; None: not stated.
      decoded_stream: the number of the stream that was decoded.
      rate: frames of that stream a second, in the mean.
      decoder: the libraries that decoded it, with their versions.
      frames: [T] for each kept frame the number of the stream's frame that it is, from 0 in the
        order of presentation.
      warnings: what was wrong with the file: how often, by kind.
      notes: what is to be said of it to people.
      expected: seconds that the file says it has.
      missing: the share of them that could not be decoded, 0 to 1.
    """

    video: str = ""
    size: int | None = None
    mtime: int | None = None
    sha256: str = ""
    start: float | None = None
    end: float | None = None
    stream: int | None = None
    picture_rate: float | None = None
    max_side: int | None = None
    subtitles: str | None = None
    decoded_stream: int | None = None
    rate: float = 0.0
    decoder: str = ""
    frames: Int[np.ndarray, "T"] | None = None
    warnings: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    expected: float | None = None
    missing: float = 0.0


@dataclass(frozen=True)
class Details:
    """What is known of a video once its last frame is decoded.

    Attributes:
      duration: in seconds; None: the last timestamp plus one frame.
      extra: the user's own fields, whatever their names.
      source: what it was decoded from.
      subtitles: in order, seconds of the record's clock.
      sound: the sound track as a FLAC file of one channel at `sound.RATE`, b"" if the video has
        none; None: it is not kept.
    """

    duration: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    source: Source = field(default_factory=Source)
    subtitles: tuple[Subtitle, ...] = ()
    sound: bytes | None = None


@dataclass(frozen=True)
class VideoInfo:
    """One video of a record folder; `timestamps` [T] and `duration` are in seconds.

    `extra` has the user's own fields; for `source` and `subtitles` see `Details`. `checks` [T] are
    CRC-32 of the frames' JPEGs, and `sound_check` of the sound track; None: not stated.
    """

    id: str
    duration: float
    fps: float
    timestamps: np.ndarray
    height: int
    width: int
    shard: int
    first_frame: int
    extra: dict[str, Any] = field(default_factory=dict)
    source: Source = field(default_factory=Source)
    subtitles: tuple[Subtitle, ...] = ()
    checks: Int[np.ndarray, "T"] | None = None
    sound_check: int | None = None

    @property
    def num_frames(self) -> int:
        """T, the number of frames."""
        return len(self.timestamps)


def shortfall(info: VideoInfo) -> str:
    """Says how much of a video is missing, if it is more than SHORT; else ""."""
    source = info.source
    if source.missing <= SHORT:
        return ""
    of = "" if source.expected is None else f" of {source.expected:g} s"
    return f"short: {source.missing:.0%}{of} could not be decoded"


def check_frames(
    info: VideoInfo, indices: Sequence[int] | np.ndarray, jpegs: Iterable[bytes], folder: object
) -> None:
    """Checks that bytes which were read are those of the frames of a record.

    Args:
      info: the record.
      indices: numbers of the frames, 0 … T−1.
      jpegs: what was read for each.
      folder: for the message.

    Raises:
      UserError: they are others, as in a folder that was put together from several.
    """
    for index, jpeg in zip(indices, jpegs, strict=True):
        if info.checks is not None and zlib.crc32(jpeg) != info.checks[index]:
            raise UserError(
                f"{folder}: frame {index} of video {info.id} is not the one of its record; copy or "
                "make the folder again"
            )


def check_extra(value: Any, name: str = "extra", depth: int = 0) -> None:
    """Checks that a record can hold a user's field as it is.

    Args:
      value: of the field: text, numbers, true, false, null, bytes, and lists and objects of them.
      name: of the field, for the message.
      depth: how many objects and lists it is in.

    Raises:
      UserError: a number that is not finite or has more than 64 bits, a key or text that is none,
        a value of another type, or one too deep in others; the message names the field.
    """
    if isinstance(value, dict | list | tuple):
        if depth == DEEPEST:
            raise UserError(f"field {_short(name)} is nested more than {DEEPEST} deep")
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            if isinstance(value, dict) and not (isinstance(key, str) and is_unicode(key)):
                raise UserError(f"field {_short(name)} has a key that is no text: {key!r}")
            place = f"{name}.{key}" if isinstance(value, dict) else f"{name}[{key}]"
            check_extra(inner, place, depth + 1)
    elif isinstance(value, int) and not SMALLEST <= value <= LARGEST:  # bool is 0 or 1
        raise UserError(f"field {_short(name)} is a whole number of more than 64 bits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"field {_short(name)} is {value}, which is not a finite number")
    elif isinstance(value, str) and not is_unicode(value):
        raise UserError(f"field {_short(name)} holds half of a surrogate pair")
    elif not isinstance(value, str | int | float | bytes | None):
        raise UserError(f"field {_short(name)} is of type {type(value).__name__}")


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:60]}…{name[-16:]}")


def pack_record(info: VideoInfo) -> bytes:
    """Returns the bytes of a record, of version VERSION; `shard` is left out.

    Raises:
      UserError: a field of `extra` cannot be held, see `check_extra`, or another field is wrong.
    """
    check_extra(info.extra)
    source = {
        name: float(value) if KINDS[name] in (float, float | None) and value is not None else value
        for name, value in vars(info.source).items()
    }
    frames = info.source.frames
    source["frames"] = None if frames is None else np.asarray(frames, "<i8").tobytes()
    source["warnings"] = dict(sorted(info.source.warnings.items()))
    source["notes"] = list(info.source.notes)
    record = {
        "version": VERSION,
        "id": info.id,
        "duration": float(info.duration),
        "fps": float(info.fps),
        "timestamps": np.asarray(info.timestamps, "<f8").tobytes(),
        "height": int(info.height),
        "width": int(info.width),
        "first_frame": int(info.first_frame),
        "extra": info.extra,
        "source": source,
        "subtitles": [[s.start, s.end, s.text] for s in info.subtitles],
        "checks": None if info.checks is None else np.asarray(info.checks, "<u4").tobytes(),
        "sound_check": info.sound_check,
    }
    data = msgpack.packb(record)
    unpack_record(data)  # what could not be read is not written
    return data


def unpack_record(data: bytes, shard: int = 0) -> VideoInfo:
    """Reads a record of version 1 or 2.

    Args:
      data: as it is stored.
      shard: which shard of the folder it is of.

    Raises:
      UserError: it is of another version, or damaged; the message names the field.
    """
    try:
        raw = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException):
        raise UserError("damaged: not msgpack") from None
    if not isinstance(raw, dict):
        raise UserError("damaged: not a map")
    version = raw.pop("version", 1)
    if version == 1 and isinstance(raw.get("extra"), dict):
        raw["extra"], raw["source"] = _apart(raw["extra"])
        raw |= {"subtitles": [], "checks": None, "sound_check": None}
    elif version != VERSION:
        raise UserError(
            f"its record is of version {version!r}, and this program reads 1 to {VERSION}; "
            "update it, or make the folder again"
        )
    return _checked(raw, shard)


def _apart(extra: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the user's fields of version 1, and the source that stood among them."""
    if not (isinstance(extra.get("video"), str) and isinstance(extra.get("warnings"), int)):
        return extra, {}
    own = {k: v for k, v in extra.items() if k not in ("video", "warnings", "source_fps")}
    warnings = {DAMAGED: extra["warnings"]} if extra["warnings"] else {}
    rate = extra.get("source_fps", 0.0)
    return own, {"video": extra["video"], "warnings": warnings, "rate": rate}


def _checked(raw: dict[str, Any], shard: int) -> VideoInfo:
    """Makes the record of its fields, each of which must be what it is said to be."""
    known = VideoInfo.__dataclass_fields__.keys() - {"shard"}
    _expect(raw.keys() == known, min(raw.keys() ^ known, default=""))
    times = _array(raw, "timestamps", "<f8")
    _expect(len(times) and np.isfinite(times).all() and (np.diff(times) > 0).all(), "timestamps")
    _of_kind(raw, "id", str)
    for name in ("duration", "fps"):
        value = _of_kind(raw, name, float)
        _expect(math.isfinite(value) and value >= 0, name)
    for name, least in (("height", 1), ("width", 1), ("first_frame", 0)):
        _expect(_of_kind(raw, name, int) >= least, name)
    _of_kind(raw, "extra", dict)
    _of_kind(raw, "sound_check", int | None)
    checks = None if raw["checks"] is None else _array(raw, "checks", "<u4")
    _expect(checks is None or len(checks) == len(times), "checks")
    for s in _of_kind(raw, "subtitles", list):
        fits = isinstance(s, list) and len(s) == 3 and is_span(*s[:2]) and isinstance(s[2], str)
        _expect(fits, "subtitles")
    fields = {
        **raw,
        "timestamps": times,
        "checks": checks,
        "source": _source(_of_kind(raw, "source", dict), len(times)),
        "subtitles": tuple(Subtitle(*s) for s in raw["subtitles"]),
    }
    return VideoInfo(shard=shard, **fields)


KINDS: dict[str, Any] = {
    **dict.fromkeys(("video", "sha256", "decoder"), str),
    **dict.fromkeys(("size", "mtime", "stream", "max_side", "decoded_stream"), int | None),
    **dict.fromkeys(("start", "end", "picture_rate", "expected"), float | None),
    **dict.fromkeys(("rate", "missing"), float),
    "subtitles": str | None,
    "frames": bytes | None,
    "warnings": dict,
    "notes": list,
}


def _source(raw: dict[str, Any], count: int) -> Source:
    for name in raw:
        _expect(name in KINDS, f"source.{name}")
        value = _of_kind(raw, name, KINDS[name], "source.")
        _expect(not isinstance(value, float) or math.isfinite(value), f"source.{name}")
    for kind, number in raw.get("warnings", {}).items():
        _expect(isinstance(kind, str) and isinstance(number, int), "source.warnings")
    notes = tuple(raw.get("notes", ()))
    _expect(all(isinstance(note, str) for note in notes), "source.notes")
    frames = None if raw.get("frames") is None else _array(raw, "frames", "<i8")
    _expect(frames is None or len(frames) == count, "source.frames")
    return Source(**{**raw, "notes": notes, "frames": frames})


def _array(raw: dict[str, Any], name: str, kind: str) -> np.ndarray:
    data = _of_kind(raw, name, bytes)
    _expect(len(data) % np.dtype(kind).itemsize == 0, name)
    return np.frombuffer(data, kind)


def _of_kind(raw: dict[str, Any], name: str, kind: Any, inside: str = "") -> Any:
    _expect(isinstance(raw.get(name), kind), inside + name)
    return raw[name]


def _expect(fits: object, name: str) -> None:
    if not fits:
        raise UserError(f"damaged: field {name!r} of its record is wrong")
