"""The joint update and the same in PyTorch compute the same."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks.joint_batch import SHAPES, hf_sizes, make_parts, rollout_work, useful_flops
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig

ROOT = pathlib.Path(__file__).parents[2]


def test_a_rollout_computes_what_a_forward_of_the_update_does():
    """Beside the tower, whose features the update is given."""
    c, s = QwenConfig.from_hf(hf_sizes("tiny").to_dict()), SHAPES["tiny"]
    parts = make_parts(c, s)
    work = [phase.flops for part in parts for phase in rollout_work(c, part, 4)[1:]]
    assert sum(work) == pytest.approx(useful_flops(c, s, parts))


@pytest.mark.soak
def test_both_sides_compute_the_same_update():
    """In a process of its own, on one core: on a busy machine torch's threads wait for minutes."""
    one_core = (
        "import os, runpy; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "runpy.run_module('benchmarks.joint_step', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", one_core, "--size=tiny", "--only=check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["our_loss"] == pytest.approx(found["loss"], abs=1e-5) != 0
    assert found["gradient"] < 1e-4
