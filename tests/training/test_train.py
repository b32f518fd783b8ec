"""The RL loop around a stubbed step: what stops it and warns; its optimizers."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from msjoe_jax.config import base
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.clock import DeviceClock
from msjoe_jax.training.state import make_optimizers
from msjoe_jax.training.train import _loop


class Checkpoints:
    def __init__(self):
        self.saved = []

    def save(self, step, *_):
        self.saved.append(step)


def run(folder, metrics, steps=6, saves=2, **fields):
    """`_loop` where update n reports `metrics(n)`; the steps that were saved."""
    config = base()
    config.joint.steps, config.checkpoint_every = steps, saves
    config.media_every = config.rollouts_every = 100
    config.update_from_flattened_dict(fields)
    clock, checkpoints = DeviceClock(), Checkpoints()

    def collect(params, step):
        for stage in ("reason", "answer"):
            with clock(stage):
                pass
        return types.SimpleNamespace(arrays=None, notes=[], query_tokens=3, answer_tokens=2), 0

    def step(state, _):
        index = int(state["step"]) + 1
        known = {"reward": 0.5, "rewards/accuracy": 0.5, **metrics(index)}
        return {**state, "step": jnp.int32(index)}, jax.tree.map(jnp.float32, known)

    work = types.SimpleNamespace(
        config=config,
        name="joint",
        folder=folder,
        episodes=types.SimpleNamespace(clock=clock, failures=[]),
        collector=types.SimpleNamespace(collect=collect),
        stream=types.SimpleNamespace(get_state=lambda: b""),
        prepared=lambda state, rollout: rollout,
        joint_step=step,
        clip=None,
    )
    state = {"step": jnp.int32(0), "mllm": {}, "sampler": {}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("msjoe_jax.training.train._show", lambda *_: None)
        _loop(work, state, checkpoints, 0)
    return checkpoints.saved


def test_too_many_skipped_updates_stop_the_run(tmp_path):
    """One update later at most, since metrics are fetched behind the next dispatch."""

    def metrics(n):
        return {"skipped_updates": max(n - 3, 0)}

    assert run(tmp_path / "a", metrics, **{"optimizer.max_skipped": 3}) == [2, 4, 6]
    with pytest.raises(UserError, match="joint update 5: 2 updates had a gradient that is not"):
        run(tmp_path / "b", metrics, **{"optimizer.max_skipped": 1})


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


# --- optimizers ---------------------------------------------------------------------------------


def steps(optimizer, params, grads, count):
    """Parameters after each of `count` updates with the same gradient."""
    state, out = optimizer.init(params), []
    for _ in range(count):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        out.append(params)
    return out


def test_rates_warm_up_and_the_samplers_falls_to_a_tenth():
    """Adam under a constant gradient moves by the rate."""
    config = base()
    config.joint.steps, config.optimizer.warmup_steps = 100, 4
    config.optimizer.mllm_lr, config.optimizer.sampler_lr = 1e-3, 1e-2
    config.optimizer.mllm_decay = config.optimizer.sampler_decay = 0.0
    x, g = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
    moved = []
    for optimizer in make_optimizers(config, "joint"):
        path = np.array([0.0, *(float(p["w"][0]) for p in steps(optimizer, x, g, 100))])
        moved.append(-np.diff(path))
    mllm, sampler = moved
    ramp = np.minimum(np.arange(1, 101) / 4, 1)
    fall = 0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(100) / 100)) / 2
    np.testing.assert_allclose(mllm, 1e-3 * ramp, rtol=1e-2)  # float32 differences of a sum
    np.testing.assert_allclose(sampler, 1e-2 * ramp * fall, rtol=1e-2)


def test_a_gradient_is_clipped_to_its_norm():
    """Adam forgets a gradient's scale but not its change: the clip shows at a larger second one."""
    config = base()
    config.optimizer.warmup_steps, config.optimizer.mllm_decay = 1, 0.0
    config.optimizer.mllm_clip = 1.0
    optimizer, _ = make_optimizers(config, "joint")
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    state = optimizer.init(params)
    small = {"a": jnp.full(1, 0.3), "b": jnp.full(1, 0.4)}  # norm 0.5: not clipped
    large = jax.tree.map(lambda x: 1e4 * x, small)  # clipped to norm 1: twice the small one
    _, state = optimizer.update(small, state, params)
    updates, _ = optimizer.update(large, state, params)
    # m̂ / √v̂ of gradients g, 2g with β = .9, .999.
    m = (0.09 + 0.2) / (1 - 0.9**2)
    v = (0.000999 + 0.004) / (1 - 0.999**2)
    want = -config.optimizer.mllm_lr * m / np.sqrt(v)
    np.testing.assert_allclose(updates["a"], want, rtol=1e-3)
    np.testing.assert_allclose(updates["b"], want, rtol=1e-3)


def test_only_matrices_decay():
    config = base()
    config.optimizer.warmup_steps, config.optimizer.mllm_decay = 1, 0.5
    optimizer, _ = make_optimizers(config, "joint")
    params = {"layers": {"q": jnp.ones(2), "q_bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
    (after,) = steps(optimizer, params, jax.tree.map(jnp.zeros_like, params), 1)
    assert (after["layers"]["q"] < 1).all()
    assert (after["layers"]["q_bias"] == 1).all() and (after["norm"]["scale"] == 1).all()
