"""Several processes on this machine that stand in for the hosts of a run."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
# Every test compiles in half the time, and so do the processes that it starts.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false"
)
PATIENCE = 600  # seconds until processes count as standing still: a bound, on a busy machine too


class Ended(NamedTuple):
    """How a process ended, and what it printed."""

    status: int
    out: str
    err: str


def xla_flags(devices: int) -> str:
    """For so many virtual CPU devices, compiling quickly."""
    return f"{QUICK} --xla_force_host_platform_device_count={devices}"


def environment(devices: int, **more: str) -> dict[str, str]:
    """For a process with so many virtual CPU devices."""
    return os.environ | {
        "XLA_FLAGS": xla_flags(devices),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        **more,
    }


def start(
    lines: Sequence[Sequence[object]], folder: pathlib.Path, devices: int = 1
) -> list[subprocess.Popen]:
    """Starts a process for each line of arguments to Python; their words go to files there."""
    folder.mkdir(parents=True, exist_ok=True)
    started = []
    for number, line in enumerate(lines):
        with (
            (folder / f"{number}.out").open("w") as out,
            (folder / f"{number}.err").open("w") as err,
        ):
            words = [sys.executable, *map(str, line)]
            env = environment(devices)
            started.append(subprocess.Popen(words, env=env, stdout=out, stderr=err, cwd=ROOT))
    return started


def ended(started: Sequence[subprocess.Popen], folder: pathlib.Path) -> list[Ended]:
    """Waits for processes of `start`; none outlives this."""
    try:
        return [
            Ended(
                process.wait(PATIENCE),
                (folder / f"{number}.out").read_text(),
                (folder / f"{number}.err").read_text(),
            )
            for number, process in enumerate(started)
        ]
    finally:
        for process in started:
            process.kill()
            process.wait()
