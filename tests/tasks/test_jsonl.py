"""The project's own question files as a task."""

import pytest

from msjoe_jax.data.questions import Question, save_questions
from msjoe_jax.errors import UserError
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.base import Reply


def test_reads_and_grades(tmp_path):
    question = Question("q", "v", "colour?", ("red", "blue"), 1, extra={"groups": {"kind": "x"}})
    save_questions(tmp_path / "q.jsonl", [question])
    task = TASKS["jsonl"]
    assert task.read(tmp_path / "q.jsonl") == [question]
    assert task.grade(question, Reply("<answer>B</answer>")).score == 1.0
    assert task.groups(question) == {"kind": "x"} and task.submission is None
    with pytest.raises(UserError, match=r"none\.jsonl"):
        task.read(tmp_path / "none.jsonl")
