"""What the processes of a cluster are told, what is refused, and a cluster that loses a host."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from msjoe_jax.commands.launch import hosts, launch, visible_gpus
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.supervisor import Supervisor

ROOT = pathlib.Path(__file__).parents[2]


def call(*arguments: str, program: str = "import msjoe_jax.__main__ as m; m.main()", **settings):
    return subprocess.run(
        [sys.executable, "-c", program, "launch", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | settings,
    )


def test_one_process_finds_its_cluster_by_itself():
    (child,) = hosts(["main", "--workdir=w"], 1, 0, 0, {"XLA_FLAGS": "--xla_a=1"})
    assert child.command == ["main", "--workdir=w"]
    assert child.environment == {"XLA_FLAGS": "--xla_a=1"}


def test_each_process_is_told_its_place():
    children = hosts(["main", "--workdir=w"], 2, 3, 4321, {"XLA_FLAGS": "--xla_a=1", "A": "b"})
    for host, child in enumerate(children):
        place = ["--coordinator=localhost:4321", "--hosts=2", f"--host={host}"]
        assert child.command == ["main", "--workdir=w", *place]
        flags = "--xla_a=1 --xla_force_host_platform_device_count=3"
        wanted = {"XLA_FLAGS": flags, "A": "b", "JAX_PLATFORMS": "cpu"}
        assert child.environment == wanted | {"PYTHONUNBUFFERED": "1"}


def test_gpus_are_shared_out():
    chosen = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    children = hosts(["main"], 2, 0, 1, chosen)
    assert [child.environment["CUDA_VISIBLE_DEVICES"] for child in children] == ["4,5", "6,7"]
    with pytest.raises(UserError, match="--processes=3: 4 GPUs cannot be shared out evenly"):
        hosts(["main"], 3, 0, 1, chosen)
    (alone,) = hosts(["main"], 1, 0, 1, chosen)
    assert alone.environment == chosen
    for child in hosts(["main"], 3, 1, 1, chosen):  # virtual devices: the GPUs are not used
        assert child.environment["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []


@pytest.mark.parametrize(
    ("arguments", "numbers", "words"),
    [
        (["--host=1"], {"processes": 2}, "--host=1: --processes=2 gives this flag"),
        (["--coordinator=a:1"], {"processes": 2}, "--coordinator=a:1"),
        (["--config=x"], {"processes": 0}, "--processes=0: give 1 or more"),
        (["--config=x"], {"devices": -1}, "--devices=-1: give 0 or more"),
        (["--config=x"], {"restarts": -1}, "--restarts=-1: give 0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, numbers, words):
    with pytest.raises(UserError, match=re.escape(words)):
        launch(arguments, **numbers, main=["no such program"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give the flags of the training after --"),
        (("--config=tiny", "--workdir=w"), "Unknown command line flag 'config'"),
        (("--restarts=x", "--", "--config=tiny"), "--restarts=x"),
        (("word", "--", "--config=tiny"), "no flag takes 'word'"),
    ],
)
def test_wrong_flags_are_one_line(arguments, words):
    done = call(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ") and words in done.stderr


def test_the_parent_leaves_jax_to_its_child():
    """On a TPU host the first process to import it owns the chips."""
    program = """
import sys
from msjoe_jax.__main__ import main
try:
    main()
except SystemExit as end:
    print("status", end.code)
print({"jax", "jaxlib", "tensorflow", "flax", "numpy"} & set(sys.modules))
"""
    done = call("--", "--help", program=program)
    assert done.stderr == "" and "--workdir" in done.stdout  # the child's
    assert done.stdout.splitlines()[-2:] == ["status 0", "set()"]


def test_an_error_of_the_user_in_the_child_is_not_tried_again():
    done = call("--restarts=3", "--", "--config=no_such_config", "--workdir=w")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: ")


CLUSTER = """
import os, signal, sys
import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
coordinator, hosts, host = (word.partition("=")[2] for word in sys.argv[1:])
jax.distributed.initialize(coordinator, int(hosts), int(host), heartbeat_timeout_seconds=10)
multihost_utils.sync_global_devices("all are there")
print("together", jax.process_count(), len(jax.devices()), flush=True)
if host == "1":
    os.kill(os.getpid(), signal.SIGKILL)
multihost_utils.sync_global_devices("one is not")
"""


@pytest.mark.slow
def test_a_cluster_that_loses_a_host_ends(capfd, monkeypatch):
    """The other notices by itself, by Gloo at once or by JAX's heartbeats: nobody kills it."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    lines: list[str] = []
    main = [sys.executable, "-c", CLUSTER]
    assert launch([], 2, 2, main=main, supervisor=Supervisor(120, 0, lines.append)) == 1
    assert capfd.readouterr().out.count("together 2 4\n") == 2  # within Gloo's own words, at worst
    (line,) = lines
    print(line)  # pytest -rP shows it
    assert line.startswith("host 1 of 2 was killed by signal 9; the others ended after ")
    assert float(re.findall(r"after (\d+) s", line)[0]) < 120
