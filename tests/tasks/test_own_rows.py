"""Own tables: columns by any name, options and answers in any form, nothing guessed unsaid."""

import json

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.tasks.own_rows import BOTH, INDEX, WHOLE, form, read_columns
from msjoe_jax.tasks.reading import read_values
from msjoe_jax.tasks.rows import Row, read_rows

GOOD = {"id": "q", "video": "v.mp4", "question": "What?", "options": ["x", "y", "z"], "answer": "B"}


def read(*values, columns=(), answers="auto"):
    rows = [Row(f"row {i}", i, {k: v for k, v in row.items() if v is not None})
            for i, row in enumerate(values)]  # fmt: skip
    return read_values(form(read_columns(columns), answers), "f", rows)


def one(change, **how):
    reading = read({**GOOD, **change}, **how)
    assert not reading.refused, reading.refused
    return reading.questions[0]


@pytest.mark.parametrize(
    "row",
    [
        GOOD,
        {**GOOD, "options": '["x", "y", "z"]'},
        {**GOOD, "options": "['x', 'y', 'z']", "answer": "y"},
        {**GOOD, "options": "x|y|z", "answer": "(B)"},
        {**GOOD, "options": "A. x\nB. y\nC. z", "answer": "B. y"},
        {**GOOD, "options": "x\ny\nz", "answer": "1"},
        {**GOOD, "options": {"A": "x", "B": "y", "C": "z"}, "answer": 1},
        {**GOOD, "options": ["A. x", "B. y", "C. z"]},
        {**GOOD, "options": None, "question": "What?\n(A) x\n(B) y\n(C) z"},
        {**GOOD, "options": None, "question": "What?\nA: x\nB: y\nC: z\nAnswer with the letter."},
        {"Question ID": "q", "Video ID": "v", "Question": "What?", "Option A": "x", "optionB": "y",
         "option_c": "z", "option_d": "N/A", "Answer": "B"},
        {"uid": "q", "vid": "v", "problem": "What?", "a0": "x", "a1": "y", "a2": "z", "a3": "",
         "label": "1"},
        {"q_uid": "q", "path": "v.mp4", "question": "What?", "option 0": "x", "option 1": "y",
         "option 2": "z", "_answer": 1},
        {"id": "q", "video": "v", "question": "What?", "A": "x", "B": "y", "C": "z",
         "answer": "y"},
    ],
)  # fmt: skip
def test_forms_of_one_question(row):
    (question,) = read(row).questions
    assert (question.id, question.question, question.letter) == ("q", "What?", "B")
    assert question.options == ("x", "y", "z") and question.video == "v"


def test_given_columns(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text("Nr,Clip,Frage,Eins,Zwei,Richtig,Thema\n7,a/v.mp4,Was?,rot,blau,2,Farbe\n")
    columns = ["id:Nr", "video:Clip", "question:Frage", "options:Eins|Zwei", "answer:Richtig",
               "groups:Thema"]  # fmt: skip
    how = form(read_columns(columns), "number")
    (question,) = read_values(how, str(file), read_rows(file)).questions
    assert (question.id, question.video, question.options) == ("7", "v", ("rot", "blau"))
    assert question.letter == "B" and question.extra["groups"] == {"Thema": "Farbe"}
    assert question.extra["file"] == "a/v.mp4"


@pytest.mark.parametrize(
    ("answers", "value", "letter"),
    [("auto", 0, "A"), ("auto", "2", "C"), ("auto", 2.0, "C"), ("auto", "z", "C"),
     ("auto", None, ""), ("auto", "N/A", ""), ("letter", "c", "C"), ("letter", "(C) z", "C"),
     ("text", "z", "C"), ("index", "1", "B"), ("number", "1", "A"), ("number", 3, "C")],
)  # fmt: skip
def test_what_answers_are(answers, value, letter):
    assert one({"answer": value}, answers=answers).letter == letter


def test_an_answer_that_may_be_a_text_or_a_place_is_counted():
    numbers = {"options": ["1", "2", "3"], "answer": "1"}
    reading = read({**GOOD, **numbers})
    assert reading.questions[0].letter == "A" and reading.notes == {BOTH: 1}
    assert one(numbers, answers="index").letter == "B"
    assert read({**GOOD, "answer": 1}, {**GOOD, "id": "r", "answer": 2}).notes == {INDEX: 2}


@pytest.mark.parametrize(
    ("change", "answers", "said"),
    [
        ({"video": None}, "auto", "field 'video' is missing"),
        ({"question": None}, "auto", "field 'question' is missing"),
        ({"options": ["x"]}, "auto", "field 'options' holds 1 options"),
        ({"options": ["x"] * 27}, "auto", "field 'options' holds 27 options; 2 to 26 can be"),
        ({"answer": "D"}, "auto", "field 'answer' is 'D'"),
        ({"answer": 3}, "auto", "field 'answer' is 3, not the index of one of 3"),
        ({"answer": ["A", "B"]}, "auto", "field 'answer'"),
        ({"answer": True}, "auto", "field 'answer'"),
        ({"answer": "1"}, "letter", "field 'answer' is '1', no letter"),
        ({"answer": "B"}, "index", "field 'answer' is 'B', no whole number"),
        ({"answer": "0"}, "number", "field 'answer' is 0, not the number of one of 3"),
        ({"answer": "3"}, "index", "field 'answer' is 3, not the index of one of 3"),
        ({"difficulty": 2}, "auto", "field 'difficulty' is 2"),
        ({"evidence": "soon"}, "auto", "field 'evidence' is 'soon', no spans of the video"),
        ({"extra": 3}, "auto", "field 'extra' must be an object"),
        ({"extra": {"groups": 3}}, "auto", "field 'groups' of 'extra' must be an object"),
        ({"subtitles": [[1, 0, "x"]]}, "auto", "field 'subtitles'"),
        ({"content": 3}, "auto", "field 'content' must be a string"),
    ],
)
def test_a_wrong_field_is_named(change, answers, said):
    reading = read({**GOOD, **change}, answers=answers)
    assert not reading.questions and said in reading.refused[0].reason


def test_all_other_fields_are_kept():
    row = {"evidence": [[1, 2.5]], "subtitles": [[0, 1, "hi"]], "content": "h", "difficulty": 0.25,
           "category": "sport", "note": "mine",
           "extra": {"n": 1, "groups": {"own": "yes"}}}  # fmt: skip
    question = one(row)
    assert question.evidence == ((1, 2.5),) and question.difficulty == 0.25
    assert question.subtitles[0].text == "hi" and question.content == "h"
    assert question.extra["note"] == "mine" and question.extra["n"] == 1
    assert question.extra["groups"] == {"category": "sport", "own": "yes"}
    assert one({"difficulty": "hard", "evidence": "00:10-00:12"}).extra["groups"] == {
        "difficulty": "hard"
    }
    json.dumps(question.extra)


def test_columns_of_names_that_are_ours_or_alike_are_kept():
    row = {"file": "mine.txt", "row": 7, "Type": "x", "type": "y", "groups": "g",
           "extra": {"notes": "n", "id_field": None}}  # fmt: skip
    extra = one(row).extra
    assert extra["file_of_source"] == "mine.txt" and extra["row_of_source"] == 7
    assert extra["notes_of_source"] == "n" and extra["id_field_of_source"] is None
    assert extra["groups"] == {"type": "x", "groups": "g"} and extra["type"] == "y"
    assert extra["file"] == "v.mp4" and extra["row"] == 0


def test_times_that_are_not_taken_for_a_segment_are_counted():
    row = {**GOOD, "start": 1, "end": 2}
    assert read(row).notes == {WHOLE: 1}
    assert WHOLE not in read(row, columns=("start:start", "end:end")).notes


def test_ids_are_made_where_there_are_none_and_where_an_index_is_always_0():
    rows = [{**GOOD, "id": None, "index": "0", "question": f"{i}?"} for i in range(3)]
    assert len({q.id for q in read(*rows).questions}) == 3
    rows = [{**GOOD, "id": None, "index": f"{i}", "question": f"{i}?"} for i in range(3)]
    assert [q.id for q in read(*rows).questions] == ["0", "1", "2"]


@pytest.mark.parametrize("text", ["video", "clip:x", "options:a||b", "video:"])
def test_a_column_that_cannot_be_read(text):
    with pytest.raises(UserError, match="FIELD:COLUMN"):
        read_columns([text])


def test_a_given_column_that_is_missing():
    reading = read(GOOD, columns=["options:x1|x2"])
    assert "field 'x1' is missing" in reading.refused[0].reason
    reading = read(GOOD, columns=["video:clip"])
    assert "field 'clip' is missing" in reading.refused[0].reason
