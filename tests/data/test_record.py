"""The record of a video: all that goes in comes back, and what cannot is refused by its field."""

import dataclasses
import math
import zipfile

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.commands.predecode import predecode
from msjoe_jax.data.predecode import DecodeSettings
from msjoe_jax.data.questions import Subtitle
from msjoe_jax.data.record import (
    DAMAGED,
    DEEPEST,
    LARGEST,
    SMALLEST,
    Source,
    VideoInfo,
    check_extra,
    pack_record,
    shortfall,
    unpack_record,
)
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.errors import UserError
from tests.support.commands import ROOT
from tests.support.records import flat
from tests.support.tiny import tiny_video

SOURCE = Source(
    video="b/c.mp4",
    size=2**40,
    mtime=1_700_000_000_123_456_789,
    sha256="ab" * 32,
    start=600,  # a whole number, as lists may have it
    end=660.5,
    stream=1,
    picture_rate=25,
    max_side=336,
    subtitles="cd" * 32,
    decoded_stream=2,
    notes=("ends early",),
    rate=24000 / 1001,
    decoder="libavcodec 62.11.100",
    frames=np.array([0, 24, 48]),
    warnings={"packet": 3, "a": 1},
    expected=60.5,
    missing=0.25,
)
INFO = VideoInfo(
    "vidéo", 3.5, 1.0, np.arange(3.0), 16, 24, 0, 7, {}, SOURCE, (Subtitle(0.5, 2, "hé"),),
    np.array([0, 7, 2**32 - 1]), 5,
)  # fmt: skip
# What JSON can hold and a record keeps.
FIELDS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(SMALLEST, LARGEST)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner)
    ),
    max_leaves=12,
)


def fields(info):
    """All of a record, comparable."""
    row = dataclasses.asdict(info)
    row["timestamps"] = info.timestamps.tolist()
    row["checks"] = None if info.checks is None else info.checks.tolist()
    row["source"]["frames"] = None if info.source.frames is None else info.source.frames.tolist()
    return row


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(["video", "warnings", "source_fps", "id", ""]), FIELDS))
def test_a_record_comes_back_with_user_fields_of_any_name(extra):
    info = dataclasses.replace(INFO, extra=extra)
    again = unpack_record(pack_record(info), shard=4)
    assert fields(again) == {**fields(info), "shard": 4}
    assert pack_record(again) == pack_record(info)
    assert isinstance(again.source.start, float) and list(again.source.warnings) == ["a", "packet"]


def test_what_is_not_known_comes_back_so():
    info = dataclasses.replace(INFO, source=Source(), subtitles=(), checks=None, sound_check=None)
    assert fields(unpack_record(pack_record(info))) == fields(info)


def nested(depth, inner=1):
    for _ in range(depth):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"a": {"b": [0, LARGEST + 1]}}, r"field 'extra\.a\.b\[1\]' is a whole number of more"),
        ({"a": SMALLEST - 1}, "more than 64 bits"),
        ({"a": math.nan}, r"field 'extra\.a' is nan, which is not a finite number"),
        ({"a": [-math.inf]}, "is -inf, which is not a finite"),
        ({3: 1}, r"field 'extra' has a key that is no text: 3"),
        ({"a": {"\ud83d": 1}}, r"field 'extra\.a' has a key that is no text"),
        ({"a": "\ud83d"}, "half of a surrogate pair"),
        ({"a": {1}}, r"field 'extra\.a' is of type set"),
        ({"a": nested(DEEPEST)}, f"nested more than {DEEPEST} deep"),
    ],
)
def test_user_fields_that_cannot_be_held_are_named(tmp_path, extra, said):
    with pytest.raises(UserError, match=said):
        check_extra(extra)
    with (
        pytest.raises(UserError, match=f"video a: .*{said}"),
        RecordWriter(tmp_path / "r") as writer,
    ):
        writer.add("a", [(0.0, flat(1))], extra=extra)


def test_fields_at_the_bounds_are_held():
    extra = {"a": [SMALLEST, LARGEST, True, None, 1e308], "deep": nested(DEEPEST - 1)}
    check_extra(extra)
    info = dataclasses.replace(INFO, extra=extra)
    assert unpack_record(pack_record(info)).extra == extra


def changed(**fields):
    row = msgpack.unpackb(pack_record(INFO))
    source = fields.pop("source", {})
    return msgpack.packb({**row, **fields, "source": {**row["source"], **source}})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (b"\x01\x01", "not msgpack"),
        (msgpack.packb([1]), "not a map"),
        (changed(version=3), "of version 3, and this program reads 1 to 2; update it"),
        (changed(version="x"), "of version 'x'"),
        (msgpack.packb({"version": 2}), "field 'checks'"),
        (changed(more=1), "field 'more'"),
        (changed(timestamps=b"\0" * 7), "'timestamps'"),
        (changed(timestamps=b""), "'timestamps'"),
        (changed(timestamps=np.array([0.0, 2.0, 1.0]).tobytes()), "'timestamps'"),
        (changed(timestamps=np.array([0.0, np.nan, 2.0]).tobytes()), "'timestamps'"),
        (changed(duration=-1.0), "'duration'"),
        (changed(fps="1"), "'fps'"),
        (changed(height=0), "'height'"),
        (changed(first_frame=-1), "'first_frame'"),
        (changed(id=3), "'id'"),
        (changed(extra=[]), "'extra'"),
        (changed(subtitles=[[2.0, 1.0, "x"]]), "'subtitles'"),
        (changed(checks=b"\0" * 8), "'checks'"),
        (changed(sound_check="x"), "'sound_check'"),
        (changed(source={"notes": [1]}), "'source.notes'"),
        (changed(source={"size": "big"}), "'source.size'"),
        (changed(source={"rate": math.inf}), "'source.rate'"),
        (changed(source={"colour": 1}), "'source.colour'"),
        (changed(source={"warnings": {"a": "b"}}), "'source.warnings'"),
        (changed(source={"frames": np.arange(2).tobytes()}), "'source.frames'"),
    ],
)
def test_a_damaged_or_newer_record_is_told(data, said):
    with pytest.raises(UserError, match=said):
        unpack_record(data)


@pytest.mark.parametrize(
    "wrong",
    [{"duration": math.nan}, {"source": Source(frames=np.arange(2))}, {"timestamps": np.zeros(3)}],
    ids=str,
)
def test_what_could_not_be_read_is_not_written(wrong):
    name = "source.frames" if "source" in wrong else next(iter(wrong))
    with pytest.raises(UserError, match=f"damaged: field '{name}'"):
        pack_record(dataclasses.replace(INFO, **wrong))


def test_a_video_is_short_above_a_share():
    short = dataclasses.replace(INFO, source=Source(missing=0.5, expected=20.0))
    assert shortfall(short) == "short: 50% of 20 s could not be decoded"
    assert shortfall(dataclasses.replace(INFO, source=Source(missing=0.51))).startswith(
        "short: 51%"
    )
    for missing in (0.0, 0.05):
        assert shortfall(dataclasses.replace(INFO, source=Source(missing=missing))) == ""


# --- version 1 ------------------------------------------------------------------------------------


@pytest.fixture
def before(tmp_path):
    """A folder that the last program of version 1 made: two videos, and a CLIP's embeddings."""
    with zipfile.ZipFile(ROOT / "tests" / "golden" / "records_1.zip") as archive:
        archive.extractall(tmp_path / "before")
    return tmp_path / "before"


def test_a_folder_of_version_1_is_read_and_a_users_fields_are_apart(before):
    reader = RecordReader(before)
    assert reader.ids == ["vidéo a", "b"]
    info = reader.info("vidéo a")
    assert info.extra == {"kept": [1, {"x": 2.5}]}
    assert (info.source, info.subtitles) == (Source(video="a.mp4", rate=5.0), ())
    assert (info.num_frames, info.duration, reader.info("b").num_frames) == (1, 1.0, 3)
    assert reader.frames("b", [0, 2]).shape == (2, 32, 32, 3)
    assert reader.embeddings("b").shape == (3, 4) and reader.sound("b") is None


def test_warnings_of_version_1_keep_their_number_and_other_extras_stay():
    row = msgpack.unpackb(pack_record(INFO))
    for name in ("version", "source", "subtitles", "checks", "sound_check"):
        del row[name]
    row["extra"] = {"video": "x.mp4", "warnings": 4, "source_fps": 25.0, "own": 1}
    info = unpack_record(msgpack.packb(row))
    assert info.extra == {"own": 1}
    assert info.source == Source(video="x.mp4", warnings={DAMAGED: 4}, rate=25.0)
    row["extra"] = {"video": 7, "kind": "world"}  # nobody's but the user's
    assert unpack_record(msgpack.packb(row)).extra == row["extra"]


def test_a_folder_of_version_1_is_extended(before, tmp_path):
    tiny_video(tmp_path / "c.mp4", 5)
    rows = (
        '{"id": "vidéo a", "video": "a"}\n{"id": "b", "video": "b"}\n{"id": "c", "video": "c.mp4"}'
    )
    (tmp_path / "list.jsonl").write_text(rows)
    kept = {path.name: path.read_bytes() for path in before.glob("*.arrayrecord")}
    digest = RecordReader(before).digest()
    assert predecode(tmp_path / "list.jsonl", before, DecodeSettings(1.0, 32, 90), 1) == (3, 0)
    reader = RecordReader(before)
    assert all((before / name).read_bytes() == data for name, data in kept.items())
    assert reader.digest(["vidéo a", "b"]) == digest
    assert [reader.info(video).source.video for video in reader.ids] == ["a.mp4", "b.mp4", "c.mp4"]
