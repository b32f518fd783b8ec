"""Frames from other tools' files: the published forms, times to candidates, faults in one line."""

import json
import types

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.data.manifest import Entry
from msjoe_jax.data.predecode import DecodeSettings, decode_part, resume
from msjoe_jax.data.questions import Question
from msjoe_jax.data.record import Source
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.errors import UserError
from msjoe_jax.selectors.from_file import read_selection
from tests.support.material import VIDEOS, needs_material

T, K = 16, 6
RATES = {"v0": 30.0, "v1": 24000 / 1001}
COUNTS = {"v0": 12, "v1": 40}  # the second is thinned to T of 40 seconds


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "records"
    with RecordWriter(folder) as writer:
        for video, count in COUNTS.items():
            frames = ((float(t), np.full((8, 8, 3), t, np.uint8)) for t in range(count))
            writer.add(video, frames, source=Source(rate=RATES[video]))
        writer.add("v2", [(0.0, np.zeros((8, 8, 3), np.uint8))] * 1)  # of no known rate
    return RecordReader(folder)


def question(name, video="v0", text="what?"):
    return Question(name, video, text, ("a", "b"), 0)


QUESTIONS = [question("q0"), question("q1", "v1"), question("q2", text="which?")]
CENTRES = [(2 * i + 1) * 40 // 32 for i in range(T)]  # seconds of the candidates of v1


def write(folder, content, lines=False):
    path = folder / "frames.json"
    text = "".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content)
    path.write_text(text)
    return path


def read(folder, content, reader, questions=QUESTIONS, lines=False, **how):
    return read_selection(write(folder, content, lines), questions, reader, T, **how)


def frames_of(selection, questions=QUESTIONS, k=K):
    """What the selector shows of each question."""
    candidates = types.SimpleNamespace(
        questions=questions, queries=[[()] * 2] * len(questions), num_draws=3
    )
    frames = selection.selector.select(candidates, k).frames
    assert frames.shape == (len(questions), 2, 3, k) and (frames == frames[:, :1, :1]).all()
    out = []
    for row in frames[:, 0, 0]:
        count = int((row >= 0).sum())
        assert (row[count:] == -1).all()
        out.append(row[:count].tolist())
    return out


# --- forms and units ------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [False, True], ids=["json", "lines"])
def test_seconds(tmp_path, reader, lines):
    """To the nearest candidate, in time order, repeats kept; the largest error is told."""
    rows = [
        {"id": "q0", "times": [4.2, 1.0, 0.9]},
        {"id": "q1", "times": [0.0, 39.9]},
        {"id": "q2", "times": [11]},
        {"id": "other", "times": [1e9]},  # of nobody's question
    ]
    selection = read(tmp_path, rows, reader, lines=lines)
    assert frames_of(selection) == [[1, 1, 4], [0, 15], [11]]
    assert selection.longest == 3
    assert CENTRES[0] == 1 and CENTRES[15] == 38
    assert selection.note == (
        f"{tmp_path / 'frames.json'}: 6 frames of 3 questions, mapped by time; the largest error "
        "is 1.900 s (question q1)"
    )


def test_tspo(tmp_path, reader):
    """`frame_idx` are floats of source frames; ids may stand under question_id, uid and so on."""
    rows = [
        {
            "question_id": "q0",
            "question": "What?",
            "options": ["A"],
            "frame_idx": [0.0, 30.0, 90.0],
        },
        {"id": "q1", "candidates": ["yellow", "green"], "frame_idx": [24.0, 240.0]},
        {"uid": "q2", "frame_idx": [330.0], "duration": "short"},
    ]
    selection = read(tmp_path, rows, reader)
    seconds = 240 / RATES["v1"]  # 10.01
    nearest = int(np.abs(np.array(CENTRES) - seconds).argmin())
    assert frames_of(selection) == [[0, 1, 3], [0, nearest], [11]]
    error = abs(CENTRES[nearest] - seconds)
    assert f"the largest error is {error:.3f} s (question q1)" in selection.note


def test_a_segments_frames_count_from_the_start_of_its_file(tmp_path):
    with RecordWriter(tmp_path / "records") as writer:
        frames = ((float(t), np.full((8, 8, 3), t, np.uint8)) for t in range(T))
        writer.add("v0@100-112", frames, source=Source(rate=30.0, start=100.0))
    reader = RecordReader(tmp_path / "records")
    questions = [question("q0", "v0@100-112")]
    rows = [{"id": "q0", "frame_idx": [3000.0, 3150.0]}]
    assert frames_of(read(tmp_path, rows, reader, questions), questions) == [[0, 5]]


def test_tspo_of_mlvu_has_ids_that_repeat(tmp_path, reader):
    """Q0 of every type: its video, without folder and ending, and its text tell them apart."""
    questions = [question("ego-Q0"), question("Q1", "v1"), question("Q0", text="which?")]
    rows = [
        {"question_id": "Q0", "video_name": "v0.mp4", "question": "what?\n(A) a\n(B) b\n"},
        {"question_id": "Q0", "video_name": "v0.mp4", "question": "which?\n(A) a\n"},
        {"question_id": "Q1", "video_name": "other.mp4", "question": "what?"},
    ]
    rows = [{**row, "frame_idx": [30.0 * i]} for i, row in enumerate(rows, 1)]
    assert frames_of(read(tmp_path, rows, reader, questions), questions) == [[1], [1], [2]]
    assert CENTRES[1] == 3  # the nearest to 90 / 23.976 seconds


def test_options_tell_texts_apart_that_are_alike(tmp_path, reader):
    """Of one video, under ids that repeat; options in a field or below the question."""
    questions = [
        Question(name, "v0", "what?", options, 0)
        for name, options in (("a", ("one", "two")), ("b", ("two", "one")), ("c", ("x", "y")))
    ]
    rows = [
        {"id": "Q", "video": "v0.mp4", "question": "<image>\nwhat?", "options": ["A. x", "B. y"]},
        {"id": "Q", "video": "v0.mp4", "question": "what?", "candidates": ["two", "one"]},
        {"id": "Q", "video": "v0.mp4", "question": "Question: what?\n(A) one\n(B) two\n"},
    ]
    rows = [{**row, "times": [i]} for i, row in enumerate(rows)]
    assert frames_of(read(tmp_path, rows, reader, questions), questions) == [[2], [1], [0]]
    rows = [{**row, "options": None, "candidates": None} for row in rows]
    with pytest.raises(UserError, match=r"question b stands there twice"):
        read(tmp_path, rows, reader, questions)


def test_an_id_counts_only_with_its_text(tmp_path, reader):
    """Among other words too; else the video and the text decide."""
    long = "Which of the two dogs barks first?"
    questions = [question("1", text=long), question("2", text="which?")]
    rows = [
        {"id": 2, "video": "v0.mp4", "question": long, "times": [3]},
        {"id": 1, "video": "v0.mp4", "question": "which?", "times": [5]},
    ]
    assert frames_of(read(tmp_path, rows, reader, questions), questions) == [[3], [5]]
    rows = [{"id": 1, "question": f"Look well. {long}", "times": [4]}, {"id": 2, "times": [6]}]
    assert frames_of(read(tmp_path, rows, reader, questions), questions) == [[4], [6]]


@pytest.mark.parametrize("row", [lambda f: {"frame_idx": f}, lambda f: f], ids=["row", "list"])
def test_frames_by_the_questions_id(tmp_path, reader, row):
    content = {"q0": row([30, 60]), "q1": row([24.0]), "q2": row([0])}
    selection = read(tmp_path, content, reader, unit="source")
    assert frames_of(selection) == [[1, 2], [0], [0]]


def test_empty_lists_of_questions_that_are_not_asked(tmp_path, reader):
    """As FOCUS and AKS write where a video is missing."""
    for content in ([[0, 30], [], []], {"q0": [0, 30], "q1": [], "q2": []}):
        first = read(tmp_path, content, reader, limit=1, unit="source")
        assert frames_of(first, QUESTIONS[:1]) == [[0, 1]]


def test_bolt(tmp_path, reader):
    """By video, with seconds under `frames`."""
    content = {
        "v0": [
            {"question_id": "q0", "question": "what?", "frames": [1.0, 1.0, 5.0]},
            {"question_id": "q2", "question": "which?", "frames": [2.0]},
        ],
        "v1": [{"question_id": "q1", "question": "what?", "frames": [38]}],
    }
    assert frames_of(read(tmp_path, content, reader)) == [[1, 1, 5], [15], [2]]


def test_lists_without_ids(tmp_path, reader):
    """AKS's and FOCUS's, in the order of the questions, however many of them are asked."""
    content = [[0, 30, 300], [24], [60]]
    assert frames_of(read(tmp_path, content, reader)) == [[0, 1, 10], [0], [2]]
    first = read(tmp_path, content, reader, limit=1)
    assert frames_of(first, QUESTIONS[:1]) == [[0, 1, 10]] and "of 1 questions" in first.note
    seconds = read(tmp_path, [[0, 3], [1], [6]], reader, unit="seconds")
    assert frames_of(seconds) == [[0, 3], [0], [6]]


def test_candidate_indices(tmp_path, reader):
    """Of this run's candidates; nothing is mapped, and nothing said of errors."""
    rows = [
        {"id": "q0", "frames": [3, 0], "unit": "candidate"},
        {"id": "q1", "candidate_indices": [15]},
        {"id": "q2", "frames": [1]},
    ]
    selection = read(tmp_path, rows, reader, unit="candidate")
    assert frames_of(selection) == [[0, 3], [15], [1]]
    assert selection.note.endswith("frames.json: 4 frames of 3 questions")


def test_a_rows_own_rate_goes_first(tmp_path, reader):
    rows = [{"id": name, "source_frames": [50.0], "fps": 10} for name in ("q0", "q1", "q2")]
    rows += [{"id": "q3", "selected_frames": [0], "fps": 25.0}]
    questions = [*QUESTIONS, question("q3", "v2")]
    assert frames_of(read(tmp_path, rows, reader, questions), questions)[::2] == [[5], [5]]


def test_our_own_rows(tmp_path, reader):
    """Seconds, whatever else a row says of frames and candidates."""
    rows = [
        {"id": q.id, "arm": "topk", "frames": [99], "times": [2.0], "candidates": 12, "fps": None}
        for q in QUESTIONS
    ]
    assert frames_of(read(tmp_path, rows, reader)) == [[2], [0], [2]]


@given(st.lists(st.floats(0, 39.9), min_size=1, max_size=8))
def test_the_nearest_candidate_by_any_time(tmp_path_factory, reader, seconds):
    folder = tmp_path_factory.mktemp("nearest")
    selection = read(folder, [{"id": "q1", "times": seconds}], reader, [QUESTIONS[1]])
    (frames,) = frames_of(selection, [QUESTIONS[1]], 8)
    errors = [min(abs(c - s) for c in CENTRES) for s in sorted(seconds)]
    got = [abs(CENTRES[t] - s) for t, s in zip(frames, sorted(seconds), strict=True)]
    np.testing.assert_allclose(got, errors, atol=1e-9)
    assert f"error is {max(errors):.3f} s" in selection.note


@needs_material
def test_source_frames_of_real_clips(tmp_path):
    """TSPO's stride, a rounded rate, in decoded clips of 15, 24 and 29.97 frames a second."""
    numbers = {"kitchen.mp4": 617, "ma-lmm_video.mp4": 1687, "skateboarding_dog.mp4": 421}
    packer = resume(tmp_path, DecodeSettings(max_side=32))
    for name in numbers:
        entry = Entry(name, name, epath.Path(VIDEOS / name), {})
        decode_part(entry, packer.parts, packer.settings)
        packer.add(entry)
    packer.finish()
    clips = RecordReader(tmp_path)
    questions = [question(name, name) for name in numbers]
    rows = []
    for name, number in numbers.items():
        stride = round(clips.info(name).source.rate)
        rows.append(
            {"question_id": name, "frame_idx": [float(t) for t in range(0, number, stride)]}
        )
    path = write(tmp_path, rows)
    selection = read_selection(path, questions, clips, 100)
    assert frames_of(selection, questions, 100) == [list(range(n)) for n in (42, 71, 15)]
    assert "the largest error is 0.014 s (question skateboarding_dog.mp4)" in selection.note


# --- faults ---------------------------------------------------------------------------------------

GOOD = [{"id": q.id, "times": [1.0]} for q in QUESTIONS]


def with_row(**row):
    return [{"id": "q0", **row}, *GOOD[1:]]


@pytest.mark.parametrize(
    "content, said",
    [
        (GOOD[:2], "question q2 is missing"),
        ([*GOOD, GOOD[0]], "question q0 stands there twice (entry 1 and entry 4)"),
        (with_row(frames=[1]), "entry 1: frames of what unit? it states no unit"),
        (with_row(frames=[1], unit="minutes"), "entry 1: frames of what unit? 'minutes' is none"),
        (with_row(text="x"), "entry 1: no frames; they stand under times, seconds, frame_idx"),
        (with_row(times="1"), "entry 1: field 'times' must be a list of numbers"),
        (with_row(times=[1, None]), "entry 1: field 'times' must be a list of numbers"),
        (with_row(times=[True]), "entry 1: field 'times' must be a list of numbers"),
        (with_row(times=[float("nan")]), "entry 1: field 'times' must be a list of numbers"),
        (with_row(times=[]), "entry 1: question q0 has an empty list of frames, as 1 of the 3"),
        (with_row(times=[1], question="why?"), "q0 is missing; all that are asked must be there; "),
        ({"q0": [1], "q1": [1], "q2": [1]}, "entry 1: frames of what unit? it states no unit"),
        (with_row(frame_idx=[1], fps=0), "entry 1: field 'fps' is 0, not a positive number"),
        (with_row(times=[12.6]), "entry 1: question q0 names a frame at 12.60 s, outside of its"),
        (with_row(times=[3, -1]), "entry 1: question q0 names a frame at -1.00 s, outside of its"),
        (with_row(frame_idx=[390]), "entry 1: question q0 names a frame at 13.00 s, outside"),
        (
            with_row(candidate_indices=[12]),
            "question q0 names a candidate that is not one of 0 … 11",
        ),
        (with_row(candidate_indices=[1.5]), "question q0 names a candidate that is not one of 0"),
        (with_row(candidate_indices=[-1]), "question q0 names a candidate that is not one of 0"),
        ([[1], [2]], "holds 2 lists without question ids, and there are 3 questions"),
        ([[1], [], []], "entry 2: question q1 has an empty list of frames, as 2 of the 3"),
        ([[1], [2], {"id": "q2"}], "entry 3: field 'frames' must be a list"),
        (
            [*GOOD, {"original_idx": 0, "selected_frames": [1]}],
            "entry 4: of which question? None of",
        ),
        ([], "holds no list of frames by question"),
        ({"v0": [], "v1": []}, "holds no list of frames by question"),
        ("text", "holds no list of frames by question"),
        ([1], "entry 1: not a JSON object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_faults(tmp_path, reader, content, said):
    with pytest.raises(UserError) as error:
        read(tmp_path, content, reader)
    (line,) = error.value.lines
    assert line.startswith(f"{tmp_path / 'frames.json'}") and said in line


def test_a_video_of_unknown_rate(tmp_path, reader):
    """Its source frames cannot be mapped; its seconds can."""
    questions = [question("q", "v2")]
    with pytest.raises(
        UserError, match=r"entry 1: source frames of question q cannot be mapped.*v2"
    ):
        read(tmp_path, [{"id": "q", "frame_idx": [0.0]}], reader, questions)
    assert frames_of(read(tmp_path, [{"id": "q", "times": [0]}], reader, questions), questions)


@pytest.mark.parametrize(
    "content, said",
    [
        (b'{"id": "q0", "times": [1]}\n{"id": ', "frames.json:2: not JSON"),
        (b"\xff\xfe", "frames.json: not UTF-8 text"),
        (None, "frames.json: cannot be read"),
        (b"", "frames.json: holds no list of frames"),
        (b'{"q0": [1], "q1": [2], "q0": [3]}', "frames.json: 'q0' stands there twice in one"),
        (b'{"id": "q0", "times": [1]}\n{"id": "q1", "times": [1], "times": [2]}', "'times' stands"),
    ],
    ids=str,
)
def test_files_that_are_none(tmp_path, reader, content, said):
    path = tmp_path / "frames.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_selection(path, QUESTIONS, reader, T)
    assert said in str(error.value) and len(error.value.lines) == 1


def test_an_unknown_unit_and_more_frames_than_are_shown(tmp_path, reader):
    with pytest.raises(UserError, match="unit 'minutes' is unknown; it is one of seconds"):
        read(tmp_path, GOOD, reader, unit="minutes")
    selection = read(tmp_path, with_row(times=[1.0] * 7), reader)
    assert selection.longest == 7 and len(frames_of(selection, k=7)[0]) == 7
    with pytest.raises(UserError, match="question q0 has 7 frames, more than the 6"):
        frames_of(selection)


@pytest.mark.parametrize("form", ["lists", "rows", "absent"])
def test_a_missing_videos_question_needs_no_frames(tmp_path, reader, form):
    """Other tools write an empty list for it, or no row; it is dropped elsewhere."""
    questions = [QUESTIONS[0], question("q1", "gone"), QUESTIONS[2]]
    lists = [[30.0], [], [60.0]]
    rows = [{"id": f"q{i}", "frame_idx": frames} for i, frames in enumerate(lists)]
    content = {"lists": lists, "rows": rows, "absent": rows[::2]}[form]
    selection = read(tmp_path, content, reader, questions)
    assert frames_of(selection, questions) == [[1], [], [2]]
    assert "2 frames of 2 questions" in selection.note


def test_a_damaged_videos_question_shows_nothing(tmp_path, reader, monkeypatch):
    """It is dropped elsewhere; the others are asked."""
    infos = [info for info in reader.infos(["v0", "v1"]) if info.id != "v1"]
    monkeypatch.setattr(reader, "infos", lambda videos: infos)
    selection = read(tmp_path, GOOD, reader)
    assert frames_of(selection) == [[1], [], [1]] and "2 frames of 2 questions" in selection.note
