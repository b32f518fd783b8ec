"""What holds for every test: checked shapes, a cache of compiled programs, patient hypothesis."""

import os
import pathlib
import subprocess
import uuid

import jax
import jaxtyping
import pytest
from etils import epath
from hypothesis import HealthCheck, settings

from msjoe_jax.runtime.platform import FRESH
from tests.support import shapes
from tests.support.object_server import object_server
from tests.support.processes import QUICK

# Before TensorFlow is imported, which reads it once.
os.environ.update(FRESH)
# Before a device is asked for. What the environment says comes last, and wins.
os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()

# In these rooms every call is checked against its shapes and kinds. Before any of them is imported.
CHECKED = ("models", "rl", "draws", "selectors")
jaxtyping.install_import_hook(
    [f"msjoe_jax.{room}" for room in CHECKED], f"{shapes.__name__}.checked"
)

MAPS = 10_000  # of memory, at which compiled programs are forgotten

# On a busy machine an example may take any time.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_configure(config: pytest.Config) -> None:
    """Keeps compiled programs for the next run, of this process and of those that it starts."""
    cache = getattr(config, "cache", None)  # absent with -p no:cacheprovider
    if cache is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    options = {
        "jax_compilation_cache_dir": str(cache.mkdir("jax")),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    for name, value in options.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture(scope="module", autouse=True)
def few_compiled_programs():
    """Forgets compiled programs from time to time, each of which holds maps of memory.

    Linux gives a process 65,530 of them; one more, and it dies somewhere in the compiler.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def object_storage(tmp_path_factory):
    """The environment in which Google's libraries find an object server on localhost."""
    with object_server(tmp_path_factory.mktemp("objects")) as environment:
        yield environment


@pytest.fixture
def bucket(object_storage, monkeypatch):
    """An empty bucket, gs://…, on an object server on localhost."""
    for name, value in object_storage.items():
        monkeypatch.setenv(name, value)
    return epath.Path(f"gs://{uuid.uuid4().hex}")


@pytest.fixture
def mount(tmp_path):
    """Mounts a file system in memory; its options → its folder."""
    mounted = []

    def make(options):
        folder = tmp_path / f"mounted-{len(mounted)}"
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("mounting a small file system needs the rights to do so")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)
