"""The list of a config's programs holds what a run compiles, and what is alive beside it."""

import ast
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from msjoe_jax.commands.evaluate import Part, evaluate_parts
from msjoe_jax.commands.evaluate_asked import Wanted
from msjoe_jax.commands.evaluate_asked import config_of as config_of_folder
from msjoe_jax.config import NAMES, read_config
from msjoe_jax.data.questions import save_questions
from msjoe_jax.phases import run_phases
from msjoe_jax.program_list import program_list
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.rollout.system import load_tokenizers, make_system
from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.runtime.program import Program
from tests.support.commands import ROOT
from tests.support.siglip_oracle import siglip_model_folder, write_siglip_embeddings
from tests.support.system import changed, colour_questions, noise_videos
from tests.support.tiny import clip_of, tiny_config, tiny_model_folder

VIDEOS = {"v0": 18, "v1": 20}  # of more frames than there are candidates

# Whatever jits outside of `Program`, and is in no plan: why.
JITS = {
    "msjoe_jax/runtime/program.py",
    "msjoe_jax/rollout/system.py",  # a fresh sampler: 8 MB
    "msjoe_jax/rollout/stored_models.py",  # merges adapters, while nothing else is held
    "msjoe_jax/runtime/machine.py",  # a number for every device, on CPU hosts
    "msjoe_jax/commands/generate.py",  # one model on one device, no run
    "msjoe_jax/world/phase.py",  # the tiny world
    "msjoe_jax/world/warmup_clip.py",
    "msjoe_jax/world/warmup_mllm.py",
}


def test_nothing_else_of_the_package_is_jitted():
    found = set()
    for file in (ROOT / "msjoe_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("jit", "pmap", "pjit"):
                found.add(str(file.relative_to(ROOT)))
    assert found == JITS


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model, records of videos and questions about them."""
    folder = tmp_path_factory.mktemp("programs")
    clip = clip_of(tiny_model_folder(folder))
    noise_videos(folder / "records", VIDEOS, clip=clip)
    asked = [
        dataclasses.replace(q, difficulty=None, evidence=((2.0, 5.0),))
        for q in colour_questions(list(VIDEOS), 4)
    ]
    save_questions(folder / "questions.jsonl", asked)
    return folder


def with_siglip(home: pathlib.Path) -> pathlib.Path:
    """A SigLIP, and what it makes of the records; made once."""
    if not (home / "siglip").exists():
        write_siglip_embeddings(siglip_model_folder(home), home / "records")
    return home / "siglip"


def config_of(home: pathlib.Path):
    """All that a run may compile, in two updates of each training."""
    c = tiny_config(home)
    c.phases = ("difficulty", "pretrain", "joint", "evaluate")
    for name in NAMES:
        c[name].checkpoint = str(home / "model")
    for split in ("train", "validation", "heldout"):
        c.data[f"{split}_records"] = str(home / "records")
        c.data[f"{split}_questions"] = str(home / "questions.jsonl")
    c.pretrain.steps = c.joint.steps = c.evidence.steps = 2
    c.evidence.questions = 4
    c.rollout.questions, c.rollout.waves, c.difficulty.samples = 4, 2, 3
    c.rollout.query_rollouts = c.rollout.frame_draws = 2
    c.evaluate.batch = 4
    c.evaluate.arms = ("uniform", "topk_queries", "topk_question_smooth", "pretrained", "joint")
    return c


def shapes_of(program, arguments, choices) -> tuple:
    """What decides whether a program compiles anew, but for where the arguments lie."""
    leaves, structure = jax.tree.flatten(arguments)
    types = tuple((tuple(x.shape), str(x.dtype)) for x in leaves)
    return program.name, structure, types, tuple(sorted(choices.items()))


def stand_in(seen: dict[tuple, str]):
    """A `Program.__call__` that keeps what is called, and compiles nothing: results are 0, or True.

    All answers are alike, so that refill replaces every question.
    """

    def call(program, *arguments, **choices):
        seen[shapes_of(program, arguments, choices)] = program.name
        shapes = jax.eval_shape(lambda x: program.function(*x, **choices), arguments)

        def value(x):
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(np.zeros((*x.shape, 2), np.uint32))
            return jnp.asarray(np.full(x.shape, x.dtype == bool, x.dtype))

        return jax.tree.map(value, shapes)

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, marks=pytest.mark.soak),
        {
            "rollout.refill": 1,
            "rollout.updates": 2,
            "rollout.counterfactual": True,
            "objective.log_kl": True,
            "mllm.trainable": "",
        },
        pytest.param(
            {"mllm.lora_rank": 2, "frames.mode": "video", "rollout.selector": "topk"}
            | {"rollout.waves": 1, "joint.train_sampler": False, "phases": ("joint",)},
            marks=pytest.mark.soak,
        ),
        pytest.param(
            {"sampler.signals": ("clip", "siglip"), "phases": ("difficulty", "joint", "evaluate")}
            | {"evaluate.arms": ("uniform", "joint")},
            marks=pytest.mark.soak,
        ),
        pytest.param(
            {"sampler.network": "evidential", "rollout.selector": "evidential"}
            | {"sampler.signals": ("siglip",), "rollout.queries": "question"}
            | {"phases": ("evidence", "pretrain", "evaluate"), "sampler.checkpoint": ""}
            | {"pretrain.sampler_advantage": "relative"}
            | {"evaluate.arms": ("uniform", "evidential_bins", "topk")},
            marks=pytest.mark.soak,
        ),
        {"sampler.network": "mlp", "rollout.selector": "mlp", "sampler.checkpoint": ""}
        | {"phases": ("evidence", "joint")},
    ],
    ids=["plain", "everything", "adapters on a video", "two signals", "embeddings", "evidence"],
)
def test_the_list_is_what_a_run_calls(home, tmp_path, monkeypatch, fields):
    towers = ["embed_frames"]
    if "siglip" in fields.get("sampler.signals", ()):
        towers.append("embed_siglip_frames")
        fields = {**fields, "siglip.checkpoint": str(with_siglip(home))}
    config = read_config(changed(config_of(home), **fields))
    seen: dict[tuple, str] = {}
    monkeypatch.setattr(Program, "__call__", stand_in(seen))
    run_phases(config, tmp_path / "run")
    model = load_model_folder(home / "model")
    system = make_system(config.models, load_tokenizers(config.models))
    listed = {
        shapes_of(use.program, use.arguments, use.choices): use.name
        for use in program_list(config, system, make_machine(), model.text.end_ids)
    }
    forgotten = sorted(name for key, name in seen.items() if key not in listed)
    assert not forgotten
    never = [name for key, name in listed.items() if key not in seen]
    assert never == [f"predecode: {name}" for name in towers]  # the records have embeddings


def covered(called: tuple, listed: set[tuple]) -> bool:
    """Whether a program is listed with the same choices and arrays at least as large."""
    name, structure, types, choices = called

    def fits(own, of_list):
        (shape, dtype), (most, other) = own, of_list
        same = dtype == other and len(shape) == len(most)
        return same and all(a <= b for a, b in zip(shape, most, strict=True))

    return any(
        (name, structure, choices) == (one[0], one[1], one[3])
        and all(fits(*pair) for pair in zip(types, one[2], strict=True))
        for one in listed
    )


def test_covered():
    called = ("cosine", "tree", (((2, 3), "float32"),), ())
    assert covered(called, {("cosine", "tree", (((2, 4), "float32"),), ())})
    for other in (
        ("masked", "tree", (((2, 3), "float32"),), ()),
        ("cosine", "tree", (((2, 2), "float32"),), ()),
        ("cosine", "tree", (((2, 3), "int32"),), ()),
        ("cosine", "tree", (((2, 3), "float32"),), (("k", 2),)),
    ):
        assert not covered(called, {other})


def listed_keys(config, model, budgets=()) -> dict[tuple, str]:
    system = make_system(config.models, load_tokenizers(config.models))
    uses = program_list(config, system, make_machine(), model.text.end_ids, 0, budgets)
    return {shapes_of(use.program, use.arguments, use.choices): use.name for use in uses}


ASKING = {"dafs", "gens_like", "provca_like", "cacheflow_like"}


@pytest.mark.slow
def test_selectors_own_prompts_are_listed_at_their_longest(home, tmp_path, monkeypatch):
    """Replies are empty tokens here; frames are shown in several sizes, and parts, too."""
    arms = ("uniform", "qframe", "topk_two_sizes", *sorted(ASKING))
    fields = {"phases": ("evaluate",), "evaluate.arms": arms, "prompt.numbered_frames": 3}
    fields |= {"prompt.selector_prompt_tokens": 640, "prompt.selector_tokens": 5}
    fields |= {"prompt.answer_prompt_tokens": 256, "prompt.length_step": 32}
    config = read_config(changed(config_of(home), **fields))
    listed = listed_keys(config, load_model_folder(home / "model"))
    seen: dict[tuple, str] = {}
    monkeypatch.setattr(Program, "__call__", stand_in(seen))
    run_phases(config, tmp_path / "run")
    forgotten = [key[:1] + key[2:] for key in seen if not covered(key, set(listed))]
    assert not forgotten
    own = {"option_attention", "neighbour_cosines", "mean_keys_and_queries", "complete"}
    assert own <= set(seen.values())
    named = {name.split(": ")[1].split(" ")[0] for name in listed.values()}
    assert named >= ASKING
    # Nothing is listed that is larger than need be: the same numbers of prompts and frames.
    frames = {key[2][-2][0][:2] for key in seen if key[0] == "neighbour_cosines"}
    assert frames <= {key[2][-2][0][:2] for key in listed if key[0] == "neighbour_cosines"}


@pytest.mark.slow
def test_several_budgets_are_listed(home, tmp_path, monkeypatch):
    config, arms = config_of(home), ("uniform", "topk", "msjoe")
    model = str(home / "model")
    wanted = Wanted(model, arms=arms, budgets=(2, 4, 8), looks=0)
    made = config_of_folder(wanted, config)
    listed = listed_keys(made, load_model_folder(home / "model"), wanted.budgets)
    seen: dict[tuple, str] = {}
    monkeypatch.setattr(Program, "__call__", stand_in(seen))
    evaluate_parts([Part(made, epath.Path(tmp_path), wanted)], epath.Path(tmp_path))
    forgotten = [key[:1] + key[2:] for key in seen if not covered(key, set(listed))]
    assert not forgotten
    shown = {key[2][-5][0] for key in seen if key[0] == "complete"}
    answers = [name for name in listed.values() if "answer" in name]
    assert answers == [
        "evaluate: answer, 2 frames", "evaluate: answer", "evaluate: answer, 8 frames"
    ], shown  # fmt: skip
