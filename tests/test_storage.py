"""Whole runs where storage is scarce, closed or a bucket: the same results, or one line."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.commands import ROOT

pytestmark = pytest.mark.soak

HERE = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}

# Importing takes seconds: once, and then a fork for every command line.
DRIVER = """
import json, os, sys
from msjoe_jax.runtime.platform import keep_compiled_programs, quiet_cpu_default
quiet_cpu_default()
keep_compiled_programs()
from msjoe_jax import main, phases
from msjoe_jax.commands.cli import run_app
for name, arguments in json.loads(sys.argv[1]).items():
    child = os.fork()
    if not child:
        file = os.open(f"{sys.argv[2]}/{name}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1), os.dup2(file, 2)
        sys.argv = ["main", *arguments]
        run_app(main.run)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

# A run of every phase that writes of everything, about 22 MB.
RUN = ["--config=configs/tiny.py:short", "--config.world.num_train=16"]
RUN += ["--config.world.num_validation=8", "--config.world.num_heldout=8"]
RUN += ["--config.warm_up.clip_steps=1", "--config.warm_up.mllm_steps=1"]
RUN += ["--config.pretrain.steps=1", "--config.joint.steps=2", "--config.checkpoint_every=1"]
RUN += ["--config.media_every=1", "--config.validate_every=1", "--config.evaluate.batch=8"]

SIZES = [300, 3000, 7000, 9000, 10500, 12000, 14000, 17000, 20000]


def run_all(lines, folder):
    """Runs command lines by name; returns each one's status and what it printed."""
    folder.mkdir()
    words = [sys.executable, "-W", "ignore", "-c", DRIVER, json.dumps(lines), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | HERE, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    printed = [(folder / name).read_text(errors="replace") for name in lines]
    return list(zip(map(int, done.stdout.split()), printed, strict=True))


def assert_one_line(status, printed, words):
    assert "Traceback" not in printed, printed
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(errors) == 1 and words in errors[0], printed
    assert printed.splitlines()[-1] == errors[0], printed


def test_a_disk_of_any_size_is_one_line(mount, tmp_path):
    folders = {str(size): mount(f"size={size}k") for size in SIZES}
    lines = {size: [*RUN, f"--workdir={folder}/run"] for size, folder in folders.items()}
    for status, printed in run_all(lines, tmp_path / "out"):
        assert_one_line(status, printed, ": the disk is full: ")


def test_a_read_only_disk_is_one_line(mount, tmp_path):
    line = [*RUN, f"--workdir={mount('ro,size=1m')}/run"]
    ((status, printed),) = run_all({"run": line}, tmp_path / "out")
    assert_one_line(status, printed, "(Read-only file system); name another folder")


def test_a_run_in_a_bucket_is_the_run_on_a_disk(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here, there = tmp_path / "run", bucket / "run"
    lines = {"disk": [*RUN, f"--workdir={here}"], "bucket": [*RUN, f"--workdir={there}"]}
    for status, printed in run_all(lines, tmp_path / "out"):
        assert status == 0, printed
    for name in ("eval.json", "eval_questions.jsonl", "joint/rollouts.jsonl"):
        assert (there / name).read_bytes() == (here / name).read_bytes()
    assert not (there / ".lock").exists()


def test_a_bucket_that_refuses_is_one_line(bucket, tmp_path):
    ((status, printed),) = run_all(
        {"run": [*RUN, "--workdir=gs://forbidden/run"]}, tmp_path / "out"
    )
    assert_one_line(status, printed, "gs://forbidden/run cannot be written to")
