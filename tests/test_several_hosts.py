"""A run of several hosts is the run of one: the same bits, through kills, signals, other meshes.

Hosts are processes on this machine. Of two hosts with a device each all is bit for bit what one
host with two devices has. Four hosts add in another order: the last bits of float32 sums differ.
"""

import json
import os
import pathlib
import signal
import sys
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from msjoe_jax.commands.launch import hosts
from msjoe_jax.data.questions import Question, save_questions
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.errors import UNFINISHED
from msjoe_jax.runtime.supervisor import Supervisor, held_port
from tests.support.embeddings import write_embeddings
from tests.support.tiny import clip_of, tiny_config, tiny_model_folder

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
STEPS, SAVE_EVERY, BATCH = 6, 2, 4
VIDEOS, FRAMES, SIZE = 5, 18, 56
COLOURS = ("red", "blue", "green", "white")

# `main` of a host that gets a signal at its N-th row of metrics, beat after the first of these, or
# checkpoint that is written and not yet in its place, if it is the victim.
STRUCK = """
import os, runpy, signal
from orbax.checkpoint._src.path import async_path
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.metrics import MetricWriter
kind, at = os.environ["STRIKE"].split(":")
seen = {"row": 0, "beat": 0, "commit": 0}
def reach(event):
    seen[event] += 1
    if (event, seen[event], str(hosts.index())) == (kind, int(at), os.environ["VICTIM"]):
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
write, beat, rename = MetricWriter.scalars, hosts.beat, async_path.rename
def scalars(self, step, values):
    write(self, step, values)
    reach("row")
def beats(doing):
    beat(doing)
    if seen["row"]:
        reach("beat")
async def renames(*paths):
    reach("commit")
    return await rename(*paths)
MetricWriter.scalars, hosts.beat, async_path.rename = scalars, beats, renames
runpy.run_module("msjoe_jax.main", run_name="__main__")
"""


class Strike(NamedTuple):
    """A signal to one host (victim) at its N-th row, beat or commit, see `STRUCK`."""

    processes: int
    victim: int = 0
    when: str = "never:0"
    number: int = signal.SIGKILL


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Records, questions, an untrained model; refill and buckets of prompts are on."""
    folder = tmp_path_factory.mktemp("hosts")
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
    config = tiny_config(folder)
    for split in ("train", "validation", "heldout"):
        config.data[f"{split}_records"] = str(folder / "records")
        config.data[f"{split}_questions"] = str(folder / "questions.jsonl")
    config.data.shared_videos = True
    for name in ("mllm", "clip", "sampler"):
        config[name].checkpoint = str(model)
    config.joint.steps, config.checkpoint_every, config.media_every = STEPS, SAVE_EVERY, 100
    config.rollout.questions, config.rollout.query_rollouts, config.rollout.refill = BATCH, 2, 1
    # An untrained model's rewards are all 0: the entropy is what moves it.
    config.objective.query_entropy, config.optimizer.mllm_lr = 0.1, 1e-3
    config.prompt.length_step = 48
    config.evaluate.arms, config.evaluate.batch = ("uniform", "joint"), 4
    config.validate_every = 0
    for name, phases in (("joint", ("joint",)), ("evaluate", ("joint", "evaluate"))):
        config.phases = phases
        (folder / f"{name}.json").write_text(config.to_json())
        (folder / f"{name}.py").write_text(  # reads alone: all hosts read it at once
            "import json\n"
            "from ml_collections import ConfigDict\n"
            "def get_config():\n"
            f"    with open({str(folder / f'{name}.json')!r}) as file:\n"
            "        return ConfigDict(json.load(file), type_safe=False)\n"
        )
    return folder


def run(made, workdir, processes, devices, *flags, config="joint", strike=None):
    """The exit status of a run on so many hosts, each with so many devices."""
    strike = strike or Strike(processes)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(made / f"compiled-{processes}"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "VICTIM": str(strike.victim),
        "SIGNAL": str(int(strike.number)),
        "STRIKE": strike.when,
    }
    command = [
        *(sys.executable, "-c", STRUCK),
        *(f"--config={made / config}.py", f"--workdir={made / workdir}"),
        *(f"--config.mesh.fsdp={processes * devices}", *flags),
    ]
    with held_port() as port:
        return Supervisor().run(hosts(command, processes, devices, port, environment))


def state_of(made, workdir):
    """Every leaf of the last checkpoint."""
    steps = made / workdir / "joint" / "checkpoints"
    path = max(steps.iterdir(), key=lambda step: int(step.name)) / "state"
    handler = ocp.PyTreeCheckpointHandler()
    args = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree
    )
    return handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=args))


def rows(made, workdir):
    """metrics.jsonl without what a clock or a compiler says."""
    timed = ("time/", "tokens_per_s/", "goodput/", "memory/", "device_idle_share", "compile_count")
    found = map(json.loads, (made / workdir / "joint" / "metrics.jsonl").open())
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in found]


def alike(made, one, other, *files):
    """All that two runs leave is the same."""
    assert rows(made, one) == rows(made, other)
    for file in ("joint/rollouts.jsonl", *files):
        assert (made / one / file).read_bytes() == (made / other / file).read_bytes(), file
    left, right = state_of(made, one), state_of(made, other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(right[name], value, name)


@pytest.fixture(scope="module")
def one(made):
    """One host with two devices."""
    assert run(made, "one", 1, 2, config="evaluate") == 0
    for row in rows(made, "one"):
        assert row["refills"] and row["grad_norm/mllm"] > 0 and row["grad_norm/sampler"] > 0
    return "one"


def test_two_hosts_are_one(made, one):
    assert run(made, "two", 2, 1, config="evaluate") == 0
    alike(made, one, "two", "eval_rows.jsonl", "eval.json")


@pytest.mark.soak
def test_a_run_goes_on_after_kills_and_signals_on_other_hosts(made, one, capfd):
    """Host 1 is killed, then the first in the middle of a save; a signal to one saves all."""
    assert run(made, "struck", 2, 1, strike=Strike(2, 1, "beat:9")) == 1
    said = capfd.readouterr().err
    assert "host 1 of 2 was killed by signal 9; the others ended after" in said
    assert "the same command resumes from the newest checkpoint" in said.splitlines()[-1]
    assert run(made, "struck", 2, 1, strike=Strike(2, 0, "commit:1")) == 1
    assert "host 0 of 2 was killed by signal 9" in capfd.readouterr().err
    assert run(made, "struck", 2, 1, strike=Strike(2, 1, "row:1", signal.SIGTERM)) == UNFINISHED
    assert "; the same command resumes" in capfd.readouterr().err
    assert run(made, "struck", 1, 2) == 0
    alike(made, one, "struck")


@pytest.mark.soak
def test_twenty_kills_change_nothing(made):
    """At seeded moments of one and of two hosts, four of them between writing and commit."""
    rng = np.random.default_rng(0)
    strikes = []
    for i in range(20):
        processes = 1 + i % 2
        if i % 5 == 3:
            strikes.append(Strike(processes, 0, f"commit:{rng.integers(1, 3)}"))
        else:
            victim = int(rng.integers(processes))
            strikes.append(Strike(processes, victim, f"beat:{rng.integers(1, 40)}"))
    steps = "--config.joint.steps=80"
    assert run(made, "long", 1, 2, steps) == 0
    for strike in strikes:
        assert (
            run(made, "twenty", strike.processes, 2 // strike.processes, steps, strike=strike) == 1
        )
    assert run(made, "twenty", 2, 1, steps) == 0
    alike(made, "long", "twenty")


@pytest.mark.soak
def test_four_hosts_differ_by_rounding_alone(made, one):
    """Parameters within 1e-5 of the largest of their leaf; checkpoints move between 4 and 2."""
    assert run(made, "four whole", 1, 4) == 0
    assert run(made, "four", 4, 1, strike=Strike(4, 2, "row:2", signal.SIGTERM)) == UNFINISHED
    assert run(made, "four", 2, 2, strike=Strike(2, 0, "row:1", signal.SIGTERM)) == UNFINISHED
    assert run(made, "four", 4, 1) == 0
    left, right = state_of(made, "four whole"), state_of(made, "four")
    for name in (name for name in left if name.startswith(("mllm/", "sampler/"))):
        value = np.asarray(left[name], np.float64)
        bound = 1e-5 * max(np.abs(value).max(), 1e-30)
        assert np.abs(right[name] - value).max() <= bound, name
