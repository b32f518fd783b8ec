"""Which models, queries and frames an arm gets, at every budget, whatever the order of work."""

import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.evaluation.evaluator import Evaluator
from msjoe_jax.runtime.kept_rows import KeptRows
from tests.support.fake_episodes import FakeEpisodes, arms_of, load, question


def run(episodes, names, folder, batch_size=2, budgets=()):
    """The outcome of the arms."""
    kept = KeptRows(folder / "rows.jsonl", {"questions": "these"})
    return Evaluator(episodes, "jsonl", load, batch_size, budgets).run(arms_of(names), kept)


def test_what_each_arm_gets(tmp_path):
    seen = {}

    def right(asked, mllm, sampler, selector, query):
        seen[selector, query] = (mllm, sampler)
        return selector == "msjoe"

    episodes = FakeEpisodes([question("a"), question("bad"), question("c")], right)
    names = ("uniform", "joint", "pretrained", "topk_question", "topk")
    outcome = run(episodes, names, tmp_path)
    scores, valid, answers, dropped = (
        outcome.scores,
        outcome.valid,
        outcome.answers,
        outcome.dropped,
    )
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
    under = ("msjoe (under joint)", "msjoe (under pretrained)", "topk (under topk)")
    under += ("topk (under topk_question)", "uniform (under uniform)")
    assert dropped == {"bad": "; ".join(f"no {one}" for one in under)}


@given(st.permutations(("uniform", "topk_question", "joint")), st.integers(1, 8))
def test_all_arms_answer_the_same_questions_in_any_order(names, batch_size):
    """What one arm cannot be asked counts for none; right answers are those of the others."""
    bad_for = ["", "topk", "uniform", "", "msjoe", "topk", ""]
    asked = [question(f"q{i}", bad_for=bad) for i, bad in enumerate(bad_for)]
    episodes = FakeEpisodes(asked, lambda q, *arm: (int(q.id[1:]) + len(arm[2])) % 2)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(episodes, names, pathlib.Path(folder), batch_size)
    counted = [0, 3, 6]
    arms = {"uniform": "uniform", "topk": "topk_question", "msjoe": "joint"}
    assert outcome.dropped == {
        f"q{i}": f"no {bad} (under {arms[bad]})" for i, bad in enumerate(bad_for) if bad
    }
    for selector, name in arms.items():
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


def test_a_host_without_a_question_of_the_last_batch_takes_part(tmp_path):
    """Its one row only fills the batch up: the second of five rows of three batches of two."""
    asked = [question(f"q{i}") for i in range(5)]
    episodes = FakeEpisodes(asked, lambda *_: True)
    episodes.machine.rows = lambda size: np.array([1])  # of each batch this host has the second
    whole = episodes.batches

    def of_this_host(size, **named):
        for batch in whole(size, **named):
            previews = tuple(part[1:] for part in batch["preview"])
            yield {**{k: v[1:] for k, v in batch.items() if k != "preview"}, "preview": previews}

    episodes.batches = of_this_host
    kept = KeptRows(None, {})
    evaluator = Evaluator(episodes, "jsonl", load, 2)
    with pytest.raises(KeyError):  # the other host's rows, which nobody sends here
        evaluator.run(arms_of(["uniform", "joint_frames"]), kept)
    assert {row["index"] for row in kept.rows} == {1, 3}
    assert len(episodes.answered) == 2 * 3
