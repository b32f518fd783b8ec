"""Which models, queries and frames an arm gets, what is checked before, what is written after."""

import json
import pathlib
import tempfile
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax import tasks
from msjoe_jax.data.questions import DataConfig, Question, save_questions
from msjoe_jax.data.records import RecordWriter
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import arm_of
from msjoe_jax.evaluation.evaluate import (
    EvaluateConfig,
    Evaluator,
    evaluate,
    load_heldout,
    queries_of,
)
from msjoe_jax.runtime.kept_rows import KeptRows
from msjoe_jax.tasks import TASKS

OPTIONS = ("red", "blue")


def question(name, video="v", **extra):
    return Question(name, video, "what colour?", OPTIONS, 1, extra=extra)


class FakeEpisodes:
    """Answers B where `right(mllm, queries, selector)` holds, else A; drops question "bad"."""

    def __init__(self, questions, right):
        self.questions, self.right = questions, right
        self.machine = types.SimpleNamespace(rows=np.arange)  # one host with one device
        self.system = types.SimpleNamespace(abstract=dict.fromkeys(("mllm", "clip", "sampler")))
        prompt = types.SimpleNamespace(think=False)
        self.text = types.SimpleNamespace(prompt=prompt, cut_note="{} queries cut".format)
        self.cut_queries: set[tuple[str, str]] = set()
        self.failures: list[dict[str, str]] = []
        self.reasoned: list[str] = []
        self.chosen: dict[str, str] = {}

    def batches(self, size, order=None, rows=None):
        places = np.arange(len(self.questions)) if order is None else order
        for start in range(0, len(places), size):
            index = np.resize(places[start:], size)
            valid = np.arange(start, start + size) < len(places)
            mark = np.arange(size)
            preview = {"preview": (mark, mark), "preview_mask": mark, "preview_times": mark}
            yield {"index": np.where(valid, index, 0), "valid": valid, "duration": mark, **preview}

    def batch_questions(self, batch):
        return [self.questions[i] for i in batch["index"]]

    def reason(self, mllm, batch, update, *, rollouts, temperature, weight):
        assert (rollouts, temperature) == (1, 0.0)
        self.reasoned.append(mllm)
        return types.SimpleNamespace(queries=[[(f"by {mllm}",)]] * len(batch["index"]))

    def select(self, params, batch, queries, update, *, selector, weight):
        asked = self.batch_questions(batch)
        self.cut_queries |= {(q.id, row[0][0]) for q, row in zip(asked, queries, strict=True)}
        made = (params["mllm"], params["sampler"], selector)
        selection = [(*made, row[0][0]) for row in queries]
        return types.SimpleNamespace(selection=selection)

    def answer(self, mllm, batch, selection, update, *, temperature, weight):
        texts = []
        for b, asked in enumerate(self.batch_questions(batch)):
            if asked.id == "bad" or asked.extra.get("bad_for") == selection[b][2]:
                if weight[b]:
                    self.failures.append({"question": asked.id, "error": f"no {selection[b][2]}"})
                weight[b] = 0
            letter = "B" if self.right(asked, *selection[b]) else "A"
            texts.append([f"<answer>{letter}</answer>"])
        return types.SimpleNamespace(texts=texts, finished=np.ones((len(texts), 1), bool))


PARAMS = {
    name: {"mllm": f"{name} mllm", "sampler": f"{name} sampler", "clip": "clip"}
    for name in ("base", "pretrain", "joint")
}


def load(name, model):
    return PARAMS[name][model]


def arms_of(names):
    return {name: arm_of(name, PARAMS) for name in names}


def run(episodes, names, folder, batch_size=2):
    """Scores, valid replies, answers and dropped questions of the arms."""
    kept = KeptRows(folder / "rows.jsonl", {"questions": "these"})
    return Evaluator(episodes, "jsonl", load, batch_size).run(arms_of(names), kept)


def test_what_each_arm_gets(tmp_path):
    seen = {}

    def right(asked, mllm, sampler, selector, query):
        seen[selector, query] = (mllm, sampler)
        return selector == "msjoe"

    episodes = FakeEpisodes([question("a"), question("bad"), question("c")], right)
    names = ("uniform", "joint", "pretrained", "topk_question", "topk")
    scores, valid, answers, dropped = run(episodes, names, tmp_path)
    assert seen["uniform", ""] == ("base mllm", "base sampler")
    assert seen["msjoe", "by joint mllm"] == ("joint mllm", "joint sampler")
    assert seen["msjoe", "by base mllm"] == ("base mllm", "pretrain sampler")
    assert seen["topk", "what colour?"] == ("base mllm", "base sampler")
    assert seen["topk", "by joint mllm"] == ("joint mllm", "joint sampler")  # a bare selector
    # Each model reasons once a batch, whatever the number of arms.
    assert sorted(episodes.reasoned) == ["base mllm"] * 2 + ["joint mllm"] * 2
    np.testing.assert_array_equal(scores["joint"], [1, np.nan, 1])
    np.testing.assert_array_equal(scores["uniform"], [0, np.nan, 0])
    for row in valid.values():
        np.testing.assert_array_equal(row, [1, np.nan, 1])
    assert answers["joint"] == ["B", "", "B"] and answers["topk"] == ["A", "", "A"]
    assert dropped == {"bad": "no msjoe; no topk; no uniform"}


@given(st.permutations(("uniform", "topk_question", "joint")), st.integers(1, 8))
def test_all_arms_answer_the_same_questions_in_any_order(names, batch_size):
    """What one arm cannot be asked counts for none; right answers are those of the others."""
    bad_for = ["", "topk", "uniform", "", "msjoe", "topk", ""]
    asked = [question(f"q{i}", bad_for=bad) for i, bad in enumerate(bad_for)]
    episodes = FakeEpisodes(asked, lambda q, *arm: (int(q.id[1:]) + len(arm[2])) % 2)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(episodes, names, pathlib.Path(folder), batch_size)
    counted = [0, 3, 6]
    assert outcome.dropped == {f"q{i}": f"no {bad}" for i, bad in enumerate(bad_for) if bad}
    for name, selector in (("uniform", "uniform"), ("topk_question", "topk"), ("joint", "msjoe")):
        want = [(i + len(selector)) % 2 if i in counted else np.nan for i in range(7)]
        np.testing.assert_array_equal(outcome.scores[name], want)
        assert [bool(answer) for answer in outcome.answers[name]] == [
            i in counted for i in range(7)
        ]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_one_mllm_is_held_at_a_time_and_a_kill_between_two_repeats_none(tmp_path):
    asked = [question(f"q{i}") for i in range(5)]
    names, loaded = ("uniform", "joint", "pretrained", "joint_uniform"), []

    def noted(name, model):
        loaded.append((name, model))
        if killed and (name, model) == ("joint", "mllm"):
            raise Killed
        return load(name, model)

    def evaluated():
        kept = KeptRows(tmp_path / "rows.jsonl", {"questions": "these"})
        episodes = FakeEpisodes(asked, lambda asked, mllm, *_: mllm == "joint mllm")
        return Evaluator(episodes, "jsonl", noted, 2).run(arms_of(names), kept), episodes

    killed = True
    with pytest.raises(Killed):
        evaluated()
    assert [x for x in loaded if "mllm" in x] == [("base", "mllm"), ("joint", "mllm")]
    loaded.clear()
    killed = False
    outcome, episodes = evaluated()
    assert [x for x in loaded if "mllm" in x] == [("joint", "mllm")]
    assert set(episodes.reasoned) == {"joint mllm"}
    for name, score in zip(names, (0, 1, 0, 1), strict=True):
        np.testing.assert_array_equal(outcome.scores[name], score)


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
        files = ("eval.json", "eval_questions.jsonl", "eval_rows.jsonl")
        return result, [(folder / name).read_bytes() for name in files]

    whole = evaluated(tmp_path / "whole", FakeEpisodes(asked, right))
    victim, calls = FakeEpisodes(asked, right), []
    answer = victim.answer

    def until_killed(*args, **named):
        calls.append(1)
        if len(calls) == len(names) * at:
            raise Killed
        return answer(*args, **named)

    victim.answer = until_killed
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
    assert json.loads((tmp_path / "submission-joint").read_text()) == ["B", "", "A"]
    assert result["dropped"] == {"count": 1, "reasons": {"bad": "no msjoe; no uniform"}}
    printed = capsys.readouterr().out
    # Three questions with the query "" of uniform, and the same with the policy's.
    assert "6 queries cut\n" in printed and "half first" in printed
    assert "1 of 3 questions are left out of all arms:\n  no msjoe; no uniform: bad" in printed


def test_queries_that_need_no_model():
    asked = question("a", oracle_queries=["cup", "dog"])
    assert queries_of("oracle", asked) == ("cup", "dog")
    assert queries_of("question", asked) == ("what colour?",)
    assert queries_of("none", asked) == ("",)


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
