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


@pytest.mark.parametrize(
    ("platforms", "library", "kernel", "tunables", "again"),
    [
        ("cpu", "glibc 2.36", "always [madvise] never", None, True),
        ("cpu", "glibc 2.34", "always [madvise] never", None, False),
        ("cpu", "", "always [madvise] never", None, False),
        ("cpu", "glibc 2.36", "[always] madvise never", None, False),
        ("cpu", "glibc 2.36", "always madvise [never]", None, False),
        ("cpu", "glibc 2.36", "always [madvise] never", "", False),
        ("cpu", "glibc 2.36", None, None, False),
        ("tpu", "glibc 2.36", "always [madvise] never", None, False),
    ],
)
def test_who_starts_again_for_huge_pages(
    monkeypatch, tmp_path, platforms, library, kernel, tunables, again
):
    file = tmp_path / "enabled"
    if kernel is not None:
        file.write_text(kernel + "\n")
    environment = {"JAX_PLATFORMS": platforms}
    if tunables is not None:
        environment["GLIBC_TUNABLES"] = tunables
    started = []
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(platform, "HUGE_PAGES", str(file))
    monkeypatch.setattr(os, "confstr", lambda _: library or None)
    monkeypatch.setattr(os, "execv", lambda *given: started.append(given))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "a.module", "--flag"])
    platform.use_huge_pages()
    command = [sys.executable, "-m", "a.module", "--flag"]
    assert started == ([(sys.executable, command)] if again else [])
    assert environment.get("GLIBC_TUNABLES", tunables) == (
        "glibc.malloc.hugetlb=1" if again else tunables
    )


def test_the_second_start_is_the_last(tmp_path):
    program = (
        "import os, sys\n"
        "from msjoe_jax.runtime import platform\n"
        f"platform.HUGE_PAGES = {str(tmp_path / 'enabled')!r}\n"
        "platform.use_huge_pages()\n"
        "print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), sys.argv[1:])\n"
    )
    (tmp_path / "enabled").write_text("[madvise]")
    names = ("GLIBC_TUNABLES", "JAX_PLATFORMS")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", program, "a b", "*"]
    with subprocess.Popen(
        command, env=clean | {"JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE, text=True
    ) as process:
        output, _ = process.communicate()
    assert output == f"{process.pid} glibc.malloc.hugetlb=1 ['a b', '*']\n"


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
