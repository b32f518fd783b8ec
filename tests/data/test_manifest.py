"""Lists of videos: what they may say, what they name when it is wrong, and that no line is lost."""

import json
import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msjoe_jax.commands.predecode import predecode
from msjoe_jax.data.manifest import (
    NUMBERS,
    Entry,
    entry_row,
    load_entries,
    read_entries,
    with_segments,
)
from msjoe_jax.data.predecode import DecodeSettings
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.sources import VideoSource
from msjoe_jax.errors import UserError
from tests.support.tiny import tiny_video


def test_entries_have_their_paths_beside_the_list(tmp_path):
    rows = []
    for v in range(3):
        (tmp_path / f"{v}.mp4").write_bytes(b"0")
        rows.append({"id": f"../vidéo {v}", "video": f"{v}.mp4", "extra": {"v": v}})
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    entries = load_entries(tmp_path / "list.jsonl")
    assert [entry.extra for entry in entries] == [{"v": 0}, {"v": 1}, {"v": 2}]
    assert all(entry.path.is_file() and entry.size > 0 for entry in entries)
    assert len({entry.part for entry in entries}) == 3
    assert all("/" not in entry.part for entry in entries)
    absent = entries[0].path.parent / "none.mp4"
    for path in (absent, absent.parent, absent / "\0"):
        assert Entry("a", "none.mp4", path, {}).size == 0


WRONG = [
    ("{", ":1: not JSON"),
    ("[]", ":1: not a JSON object"),
    ('{"id": "a"}', ":1: field 'video' must be"),
    ('{"id": " ", "video": "a"}', ":1: field 'id' must be"),
    ('{"id": "a", "video": 3}', ":1: field 'video' must be"),
    ('{"id": "a", "video": "a", "extra": []}', ":1: field 'extra' must be an object"),
    ('{"id": "a", "video": "a", "path": 1}', ":1: unknown field 'path'"),
    ('{"id": "a", "video": "a", "\\ud83d": 1}', r":1: unknown field '\\ud83d'"),
    ('{"id": "\\ud83d", "video": "a"}', ":1: field 'id' holds half"),
    ('{"id": "\\udce9", "video": "a"}', ":1: field 'id' holds half"),
    ('{"id": "a", "video": "\\ud83d"}', ":1: field 'video' holds half"),
    ('{"id": "a", "video": "\\u0000"}', ":1: field 'video' holds a NUL"),
    ('{"id": "a", "id": "b", "video": "a"}', ":1: field 'id' is there twice"),
    ('{"id": "a", "video": "http://x.org/a.mp4"}', ":1: field 'video' is .* on no disk"),
    ('{"id": "a", "video": "gs://bucket/a.mp4"}', ":1: field 'video' is .* on no disk"),
    ('{"id": "a", "video": "a", "extra": {"x": [18446744073709551616]}}', r"'extra.x\[0\]' is a w"),
    ('{"id": "a", "video": "a", "extra": {"x": -9223372036854775809}}', "'extra.x' is a whole"),
    ('{"id": "a", "video": "a", "start": -1}', ":1: field 'start' is -1, not a number from 0"),
    ('{"id": "a", "video": "a", "start": true}', ":1: field 'start' is True"),
    ('{"id": "a", "video": "a", "start": NaN}', ":1: field 'start' is nan"),
    ('{"id": "a", "video": "a", "end": Infinity}', ":1: field 'end' is inf"),
    ('{"id": "a", "video": "a", "end": "9"}', ":1: field 'end' is '9'"),
    ('{"id": "a", "video": "a", "end": 0}', ":1: field 'end' is 0.0, not after 'start'"),
    ('{"id": "a", "video": "a", "start": 5, "end": 4}', ":1: field 'end' is 4.0, not after"),
    ('{"id": "a", "video": "a", "stream": 1.0}', ":1: field 'stream' is 1.0, not a whole"),
    ('{"id": "a", "video": "a", "rate": 0}', ":1: field 'rate' is 0, not a number from 0.0001"),
    ('{"id": "a", "video": "a", "fps": 1e-6}', ":1: field 'fps' is 1e-06, not a number"),
    ('{"id": "a", "video": "a", "fps": 1' + "0" * 400 + "}", ":1: field 'fps' is 1000"),
    ('{"id": "a", "video": "a", "max_side": 0}', ":1: field 'max_side' is 0, not a whole"),
    ('{"id": "a", "video": "a"}\n\n{"id": "a", "video": "b"}', ":3: field 'id' repeats 'a' of l"),
    (b'{"id": "a", "video": "caf\xe9"}', ":1: not UTF-8"),
]


@pytest.mark.parametrize(("text", "message"), [("", "no videos"), ("\n \n", "no videos"), *WRONG])
def test_a_bad_list_names_line_and_field(tmp_path, text, message):
    (tmp_path / "list.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f"list.jsonl.*{message}"):
        load_entries(tmp_path / "list.jsonl")


def test_one_bad_line_stops_no_other(tmp_path):
    lines = [text if isinstance(text, bytes) else text.encode() for text, _ in WRONG[:-2]]
    good = b'{"id": "good", "video": "good.mp4"}'
    (tmp_path / "list.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join([*lines, good, *lines]))
    entries, refused = read_entries(tmp_path / "list.jsonl")
    assert [entry.id for entry in entries] == ["good"]
    assert [line.line for line in refused] == [
        *range(1, len(lines) + 1),
        *range(len(lines) + 2, 2 * len(lines) + 2),
    ]
    assert refused[2][:3] == (3, "a", None)
    with pytest.raises(UserError, match=rf"list.jsonl:1: .* \(and {2 * len(lines) - 1} more lines"):
        load_entries(tmp_path / "list.jsonl")


def test_all_fields_reach_the_source(tmp_path):
    row = {
        "id": "a", "video": "a.mp4", "start": 1, "end": 2.5, "stream": 3, "rate": 25, "fps": 2,
        "max_side": 64, "extra": {"big": 2**64 - 1, "small": -(2**63)},
    }  # fmt: skip
    (tmp_path / "list.jsonl").write_text(json.dumps(row) + "\n" + '{"id": "b", "video": "/b"}')
    entry, plain = load_entries(tmp_path / "list.jsonl")
    assert entry.source == VideoSource(str(tmp_path / "a.mp4"), 1.0, 2.5, 3, 25.0)
    assert (entry.fps, entry.max_side, entry.extra) == (2.0, 64, row["extra"])
    (tmp_path / "below").mkdir()
    lines = [entry_row(e, tmp_path / "below") for e in (entry, plain)]
    (tmp_path / "below" / "list.jsonl").write_bytes(b"".join(lines))
    again = load_entries(tmp_path / "below" / "list.jsonl")
    assert [replace(e, video="", path="") for e in again] == [
        replace(e, video="", path="") for e in (entry, plain)
    ]
    assert [e.source.container for e in again] == [str(tmp_path / "a.mp4"), "/b"]
    assert plain.source == VideoSource("/b") and plain.fps is plain.max_side is None


def test_a_name_of_any_bytes_and_of_any_look_is_that_file(tmp_path):
    tiny_video(tmp_path / "plain.mp4", 3)
    (tmp_path / "http:").mkdir()
    names = [b"caf\xe9.mp4", "é.mp4".encode(), b"http:/x.mp4", b"a'b\"c\n%d:-.mp4", b"-x.mp4", b"~"]
    rows = []
    for k, name in enumerate(names):
        os.link(tmp_path / "plain.mp4", os.fsencode(tmp_path) + b"/" + name)
        video = os.fsdecode(name).replace("http:/", "http://")  # as good to the system
        rows.append({"id": str(k), "video": video})
    rows.append({"id": "bytes", "video": "\udcc3\udca9.mp4"})  # é once more
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    assert predecode(tmp_path / "list.jsonl", out, DecodeSettings(), 1) == (len(rows), 0)
    reader = RecordReader(out)
    assert reader.ids == [row["id"] for row in rows]
    assert json.dumps(reader.info("0").extra, ensure_ascii=False).encode()  # clean text


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@st.composite
def mutated_lists(draw):
    """Bytes of a list of which some lines are changed: in their fields, in bytes, or cut."""
    lines = []
    for k in range(draw(st.integers(1, 6))):
        row = {"id": f"v{k}", "video": f"{k}.mp4", "start": k, "end": k + 1.5, "extra": {"k": k}}
        for field in draw(st.lists(st.sampled_from([*row, *NUMBERS, "other"]), max_size=2)):
            row[field] = draw(ANY)
        if draw(st.booleans()):
            row.pop(draw(st.sampled_from(list(row))))
        line = bytearray(json.dumps(row).encode("utf-8", "backslashreplace"))
        for _ in range(draw(st.integers(0, 2))):
            line[draw(st.integers(0, len(line) - 1))] = draw(st.integers(0, 255))
        lines += [bytes(line[: draw(st.integers(0, len(line)))] if draw(st.booleans()) else line)]
        lines += [lines[-1]] * draw(st.integers(0, 1))
    return b"\n".join(lines)


def check_every_line(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "mutated.jsonl"
    path.write_bytes(data)
    lines = {n: line for n, line in enumerate(data.split(b"\n"), 1) if line.strip()}
    if not lines:
        with pytest.raises(UserError, match="no videos"):
            read_entries(path)
        return
    entries, refused = read_entries(path)
    assert len(entries) + len(refused) == len(lines)
    assert len({entry.id for entry in entries}) == len(entries)
    accepted = [json.loads(line) for n, line in lines.items() if n not in {r.line for r in refused}]
    assert [(row["id"], row["video"]) for row in accepted] == [(e.id, e.video) for e in entries]
    for entry, row in zip(entries, accepted, strict=True):
        for field in NUMBERS:
            assert getattr(entry, field) == row.get(field)
    for line in refused:
        assert line.reason.startswith(f"{path}:{line.line}: ") and line.line in lines


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated_lists())
def test_every_line_is_an_entry_or_refused(tmp_path_factory, data):
    check_every_line(tmp_path_factory, data)


@pytest.mark.soak
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated_lists())
def test_every_line_of_a_thousand_lists_is_an_entry_or_refused(tmp_path_factory, data):
    check_every_line(tmp_path_factory, data)


def test_a_run_accounts_for_every_line(tmp_path):
    tiny_video(tmp_path / "a.mp4", 10)
    os.mkfifo(tmp_path / "pipe")
    rows = [
        {"id": "whole", "video": "a.mp4"},
        {"id": "part", "video": "a.mp4", "start": 1, "end": 9},
        {"id": "late", "video": "a.mp4", "start": 9},
        {"id": "pipe", "video": "pipe"},
        {"id": "gone", "video": "\udcff.mp4"},
        {"id": "fast", "video": "a.mp4", "fps": 5, "max_side": 16},
    ]
    lines = [*map(json.dumps, rows), "{", '{"id": "whole", "video": "b.mp4"}']
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    assert predecode(tmp_path / "list.jsonl", out, DecodeSettings(), 2) == (3, 5)
    reader = RecordReader(out)
    assert reader.ids == ["whole", "part", "fast"]
    infos = [reader.info(name) for name in reader.ids]
    assert [(info.num_frames, info.duration, info.fps) for info in infos] == [
        (2, 2.0, 1.0), (1, 1.0, 1.0), (10, 2.0, 5.0)
    ]  # fmt: skip
    assert max(infos[2].height, infos[2].width) == 16
    listed = [json.loads(line) for line in (out / "failures.jsonl").read_bytes().splitlines()]
    assert sorted(row["id"] or "-" for row in listed if "reason" in row) == [
        "-", "gone", "late", "pipe", "whole"
    ]  # fmt: skip
    assert [row["id"] for row in listed if "warning" in row] == ["part"]
    assert next(row["video"] for row in listed if row["id"] == "gone") == "\udcff.mp4"


def test_segments_that_questions_name():
    long = Entry("long", "l.mp4", None, {}, fps=2.0)
    part = Entry("part", "l.mp4", None, {}, start=10.0, end=20.0)
    own = Entry("own@1-2", "o.mp4", None, {})
    names = ["long", "long@3-5.5", "long@3-5.5", "part@1-4", "own@1-2", "gone@1-2", "long@5"]
    entries = with_segments([long, part, own], names)
    assert [(e.id, e.start, e.end, e.fps) for e in entries] == [
        ("long", None, None, 2.0),
        ("part", 10.0, 20.0, None),
        ("own@1-2", None, None, None),
        ("long@3-5.5", 3.0, 5.5, 2.0),
        ("part@1-4", 11.0, 14.0, None),
    ]
    for name in ("long@5-5", "part@1-11"):
        with pytest.raises(UserError, match=name):
            with_segments([long, part, own], [name])
