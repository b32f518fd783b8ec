"""Rows read, duplicated and refused are the rows of the file, and nothing is left out unsaid."""

import dataclasses
import datetime
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.data.questions import load_questions, save_questions
from msjoe_jax.errors import UserError
from msjoe_jax.tasks import TASKS, video_mme
from msjoe_jax.tasks.reading import (
    Form,
    question_of,
    read_file,
    read_questions,
    read_values,
    with_groups,
)
from msjoe_jax.tasks.rows import Row
from tests.support.benchmarks import NAMES, VIDEO_MME, as_json, as_lines, table

FORM = Form(lambda values: question_of(values, video=("video",)))
GOOD = {"id": "q", "video": "v.mp4", "question": "?", "options": ["x", "y"], "answer": "B"}


def rows_of(*values):
    return [Row(f"row {i}", i, dict(v)) for i, v in enumerate(values)]


def test_what_is_left_out_is_told_with_place_field_and_reason(tmp_path, capsys):
    rows = [
        *VIDEO_MME,
        VIDEO_MME[0],
        {**VIDEO_MME[1], "answer": "D"},
        {**VIDEO_MME[1], "question_id": "9-1", "answer": "E"},
        {**VIDEO_MME[1], "question_id": "9-2", "options": []},
    ]
    file = tmp_path / "f.jsonl"
    as_lines(file, rows)
    with file.open("a") as lines:
        lines.write("{broken\n")
    reading = read_file(video_mme.TASK.form, file)
    assert len(reading.questions) + len(reading.duplicated) + len(reading.refused) == reading.rows
    assert (reading.rows, len(reading.questions), len(reading.duplicated)) == (9, 4, 1)
    told = "\n".join(reading.lines())
    assert f"{file}: 9 rows: 4 questions, 1 duplicated, 4 refused" in told
    assert f"{file}:5: the same as {file}:1" in told
    assert f"{file}:6: field 'question_id' repeats '001-2' of {file}:2" in told
    assert f"{file}:7: field 'answer' is 'E', not one of the options ABCD" in told
    assert f"{file}:8: field 'options'" in told and f"{file}:9: not JSON" in told
    for _ in range(2):
        read_questions(video_mme.TASK.form, file)
    assert capsys.readouterr().out == told + "\n"  # once


def test_many_rows_are_told_by_their_number(tmp_path):
    rows = [GOOD, *({**GOOD, "id": str(i), "answer": "Z"} for i in range(9))]
    told = read_file(FORM, as_lines(tmp_path / "f.jsonl", rows)).lines()
    assert len(told) == 1 + 5 + 1 and told[-1] == "  … and 4 more"


def test_a_file_without_a_question_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"none of its 1 rows is a question; .*field 'question'"):
        read_file(FORM, as_lines(tmp_path / "f.jsonl", [{"id": "q"}]))
    with pytest.raises(UserError, match="it has no rows"):
        read_file(FORM, as_json(tmp_path / "f.json", []))


def test_ids_are_those_that_tell_rows_apart():
    numbered = [{**GOOD, "id": "0", "index": f"i{i}", "question": f"{i}?"} for i in range(3)]
    assert [q.id for q in read_values(FORM, "f", rows_of(*numbered)).questions] == [
        "i0", "i1", "i2",
    ]  # fmt: skip
    nameless = [{k: v for k, v in GOOD.items() if k != "id"} for _ in range(2)]
    nameless.append({**nameless[0], "question": "another?"})
    reading = read_values(FORM, "f", rows_of(*nameless))
    assert len(reading.questions) == 2 and len(reading.duplicated) == 1
    assert all(q.id.startswith("v-") for q in reading.questions)
    assert [q.extra["row"] for q in reading.questions] == [0, 2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": ""}, "field 'question' is missing"),
        ({"question": " \u200b"}, "field 'question' holds no question"),
        ({"video": None}, "field 'video' is missing"),
        ({"video": ["a", "b"]}, "field 'video' names 2 videos; a question here has one"),
        ({"video": []}, "field 'video' names no video"),
        ({"video": [True]}, "field 'video' names no video"),
        ({"options": "none"}, "field 'options' holds"),
        ({"answer": "C"}, "field 'answer' is 'C'"),
        ({"answer_number": "5"}, "field 'answer_number' is 5"),
        ({"question": "half \ud83d?"}, "half of a surrogate pair"),
    ],
)
def test_a_wrong_field_is_named(change, said):
    values = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    (refused,) = read_values(FORM, "f", rows_of(values)).refused
    assert refused.place == "row 0" and said in refused.reason


def test_tables_of_other_selectors(tmp_path):
    """Columns and cells as TSPO's evaluation/data/*.tsv has them; the ids are all 0 in MLVU's."""
    cells = [
        ["1_mlvu_1", "plotQA", "m_66.mp4", "0", "Colour?", "0", "['Yellow', 'Red']", "Yellow"],
        ["2_mlvu_2", "ego", "m_5.mp4", "0", 'A scene of "it"?', "1", "['', 'Yes', 'No']", "Yes"],
        ["3_mlvu_3", "ego", "m_5.mp4", "0", "How many?", "3", "['3', '2', '5', '1']", "1"],
    ]
    read = TASKS["mlvu_dev"].read(table(tmp_path / "MLVU.tsv", cells))
    assert [(q.id, q.video, q.letter) for q in read] == [
        ("1_mlvu_1", "m_66", "A"), ("2_mlvu_2", "m_5", "B"), ("3_mlvu_3", "m_5", "D"),
    ]  # fmt: skip
    assert read[1].options == ("", "Yes", "No") and read[0].extra["groups"]["task_type"] == "plotQA"
    cells = [["001-1", "VideoMME", "fFj.mp4", "001-1", "Which?", "2", "['A. x', 'B. y', 'C. z']",
              "C"],
             ["001-2", "VideoMME", "fFj.mp4", "001-2", "Who?", "0", "['A. x', \"B. y's\"]",
              "A"]]  # fmt: skip
    read = TASKS["video_mme"].read(table(tmp_path / "VideoMME.csv", cells))
    assert [(q.id, q.video, q.options, q.letter) for q in read] == [
        ("001-1", "fFj", ("x", "y", "z"), "C"), ("001-2", "fFj", ("x", "y's"), "A"),
    ]  # fmt: skip
    cells = [["Cm55", "cartoon_key information retrieval", "Cm.mp4", "Cm55", "Year?", "1",
              "['1', '2']", "2"]]  # fmt: skip
    (q,) = TASKS["lvbench"].read(table(tmp_path / "LVBench.tsv", cells, NAMES))
    assert q.extra["groups"] == {"video": "cartoon", "KIR": "key information retrieval"}


def test_videos_of_one_name_in_two_folders_are_told():
    rows = [{**GOOD, "id": f"{i}", "video": v} for i, v in enumerate(["a/x.mp4", "b/x.mp4", "y"])]
    reading = read_values(FORM, "f", rows_of(*rows))
    assert reading.notes == {"videos of one name in different folders, such as 'x'": 1}
    assert [q.extra.get("file") for q in reading.questions] == ["a/x.mp4", "b/x.mp4", None]


def test_a_row_without_a_row_in_it_is_refused(tmp_path):
    rows = [{"video_id": "1", "questions": []}, *VIDEO_MME]
    reading = read_file(video_mme.TASK.form, as_lines(tmp_path / "f.jsonl", rows))
    assert reading.rows == 5 and len(reading.questions) == 4
    assert [one.reason for one in reading.refused] == ["holds no question"]


def test_options_of_columns_keep_their_places():
    """An answer may be a place: what is empty in the middle counts, what fills up does not."""
    columns = {f"option{i}": text for i, text in enumerate(["x", "", "z", "N/A", "N/A"])}
    row = {"video": "v", "question": "?", **columns, "answer": 2}
    (question,) = read_values(FORM, "f", rows_of(row)).questions
    assert question.options == ("x", "", "z") and question.letter == "C"
    (refused,) = read_values(FORM, "f", rows_of({**row, "answer": 3})).refused
    assert "not the index of one of 3" in refused.reason


def test_ids_that_repeat_where_they_may():
    form = Form(lambda v: dataclasses.replace(FORM.parse(v), id=v["id"]), repeats=True)
    rows = [{**GOOD, "question": f"{i % 2}?"} for i in range(4)] + [
        {**GOOD, "question": f"{i}?", "answer": "A"} for i in range(2)
    ]
    reading = read_values(form, "f", rows_of(*rows))
    assert [q.question for q in reading.questions] == ["0?", "1?"]
    assert reading.questions[0].id == "q" and reading.questions[1].id.startswith("q-")
    assert (len(reading.duplicated), len(reading.refused)) == (2, 2)
    assert set(reading.notes.values()) == {3}


def test_values_that_json_cannot_hold_are_kept_as_text():
    form = Form(lambda v: with_groups(question_of(v, video=("video",)), v, mark=v["mark"]))
    mark = {"day": datetime.date(2026, 1, 2), 3: [math.nan, b"x", (1, True)]}
    (question,) = read_values(form, "f", rows_of({**GOOD, "mark": mark})).questions
    assert question.extra["mark"] == {"day": "2026-01-02", "3": [None, "b'x'", [1, True]]}


def test_what_is_read_can_be_kept_as_an_own_question_file(tmp_path):
    read = TASKS["video_mme"].read(as_lines(tmp_path / "f.jsonl", VIDEO_MME))
    save_questions(tmp_path / "own.jsonl", read)
    assert load_questions(tmp_path / "own.jsonl") == read
    # The benchmark's own task reads it too, so that its rules and its prompt can be used.
    assert TASKS["video_mme"].read(tmp_path / "own.jsonl") == read


VALUES = st.none() | st.text(max_size=5) | st.integers(-2, 9) | st.lists(st.text(max_size=3))
KEYS = st.sampled_from(["id", "video", "question", "options", "answer", "answer_number", "x"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.dictionaries(KEYS, VALUES), max_size=6))
def test_any_rows_are_counted(changes):
    values = [{k: v for k, v in {**GOOD, **change}.items() if v is not None} for change in changes]
    reading = read_values(FORM, "f", rows_of(*values))
    counted = len(reading.questions) + len(reading.duplicated) + len(reading.refused)
    assert counted == reading.rows == len(values)
    assert len({q.id for q in reading.questions}) == len(reading.questions)
    json.dumps([q.extra for q in reading.questions])
