"""What a host can tell of itself before it computes anything: versions, code, devices, disks."""

import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile
from typing import Any

import jax
from etils import epath

from msjoe_jax.runtime.digest import digest, digest_of_code
from msjoe_jax.runtime.files import absolute, is_local

PACKAGES = (
    *("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain"),
    *("tensorflow", "tensorflow-cpu", "numpy"),
)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of what a run stands on, as far as it is installed."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Returns the git commit that the code lies in, marked if files differ from it; "" if none."""
    package = pathlib.Path(__file__).parents[1]

    def git(*words: str) -> str:
        line = ["git", "-C", str(package), *words]
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    if not git("ls-files", "__init__.py"):  # installed into some other repository
        return ""
    changed = " with changes" if git("status", "--porcelain", ".") else ""
    return git("rev-parse", "--short=12", "HEAD") + changed


def free_bytes(workdir: epath.PathLike) -> dict[str, tuple[str, int | None]]:
    """Returns for each use of a disk its folder, and what is free there; None: object storage."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    folders = {"workdir": workdir, "temporary files": tempfile.gettempdir()}
    if cache:
        folders["compiled programs"] = cache
    found: dict[str, tuple[str, int | None]] = {}
    for name, folder in folders.items():
        place = absolute(folder)
        while is_local(place) and not place.exists() and place != place.parent:
            place = place.parent
        free = shutil.disk_usage(place).free if is_local(place) else None
        found[name] = (os.fspath(absolute(folder)), free)
    return found


def own_facts(values: Any, workdir: epath.PathLike) -> dict[str, Any]:
    """Returns what this host tells the others about itself; JSON can hold it.

    Args:
      values: of the config.
      workdir: of the run to come.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return {
        "code": digest_of_code(),
        "config": digest(values),
        "versions": versions(),
        "devices": [device.device_kind for device in jax.local_devices()],
        "name": platform.node(),
        "disks": free_bytes(workdir),
        "limits": [one["bytes_limit"] for one in stats if "bytes_limit" in one],
        "held": [one["bytes_in_use"] for one in stats if "bytes_in_use" in one],
    }


def disagreements(facts: list[dict[str, Any]]) -> list[str]:
    """Returns in what hosts differ from the first, a line each."""
    what = {
        "code": "install the same files on every host",
        "config": "give every host the same --config and fields",
        "versions": "install the same packages on every host (requirements.txt)",
        "devices": "a host has lost a chip or is of another kind: make the slice anew",
    }
    found = []
    for key, remedy in what.items():
        if others := [h for h, one in enumerate(facts) if one[key] != facts[0][key]]:
            names = ", ".join(f"{h} ({facts[h]['name']})" for h in others)
            found.append(f"hosts disagree on {key}: host {names} and host 0 differ; {remedy}")
    return found
