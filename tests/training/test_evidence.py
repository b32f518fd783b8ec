"""The training on evidence: it learns, goes on where it was ended, and says what it leaves out."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.errors import Unfinished, UserError
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.stored_models import StoredModel
from msjoe_jax.rollout.text import make_text
from msjoe_jax.runtime import stopping
from msjoe_jax.runtime.checkpoint import save_params
from msjoe_jax.training.evidence import EvidencePrograms, labelled, train_on_evidence
from tests.support.system import changed, colour_questions, noise_videos, tiny_run
from tests.support.tiny import tiny_config

STEPS = 24
META = {"inputs": {"data": "noise"}}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four videos, each with a span of evidence for its one question."""
    folder = tmp_path_factory.mktemp("evidence")
    reader = noise_videos(folder / "records", {f"v{i}": 14 + i for i in range(4)})
    config = changed(
        tiny_config(folder),
        **{"evidence.steps": STEPS, "evidence.questions": 4, "optimizer.sampler_lr": 1e-2},
        **{"sampler.network": "evidential", "rollout.selector": "evidential"},
        **{"rollout.queries": "question", "checkpoint_every": 10, "optimizer.warmup_steps": 0},
    )
    spans = [((2.0, 4.0),), ((7.0, 8.0),), ((0.0, 1.0), (9.0, 10.0)), ((5.0, 7.0),)]
    questions = [
        dataclasses.replace(q, evidence=span)
        for q, span in zip(colour_questions(reader.ids, 4), spans, strict=True)
    ]
    run = tiny_run(config, reader, questions)
    for name in run.params:
        save_params(folder / name, run.params[name], {})
    return folder, run


def train(made, workdir, questions=None, run=None, **fields):
    folder, own = made
    run = run or own
    config = read_config(changed(run.config, **fields))

    def episodes(asked):
        text = make_text(run.system, run.tokenizers, config.prompt)
        return Episodes(config.episode, run.programs, text, run.reader, asked)

    start = {name: StoredModel(name, folder / name) for name in ("mllm", "clip")}
    start["sampler"] = StoredModel("sampler", None, seed=0)
    asked = run.questions if questions is None else questions
    return train_on_evidence(config.evidence_run, workdir, episodes, start, asked, META)


def rows_of(workdir):
    lines = (workdir / "evidence" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def params_of(made, trained):
    system, machine = made[1].system, made[1].programs.machine
    return jax.device_get(trained.moved["sampler"].load(system, machine))


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """A run without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(made, folder)


def test_it_learns_which_frames_are_evidence(whole):
    rows = rows_of(whole[0])
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["loss"] < 0.1 < 1 < rows[0]["loss"]
    assert rows[-1]["covered"] == 1 > rows[0]["precision"] and rows[-1]["precision"] > 0.5
    assert all(row["taught"] == 1 and row["skipped_updates"] == 0 for row in rows)
    assert whole[1].update == STEPS


def test_a_signal_ends_it_saved_and_it_goes_on_as_if_nothing_had_been(
    made, whole, tmp_path, monkeypatch
):
    asked = iter([""] * 5 + ["SIGTERM"] * 2)
    with monkeypatch.context() as patch:
        patch.setattr(stopping, "signal_here", lambda: next(asked))
        with pytest.raises(Unfinished, match="SIGTERM: ended after update 6 of evidence"):
            train(made, tmp_path)
    assert (tmp_path / "evidence" / "checkpoints" / "6").is_dir()
    trained = train(made, tmp_path)
    assert rows_of(tmp_path) == rows_of(whole[0])
    jax.tree.map(np.testing.assert_array_equal, params_of(made, trained), params_of(made, whole[1]))
    again = train(made, tmp_path)  # a finished one is left as it is
    assert again == trained


def test_other_inputs_are_refused(made, whole, monkeypatch):
    monkeypatch.setitem(META, "inputs", {"data": "another"})
    with pytest.raises(UserError, match="checkpoints holds a training from other data"):
        train(made, whole[0])


def test_questions_without_evidence_are_counted_and_left_out(made, tmp_path, capsys):
    questions = [dataclasses.replace(q, evidence=()) for q in made[1].questions[:2]]
    questions += made[1].questions[2:]
    train(made, tmp_path, questions, **{"evidence.steps": 1, "evidence.questions": 2})
    assert "evidence: 2 of 4 questions left out: no evidence given" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"none of the 2 training questions has evidence or extra"):
        labelled(questions[:2])


def test_a_span_of_all_frames_or_of_none_teaches_nothing(made, tmp_path):
    spans = [((0.0, 99.0),), ((2.5, 2.6),)]
    questions = [
        dataclasses.replace(q, evidence=span)
        for q, span in zip(made[1].questions, spans, strict=False)
    ]
    trained = train(made, tmp_path, questions, **{"evidence.steps": 2, "evidence.questions": 2})
    assert all(
        row["taught"] == row["loss"] == row["grad_norm/sampler"] == 0 for row in rows_of(tmp_path)
    )
    # Drawn by another program, which may round otherwise; a step would move it by about 1e-2.
    fresh = jax.device_get(made[1].system.init("sampler", 0))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params_of(made, trained), fresh
    )


def test_too_many_gradients_that_are_not_finite_end_it(made, tmp_path, monkeypatch):
    poisoned = lambda self, batch, weight, update: tuple(  # noqa: E731
        x * jnp.nan if i == 5 else x for i, x in enumerate(arrays(self, batch, weight, update))
    )
    from msjoe_jax.training import evidence

    arrays = evidence._Training._arrays
    monkeypatch.setattr(evidence._Training, "_arrays", poisoned)
    with pytest.raises(UserError, match="evidence update 3: 3 updates had a gradient that is not"):
        train(made, tmp_path, **{"optimizer.max_skipped": 2})


def test_the_u_net_starts_warm_from_the_queries_of_the_mllm(made, tmp_path):
    """The network of the method, with what reason writes: another start for pretrain."""
    run = made[1]
    fields = {"sampler.network": "msjoe", "rollout.selector": "msjoe", "rollout.queries": "policy"}
    config = changed(run.config, **fields)
    unet = tiny_run(config, run.reader, run.questions)
    rows = train(made, tmp_path, run=unet, **{"evidence.steps": 12}) and rows_of(tmp_path)
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_the_state_lies_as_the_sharding_table_says(made):
    run = read_config(made[1].config).evidence_run
    own = EvidencePrograms(run, made[1].system, made[1].programs.machine, 4)
    assert own.state["sampler"].keys() == made[1].system.abstract["sampler"].keys()
    assert all(leaf.sharding is not None for leaf in jax.tree.leaves(own.state))
