"""What is said of a question file, against counting by hand."""

import pytest

from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.report.inspect_questions import difficulty, inspect_questions
from msjoe_jax.report.inspection import as_json
from tests.support.records import write_flat

QUESTIONS = [
    Question("q0", "a", "?", ("x", "y"), 0, 0.0, evidence=((0.0, 1.0),)),
    Question("q1", "a", "?", ("x", "y"), 1, 1.0),
    Question("q2", "b", "!", ("x", "y", "z"), 2, 0.3, evidence=((0.0, 99.0),), content="h"),
    Question("q3", "gone", "?", ("x", "y"), None),
]


def kinds(question):
    return {"kind": "first" if question.id == "q0" else "rest"} if question.id != "q3" else {}


def test_counts(tmp_path):
    write_flat(tmp_path / "r", {"a": 3, "b": 2, "c": 4}, shard_bytes=1)
    found = as_json(inspect_questions("f", QUESTIONS, kinds, RecordReader(tmp_path / "r", "")))
    questions = found["questions"]
    assert (questions["questions"], questions["videos"]) == (4, 3)
    assert questions["most_questions_of_a_video"] == 2 and questions["asked_twice_of_a_video"] == 1
    assert questions["without_a_known_answer"] == 1 and questions["with_evidence"] == 2
    assert (
        questions["with_a_measured_difficulty"] == 3 and questions["with_a_hash_of_the_video"] == 1
    )
    assert questions["mean_pass_rate_of_the_base_model"] == pytest.approx(1.3 / 3)
    assert found["right_answers"] == {"A": 1, "B": 1, "C": 1, "unknown": 1}
    assert found["numbers_of_options"] == {"2": 3, "3": 1}
    assert found["category_kind"] == {"rest": 2, "first": 1}
    inside = found["in_the_records"]
    assert (inside["questions_that_can_be_asked"], inside["dropped"]) == (3, 1)
    assert inside["videos_that_no_question_asks_about"] == 1
    assert inside["with_evidence_after_the_video_s_end"] == 1
    (row,) = found["dropped_questions"]["rows"]
    assert row == {"question": "q3", "video": "gone", "why": "no such video"}
    assert found["questions_by_duration_of_their_video"]["up to 00:10"] == 3
    (tmp_path / "r" / "videos-00001.arrayrecord").write_bytes(b"")
    found = as_json(inspect_questions("f", QUESTIONS, kinds, RecordReader(tmp_path / "r", "")))
    rows = {row["question"]: row["why"] for row in found["dropped_questions"]["rows"]}
    assert rows == {"q2": "its record is damaged", "q3": "no such video"}


def test_without_records_and_difficulty_nothing_is_said_of_them():
    found = as_json(inspect_questions("f", QUESTIONS[3:], lambda _: {}))
    assert "in_the_records" not in found and not any("difficulty" in key for key in found)


def test_each_pass_rate_is_in_one_bar():
    rates = [k / 8 for k in range(9)] + [0.1, 0.3, 0.7, 0.9, 0.95]
    bars = difficulty(rates, 20)
    counts = dict(bars.counts)
    assert sum(counts.values()) == len(rates) and bars.note == "not measured: 6"
    for k in range(10):
        name = f"{k / 10:.1f} to {(k + 1) / 10:.1f}"
        assert counts[name] == sum(k <= round(10 * rate, 6) < k + 1 for rate in rates)
    assert counts["1.0, always right"] == 1
