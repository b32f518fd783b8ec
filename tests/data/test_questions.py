"""The question file: what is saved is loaded, and every defect names its line and field."""

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.data.questions import (
    DataConfig,
    Question,
    Subtitle,
    check_answers,
    digest_of_questions,
    load_questions,
    save_questions,
)
from msjoe_jax.errors import UserError
from msjoe_jax.fields import fields_of
from msjoe_jax.runtime.digest import digest
from msjoe_jax.text.characters import visible

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(visible)
SPAN = st.tuples(st.floats(0, 9), st.floats(9, 1e5))
GOOD = {"id": "q", "video": "v", "question": "?", "options": ["x", "y"], "answer": "B"}


WRONG_SPANS: list = [[2, 1], [-1, 2], [0, math.inf], ["0", 1], [True, 2], [None, 2]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            TEXT,
            TEXT,
            TEXT,
            st.lists(TEXT, min_size=2, max_size=26),
            st.none() | st.integers(0, 25),
            st.none() | st.floats(0, 1),
            st.dictionaries(TEXT, st.integers() | TEXT, max_size=2),
            st.lists(SPAN, max_size=2).map(tuple),
            st.lists(st.tuples(SPAN, TEXT), max_size=2),
            st.just("") | TEXT,
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda row: row[0],
    )
)
def test_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("q") / "q.jsonl"
    questions = [
        Question(
            *(*r[:3], tuple(r[3]), None if r[4] is None else r[4] % len(r[3]), *r[5:8]),
            subtitles=tuple(Subtitle(*span, text) for span, text in r[8]),
            content=r[9],
        )
        for r in rows
    ]
    save_questions(path, questions)
    assert load_questions(path) == questions


def test_optional_fields_blank_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("\ufeff" + json.dumps(GOOD) + "\r\n\n", encoding="utf-8")
    assert load_questions(path) == [Question("q", "v", "?", ("x", "y"), 1)]
    assert load_questions(path)[0].letter == "B"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *[({key: None}, f"field '{key}'") for key in GOOD if key != "answer"],
        *[({key: ...}, f"field '{key}'") for key in GOOD],
        ({"id": 3}, "field 'id'"),
        ({"video": "  "}, "field 'video'"),
        ({"options": []}, "field 'options'"),
        ({"options": "xy"}, "field 'options'"),
        ({"options": ["x"]}, "field 'options' holds fewer than two"),
        ({"options": ["x", 2]}, "field 'options'"),
        ({"options": ["x"] * 27}, "field 'options'"),
        ({"answer": "C"}, "field 'answer' is 'C', not one letter of AB"),
        ({"answer": "b"}, "field 'answer'"),
        ({"answer": "AB"}, "field 'answer'"),
        ({"answer": 1}, "field 'answer'"),
        ({"difficulty": 1.5}, "field 'difficulty'"),
        ({"difficulty": "0.5"}, "field 'difficulty'"),
        ({"difficulty": True}, "field 'difficulty'"),
        ({"difficulty": float("nan")}, "field 'difficulty'"),
        ({"extra": []}, "field 'extra'"),
        ({"content": 3}, "field 'content'"),
        *[({"evidence": x}, "field 'evidence'") for x in (None, 3, [3], [[1]])],
        *[({"evidence": [[0, 1], x]}, "field 'evidence'") for x in WRONG_SPANS],
        *[({"subtitles": [[*x, "text"]]}, "field 'subtitles'") for x in WRONG_SPANS],
        *[({"subtitles": x}, "field 'subtitles'") for x in (None, [[1, 2]], [[1, 2, 3]])],
        ({"id": "\ud83d"}, "field 'id' holds half of a surrogate pair"),
        ({"question": "who \udc00?"}, "field 'question' holds half"),
        ({"options": ["x", "\ud83d"]}, "field 'options' holds half"),
        ({"extra": {"\ud83d": 1}}, "field 'extra' holds half"),
        ({"anwser": "A"}, "unknown field 'anwser'"),
        ({"id": "first"}, "field 'id' repeats 'first' of line 1"),
    ],
)
def test_a_bad_field_names_file_line_and_field(tmp_path, change, said):
    row = {key: value for key, value in {**GOOD, **change}.items() if value is not ...}
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({**GOOD, "id": "first"}) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError) as caught:
        load_questions(path)
    assert f"{path}:3: " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no questions"),
        (b"\n \n", "no questions"),
        (b'{"id": "a"', ":1: not JSON"),
        (b"[1]", ":1: not a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_bad_file(tmp_path, content, said):
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        load_questions(path)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            load_questions(path)


def test_the_config_names_a_folder_and_a_file_for_each_part_of_the_data():
    fields = {field.name: field for field in fields_of(DataConfig)}
    assert fields.pop("task").default == "jsonl" and fields.pop("max_dropped").default == 0.5
    assert fields.pop("shared_videos").default is False
    assert fields.pop("train_sets").option.form == ""
    assert {name: field.option.form for name, field in fields.items()} == {
        f"{part}_{kind}": {"records": "folder", "questions": "file"}[kind]
        for part in ("train", "validation", "heldout")
        for kind in ("records", "questions")
    }
    assert all(field.kind is str and field.default == "" for field in fields.values())


def test_a_digest_of_questions_is_of_all_but_their_pass_rates():
    asked = [Question(f"q{i}", "v", "?", ("x", "y"), i % 2, extra={"n": [i]}) for i in range(3)]
    first, *rest = asked
    rated = [dataclasses.replace(question, difficulty=0.5) for question in asked]
    assert digest_of_questions(asked) == digest_of_questions(rated)
    changes = ({"answer": 1}, {"options": ("x", "z")}, {"question": "!"}, {"video": "w"},
               {"id": "r"}, {"extra": {"n": [1]}}, {"answer": None}, {"evidence": ((0.0, 1.0),)},
               {"subtitles": (Subtitle(0.0, 1.0, "hi"),)})  # fmt: skip
    known = [dataclasses.replace(question, content="hash") for question in asked]
    assert digest_of_questions(asked) == digest_of_questions(known)
    others = [
        *([dataclasses.replace(first, **change), *rest] for change in changes),
        rest, [*rest, first], [*asked, dataclasses.replace(first, id="s")], [],
    ]  # fmt: skip
    assert len({digest_of_questions(x) for x in (asked, *others)}) == 1 + len(others)


def test_the_digest_is_that_of_files_from_before_evidence_and_subtitles():
    """What a run of an earlier version has written into its work folder still fits."""
    asked = [Question("q", "v", "?", ("x", "y"), 1, 0.5, {"groups": {"kind": "long"}})]
    before = {"id": "q", "video": "v", "question": "?", "options": ["x", "y"], "answer": 1,
              "difficulty": None, "extra": {"groups": {"kind": "long"}}}  # fmt: skip
    assert digest_of_questions(asked) == digest([before])


def test_questions_without_an_answer():
    unknown, known = (Question("q", "v", "?", ("x", "y"), answer) for answer in (None, 1))
    assert unknown.letter == ""
    check_answers([known], "q.jsonl")
    with pytest.raises(UserError, match=r"q\.jsonl: 1 questions have no answer, such as 'q'"):
        check_answers([known, unknown], "q.jsonl")


SEGMENT_ROW = {"id": "q", "video": "long", "question": "?", "options": ["a", "b"], "answer": "A"}


def test_a_question_about_a_segment(tmp_path):
    row = SEGMENT_ROW | {
        "start": 600,
        "end": 660.5,
        "evidence": [[590, 610], [620, 630], [10, 20], [660, 700]],
        "subtitles": [[599, 600, "before"], [599, 601, "in"], [660, 900, "out"], [661, 9e9, "x"]],
    }
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    (question,) = load_questions(tmp_path / "q.jsonl")
    assert question.video == "long@600-660.5"
    assert question.evidence == ((0.0, 10.0), (20.0, 30.0), (60.0, 60.5))
    assert question.subtitles == (Subtitle(0.0, 1.0, "in"), Subtitle(60.0, 60.5, "out"))
    save_questions(tmp_path / "again.jsonl", [question])
    assert load_questions(tmp_path / "again.jsonl") == [question]
    (tmp_path / "q.jsonl").write_text(json.dumps(SEGMENT_ROW | {"end": 9, "start": None}))
    assert load_questions(tmp_path / "q.jsonl")[0].video == "long@0-9"


@pytest.mark.parametrize(
    "part",
    [{"start": 1}, {"start": 3, "end": 3}, {"start": 3, "end": 2}, {"start": -1, "end": 2},
     {"end": True}, {"start": "1", "end": 2}, {"end": 10**400}, {"end": float("nan")}],
)  # fmt: skip
def test_a_wrong_segment_is_named(tmp_path, part):
    (tmp_path / "q.jsonl").write_text(json.dumps(SEGMENT_ROW | part))
    with pytest.raises(UserError, match=r"q.jsonl:1: fields 'start' and 'end'"):
        load_questions(tmp_path / "q.jsonl")
