"""Video-MME: its rows, its nested JSON, both denominators."""

import json

import pytest

from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.predictions import questions_within
from msjoe_jax.tasks.scoring import Said, score
from tests.support.benchmarks import VIDEO_MME, as_json, as_parquet

TASK = TASKS["video_mme"]


@pytest.fixture
def questions(tmp_path):
    return TASK.read(as_parquet(tmp_path / "test-00000-of-00001.parquet", VIDEO_MME))


def test_rows(questions):
    assert [(q.id, q.video, q.letter) for q in questions] == [
        ("001-1", "a_-b.c1", "A"), ("001-2", "a_-b.c1", "B"), ("001-3", "a_-b.c1", "C"),
        ("601-1", "zz9", "D"),
    ]  # fmt: skip
    assert questions[0].options == ("3.", "1998.", "Two dogs.", "A. D. 12.")
    assert TASK.groups(questions[3]) == {
        "duration": "long",
        "domain": "Multilingual",
        "sub_category": "Geography",
        "task_type": "OCR Problems",
    }


def test_both_denominators(questions):
    said = {"001-1": Said("A"), "001-2": Said("A."), "001-3": Said("no idea"), "601-1": Said("D")}
    official, lmms = (score(TASK, name, questions, said) for name in ("official", "lmms-eval"))
    assert official["totals"]["overall"] == pytest.approx(200 / 3)  # the script's own number
    assert official["totals"]["overall, unparsed replies counted as wrong"] == 50
    assert official["totals"]["duration"] == {"long": 100.0, "short": 50.0}
    assert lmms["totals"]["overall"] == 50
    assert lmms["totals"]["duration"] == {"long": 100.0, "short": pytest.approx(100 / 3)}
    assert (official["of_parsed"], official["accuracy"]) == (pytest.approx(2 / 3), 0.5)
    assert official["unparsed"] == lmms["unparsed"] == 1


def test_the_nested_form_is_written_and_read(questions, tmp_path):
    rows = [{"id": q.id, "answer": "B", "score": 0.0, "question": q} for q in questions]
    nested = json.loads(TASK.submission(rows))
    assert [video["video_id"] for video in nested] == ["001", "601"]
    assert nested[0]["duration_category"] == "short" and nested[0]["missing"] is False
    assert nested[0]["questions"][1] == {
        "question_id": "001-2",
        "task_type": "Counting Problem",
        "question": "How many?",
        "choices": ["A. 3.", "B. 1998.", "C. Two dogs.", "D. A. D. 12."],
        "answer": "B",
        "response": "B",
    }
    again = questions_within(TASK.form, as_json(tmp_path / "f.json", nested)).questions
    assert [(q.id, q.options, q.letter) for q in again] == [
        (q.id, q.options, q.letter) for q in questions
    ]
    assert [TASK.groups(q) for q in again] == [TASK.groups(q) for q in questions]
