"""An evaluation with models: budgets, kills and shared results change no row."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.data.questions import Subtitle
from msjoe_jax.evaluation.arms import arm_of
from msjoe_jax.evaluation.evaluate import evaluate
from msjoe_jax.evaluation.evaluator import Evaluator
from msjoe_jax.evaluation.looks import spread
from msjoe_jax.evaluation.steps import Steps
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.runtime.kept_rows import KeptRows
from tests.support.system import colour_questions, noise_videos, tiny_run
from tests.support.tiny import tiny_config

NAMES = ("uniform", "blind", "joint", "topk_queries", "joint_frames", "joint_answers")


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    reader = noise_videos(folder / "records", {"a": 6, "b": 9, "c": 30}, height=56, width=84)
    asked = [
        dataclasses.replace(
            question, evidence=((2.0, 4.0),), subtitles=(Subtitle(0.0, 9.0, "red cup"),)
        )
        for question in colour_questions(reader.ids, 5)
    ]
    return tiny_run(tiny_config(folder), reader, asked)


def evaluator_of(made, budgets=(), **more):
    """Both sets have their own MLLM, with values so large that replies depend on the frames."""

    def load(name, model):
        return MLLMS[name](made.params["mllm"]) if model == "mllm" else made.params[model]

    return Evaluator(made.episodes(), "jsonl", load, 2, budgets, **more)


def _drawn(seed):
    def draw(params):
        rng = np.random.default_rng(seed)
        return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params)

    return draw


MLLMS = {"base": _drawn(1), "joint": _drawn(2)}


def run(evaluator, folder, names=NAMES):
    arms = {name: arm_of(name, ("base", "joint")) for name in names}
    evaluate(evaluator, arms, folder, {}, {"questions": "these"})
    text = (folder / "samples.jsonl").read_text()
    return {
        (row["id"], row["arm"], row["budget"], row["draw"]): row
        for row in map(json.loads, text.splitlines())
    }


@pytest.fixture(scope="module")
def swept(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    return run(evaluator_of(made, (2, 4)), folder), folder


@pytest.mark.soak
def test_a_budget_among_others_gives_the_rows_of_a_run_at_that_budget(made, swept, tmp_path):
    rows, _ = swept
    assert {row["budget"] for row in rows.values()} == {0, 2, 4}
    for budget in (2, 4):
        alone = run(evaluator_of(made, (budget,)), tmp_path / str(budget))
        for key, row in alone.items():
            assert rows[key] == row
        assert {key for key in rows if key[2] in (budget, 0)} == set(alone)


def test_what_is_shared_changes_no_row(made, swept, tmp_path):
    rows, _ = swept
    for name in ("joint", "topk_queries"):
        for key, row in run(evaluator_of(made, (2, 4)), tmp_path / name, (name,)).items():
            assert rows[key] == row


def test_frames_of_one_set_are_answered_by_another(made, swept):
    """The frames are those of who chose them, and the replies those of who answers."""
    rows, _ = swept
    different = 0
    for (name, arm, budget, draw), row in rows.items():
        if arm == "joint_frames":
            own = rows[name, "joint", budget, draw]
            assert (row["frames"], row["queries"]) == (own["frames"], own["queries"])
            assert (row["mllm"], row["answerer"]) == ("joint", "base")
            different += row["reply"] != own["reply"]
        if arm == "joint_answers":
            own = rows[name, "topk_queries", budget, draw]
            assert row["frames"] == own["frames"] and row["answerer"] == "joint"
    assert different


def test_a_row_says_what_was_shown(made, swept):
    rows, _ = swept
    row = rows["q2", "topk_queries", 4, 0]  # of the video of 30 frames, of which 16 are searched
    frames = sorted(row["frames"])
    assert frames == row["frames"] and len(frames) == 4 and row["candidates"] == 16
    assert row["times"] == [float(frame) for frame in frames]  # a frame a second
    assert row["tokens"] == [2] * 4  # 16 patches of a frame of 2 to 3: 2 × 4 patches, 4 to a token
    assert row["covered"] == any(2 <= frame <= 4 for frame in frames)
    blind = rows["q2", "blind", 0, 0]
    assert blind["frames"] == [] and not blind["covered"]
    around = 2  # tokens around a picture
    assert row["prompt_tokens"] - blind["prompt_tokens"] == 4 * (2 + around)
    assert row["gold"] == "C" and row["seconds"] is None


def test_the_summary_is_made_of_the_rows(swept):
    rows, folder = swept
    summary = json.loads((folder / "summary.json").read_text())
    assert {(arm["arm"], arm["budget"]) for arm in summary["arms"]} == {
        (row["arm"], row["budget"]) for row in rows.values()
    }
    for arm in summary["arms"]:
        own = [r for r in rows.values() if (r["arm"], r["budget"]) == (arm["arm"], arm["budget"])]
        assert arm["accuracy"] == pytest.approx(np.mean([row["score"] for row in own]))
        assert arm["tokens_total"] == np.mean([row["prompt_tokens"] for row in own])
        assert arm["questions"] == 5 and arm["cut_off"] == 1 - np.mean([r["finished"] for r in own])
    pairs = {
        (d["arm"], d["budget"], d["against"], d["against_budget"]) for d in summary["differences"]
    }
    assert {
        ("joint", 2, "uniform", 2),
        ("joint", 2, "uniform", 4),
        ("joint", 4, "topk_queries", 4),
    } <= pairs
    assert not any(pair[0] == "uniform" and pair[2] == "joint" for pair in pairs)


@pytest.mark.parametrize("at", (1, 5, 8))
def test_a_killed_sweep_ends_as_one_that_was_left_alone(made, swept, tmp_path, monkeypatch, at):
    """Killed in the middle of the passes, with the frames of one set and no answer of the other."""
    rows, folder = swept
    select, calls = Steps.select, []

    def until_killed(*arguments):
        calls.append(1)
        if len(calls) == 4 * at:
            raise Killed
        return select(*arguments)

    monkeypatch.setattr(Steps, "select", until_killed)
    with pytest.raises(Killed):
        run(evaluator_of(made, (2, 4)), tmp_path)
    monkeypatch.setattr(Steps, "select", select)
    assert run(evaluator_of(made, (2, 4)), tmp_path) == rows
    for name in ("samples.jsonl", "summary.json", "eval.json", "eval_rows.jsonl"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_queries_and_prompts_are_made_once(made, tmp_path, monkeypatch):
    """Of four arms with two sets' queries, at two budgets: a reply of reason a set and batch."""
    reason, answer, calls = Episodes.reason, Episodes.begin_answer, {"reason": 0, "answer": 0}

    def counted(name, method):
        def call(*arguments, **named):
            calls[name] += 1
            return method(*arguments, **named)

        return call

    monkeypatch.setattr(Episodes, "reason", counted("reason", reason))
    monkeypatch.setattr(Episodes, "begin_answer", counted("answer", answer))
    names = ("topk_queries", "pretrained:scorer=clip", "joint", "uniform", "uniform:question")
    arms = {
        name: dataclasses.replace(arm_of(name, ("base", "joint")), sampler="base") for name in names
    }
    outcome = evaluator_of(made, (2, 4)).run(arms, KeptRows(None, {}))
    batches = 3
    assert calls["reason"] == 2 * batches
    # Uniform frames are the same whatever searches, and their prompts are.
    assert calls["answer"] == 2 * batches * (len(names) - 1)
    assert all(outcome.entries)


def test_shuffled_options_subtitles_tiers_and_draws(made, tmp_path):
    names = ("joint", "joint:shuffled", "joint:subtitles", "joint:rank", "joint:sampled")
    seen = spread(made.questions, 2)
    rows = run(evaluator_of(made, (4,), looked_at=seen, timed=True), tmp_path, names)
    of = {name: [r for r in rows.values() if r["arm"] == name] for name in names}
    for row, shuffled in zip(of["joint"], of["joint:shuffled"], strict=True):
        assert row["frames"] == shuffled["frames"] and shuffled["shuffled"]
        assert row["prompt_tokens"] == shuffled["prompt_tokens"]
    longer = zip(of["joint"], of["joint:subtitles"], strict=True)
    assert all(b["prompt_tokens"] > a["prompt_tokens"] for a, b in longer)
    assert all(
        sorted(row["tokens"])[0] == 1 and max(row["tokens"]) == 2 for row in of["joint:rank"]
    )
    assert [row["draw"] for row in of["joint:sampled"]] == [0, 1, 2] * 5
    drawn = [row["frames"] for row in of["joint:sampled"] if row["id"] == "q2"]
    assert len(set(map(tuple, drawn))) > 1
    assert rows == run(evaluator_of(made, (4,), looked_at=seen, timed=True), tmp_path, names)
    timed = [row["seconds"] for row in of["joint"] if row["seconds"] is not None]
    assert timed and all(set(s) == {"query", "similarity", "sampler", "answer"} for s in timed)
    looks = sorted((tmp_path / "looks").iterdir())
    assert len(looks) == 2
    look = json.loads(looks[0].read_text())
    candidates = len(look["times"])
    assert {len(row) for row in look["similarity"]["joint"]} == {candidates}
    assert len(look["logits"]["joint"]) == candidates
    assert set(map(str, look["frames"]["joint@4"])) <= look["thumbnails"].keys()


def test_settings_of_one_system(made):
    """A copy for another number of frames shares what is dropped, and changes only lengths."""
    episodes = made.episodes()
    other = episodes.with_key_frames(8)
    assert other.failures is episodes.failures and other.questions is episodes.questions
    assert (other.config.frames.key, episodes.config.frames.key) == (8, 4)
    assert episodes.with_key_frames(4) is episodes
    config = read_config(made.config)
    assert other.text.prompt.answer_prompt_tokens > config.prompt.answer_prompt_tokens
