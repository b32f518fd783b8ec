"""A run from converted checkpoints gives the same answers on every mesh, through all phases.

The base model, tests/golden/tiny_base, is the tiny world's after its whole warm-up, so that an
answer depends on the frames that are shown. It was made by

    python -m msjoe_jax.main --config=tiny --workdir=W --config.phases="('world','warm_up')"
    msjoe export --checkpoint=W/base --out=tests/golden/tiny_base   # less README.md and sampler/
"""

import json
import math
import pathlib
import re
import subprocess
import sys

import pytest
from etils import epath

from msjoe_jax.commands.convert import convert
from msjoe_jax.data.embed import embed_records
from msjoe_jax.data.questions import load_questions
from msjoe_jax.models.params import fingerprint
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.rollout.programs import clip_encoder
from msjoe_jax.rollout.stored_models import clip_name
from msjoe_jax.world.build import build_world, questions_path, records_path
from msjoe_jax.world.spec import WorldSpec
from tests.support.commands import PYTHON, ROOT, program
from tests.support.processes import xla_flags
from tests.support.tiny import tiny_video

pytestmark = pytest.mark.soak

BASE = ROOT / "tests" / "golden" / "tiny_base"
ONE = (1, 1, 1, 0)
# data × fsdp × tensor, and rollout_tensor; three heads of the vision tower do not divide into two
# parts.
MESHES = [
    pytest.param((1, 4, 1, 0), id="1x4x1"),
    pytest.param((1, 4, 2, 0), id="1x4x2"),
    pytest.param((1, 8, 1, 2), id="1x8x1"),
    pytest.param((2, 4, 1, 0), id="2x4x1"),
]
VIDEOS = 16  # to train on, and as many held out, with two questions each
# Questions that rounding answers otherwise on a mesh, by arm: none.
ROUNDED: dict[tuple[int, ...], set[tuple[str, str]]] = {}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the converted models, records and questions."""
    folder = epath.Path(tmp_path_factory.mktemp("meshes"))
    convert(epath.Path(BASE), folder / "mllm")
    convert(epath.Path(BASE / "clip"), folder / "clip")
    build_world(folder / "world", WorldSpec(0, VIDEOS, 1, VIDEOS))
    model = load_model_folder(folder / "clip", ["clip"])
    clip = model.params["clip"]
    encode, name = clip_encoder(model.system, clip), clip_name(model.system, fingerprint(clip))
    for split in ("train", "heldout"):
        embed_records(records_path(folder / "world", split), encode, name)
    return pathlib.Path(folder)


def flags(home, workdir, mesh):
    world = home / "world"
    fields = {
        "phases": ("difficulty", "pretrain", "joint", "evaluate"),
        "mllm.checkpoint": home / "mllm",
        "clip.checkpoint": home / "clip",
        "data.train_records": records_path(world, "train"),
        "data.train_questions": questions_path(world, "train"),
        "data.heldout_records": records_path(world, "heldout"),
        "data.heldout_questions": questions_path(world, "heldout"),
        "sampler.width": 8,
        "sampler.depth": 1,
        "difficulty.samples": 2,
        "evaluate.batch": 16,
        "evaluate.arms": ("uniform", "pretrained", "joint"),
        "pretrain.steps": 1,
        "joint.steps": 2,
        "rollout.questions": 8,
        "rollout.query_rollouts": 2,
        "rollout.frame_draws": 1,
        "validate_every": 0,
        "optimizer.warmup_steps": 0,
    }
    names = ("mesh.data", "mesh.fsdp", "mesh.tensor", "mesh.rollout_tensor")
    fields |= dict(zip(names, mesh, strict=True))
    return ["--config=configs/tiny.py", f"--workdir={workdir}"] + [
        f"--config.{name}={value}" for name, value in fields.items()
    ]


def run(home, mesh):
    """All phases in a process with as many virtual devices; returns the folder of the run."""
    workdir = home / "x".join(map(str, mesh))
    line = [sys.executable, "-m", "msjoe_jax.main", *flags(home, workdir, mesh)]
    environment = PYTHON | {"XLA_FLAGS": xla_flags(math.prod(mesh[:3]))}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def alone(home):
    return run(home, ONE)


def answers(workdir):
    """{(question, arm): answer}."""
    out = {}
    for line in (workdir / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        out[row["id"], row["arm"]] = row["answer"]
    return out


def test_the_answers_depend_on_the_frames(alone):
    given = answers(alone)
    asked = sorted({question for question, _ in given})
    assert len(asked) == 2 * VIDEOS
    differ = sum(given[q, "uniform"] != given[q, "joint"] for q in asked)
    assert differ >= 0.3 * len(asked)


@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_changes_no_answer(home, alone, mesh):
    other = run(home, mesh)
    before, now = answers(alone), answers(other)
    assert before.keys() == now.keys()
    assert {k for k in before if before[k] != now[k]} == ROUNDED.get(mesh, set())
    for file in ("difficulty/questions.jsonl", "eval_questions.jsonl"):
        if mesh not in ROUNDED:
            assert (alone / file).read_bytes() == (other / file).read_bytes()
    assert not (other / "base").exists()


ASK = """
    import json, sys, jax, msjoe_jax
    from msjoe_jax.runtime.machine import make_machine
    folder, video, given = sys.argv[1:]
    question, *options = json.loads(given)

    def ask(machine=None):
        answerer = msjoe_jax.load(folder, machine)
        a = answerer.answer(video, question, options)
        mesh = list(answerer.machine.mesh.shape.values())
        return mesh, [a.query_text, a.answer_text, a.selected.tolist()]

    found = [ask(make_machine(devices=jax.devices()[:1])), ask()]
    three = jax.devices()[:3]
    jax.local_devices = lambda: three
    print(json.dumps([*found, ask()]))
"""


def test_one_question_on_several_devices(home, alone):
    """Of three devices each holds the weights whole, which do not divide; a line says so."""
    video = tiny_video(home / "asked.mp4", frames=60)
    asked = load_questions(questions_path(home / "world", "heldout"))[0]
    given = json.dumps([asked.question, *asked.options])
    done = program(ASK, alone / "final", video, given, XLA_FLAGS=xla_flags(4))
    meshes, answers = zip(*json.loads(done.stdout), strict=True)
    assert meshes == ([1, 1, 1], [1, 4, 1], [3, 1, 1])
    assert answers[0] == answers[1] == answers[2] and answers[0][1]
    assert "3 devices: weights are split over 1 of them" in done.stderr
    assert "4 devices" not in done.stderr


@pytest.mark.parametrize("mesh", [(1, 1, 3, 0), (1, 4, 1, 4)], ids=["tensor", "rollout_tensor"])
def test_a_mesh_that_does_not_divide_a_model_is_one_line(home, mesh):
    workdir = home / "uneven"
    line = [sys.executable, "-m", "msjoe_jax.main", *flags(home, workdir, mesh)]
    environment = PYTHON | {"XLA_FLAGS": xla_flags(math.prod(mesh[:3]))}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    where = r"divide into [34] \((split, )?tensor\)"
    want = rf"error: (\w+/)?\S+ \(.*\): its \w+ dimension of \d+ .* {where}"
    (said,) = done.stderr.splitlines()
    assert re.match(want, said) and "config.mesh" in said
    assert not (workdir / "config.json").exists()
