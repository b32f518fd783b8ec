"""What is said of a record folder, against what was put in."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from msjoe_jax.data.questions import Question, Subtitle
from msjoe_jax.data.record import Source
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.data.signals import write_signal
from msjoe_jax.errors import UserError
from msjoe_jax.report.inspect_records import inspect_records, question_sheet, video_sheet
from msjoe_jax.report.inspection import as_json
from tests.support.embeddings import write_embeddings
from tests.support.records import flat

COUNTS = {"a": 5, "b": 90, "c": 400}  # frames, one a second


@pytest.fixture
def folder(tmp_path):
    with RecordWriter(tmp_path / "r", shard_bytes=1, settings={"fps": 1.0}) as writer:
        for v, (name, count) in enumerate(COUNTS.items()):
            source = Source(
                f"{name}.mp4",
                sha256="ab" * 32 if v else "",
                rate=25.0,
                warnings={"packet": v, "gap": 1} if v else {},
                expected=100.0,
                missing=0.1 * v,
            )
            frames = ((float(t), flat((0, t % 256, 90), 16, 24 + v)) for t in range(count))
            writer.add(name, frames, extra={"topic": 1}, source=source)
    rows = [
        {"id": "x", "video": "x.mp4", "reason": "no"},
        {"id": "b", "video": "b", "warning": "w"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "r" / "failures.jsonl").write_text(f"{lines}{{torn")
    return tmp_path / "r"


def test_counts_are_those_of_what_was_written(folder):
    write_embeddings(folder, "fp", [(v, np.zeros((n, 2))) for v, n in COUNTS.items()])
    (folder / "clip-fp-00002.arrayrecord").unlink()
    write_signal(folder, "s", lambda reader, info: np.zeros(info.num_frames))
    found = as_json(inspect_records(RecordReader(folder, "")))
    records = found["records"]
    assert (records["videos"], records["frames"], records["shards"]) == (3, 495, 3)
    assert (records["duration"], records["median"], records["longest"]) == (495.0, 90.0, 400.0)
    assert (records["damaged_records"], records["failed_videos"]) == (0, 1)
    assert records["videos_with_warnings"] == 2 and records["videos_short_of_over_5"] == 2
    assert records["videos_with_a_hash_of_their_source"] == 2 and records["setting_fps"] == 1.0
    bars = {"up to 00:10": 1, "up to 03:00": 1, "up to 10:00": 1}
    assert {k: n for k, n in found["durations"].items() if n} == bars
    assert found["frame_sizes"] == {"24x16": 1, "25x16": 1, "26x16": 1}
    assert found["user_fields"] == {"topic": 3} and found["frames_a_second_of_the_sources"] == {
        "25": 3
    }
    warnings = {row["kind"]: (row["videos"], row["times"]) for row in found["warnings"]["rows"]}
    assert warnings == {"packet": (2, 3), "gap": (2, 2)}
    assert [row["video"] for row in found["short_videos"]["rows"]] == ["b", "c"]
    assert found["failed_videos"]["rows"] == [{"id": "x", "video": "x.mp4", "reason": "no"}]
    assert found["warnings_of_the_decoding"]["count"] == 2  # one of them the torn line
    embedded = {row["name"]: (row["shards"], row["of"], row["the_rest"])
                for row in found["embeddings_and_signals"]["rows"]}  # fmt: skip
    assert embedded == {"clip-fp": (2, 3, "1 missing"), "signal-s": (3, 3, "")}
    kinds = {row["kind"]: row["files"] for row in found["files"]["rows"]}
    frames = sum(path.stat().st_size for path in folder.glob("frames-*"))
    assert found["files"]["rows"][1] == {"kind": "frames", "files": 3, "size": frames}
    assert [row["duration"] for row in found["videos"]["rows"]] == [5.0, 90.0, 400.0]
    assert kinds == {"frames": 3, "videos": 3, "clip-fp": 2, "signal-s": 3}


def test_damage_is_counted_and_named(folder):
    (folder / "videos-00001.arrayrecord").write_bytes(b"")
    found = as_json(inspect_records(RecordReader(folder, ""), ["this shard"]))
    assert found["records"]["damaged_records"] == found["records"]["damaged_shards"] == 1
    (row,) = found["damaged_records"]["rows"]
    assert row["video"] == "b" and "damaged" in row["why"]
    assert found["damaged_shards"]["rows"] == [{"what": "this shard"}]


def test_a_sheet_has_pictures_of_its_times_and_marks_evidence(folder):
    question = Question(
        "q", "b", "Which?", ("x", "y"), 1, 0.5, evidence=((30.0, 32.5), (88.0, 95.0)),
        subtitles=(Subtitle(1.0, 2.0, "hello"),),
    )  # fmt: skip
    sheet = question_sheet(RecordReader(folder, ""), question, 9)
    look = sheet.look
    assert look.frames["evenly spaced"] == tuple(range(5, 90, 10))
    assert look.frames["in the evidence"] == (30, 31, 32, 88, 89)
    assert sorted(look.thumbnails) == [5, 15, 25, 30, 31, 32, 35, 45, 55, 65, 75, 85, 88, 89]
    for place, text in look.thumbnails.items():
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)
        assert picture.shape == (16, 25, 3) and np.abs(picture[..., 1] - place).max() <= 5
    notes = "\n".join(sheet.notes)
    assert "pass rate of the base model: 0.5" in notes and "“hello”" in notes
    assert "evidence 01:28–01:35 ends after the video" in notes
    both = video_sheet(RecordReader(folder, ""), "b", 9, [question, question])
    assert both.look.evidence == question.evidence and both.look.question == "Video b"


def test_a_sheet_without_its_pictures_says_so(folder):
    file = folder / "frames-00000.arrayrecord"
    file.write_bytes(file.read_bytes()[:-70_000])
    sheet = video_sheet(RecordReader(folder, ""), "a", 3)
    assert not sheet.look.thumbnails and len(sheet.notes) == 3
    assert all(
        f"frame {place}: " in note for place, note in zip((0, 2, 4), sheet.notes, strict=True)
    )
    with pytest.raises(UserError, match="no video 'zz'"):
        video_sheet(RecordReader(folder, ""), "zz", 3)
