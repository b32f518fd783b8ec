"""The RL loop around a stubbed step: what stops it, warns, is written and is saved."""

import json
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.config import base, read_config
from msjoe_jax.errors import UserError
from msjoe_jax.models.lora import add_lora, merge_lora
from msjoe_jax.rollout.clock import DeviceClock
from msjoe_jax.rollout.collect import Rollout
from msjoe_jax.training import train
from msjoe_jax.training.train import Loop, merged, run_loop


class Checkpoints:
    def __init__(self):
        self.saved = []

    def save(self, step, *_):
        self.saved.append(step)


def run(folder, metrics, steps=6, saves=2, shown=None, drop=None, **fields):
    """`run_loop` where update n reports `metrics(n)` and drops `drop(n)`; the updates saved."""
    config = base()
    config.joint.steps, config.checkpoint_every = steps, saves
    config.media_every = config.rollouts_every = 100
    config.update_from_flattened_dict(fields)
    clock, checkpoints = DeviceClock(), Checkpoints()
    failures: list[dict[str, str]] = []

    def collect(params, step):
        for place in ("reason", "answer"):
            with clock(place):
                pass
        failures.extend(drop(step) if drop else [])
        records: Any = [types.SimpleNamespace(weight=1.0)]
        return Rollout(None, records, query_tokens=3, answer_tokens=2), 0

    def step(state, _):
        index = int(state["step"]) + 1
        known = {"reward": 0.5, "rewards/accuracy": 0.5, **metrics(index)}
        return {**state, "step": jnp.int32(index)}, jax.tree.map(jnp.float32, known)

    stub: Any = types.SimpleNamespace
    loop = Loop(
        run=read_config(config).training_run("joint"),
        folder=folder,
        meta={},
        episodes=stub(clock=clock, failures=failures),
        collector=stub(collect=collect),
        stream=stub(get_state=lambda: b""),
        joint_step=step,
        scoring=lambda *_: pytest.fail("nothing is to be scored"),
        clip=None,
        reference=None,
    )
    state = {"step": jnp.int32(0), "mllm": {}, "sampler": {}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train,
            "show_rollout",
            lambda writer, update, *_: None if shown is None else shown.append(update),
        )
        run_loop(loop, state, checkpoints, 0)
    return checkpoints.saved


def test_too_many_skipped_updates_stop_the_run(tmp_path):
    """One update later at most, since metrics are fetched behind the next dispatch."""

    def metrics(n):
        return {"skipped_updates": max(n - 3, 0)}

    assert run(tmp_path / "a", metrics, **{"optimizer.max_skipped": 3}) == [2, 6]
    with pytest.raises(UserError, match="joint update 5: 2 updates had a gradient that is not"):
        run(tmp_path / "b", metrics, **{"optimizer.max_skipped": 1})


@pytest.mark.parametrize(
    "skips, saved",
    [
        ((), [3, 6, 9, 10]),
        ((3,), [4, 6, 9, 10]),
        ((3, 4, 5, 6, 10), [7, 9, 10]),
        ((2, 5), [3, 6, 9, 10]),
    ],
)
def test_a_state_after_a_gradient_that_is_not_finite_is_not_saved(tmp_path, skips, saved):
    """The checkpoint waits for an update that works; the last one is saved as it is."""

    def metrics(n):
        return {"skipped_updates": sum(skip <= n for skip in skips)}

    assert run(tmp_path, metrics, steps=10, saves=3) == saved


@pytest.mark.parametrize(
    ("likelihood", "warnings"), [("marginal", 1), ("plackett_luce", 0)], ids=str
)
def test_spread_logits_are_warned_of_once_under_the_marginal_form(
    tmp_path, capsys, likelihood, warnings
):
    def metrics(n):
        return {"sampler/logit_std": 0.9 * n}

    run(tmp_path, metrics, **{"objective.likelihood": likelihood})
    out = capsys.readouterr()
    assert (out.out + out.err).count("std is above 2.0") == warnings
    assert warnings == 0 or "joint update 3" in out.out + out.err


def test_every_update_has_one_row_whatever_is_saved_when(tmp_path):
    shown = []
    saved = run(tmp_path, lambda n: {"n": n}, steps=7, saves=3, shown=shown, media_every=2)
    assert saved == [3, 6, 7] and shown == [2, 4, 6, 7]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["n"]) for row in rows] == [(n, n) for n in range(1, 8)]
    assert all(row["num_tokens"] == 5 and row["refills"] == 0 for row in rows)
    assert (tmp_path / "rollouts.jsonl").read_text() == ""


def test_dropped_questions_are_counted_logged_and_said(tmp_path, capsys):
    def drop(update):
        return [{"question": f"q{update}", "video": "v", "error": "gone"}] if update < 3 else []

    run(tmp_path, lambda n: {}, steps=4, drop=drop)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["dropped_questions"] for row in rows] == [1, 2, 2, 2]
    log = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert [(row["step"], row["id"]) for row in log] == [(1, "q1"), (2, "q2")]
    said = capsys.readouterr().err
    assert "joint update 2: question q2 of video v dropped: gone\n" in said
    assert "joint: 2 questions dropped: 2 gone (dropped.jsonl)\n" in said


def test_rows_are_thinned_as_asked(tmp_path):
    run(tmp_path, lambda n: {}, steps=6, saves=4, **{"log_every": 3})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]


# --- log-probs beside the step's own --------------------------------------------------------------


class Part:
    """Stands for the rollouts of one kind of token."""

    def __init__(self, **values):
        self.values = values

    def _replace(self, **values):
        return Part(**self.values, **values)


@pytest.mark.parametrize(
    "updates, reference, old, ref",
    [(1, None, None, None), (2, None, "now", None), (1, "base", None, "base"),
     (3, "base", "now", "base")],
)  # fmt: skip
def test_log_probs_are_added_where_the_objective_needs_them(updates, reference, old, ref):
    """At the parameters that sampled for further updates on a batch, at the reference for a KL."""
    config = base()
    config.rollout.updates = updates
    asked = []

    def scoring(params, arrays):
        asked.append(params)
        return f"query {params}", f"answer {params}"

    loop: Any = types.SimpleNamespace(
        run=read_config(config).training_run("joint"), reference=reference, scoring=scoring
    )
    arrays = types.SimpleNamespace(queries=Part(), answers=Part())
    arrays._replace = lambda **parts: (arrays.__dict__.update(parts), arrays)[1]
    Loop.with_log_probs(loop, {"mllm": "now"}, Rollout(arrays, [], 0, 0))
    for name, part in (("query", arrays.queries), ("answer", arrays.answers)):
        want = {"old_log_probs": old, "ref_log_probs": ref}
        assert part.values == {k: f"{name} {v}" for k, v in want.items() if v}
    assert sorted(asked) == sorted(v for v in (old, ref) if v)


def test_adapters_are_merged_at_the_end():
    rng = np.random.default_rng(0)
    plain = {"language": {"layers": {"q": jnp.asarray(rng.normal(size=(2, 6, 4)), jnp.float32)}}}
    state = {"mllm": plain, "sampler": {"x": 1}}
    system: Any = types.SimpleNamespace(lora_scale=2.0)
    assert merged(state, system) == {"mllm": plain, "sampler": {"x": 1}}
    adapted = add_lora(plain, "layers/", 2, 0)
    noise = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), adapted["lora"])
    adapted = {**adapted, "lora": noise}
    out = merged({"mllm": adapted, "sampler": {}}, system)["mllm"]
    want = merge_lora(adapted, 2.0)
    assert jax.tree.structure(out) == jax.tree.structure(want) == jax.tree.structure(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), out, want)
    assert (out["language"]["layers"]["q"] != plain["language"]["layers"]["q"]).all()
