"""A run of `main` that is killed and started again ends where an uninterrupted one does."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from msjoe_jax.data.questions import Question, save_questions
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.runtime.files import lock
from tests.support.embeddings import write_embeddings
from tests.support.processes import xla_flags
from tests.support.tiny import clip_of, tiny_model_folder

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
STEPS, SAVE_EVERY = 8, 4
VIDEOS, FRAMES, SIZE = 5, 18, 56
COLOURS = ("red", "blue", "green", "white")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with records, questions, an untrained checkpoint and a config file."""
    folder = tmp_path_factory.mktemp("resume")
    rng = np.random.default_rng(0)
    with RecordWriter(folder / "records") as writer:
        for v in range(VIDEOS):
            pictures = rng.integers(0, 256, (FRAMES, SIZE, SIZE, 3), np.uint8)
            writer.add(f"v{v}", enumerate(pictures))
    ids, model = RecordReader(folder / "records").ids, tiny_model_folder(folder)
    write_embeddings(
        folder / "records", clip_of(model), ((v, rng.normal(size=(FRAMES, 32))) for v in ids)
    )
    questions = [
        Question(f"q{i}", ids[i % VIDEOS], "what colour is the cup ?", COLOURS, i % 4, i / 10)
        for i in range(2 * VIDEOS)
    ]
    save_questions(folder / "questions.jsonl", questions)
    (folder / "config.py").write_text(
        "import pathlib\n"
        "from tests.support.tiny import tiny_config\n"
        "def get_config():\n"
        f"    c = tiny_config(pathlib.Path({str(folder)!r}))\n"
        f"    c.mllm.checkpoint = c.clip.checkpoint = c.sampler.checkpoint = {str(model)!r}\n"
        f"    c.data.train_records = {str(folder / 'records')!r}\n"
        f"    c.data.train_questions = {str(folder / 'questions.jsonl')!r}\n"
        "    c.phases = ('joint',)\n"
        f"    c.joint.steps, c.checkpoint_every, c.media_every = {STEPS}, {SAVE_EVERY}, 100\n"
        "    c.rollout.questions, c.rollout.query_rollouts = 3, 2\n"
        "    c.rollout.updates, c.rollout.refill, c.joint.curriculum.width = 2, 1, 0.3\n"
        "    c.objective.kl_coef = c.objective.frame_kl_coef = 0.01\n"
        f"    c.data.validation_records = {str(folder / 'records')!r}\n"
        f"    c.data.validation_questions = {str(folder / 'questions.jsonl')!r}\n"
        f"    c.validate_every, c.validation_limit = {SAVE_EVERY}, 4\n"
        "    c.objective.query_entropy, c.optimizer.mllm_lr = 0.1, 1e-3\n"
        "    return c\n"
    )
    return folder


# `main` that kills itself once a row is written, and the checkpoint before it where one is due.
KILLED = """
import os, pathlib, runpy, signal, time
from msjoe_jax.runtime.metrics import MetricWriter
write, at, saved = MetricWriter.scalars, int(os.environ["KILL_AT"]), os.environ["KILL_AFTER"]
def scalars(self, step, values):
    write(self, step, values)
    if step == at:
        while not pathlib.Path(saved).exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
MetricWriter.scalars = scalars
runpy.run_module("msjoe_jax.main", run_name="__main__")
"""


def environment(made):
    """Compiled programs, shared by the runs, which then execute the very same programs."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(made / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def run(made, workdir, *flags, program=("-m", "msjoe_jax.main"), config="config.py", **variables):
    return subprocess.run(
        [
            *(sys.executable, *program),
            *(f"--config={made / config}", f"--workdir={made / workdir}", *flags),
        ],
        env=environment(made) | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


def rows(made, workdir):
    """metrics.jsonl without what a clock or a compiler says; a torn last line is left out."""
    file = made / workdir / "joint" / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    timed = ("time/", "tokens_per_s/", "goodput/", "memory/", "device_idle_share", "compile_count")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in found]


def last_state(made, workdir):
    """Every leaf of the last checkpoint: both models, both optimizers, counts."""
    path = made / workdir / "joint" / "checkpoints" / str(STEPS) / "state"
    return read(path)


def read(path):
    """A checkpoint's leaves by name, as NumPy arrays."""
    handler = ocp.PyTreeCheckpointHandler()
    args = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree
    )
    return handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=args))


@pytest.fixture(scope="module")
def whole(made):
    done = run(made, "whole")
    assert done.returncode == 0, done.stderr[-3000:]
    return last_state(made, "whole"), rows(made, "whole")


def test_a_killed_run_ends_where_an_uninterrupted_one_does(made, whole):
    """Bit for bit, killed before the first checkpoint and again between two."""
    state, metrics = whole
    assert [row["step"] for row in metrics] == list(range(1, STEPS + 1))
    assert any(row["refills"] for row in metrics) and metrics[-1]["kl"] > 0
    checkpoints = made / "killed" / "joint" / "checkpoints"
    for at, saved in ((SAVE_EVERY - 2, []), (SAVE_EVERY + 2, [SAVE_EVERY])):
        after = checkpoints.joinpath(*map(str, saved))
        victim = run(made, "killed", program=("-c", KILLED), KILL_AT=str(at), KILL_AFTER=str(after))
        assert victim.returncode == -signal.SIGKILL, victim.stderr[-3000:]
        assert len(rows(made, "killed")) == at
        assert [int(p.name) for p in checkpoints.iterdir()] == saved

    again = run(made, "killed")
    assert again.returncode == 0, again.stderr[-3000:]
    assert rows(made, "killed") == metrics
    resumed = last_state(made, "killed")
    assert resumed.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(resumed[name], value, name)
    assert "mllm/language/embedding" in state and any("mu" in name for name in state)
    # The rollouts with their rewards and advantages, the validations, and the best of them.
    for file in ("rollouts.jsonl", "validation.jsonl"):
        texts = [(made / name / "joint" / file).read_text() for name in ("whole", "killed")]
        assert texts[0] == texts[1] and texts[0]
    validated = [json.loads(line)["step"] for line in texts[0].splitlines()]
    assert validated == [0, SAVE_EVERY, STEPS]
    best = [sorted((made / name / "joint" / "best").iterdir()) for name in ("whole", "killed")]
    assert [p.name for p in best[0]] == [p.name for p in best[1]] != []
    for name, value in read(best[0][0] / "state").items():
        np.testing.assert_array_equal(read(best[1][0] / "state")[name], value, name)
    reader = EventAccumulator(str(made / "killed" / "joint" / "tensorboard"))
    assert [event.step for event in reader.Reload().Tensors("reward")] == list(range(1, STEPS + 1))


# `main` that kills itself when so many rows of pass rates or results are on disk.
KILLED_AT_ROWS = """
import os, runpy, signal
from msjoe_jax.runtime.kept_rows import KeptRows
add = KeptRows.add
def add_and_die(self, rows):
    add(self, rows)
    if self._path.name == os.environ["KILL_IN"] and len(self.rows) >= int(os.environ["KILL_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
KeptRows.add = add_and_die
runpy.run_module("msjoe_jax.main", run_name="__main__")
"""


@pytest.mark.soak
def test_killed_measurements_end_where_uninterrupted_ones_do(made):
    """Pass rates and an evaluation, each killed after some of its batches."""
    flags = (
        "--config.phases=('difficulty','evaluate')",
        "--config.evaluate.arms=('uniform','topk_queries')",
        "--config.evaluate.batch=3",
        f"--config.data.heldout_records={made / 'records'}",
        f"--config.data.heldout_questions={made / 'questions.jsonl'}",
    )
    assert run(made, "measured", *flags).returncode == 0
    for file, at in (("rates.jsonl", 3), ("rates.jsonl", 9), ("eval_rows.jsonl", 6)):
        victim = run(
            made, "cut", *flags, program=("-c", KILLED_AT_ROWS), KILL_IN=file, KILL_AT=str(at)
        )
        assert victim.returncode == -signal.SIGKILL, victim.stderr[-3000:]
    done = run(made, "cut", *flags)
    assert done.returncode == 0 and "made again" not in done.stdout, done.stderr[-3000:]
    files = ("difficulty/rates.jsonl", "difficulty/questions.jsonl", "eval.json",
             "eval_questions.jsonl", "eval_rows.jsonl")  # fmt: skip
    for file in files:
        assert (made / "cut" / file).read_bytes() == (made / "measured" / file).read_bytes(), file


def test_training_moved_both_models(made, whole):
    state, metrics = whole
    start = read(made / "model" / "params" / "state")
    for name in ("mllm/language/embedding", "sampler/skip_scale"):
        assert (np.asarray(state[name]) != np.asarray(start[name])).any()
    frozen = [name for name in start if name.startswith("mllm/vision/")]
    assert frozen and all((state[n] == start[n]).all() for n in frozen)
    assert metrics[-1]["skipped_updates"] == 0


def test_a_finished_run_has_nothing_left_to_do(made, whole):
    before = (made / "whole" / "joint" / "metrics.jsonl").read_bytes()
    assert run(made, "whole").returncode == 0
    assert (made / "whole" / "joint" / "metrics.jsonl").read_bytes() == before


def test_a_run_from_checkpoints_on_two_devices(made):
    """The parameters that a folder gives are laid out on the mesh; the update is that of one."""
    flags = ("--config.joint.steps=1", "--config.rollout.questions=4", "--config.validate_every=1")
    for name, variables, mesh in (
        ("one", {}, ()),
        ("two", {"XLA_FLAGS": xla_flags(2)}, ("fsdp=2",)),
    ):
        done = run(made, name, *flags, *(f"--config.mesh.{x}" for x in mesh), **variables)
        assert done.returncode == 0, done.stderr[-3000:]
    (one,), (both,) = rows(made, "one"), rows(made, "two")
    assert both["reward"] == one["reward"] and both["num_tokens"] == one["num_tokens"]
    for name in ("grad_norm/mllm", "grad_norm/sampler", "loss/mllm"):
        np.testing.assert_allclose(both[name], one[name], rtol=1e-4)  # order of float32 additions
    validations = [(made / n / "joint" / "validation.jsonl").read_text() for n in ("one", "two")]
    assert validations[0] == validations[1]


def test_rates_may_change_and_are_recorded(made, whole):
    done = run(made, "whole", "--config.optimizer.sampler_lr=1e-4")
    assert done.returncode == 0, done.stderr
    change = "config.optimizer.sampler_lr was 0.0005, is 0.0001, after joint update 8"
    assert change in done.stdout.splitlines()[0]
    rows = [json.loads(x) for x in (made / "whole" / "config_changes.jsonl").open()]
    assert [(r["field"], r["after"]) for r in rows] == [("optimizer.sampler_lr", {"joint": STEPS})]
    assert json.loads((made / "whole" / "config.json").read_text())["optimizer"]["mllm_lr"] == 1e-3


def test_a_finished_run_can_be_extended(made, whole):
    """Its updates stay; those that follow are saved, and the change is recorded."""
    before = rows(made, "whole")
    done = run(made, "whole", f"--config.joint.steps={STEPS + 2}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"config.joint.steps was {STEPS}, is {STEPS + 2}" in done.stdout
    after = rows(made, "whole")
    assert after[:STEPS] == before and [row["step"] for row in after[STEPS:]] == [9, 10]
    steps = (made / "whole" / "joint" / "checkpoints").iterdir()
    assert max(int(step.name) for step in steps) == STEPS + 2


def refused(done):
    """The one line of a run that ended with status 2."""
    assert done.returncode == 2 and "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


def test_a_folder_in_use_is_refused(made):
    with lock(made / "busy"):
        line = refused(run(made, "busy"))
    assert "in use" in line and str(os.getpid()) in line


def test_another_config_in_the_same_folder_is_refused_by_field(made, whole):
    line = refused(run(made, "whole", "--config.seed=7"))
    assert "seed was 0, is 7" in line


def test_sets_are_mixed_and_their_weights_stay(made):
    """Every batch has its shares; logs say which set a question is of."""
    (made / "sets.py").write_text(
        "import runpy\n"
        "def get_config():\n"
        f"    c = runpy.run_path({str(made / 'config.py')!r})['get_config']()\n"
        "    one = {'records': c.data.train_records, 'questions': c.data.train_questions}\n"
        "    c.data.train_sets = {'a': one | {'weight': 1.0}, 'b': one | {'weight': 2.0}}\n"
        "    c.data.train_records = c.data.train_questions = ''\n"
        "    return c\n"
    )
    flags = ("--config.joint.steps=2", "--config.validate_every=0", "--config.rollout.refill=0")
    done = run(made, "sets", *flags, config="sets.py")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "joint: set b: 66.7% of the questions of each batch, from 10; 0.40 epochs" in done.stdout
    for row in rows(made, "sets"):
        assert (row["sets/a"], row["sets/b"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    logged = [json.loads(x) for x in (made / "sets" / "joint" / "rollouts.jsonl").open()]
    assert [row["set"] for row in logged].count("b") == 4 and len(logged) == 6
    assert all(row["id"].startswith(f"{row['set']}/q") for row in logged)
    weight = "--config.data.train_sets.a.weight=3.0"
    other = run(made, "sets", *flags, weight, config="sets.py")
    assert "data.train_sets.a.weight was 1.0, is 3.0" in refused(other)
