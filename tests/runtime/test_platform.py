"""The CPU where there is no accelerator, and no chatter from imports."""

import os
import subprocess
import sys

import pytest

from msjoe_jax.runtime import platform
from tests.support.commands import program


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_bucket_keeps_compiled_programs(bucket):
    text = """
        from msjoe_jax.runtime.platform import keep_compiled_programs, quiet_cpu_default
        quiet_cpu_default()
        keep_compiled_programs()
        import jax
        hits = []
        jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
        for _ in range(2):
            jax.jit(lambda x: x * 3 + 1)(2.0)
            jax.clear_caches()
        print(sum(name.endswith("compilation_cache/cache_hits") for name in hits))
    """
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(bucket / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    assert int(program(text, **os.environ | kept).stdout) >= 1
    assert any(path.name.endswith("-cache") for path in (bucket / "compiled").iterdir())
