"""How commands start: flags and configs that are wrong are one line, not a traceback."""

import pathlib
import subprocess
import sys

import pytest

PROGRAM = """
from ml_collections import config_flags
from msjoe_jax.runtime.cli import given_config, run_app
flag = config_flags.DEFINE_config_file("config", None, lock_config=True)
run_app(lambda: print(given_config(flag).a.b))
"""
CONFIG = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"a": {"b": 1}})
"""


def call(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "config.py").write_text(CONFIG)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *(a.replace("DIR", str(folder)) for a in arguments)],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[1],
    )


def test_overrides_reach_the_config(tmp_path):
    done = call(tmp_path, "--config=DIR/config.py", "--config.a.b=3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give --config="),
        (("--config=DIR/none.py",), "none.py"),
        (("--config=DIR/config.py", "--config.a.c=3"), "unknown field in the config: c"),
        (("--config=DIR/config.py", "--config.a.b=x"), "config.a.b"),
        (("--config=DIR/config.py", "--what=1"), "what"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, arguments, words):
    done = call(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
