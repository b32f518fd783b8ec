"""One run at a time in a folder, one config for its whole life, and the quiet CPU default."""

import json
import os
import signal
import subprocess
import sys

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.runtime import platform
from msjoe_jax.runtime.workdir import lock_workdir, record_config

HOLD = """
import sys, time
from msjoe_jax.runtime.workdir import lock_workdir
with lock_workdir(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path):
    run = tmp_path / "run"
    child = subprocess.Popen([sys.executable, "-c", HOLD, run], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    message = rf"run is in use by another run \(pid {child.pid}\)"
    for _ in range(2):  # a refused run must not take the lock or its owner's name away
        with pytest.raises(UserError, match=message), lock_workdir(run):
            pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with lock_workdir(run):
        assert (run / ".lock").read_text() == str(os.getpid())
    with lock_workdir(run):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="file/run as a work folder"),
        lock_workdir(tmp_path / "file" / "run"),
    ):
        pass


def test_object_storage_is_not_locked():
    with lock_workdir("gs://bucket/run"):
        assert not os.path.exists("gs:")


CONFIG = {"seed": 1, "steps": 10, "model": {"width": 64, "axes": (1, 2)}, "note": None, "x": {}}


def test_the_same_config_resumes(tmp_path):
    for _ in range(2):
        record_config(tmp_path, CONFIG)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored == {**CONFIG, "model": {"width": 64, "axes": [1, 2]}}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_different_config_names_the_fields_and_keeps_the_file(tmp_path):
    record_config(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    other = {**CONFIG, "model": {"width": 65, "axes": (1, 2)}, "steps": 20, "new": 1}
    del other["note"]
    words = "model.width was 64, is 65; new was absent, is 1; note was null, is absent; "
    with pytest.raises(UserError, match=words + "steps was 10, is 20; name another"):
        record_config(tmp_path, other)
    with pytest.raises(UserError, match=r"model\.width"):
        record_config(tmp_path, other, may_differ=frozenset({"steps"}))
    assert (tmp_path / "config.json").read_bytes() == before
    many = {f"field{i}": i for i in range(9)}
    with pytest.raises(UserError, match=r"field0 was absent.* and 9 more"):
        record_config(tmp_path, many)


def test_fields_that_may_differ_are_updated(tmp_path):
    record_config(tmp_path, CONFIG)
    record_config(tmp_path, {**CONFIG, "steps": 20}, may_differ=frozenset({"steps"}))
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 20


def test_an_unreadable_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is not JSON"):
        record_config(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("files", "chosen", "expected"),
    [([], None, "cpu"), (["accel0"], None, None), ([], "tpu", "tpu"), (["accel0"], "cpu", "cpu")],
)
def test_the_cpu_is_chosen_only_without_accelerator_and_wish(
    monkeypatch, tmp_path, files, chosen, expected
):
    for file in files:
        (tmp_path / file).touch()
    environment = {"TF_CPP_MIN_LOG_LEVEL": "0"} | ({"JAX_PLATFORMS": chosen} if chosen else {})
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(platform, "ACCELERATOR_FILES", (str(tmp_path / "accel*"),))
    platform.quiet_cpu_default()
    assert environment.get("JAX_PLATFORMS") == expected
    assert environment["TF_CPP_MIN_LOG_LEVEL"] == "0"  # the user's word stays
    assert environment["GRPC_VERBOSITY"] == "ERROR"


def test_imports_say_nothing(tmp_path):
    program = (
        "from msjoe_jax.runtime.platform import quiet_cpu_default; quiet_cpu_default()\n"
        "import sys, jax.numpy as jnp\n"
        "from msjoe_jax.runtime.checkpoint import Checkpoints\n"
        "from msjoe_jax.runtime.metrics import MetricWriter\n"
        "folder = sys.argv[1]\n"
        "with MetricWriter(folder) as writer, Checkpoints(folder + '/checkpoints') as saved:\n"
        "    writer.scalars(0, {'a': jnp.ones(())})\n"
        "    saved.save(0, {'a': jnp.ones(())}, None, {})\n"
        "    saved.restore({'a': jnp.ones(())})\n"
    )
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("JAX_PLATFORMS", *platform.QUIET)
    }
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout + done.stderr == ""
