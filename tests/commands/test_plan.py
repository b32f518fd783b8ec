"""Planning for slices that are not there. Compiles with libtpu, which comes with jax[tpu]."""

import importlib.util
import math
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from msjoe_jax.commands.plan import (
    GIB,
    PlanReport,
    compile_for_topology,
    describe_topology,
    format_report,
)
from msjoe_jax.config import base, read_config
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.shapes import abstract_batch
from msjoe_jax.rollout.system import make_system
from msjoe_jax.runtime.mesh import make_mesh
from msjoe_jax.training.state import abstract_state, make_step, trains_vision

pytestmark = pytest.mark.slow

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
TOPOLOGY = "v4:2x2x2"


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(1, 4, 2, describe_topology(TOPOLOGY))


def update(w, x):
    return w - jax.grad(lambda w: jnp.sum((x @ w) ** 2))(w)


@needs_libtpu
def test_bytes_of_a_small_step_on_eight_chips(mesh):
    place = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    w = jax.ShapeDtypeStruct((2048, 2048), jnp.float32, sharding=place)
    shard = 2048 * 2048 * 4 // 8
    report = compile_for_topology(update, (w, w), TOPOLOGY, out_shardings=place, donate=(0,))
    assert report.chips == 8
    assert report.hbm == 30.75 * GIB
    assert report.arguments == 2 * shard
    # Beside the arguments only collective buffers: far less than one whole matrix on every chip.
    assert 2 * shard <= report.peak < 2 * shard + 2048 * 2048 * 4
    assert report.fits()
    kept = compile_for_topology(update, (w, w), TOPOLOGY, out_shardings=place)
    assert kept.peak >= report.peak + shard  # without donation the old matrix stays


@needs_libtpu
@pytest.mark.parametrize("effort", [0.0, -1.0])
def test_a_program_that_does_not_fit_is_refused(mesh, effort):
    whole = NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((2**16, 2**17), jnp.float32, sharding=whole)  # 32 GiB
    report = compile_for_topology(lambda x: x @ x.T, (x,), TOPOLOGY, effort=effort)
    assert not report.fits()
    assert report.peak is None
    assert "exceeds available HBM" in report.refusal
    assert format_report(report, mesh, 0).splitlines()[-1] == f"FAIL  {report.refusal}"


@needs_libtpu
def test_unknown_slices_are_named():
    with pytest.raises(UserError, match="generation is one of v4, v5e, v5p, v6e"):
        describe_topology("v3:2x2")
    with pytest.raises(UserError, match=r"v4:3x3x3.*not divisible"):
        describe_topology("v4:3x3x3")


def test_the_verdict_counts_what_is_alive_beside_the_program():
    report = PlanReport(chips=1, hbm=100.0, arguments=50, peak=90, seconds=1.0)
    assert report.fits(other_bytes=7)
    assert not report.fits(other_bytes=8)


def test_the_step_takes_the_abstract_batch_and_keeps_the_state_at_7b():
    config = base()
    config.rollout.questions, config.objective.micro_batches = 8, 2

    def traced(encode_in_step: bool):
        """The batch, the state, and what the step makes of them, as shapes."""
        made = read_config(config)
        run, system = made.training_run("joint"), make_system(made.models)
        assert trains_vision(run, system) == encode_in_step
        batch = abstract_batch(
            system, made.frames, made.prompt, made.rollout, encode_in_step=encode_in_step
        )
        state = abstract_state(run, system)
        return batch, state, jax.eval_shape(make_step(run, system), state, batch)

    batch, state, (new_state, metrics) = traced(False)
    assert new_state == state
    assert metrics["reward"].shape == ()
    # Key frames: 8 rollouts × 32 frames, 1024 patches in blocks of 4, the width of the 7B decoder.
    assert batch.answers.visual.shape == (8, 8 * 32 * 256, 3584)
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(state["mllm"]))
    assert parameters == 8_292_166_656  # Qwen2.5-VL-7B-Instruct as published
    config.mllm.trainable = ""  # the tower too: the step encodes the frames itself
    batch, state, (new_state, _) = traced(True)
    assert batch.answers.visual.pixels.shape == (8, 8 * 32, 1024, 14, 14, 3)
    assert new_state == state


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    config = tmp_path / "config.py"
    config.write_text("from msjoe_jax.config import base as get_config\n")
    command = [sys.executable, "-m", "msjoe_jax", "plan", f"--config={config}", "--topology=v9:1x1"]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout) == (2, "")
    words = "error: --topology=v9:1x1: the generation is one of v4, v5e, v5p, v6e\n"
    assert done.stderr == words
