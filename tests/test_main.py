"""What is wrong with a run's command or config is one line on stderr, and status 2."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Importing takes seconds: once, and then a fork for every command line.
DRIVER = """
import json, os, sys
from msjoe_jax import main
from msjoe_jax.commands.cli import run_app
for number, arguments in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if not child:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{sys.argv[2]}/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = ["main", *arguments]
        run_app(main.run)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], capture_output=True, text=True, cwd=ROOT
    )


TINY, DIR = "--config=configs/tiny.py", "--workdir={dir}/run"


CASES = [
    ((), "give --config="),
    ((TINY,), "give --workdir="),
    ((DIR,), "give --config="),
    (("--config=configs/none.py", DIR), "configs/none.py"),
    (("--config=configs/tiny.py:nothing", DIR), "no variant 'nothing'"),
    ((TINY, DIR, "--config.joint.step=3"), "unknown field in the config: step; Did you mean"),
    ((TINY, DIR, "--config.joint.steps=three"), "config.joint.steps"),
    ((TINY, DIR, "--stage=joint"), "stage"),
    ((TINY, DIR, "--config.stages=('joint','dance')"), "'dance' is not one of world,"),
    ((TINY, DIR, "--config.stages=('joint',)"), "config.mllm.tokenizer is not set"),
    ((TINY, DIR, "--config.stages=('joint',)", "--config.mllm.tokenizer=none",
      "--config.clip.tokenizer=none"), "none: no readable tokenizer.json"),
    ((TINY, DIR, "--config.evaluate.selectors=('uniform','best')"), "'best' is not one of"),
    ((TINY, DIR, "--config.stages=('pretrain','evaluate')"), "joint needs the stage 'joint'"),
    ((TINY, DIR, "--config.seed=-1"), "config.seed=-1 must be from 0 to"),
    ((TINY, DIR, "--config.stages=('pretrain','evaluate')",
      "--config.evaluate.selectors=('uniform',)"), "config.data.heldout_questions is not set"),
    ((TINY, "--workdir=configs/tiny.py"), "configs/tiny.py"),
]  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """(status, stdout, stderr) of every case."""
    folder = tmp_path_factory.mktemp("main")
    lines = [[a.format(dir=folder / str(i)) for a in args] for i, (args, _) in enumerate(CASES)]
    done = command("-c", DRIVER, json.dumps(lines), str(folder))
    assert done.returncode == 0, done.stderr
    return [
        (int(status), *((folder / f"{i}.{name}").read_text() for name in ("out", "err")))
        for i, status in enumerate(done.stdout.split())
    ]


@pytest.mark.parametrize("number", range(len(CASES)), ids=[words for _, words in CASES])
def test_one_line(outcomes, number):
    status, out, err = outcomes[number]
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert CASES[number][1] in err


def test_the_command_itself():
    done = command("-m", "msjoe_jax.main", TINY)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: give --workdir=") and done.stderr.count("\n") == 1
