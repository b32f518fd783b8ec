"""What a run wrote, read back, finished or not."""

import json

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.report.run_folder import finished_lines, read_run
from tests.support.evaluation_folder import write_evaluation
from tests.support.run_folder import write_run


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run", updates=10)


def test_a_run_is_read(folder):
    (folder / "pretrain").mkdir()
    (folder / "pretrain" / "metrics.jsonl").write_text('{"step": 1, "reward": null}\n')
    run = read_run(folder)
    assert [training.name for training in run.trainings] == ["pretrain", "joint"]
    pretrain, joint = run.trainings
    assert pretrain.curve("reward") == [] and pretrain.names() == ["reward"]
    assert joint.curve("kl") == [(step, 0.01) for step in range(1, 11)]
    assert len(joint.validations) == 2 and len(joint.dropped) == 2
    assert run.table["arms"].keys() == {"uniform", "joint"}
    assert run.evaluation is None and run.changes == []


def test_an_evaluation_of_the_run_is_read_too(folder):
    write_evaluation(folder, questions=6)
    assert read_run(folder).evaluation.arms


def test_a_run_that_has_begun_is_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    run = read_run(tmp_path)
    assert run.trainings == [] and run.table is None


def test_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config.json there; name the --workdir of a run"):
        read_run(tmp_path)


def test_a_last_line_without_its_end_is_left_out(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"step": 1}\n{"step": 2')
    assert finished_lines(file) == [{"step": 1}]
    assert finished_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("line", ["{torn", "[1]", "null"])
def test_a_damaged_line_is_named(folder, line):
    file = folder / "joint" / "metrics.jsonl"
    lines = file.read_text().split("\n")
    file.write_text("\n".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(UserError, match=r"metrics.jsonl:3: not "):
        read_run(folder)


def test_a_row_without_its_step_is_named(folder):
    with (folder / "joint" / "validation.jsonl").open("a") as file:
        file.write(json.dumps({"joint": 0.5}) + "\n")
    with pytest.raises(UserError, match=r"validation.jsonl:3: field 'step' is no whole number"):
        read_run(folder)
