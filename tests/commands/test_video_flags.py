"""The flags for a part of a file: what they make, and what is wrong in one line each."""

import subprocess
import sys

# Every set of flags in a process of its own, since flags are defined once: FLAGS, FLAGS, … by ";".
PROGRAM = """
import os, sys
from msjoe_jax.commands.cli import run_app
from msjoe_jax.commands.video_flags import define_part
for words in sys.argv[1].split(";"):
    if not (child := os.fork()):
        sys.argv = ["program", *words.split()]
        part = define_part()
        run_app(lambda: print(part("a b"), flush=True))
    os.waitpid(child, 0)
"""


def call(*sets):
    words = [sys.executable, "-c", PROGRAM, ";".join(sets)]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_the_source_that_they_say():
    said, errors = call("", "--start=1 --end=2.5 --stream=3", "--rate=25", "--end=0.5", "--help")
    assert not errors
    assert said[:4] == [
        "VideoSource(path='a b', start=None, end=None, stream=None, rate=None)",
        "VideoSource(path='a b', start=1.0, end=2.5, stream=3, rate=None)",
        "VideoSource(path='a b', start=None, end=None, stream=None, rate=25.0)",
        "VideoSource(path='a b', start=None, end=0.5, stream=None, rate=None)",
    ]
    for name in ("start", "end", "stream", "rate"):
        assert any(line.startswith(f"  --{name}=") for line in said[4:])


def test_what_is_wrong_is_one_line_each():
    sets = ["--start=-1", "--start=nan", "--end=inf", "--end=0", "--start=5 --end=5", "--rate=0"]
    sets += ["--stream=-1", "--rate=1e9", "--stream=1.5", "--start=x"]
    said, errors = call(*sets)
    assert not said and len(errors) == len(sets)
    for line, words in zip(errors, sets, strict=True):
        assert line.startswith("error: ") and words.split("=")[0] in line
    assert errors[0] == "error: --start is -1.0, not a number from 0 to 1e+09"
    assert errors[4] == "error: --end=5.0 is not after --start"
