"""What is wrong with a run's command or config is one line on stderr, and status 2."""

import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]

# Importing takes seconds: once, and then a fork for every command line.
DRIVER = """
import json, os, sys
from msjoe_jax import config_check, main, phases
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
    (("--config=configs/none.py", DIR), "configs by name: eval_v4, joint_h100x8, "),
    (("--config=configs/tiny.py:nothing", DIR), "no variant 'nothing'"),
    ((TINY, DIR, "--config.joint.step=3"), "unknown field in the config: step; Did you mean"),
    ((TINY, DIR, "--config.joint.steps=three"), "config.joint.steps"),
    ((TINY, DIR, "joint.steps=50", "seed=7"), "no flag takes 'joint.steps=50', 'seed=7'"),
    ((TINY, DIR, "--stage=joint"), "stage"),
    ((TINY, DIR, "--config.phases=('joint','dance')"), "'dance', which is not one of world,"),
    ((TINY, DIR, "--config.phases=('joint',)"), "config.mllm.tokenizer is not set"),
    ((TINY, DIR, "--config.phases=('joint',)", "--config.mllm.tokenizer=none",
      "--config.clip.tokenizer=none"), "none: no readable tokenizer.json"),
    ((TINY, DIR, "--config.evaluate.arms=('uniform','best')"), "'best', which is not one of"),
    ((TINY, DIR, "--config.phases=('pretrain','evaluate')"), "joint needs the phase joint"),
    ((TINY, DIR, "--config.seed=-1"), "config.seed=-1 must be at least 0"),
    ((TINY, DIR, "--config.log_every=0", "--config.mesh.data=3"), "config.log_every=0 must be"),
    ((TINY, DIR, "--config.keep_checkpoints=0"), "config.keep_checkpoints=0 must be at least 1"),
    ((TINY, DIR, "--config.keep_checkpoints=-2"), "config.keep_checkpoints=-2 must be at least 1"),
    ((TINY, DIR, "--config.log_every=0", "--config.mesh.data=3"), "does not fit 1 devices"),
    ((TINY, DIR, "--config.rollout.answer_temperature=0"), "answer_temperature=0.0 must be above"),
    ((TINY, DIR, "--config.phases=('pretrain','evaluate')",
      "--config.evaluate.arms=('uniform',)"), "config.data.heldout_questions is not set"),
    ((TINY, "--workdir=configs/tiny.py"), "configs/tiny.py"),
    ((TINY, "--workdir=s3://bucket/run"), "must be a path or gs://BUCKET/FOLDER"),
    ((TINY, "--workdir=gs://bucket"), "must be a path or gs://BUCKET/FOLDER"),
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
def test_lines(outcomes, number):
    status, out, err = outcomes[number]
    assert (status, out) == (2, "")
    assert all(line.startswith("error: ") for line in err.splitlines()), err
    assert CASES[number][1] in err


def test_a_refused_run_leaves_no_work_folder(outcomes, tmp_path_factory):
    """The config is checked before the folder is touched."""
    folders = [p for p in tmp_path_factory.getbasetemp().glob("main*/*") if p.is_dir()]
    assert not [p for p in folders if (p / "run").exists()]


def test_the_command_itself():
    done = command("-m", "msjoe_jax.main", TINY)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: give --workdir=") and done.stderr.count("\n") == 1


def test_jax_is_imported_after_its_settings_are_made():
    """JAX reads the environment once: platform and cache of programs are set there before."""
    done = command("-c", "import sys, msjoe_jax.main; print('jax' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


def test_a_run_ends_by_naming_its_report(tmp_path):
    """Of phases that do nothing: the report is written after them."""
    program = """
import sys
from msjoe_jax import main, phases
from msjoe_jax.commands.cli import run_app
phases.run_phases = lambda config, workdir: None
run_app(main.run)
"""
    done = command("-c", program, TINY, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    page = tmp_path / "run" / "report.html"
    assert done.stdout.splitlines()[-1] == f"report in {page}"
    assert "phases world, warm_up" in page.read_text()
