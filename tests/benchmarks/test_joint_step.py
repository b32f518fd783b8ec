"""The joint update and the same in PyTorch compute the same."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
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
