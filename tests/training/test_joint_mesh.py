"""One joint update of the real models gives the same result on every mesh of eight devices.

The file runs itself in a process with eight virtual CPU devices, and in two with one each (`main`).
"""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
import time
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from msjoe_jax.config import read_config
from msjoe_jax.draws.plackett_luce import sample
from msjoe_jax.models.params import abstract
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts
from msjoe_jax.rollout.generate import Prompts
from msjoe_jax.rollout.system import load_tokenizers, make_system, state_table
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.mesh import AxisRules, batch_sharding, make_mesh, param_shardings
from msjoe_jax.runtime.supervisor import held_port
from msjoe_jax.training.state import init_state, make_step
from tests.support.processes import xla_flags

pytestmark = pytest.mark.slow

# (data, fsdp, tensor); the last with two micro-batches.
MESHES = {
    "8,1,1": ((8, 1, 1), 1),
    "2,2,2": ((2, 2, 2), 1),
    "1,4,2 in two parts": ((1, 4, 2), 2),
}
PROCESSES = 2
SHARED = {"1,2,1 of two processes": ((1, 2, 1), 1)}
B, I, J, Q, T, K, S, U, C, V, D = 8, 2, 2, 2, 16, 4, 10, 6, 4, 40, 32


def make_parts(folder):
    """(config, system): sizes that eight devices divide in every way asked for."""
    from tests.support.tiny import tiny_config

    config = tiny_config(folder)
    config.optimizer.mllm_lr, config.optimizer.warmup_steps = 0.01, 1
    config.mllm.log_prob_chunk = 7  # of 20 ids on each of two devices
    text = TextConfig(V, D, 2, 4, 2, 32, (1, 1, 2), rope_theta=100.0)
    vision = VisionConfig(1, 16, 2, 16, D, (0,), window=28)
    qwen = QwenConfig(text, vision, 2, 3, 0, 1)
    definition, shapes = abstract(lambda: QwenVL(qwen, rngs=nnx.Rngs(0)))
    models = read_config(config).models
    system = make_system(models, load_tokenizers(models))
    return config, dataclasses.replace(
        system, mllm_config=qwen, mllm_def=definition, abstract=system.abstract | {"mllm": shapes}
    )


def make_params(shapes, rng):
    def leaf(path, x):
        name = jax.tree_util.keystr(path)
        return (rng.normal(size=x.shape) * 0.2 + ("scale" in name)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def make_batch(rng):
    """Random but valid: ragged prompts, completions and videos, one question dropped."""

    def part(groups, samples):
        real = np.arange(S) < rng.integers(3, S + 1, (B, groups))[..., None]
        index = np.where(rng.random(real.shape) < 0.5, rng.integers(0, U, real.shape), -1)
        positions = np.cumsum(rng.integers(0, 2, (B, groups, 3, S)), -1)
        shape = (B, groups, samples, C)
        prompts = Prompts(
            np.where(real, rng.integers(4, V, real.shape), 0),
            np.where(real, index, -1),
            positions,
            real,
            rng.integers(4, V, (B, groups)),
            np.full((B, groups), S),
        )
        return TokenRollouts(
            Prompts(*(x.astype(np.int32) for x in prompts)),
            rng.normal(size=(B, U, D)).astype(np.float32),
            rng.integers(4, V, shape).astype(np.int32),
            np.arange(C) < rng.integers(1, C + 1, shape[:3])[..., None],
            rng.normal(size=shape).astype(np.float32),
            rng.random(shape[:3]) < 0.8,
        )

    frames = np.arange(T) < rng.integers(3, T + 1, B)[:, None]
    wide = np.broadcast_to(frames[:, None, None], (B, I, J, T))
    draw = sample(jax.random.key(0), jnp.zeros(wide.shape), wide, K)
    bit = lambda *shape: rng.integers(0, 2, shape).astype(np.float32)  # noqa: E731
    return RolloutBatch(
        queries=part(1, I),
        answers=part(I * J, 1),
        similarity=rng.uniform(0.01, 0.5, (B, I, Q, T)).astype(np.float32),
        query_mask=np.arange(Q) < rng.integers(1, Q + 1, (B, I))[..., None],
        frame_mask=frames,
        draw=jax.tree.map(np.asarray, draw),
        measures={
            "correct": bit(B, I, J),
            "answer_valid": bit(B, I, J),
            "query_valid": bit(B, I, 1),
            "parsed": bit(B, I, 1),
        },
        pass_rate=rng.random(B).astype(np.float32),
        weight=np.array([1, 1, 0, 1, 1, 1, 1, 1], np.float32),
        importance=np.ones(B, np.float32),
    )


def main(folder, port="", process=""):
    """Writes, for each mesh, how far its update is from one device's to `folder`/report.json.

    With a port it is one of several processes whose devices make one mesh; the name of its report
    ends in its number.
    """
    meshes, folder = SHARED if port else MESHES, pathlib.Path(folder)
    if port:
        hosts.connect(f"localhost:{port}", PROCESSES, int(process))
        meet(folder)
    own = folder / f"own{process}"  # processes at once would replace each other's tokenizer
    own.mkdir()
    config, system = make_parts(own)
    rng = np.random.default_rng(0)
    params = {name: make_params(system.abstract[name], rng) for name in ("mllm", "sampler")}
    batch, rules = make_batch(rng), AxisRules()

    def update(sizes, parts):
        config.objective.micro_batches = parts
        run = read_config(config).training_run("joint")
        devices = jax.devices() if math.prod(sizes) > 1 else jax.local_devices()[:1]
        mesh = make_mesh(*sizes, devices=devices)
        state = init_state(run, system, params["mllm"], params["sampler"])
        where = param_shardings(state, state_table(system), mesh, rules)
        step = jax.jit(
            make_step(run, system),
            donate_argnums=0,
            out_shardings=(where, None),
            compiler_options={"xla_backend_optimization_level": "0"},  # two thirds of the time
        )
        with jax.set_mesh(mesh):  # as in training
            state = jax.device_put(state, where)
            placed = jax.device_put(batch, batch_sharding(mesh, rules))
            after, metrics = step(state, placed)
        q = after["mllm"]["language"]["layers"]["q"]
        split = q.size // q.addressable_shards[0].data.size
        whole = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))(
            (after, metrics)
        )
        after, metrics = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), whole)
        return after, {k: float(v) for k, v in metrics.items()}, split

    one, metrics, _ = update((1, 1, 1), 1)
    others = [update(*how) for how in meshes.values()]
    out = {
        name: compare(config, params, one, metrics, *other)
        for name, other in zip(meshes, others, strict=True)
    }
    (folder / f"report{process}.json").write_text(json.dumps(out))


def meet(folder):
    """Waits for the other processes, and connects this one's devices with theirs.

    Devices connect at their first collective, and Gloo gives the others 30 s to arrive at it. Who
    is there earlier fails, and waits five minutes at its end for the others, who wait in Gloo for
    it. Later collectives have no such limit.
    """
    (folder / f"begun {jax.process_index()}").touch()
    while len(list(folder.glob("begun *"))) < PROCESSES:
        time.sleep(0.02)
    multihost_utils.sync_global_devices("begun")


def parts_of(state, model):
    """(parameters, Adam's first moments) of what the update trains.

    After one update the moment is a tenth of the clipped gradient.
    """
    adam = next(x for x in jax.tree.leaves(state[f"{model}_opt"], is_leaf=is_adam) if is_adam(x))
    if model == "mllm":
        return state[model]["language"], adam.mu["language"]
    return state[model], adam.mu


def is_adam(x):
    return hasattr(x, "mu")


def compare(config, params, one, metrics, other, other_metrics, split):
    """How far `other` is from `one`, and that both moved at all."""
    out = {"split": split, "gradients": 0.0, "steps": 0.0, "least step": np.inf}
    for model, rate in (
        ("mllm", config.optimizer.mllm_lr),
        ("sampler", config.optimizer.sampler_lr),
    ):
        before = params[model]["language"] if model == "mllm" else params[model]
        leaves = [before, *parts_of(one, model), *parts_of(other, model)]
        leaves = [jax.tree.leaves(tree) for tree in leaves]
        top = max(np.abs(m).max() for m in leaves[2])
        for p, a, a_mu, b, b_mu in zip(*leaves, strict=True):
            error = np.abs(a_mu - b_mu).max() / (np.abs(a_mu).max() + 0.01 * top)
            # Adam's first step is rate · sign: where the gradient is rounding, so is the sign.
            clear = np.abs(a_mu) > 1e-3 * top
            step = np.abs(np.where(clear, a - b, 0)).max() / rate
            out["gradients"] = max(out["gradients"], float(error))
            out["steps"] = max(out["steps"], float(step))
            if clear.any():
                out["least step"] = min(out["least step"], float(np.abs(a - p)[clear].min() / rate))
    out["metrics"] = max(abs(v - other_metrics[k]) / max(abs(v), 1) for k, v in metrics.items())
    same = jax.tree.map(np.array_equal, other["mllm"]["vision"], params["mllm"]["vision"])
    out["frozen"] = all(jax.tree.leaves(same))
    return out


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    def run(*processes, devices):
        """The reports of processes with these arguments, all at once; none outlives another."""
        folder = tmp_path_factory.mktemp("mesh")
        env = os.environ | {
            "XLA_FLAGS": xla_flags(devices),
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
        }
        with (folder / "log.txt").open("w") as log:
            lines = [[sys.executable, __file__, str(folder), *args] for args in processes]
            started = [subprocess.Popen(line, env=env, stdout=log, stderr=log) for line in lines]
        try:
            for process in started:
                assert process.wait(1800) == 0, (folder / "log.txt").read_text()[-3000:]
        finally:
            for process in started:
                process.kill()
                process.wait()
        return [json.loads(file.read_text()) for file in folder.glob("report*.json")]

    (alone,) = run((), devices=8)

    with held_port() as port:
        first, second = run(*((str(port), str(i)) for i in range(PROCESSES)), devices=1)
    assert first == second
    return alone | first


@pytest.mark.parametrize("name", MESHES | SHARED)
def test_a_mesh_changes_only_the_order_of_additions(report, name):
    """Bounds: float32 sums of a few hundred terms, reordered, are good to some 1e-6 relative.

    Gradients are compared leaf by leaf, relative to the leaf's largest entry (and a hundredth of
    the model's largest, for leaves whose exact gradient is zero), and were off by 1.2e-6; the
    steps, relative to the rate, where the gradient is clearly not zero, by 1.2e-5; metrics by 2e-7.
    """
    found = report[name]
    (_, fsdp, tensor), _ = (MESHES | SHARED)[name]
    assert found["split"] == fsdp * tensor  # the weights did lie in pieces
    assert found["gradients"] < 1e-5 and found["steps"] < 1e-3 and found["metrics"] < 1e-5
    assert found["least step"] > 0.5 and found["frozen"]


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:  # what JAX does at exit waits for the others, and they wait in Gloo
        traceback.print_exc()
        os._exit(1)
