"""LVBench: both files, several types a question, evidence."""

import json

import pytest

from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.scoring import Said, score
from tests.support.benchmarks import LVBENCH, LVBENCH_LMMS, as_lines, as_parquet

TASK = TASKS["lvbench"]


@pytest.fixture
def questions(tmp_path):
    return TASK.read(as_lines(tmp_path / "video_info.meta.jsonl", LVBENCH))


def test_the_authors_file(questions, capsys):
    assert [(q.id, q.video, q.letter, q.evidence) for q in questions] == [
        ("55", "Cm73ma6Ibcs", "D", ((15.0, 19.0),)),
        ("56", "Cm73ma6Ibcs", "A", ((3665.0, 3720.0),)),
        ("113", "q01CUy_gwdU", "B", ()),
    ]
    assert questions[0].question == "What year appears?"
    assert questions[1].options == ("Because (B) is wrong", "No", "Yes", "Maybe")
    assert TASK.groups(questions[0]) == {
        "video": "cartoon",
        "KIR": "key information retrieval",
        "Rea": "reasoning",
    }


def test_a_window_that_cannot_be_read_is_told(tmp_path, capsys):
    TASK.read(as_lines(tmp_path / "meta.jsonl", LVBENCH))
    assert "field 'time_reference' cannot be read: 1" in capsys.readouterr().out


def test_rows_of_lmms_eval(tmp_path):
    (q,) = TASK.read(as_parquet(tmp_path / "f.parquet", LVBENCH_LMMS))
    assert (q.video, q.letter, q.evidence) == ("Cm73ma6Ibcs", "D", ((15.0, 19.0),))
    assert TASK.groups(q) == {"video": "cartoon", "Rea": "reasoning"}


def test_flat_rows_of_the_authors_file(tmp_path):
    row = {"video_key": LVBENCH[0]["key"], **LVBENCH[0]["qa"][0]}
    (q,) = TASK.read(as_lines(tmp_path / "f.jsonl", [row]))
    assert (q.id, q.video, q.letter) == ("55", "Cm73ma6Ibcs", "D")


def test_a_question_counts_in_each_of_its_types(questions):
    said = {"55": Said("D"), "56": Said("B"), "113": Said("(C)")}
    totals = score(TASK, "official", questions, said)["totals"]
    assert totals["lvbench_score"] == pytest.approx(1 / 3)
    assert totals["question_type"] == {"KIR": 100.0, "Rea": 50.0, "Sum": 0.0}
    assert totals["video"] == {"cartoon": 50.0, "sport": 0.0}


def test_only_answered_questions_count_as_in_the_authors_scorer(questions):
    result = score(TASK, "official", questions, {"55": Said("D")})
    assert result["totals"]["lvbench_score"] == 1 and result["of_all"] == pytest.approx(1 / 3)


def test_submission(questions):
    rows = [{"id": q.id, "answer": q.letter, "score": 1.0, "question": q} for q in questions]
    assert json.loads(TASK.submission(rows)) == {"55": "D", "56": "A", "113": "B"}
