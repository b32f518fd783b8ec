"""MLVU: rows and native JSON, six options, the mean of tasks beside the mean of questions."""

import json

import pytest

from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.scoring import Said, score
from tests.support.benchmarks import MLVU_DEV, MLVU_NATIVE, MLVU_TEST, as_json, as_parquet

DEV, TEST = TASKS["mlvu_dev"], TASKS["mlvu_test"]


def test_rows_have_their_options_in_the_question(tmp_path):
    read = DEV.read(as_parquet(tmp_path / "dev.parquet", MLVU_DEV))
    assert {(q.video, q.question, q.options, q.letter) for q in read} == {
        ("movie101_66", "What color is the man?", ("Yellow", "Red", "Green", "Blue"), "C")
    }
    assert [DEV.groups(q)["task_type"] for q in read] == ["needle", "plotQA", "plotQA"]


def test_native_json_has_texts_for_answers(tmp_path):
    (tmp_path / "json").mkdir()
    as_json(tmp_path / "json" / "1_plotQA.json", MLVU_NATIVE[:2])
    as_json(tmp_path / "json" / "4_count.json", MLVU_NATIVE[2:])
    read = DEV.read(tmp_path / "json")
    assert [(q.video, q.options, q.letter) for q in read] == [
        ("movie101_66", ("Yellow", "Red", "Green", "Red"), "D"),  # the last of two alike
        ("movie101_5", ("", "There is", "There is none", ""), "B"),
        ("count_1", ("B", "C", "A", "D"), "C"),  # the text A, not the letter
    ]
    assert len({q.id for q in read}) == 3


def test_macro_and_micro(tmp_path):
    read = DEV.read(as_parquet(tmp_path / "dev.parquet", MLVU_DEV))
    said = {"q0": Said("A) Yellow"), "q1": Said("C) Green"), "q2": Said("C")}
    for rule in ("official", "prefixes", "lmms-eval"):
        totals = score(DEV, rule, read, said)["totals"]
        assert totals["macro (M-Avg)"] == 50 and totals["micro"] == pytest.approx(200 / 3)
        assert totals["task_type"] == {"needle": 0.0, "plotQA": 100.0}
        # lmms-eval divides by its seven tasks whatever the file has.
        assert ("macro (M-Avg), missing tasks as 0" in totals) == (rule == "lmms-eval")
    lmms = score(DEV, "lmms-eval", read, said)["totals"]
    assert lmms["macro (M-Avg), missing tasks as 0"] == pytest.approx(100 / 7)


def test_all_six_letters(tmp_path):
    (q,) = TEST.read(as_parquet(tmp_path / "test.parquet", MLVU_TEST))
    assert len(q.options) == 6 and q.letter == "F"
    for rule in ("strict", "official", "prefixes", "lmms-eval"):
        assert score(TEST, rule, [q], {"AR_0": Said("F")})["accuracy"] == 1
    assert score(TEST, "four_letters", [q], {"AR_0": Said("F")})["accuracy"] == 0
    rows = [{"id": q.id, "answer": "F", "score": 1.0, "question": q}]
    assert json.loads(TEST.submission(rows)) == [
        {"question_id": "AR_0", "question_type": "AR", "option": "F"}
    ]
