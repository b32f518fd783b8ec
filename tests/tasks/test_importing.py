"""Every row of a source is kept or left out with a reason, whatever it holds."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.data.files_by_id import FilesById
from msjoe_jax.data.questions import load_questions, save_questions
from msjoe_jax.data.subtitles import ENDINGS as SUBTITLES
from msjoe_jax.data.videos_by_id import VideosById
from msjoe_jax.tasks import TASKS, own_rows
from msjoe_jax.tasks.importing import DUPLICATED, REFUSED, WITHOUT_VIDEO, bring_together
from msjoe_jax.tasks.reading import read_values
from msjoe_jax.tasks.rows import Row, read_rows
from tests.support import benchmarks
from tests.support.one_a_second import clip

GOOD = {"id": "q", "video": "v", "question": "What?", "options": ["x", "y"], "answer": "B"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name in ("v.mp4", "a/Cm73ma6Ibcs.mkv", "86CxyhFV9MI.mp4", "b/same.mp4", "c/same.mp4"):
        clip(folder / name)
    (folder / "empty.mp4").touch()
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def together(folder, *values, subtitles=None, columns=()):
    rows = [Row(f"f: row {i}", i, v) for i, v in enumerate(values, 1)]
    files = VideosById(folder)
    texts = None if subtitles is None else FilesById(subtitles, SUBTITLES)
    return bring_together(
        read_values(own_rows.form(own_rows.read_columns(columns)), "f", rows), files, texts
    )


def ask(video, **more):
    return {**GOOD, "id": f"{video} {len(more)}", "video": video, **more}


def test_a_question_without_a_video_is_listed_with_the_reason(videos):
    found = together(videos, ask("V.MP4"), ask("gone"), ask("empty"), ask("broken"), ask("same"),
                     ask("v", answer="C"), ask("v"), ask("v"))  # fmt: skip
    assert [q.video for q in found.questions] == ["v", "v"]
    assert [(one.what, one.row.place) for one in found.left_out] == [
        (REFUSED, "f: row 6"), (DUPLICATED, "f: row 8"), (WITHOUT_VIDEO, "f: row 2"),
        (WITHOUT_VIDEO, "f: row 5"), (WITHOUT_VIDEO, "f: row 3"), (WITHOUT_VIDEO, "f: row 4"),
    ]  # fmt: skip
    reasons = {one.video: one.row.reason for one in found.left_out if one.video}
    assert reasons["gone"] == f"no file of that name in {videos}"
    assert reasons["same"] == "2 files may be meant: b/same.mp4, c/same.mp4"
    assert reasons["empty"] == f"{videos}/empty.mp4: an empty file"
    assert "cannot be opened" in reasons["broken"] and len(found.dead) == 2
    assert found.rows == 8 == len(found.questions) + len(found.left_out)
    assert list(found.videos) == ["v"] and found.videos["v"].seconds == pytest.approx(2, abs=0.1)


def test_two_files_of_one_name_are_two_videos(videos):
    found = together(videos, ask("b/same.mp4"), ask("x/c/same.mp4"), ask("d/same.mp4"))
    assert [q.video for q in found.questions] == ["b/same", "c/same"]
    assert sorted(found.videos) == ["b/same", "c/same"]
    assert found.left_out[0].row.reason.startswith("2 files may be meant")
    # Only one of them is there: a question about the other is not given it.
    found = together(videos / "b" / "..", ask("a/Cm73ma6Ibcs.mkv"), ask("z/Cm73ma6Ibcs.mkv"),
                     ask("Cm73ma6Ibcs"))  # fmt: skip
    assert [q.id for q in found.questions] == ["a/Cm73ma6Ibcs.mkv 0", "Cm73ma6Ibcs 0"]
    assert "is another's of its name" in found.left_out[0].row.reason


def test_groups_of_length_and_evidence_after_the_end(videos):
    found = together(videos, ask("v", evidence=[[0, 9]]), ask("v", duration_group="own", x=1))
    assert [q.extra["groups"] for q in found.questions] == [
        {"duration_group": "under 1 min"}, {"duration_group": "own"},
    ]  # fmt: skip
    assert found.notes["evidence that ends after its video"] == 1


def test_subtitles_on_the_videos_clock(videos, tmp_path):
    rows = [{**row, "duration": 2} for row in benchmarks.LONGVIDEOBENCH]
    for row in rows:
        row["starting_timestamp_for_subtitles"] = 60
    cues = [{"start": "00:01:00.500", "end": "00:01:01", "line": "hi"}, {"line": "lost"},
            {"start": "00:02:00", "end": "00:02:01", "line": "after"}]  # fmt: skip
    (tmp_path / "86CxyhFV9MI_en.json").write_text(json.dumps(cues))
    (tmp_path / "v.en.srt").write_bytes("00:00:00,0 --> 00:00:01,0\nété\n".encode("cp1252"))
    source = tmp_path / "lvb.json"
    source.write_text(json.dumps(rows))
    form = TASKS["longvideobench"].form
    assert form is not None
    texts = FilesById(tmp_path, SUBTITLES)
    reading = read_values(form, "f", read_rows(source))
    found = bring_together(reading, VideosById(videos), texts)
    track = found.videos["86CxyhFV9MI"].track
    assert track is not None
    assert [(s.start, s.end, s.text) for s in track.subtitles] == [(0.5, 1, "hi")]
    assert found.broken == [f"{tmp_path}/86CxyhFV9MI_en.json: cue 2: times None to None cannot be "
                            "read"]  # fmt: skip
    assert found.notes["cues of subtitles that are outside their video"] == 1
    found = together(videos, ask("v"), ask("Cm73ma6Ibcs"), subtitles=tmp_path)
    assert found.notes["videos with subtitles"] == 1 == found.notes["videos without subtitles"]
    assert found.notes["files of subtitles read as windows-1252"] == 1


def test_a_segment_is_a_video_of_its_own(videos, tmp_path):
    (tmp_path / "v.srt").write_text(
        "00:00:01,250 --> 00:00:01,500\nin\n\n00:00:00,1 --> 00:00:00,2\no\n"
    )
    columns = ["start:from", "end:to"]
    found = together(
        videos, ask("v", **{"from": "00:01", "to": 9}), ask("v", **{"from": 5, "to": 9}, x=1),
        ask("v", **{"from": 1, "to": 1, "x": 1, "y": 1}), ask("v", **{"to": 1}),
        ask("v", id="whole", note="x"), subtitles=tmp_path, columns=columns,
    )  # fmt: skip
    assert [q.video for q in found.questions] == ["v@1-9", "v"]
    part = found.videos["v@1-9"]
    assert part.segment == (1, 9) and part.seconds == pytest.approx(1, abs=0.1)
    assert part.track is not None and part.track.outside == 1
    assert [(s.start, s.end) for s in part.track.subtitles] == [(0.25, 0.5)]
    assert found.videos["v"].segment == ()
    assert [one.row.reason for one in found.left_out] == [
        "fields 'start' and 'end' are 1 and 1, no segment",
        "fields 'start' and 'end' are '' and 1, no segment",
        "the segment begins after the video, at 5 s",
    ]


SOURCES = {
    "video_mme": benchmarks.VIDEO_MME,
    "video_mme_v2": benchmarks.video_mme_v2("v", "logic", "[1, 2, 3, 4]"),
    "longvideobench": benchmarks.LONGVIDEOBENCH
    + benchmarks.longvideobench_parquet(benchmarks.LONGVIDEOBENCH),
    "lvbench": benchmarks.LVBENCH + benchmarks.LVBENCH_LMMS,
    "mlvu_dev": benchmarks.MLVU_DEV + benchmarks.MLVU_NATIVE,
    "mlvu_test": benchmarks.MLVU_TEST,
    "cg_bench": benchmarks.CG_BENCH,
    "nextqa": [dict(zip(benchmarks.NEXTQA_COLUMNS, row, strict=True)) for row in benchmarks.NEXTQA],
    "tspo_10k": benchmarks.TSPO_10K,
    "easyvideor1": benchmarks.VIDEO_R1,
    "video_r1": benchmarks.VIDEO_R1,
    "conversations": benchmarks.CONVERSATIONS,
    "jsonl": [GOOD, {**GOOD, "id": "r", "evidence": [[0, 1]], "subtitles": [[0, 1, "x"]]}],
}
LEAVES = st.sampled_from(
    [None, True, 0, -1, 1, 2.0, 5, 10**30, math.nan, math.inf, "", " ", "\u200b", "A", "a", "Z",
     "(B)", "N/A", "\ud83d", "v", "same", "empty", "../v.mp4", "/", "A. x\nB. y", "00:01-00:02",
     "x\x00y", "[", "{'a': 1}", "['x', 'y']", "<video>", "é" * 9]
) | st.text(max_size=4)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["A", "video", "from", "value", "text", "type"]), inner,
                      max_size=2),
    max_leaves=4,
)  # fmt: skip


def mutated(name):
    """Rows of a source with some fields changed, taken away or added, some rows no objects."""
    rows = st.sampled_from(SOURCES[name])
    keys = st.sampled_from(
        sorted({key for row in SOURCES[name] for key in row} | {"extra", "notes"})
    )
    changes = st.dictionaries(keys, VALUES | st.just(...), max_size=3)
    video = st.sampled_from([{}, {}, {"video": "v"}, {"video": "gone"}])

    def changed(row, change, place):
        new = {**row, **place, **change}
        return {key: value for key, value in new.items() if value is not ...}

    row = st.builds(changed, rows, changes, video) | LEAVES
    return st.tuples(st.just(name), st.lists(row, min_size=10, max_size=10))


def test_every_task_is_tried():
    assert set(SOURCES) == set(TASKS)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(SOURCES)).flatmap(mutated))
def test_a_thousand_mutated_rows_are_all_counted(videos, tmp_path_factory, source):
    name, rows = source
    folder = tmp_path_factory.mktemp("import")
    # Each of ten rows a file of its own line: what is lost would be missing in the sum.
    (folder / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    form = TASKS[name].form or own_rows.form({})
    reading = read_values(form, "f", read_rows(folder / "f.jsonl"))
    assert reading.rows >= len(rows)
    found = bring_together(reading, VideosById(videos), FilesById(videos, SUBTITLES))
    assert found.rows == reading.rows == len(found.questions) + len(found.left_out)
    assert all(one.row.place and one.row.reason for one in found.left_out)
    assert {question.video for question in found.questions} <= set(found.videos)
    if found.questions:
        save_questions(folder / "q.jsonl", found.questions)
        assert load_questions(folder / "q.jsonl") == found.questions
