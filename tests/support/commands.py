"""Commands and programs in processes of their own."""

import os
import pathlib
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def command(name: str, *flags: str, **variables: str) -> subprocess.CompletedProcess:
    """`msjoe NAME …`, to its end."""
    line = [sys.executable, "-m", "msjoe_jax", name, *flags]
    environment = PYTHON | variables
    return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=ROOT)


def program(
    text: str, *arguments: pathlib.Path | str, **variables: str
) -> subprocess.CompletedProcess:
    """A Python program that has to end well."""
    line = [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)]
    environment = PYTHON | variables
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done
