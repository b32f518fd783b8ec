"""What is checked before an evaluation, what is written after, and how a killed one goes on."""

import json

import numpy as np
import pytest

from msjoe_jax import tasks
from msjoe_jax.data.questions import DataConfig, save_questions
from msjoe_jax.data.records import RecordWriter
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.evaluate import EvaluateConfig, Evaluator, evaluate, load_heldout
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.predictions import read_predictions
from tests.support.fake_episodes import FakeEpisodes, arms_of, load, question


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("at", range(1, 6))
def test_a_killed_evaluation_goes_on_with_the_missing_batches(tmp_path, at):
    """Killed in batch `at`, of five; a kill may also tear the last row."""
    asked = [question(f"q{i}", bad_for="topk" if i == 4 else "") for i in range(9)]
    names, inputs = ("uniform", "topk_question"), {"questions": "these"}

    def right(asked, *arm):
        return int(asked.id[1:]) % 3 == 0

    def evaluated(folder, episodes):
        evaluator = Evaluator(episodes, "jsonl", load, 2)
        result = evaluate(evaluator, arms_of(names), folder, {}, inputs)
        files = ("eval.json", "eval_questions.jsonl", "eval_rows.jsonl", "samples.jsonl")
        return result, [(folder / name).read_bytes() for name in files]

    whole = evaluated(tmp_path / "whole", FakeEpisodes(asked, right))
    victim, calls = FakeEpisodes(asked, right), []
    answer = victim.begin_answer

    def until_killed(*args, **named):
        calls.append(1)
        if len(calls) == len(names) * at:
            raise Killed
        return answer(*args, **named)

    victim.begin_answer = until_killed
    with pytest.raises(Killed):
        evaluated(tmp_path / "killed", victim)
    with (tmp_path / "killed" / "eval_rows.jsonl").open("a") as rows:
        rows.write('{"index": 8, "id": "q')
    again, batches = FakeEpisodes(asked, right), []
    plain = again.batches
    again.batches = lambda *a, **b: (
        batches.append(x["index"].tolist()) or x for x in plain(*a, **b)
    )
    assert evaluated(tmp_path / "killed", again) == whole
    assert batches == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 0]][at - 1 :]
    idle = FakeEpisodes(asked, right)
    idle.batches = lambda *_, **__: pytest.fail("all is there")
    assert evaluated(tmp_path / "killed", idle) == whole


def test_what_is_written(tmp_path, monkeypatch, capsys):
    submitted = TASKS["jsonl"]._replace(
        submission=lambda rows: json.dumps([row["answer"] for row in rows]).encode()
    )
    monkeypatch.setitem(tasks.TASKS, "jsonl", submitted)
    groups = {"groups": {"half": "first"}}
    asked = [question("a", **groups), question("bad"), question("c")]
    episodes = FakeEpisodes(asked, lambda asked, *arm: asked.id == "a")
    evaluator = Evaluator(episodes, "jsonl", load, 3)
    arms = arms_of(("uniform", "joint"))
    result = evaluate(evaluator, arms, tmp_path, {"frames": 6, "seed": 0}, {})
    assert json.loads((tmp_path / "eval.json").read_text()) == result
    row = result["arms"]["uniform"]
    assert (row["accuracy"], row["questions"], row["label"]) == (0.5, 2, "uniform")
    assert row["groups"] == {"half": {"first": {**row["groups"]["half"]["first"]}}}
    assert row["groups"]["half"]["first"]["accuracy"] == 1.0 and row["valid"] == 1.0
    assert (result["frames"], result["seed"], result["task"]) == (6, 0, "jsonl")
    rows = [json.loads(x) for x in (tmp_path / "eval_questions.jsonl").read_text().splitlines()]
    assert rows[0] == {"id": "a", "uniform": 1.0, "joint": 1.0}
    assert rows[1] == {"id": "bad", "uniform": None, "joint": None}
    assert json.loads((tmp_path / "submission-joint.json").read_text()) == ["B", "", "A"]
    why = "no msjoe (under joint); no uniform (under uniform)"
    assert result["dropped"] == {"count": 1, "reasons": {"bad": why}}
    printed = capsys.readouterr().out
    # Three questions with the query "" of uniform, and the same with the policy's.
    assert "6 queries cut\n" in printed and "half first" in printed
    assert f"1 of 3 questions are left out of all arms:\n  {why}: bad" in printed


@pytest.mark.parametrize("name", [n for n, task in TASKS.items() if task.submission])
def test_a_submission_can_be_scored_as_it_was_named(tmp_path, name):
    asked = [question("a"), question("bad"), question("c")]
    episodes = FakeEpisodes(asked, lambda asked, *arm: asked.id == "a")
    evaluate(Evaluator(episodes, name, load, 3), arms_of(("uniform",)), tmp_path, {}, {})
    (file,) = tmp_path.glob("submission-uniform*")
    rows, faults = read_predictions(file, "")
    found = {next(iter(row.ids.values())): row.text for row in rows}
    assert not faults and {name: text for name, text in found.items() if name != "bad"} == {
        "a": "<answer>B</answer>" if name == "video_mme" else "B",
        "c": "<answer>A</answer>" if name == "video_mme" else "A",
    }


def test_heldout_data_are_checked_before_training(tmp_path):
    with RecordWriter(tmp_path / "records") as writer:
        writer.add("v", [(0.0, np.zeros((8, 8, 3), np.uint8))])
    file = tmp_path / "questions.jsonl"
    save_questions(file, [question("q"), question("r")])
    data = DataConfig(heldout_records=str(tmp_path / "records"), heldout_questions=str(file))
    sizes = {"candidates": 4, "previews": 1, "max_queries": 2}

    def read(data=data, arms=("uniform",), **more):
        return load_heldout(data, EvaluateConfig(arms=arms, limit=1), **sizes, **more)

    questions, reader = read()
    assert (len(questions), reader.ids, reader.clip) == (1, ["v"], None)
    assert read(clip="fp")[1].clip == "fp"
    with pytest.raises(UserError, match=r"extra\.oracle_frames must be lists"):
        read(arms=("oracle",))
    with pytest.raises(UserError, match="other_previews needs questions of two videos at least"):
        read(arms=("uniform", "joint_other_previews"))
    with pytest.raises(UserError, match=r"config\.data\.heldout_questions is not set"):
        read(DataConfig(heldout_records="x"))
    save_questions(file, [question("q", "elsewhere")])
    with pytest.raises(UserError, match="video 'elsewhere' is not in"):
        read()
