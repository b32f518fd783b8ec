"""Every config that we ship passes the check of a run, and is found by its name."""

import importlib
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from benchmarks.ablations import FAMILIES
from configs.tiny import ASKING
from msjoe_jax.config import Config, read_config
from msjoe_jax.config_check import check
from msjoe_jax.config_files import load_config
from msjoe_jax.errors import UserError
from msjoe_jax.fields import plain
from msjoe_jax.text.prompts import answer_prompt, query_prompt
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.world.phase import texts_of_world
from msjoe_jax.world.spec import COLOURS, question_text
from msjoe_jax.world.warmup_asks import REPLY_TOKENS
from msjoe_jax.world.warmup_mllm import FRAMES
from msjoe_jax.world.word_tokenizer import build_word_tokenizer

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
VARIANTS = [
    f"ablations/{file.stem}:{name}"
    for file in sorted((CONFIGS / "ablations").glob("*.py"))
    for name in importlib.import_module(f"configs.ablations.{file.stem}").VARIANTS
]


SECOND = ["tiny:v2", "tiny:v2+short", "ablations/rewards:v2+accuracy", "ablations/frames:v2+k12"]


@pytest.mark.parametrize("name", ["tiny", "tiny:short", *SECOND, *VARIANTS])
def test_a_config_of_the_tiny_world_passes_the_check(name):
    config = check(load_config(name), devices=1)
    assert {"world", "joint", "evaluate"} <= set(config.phases)
    assert config.prompt.answer_prompt_tokens > 6 * config.frames.key  # six tokens a frame


def test_the_second_worlds_prompts_have_room(tmp_path):
    """Questions about three events leave as many tokens free as those about two in the first."""
    free = {}
    for name, events in (("tiny", 2), ("tiny:v2", 3)):
        config = check(load_config(name), devices=1)
        prompt, version = config.prompt, config.extensions["world"].version
        texts = texts_of_world(prompt, version)
        tokenizer = Tokenizer(build_word_tokenizer(tmp_path / "tokenizer.json", texts))
        question = question_text(range(events))
        asked = (
            (query_prompt(prompt, question, COLOURS, prompt.max_queries), config.frames.preview),
            (answer_prompt(prompt, question, COLOURS), config.frames.key),
        )
        lengths = [sum(map(len, map(tokenizer.encode, text))) + 6 * n for text, n in asked]
        reply = tokenizer.encode("<query>heron</query>" * prompt.max_queries + "<|im_end|>")
        assert prompt.max_queries == events == version + 1
        free[name] = (
            prompt.query_prompt_tokens - lengths[0],
            prompt.answer_prompt_tokens - lengths[1],
            prompt.query_tokens - len(reply),
        )
    assert free["tiny:v2"] == free["tiny"]


def test_the_tiny_worlds_selectors_have_room_and_replies():
    """The warm-up shows eight numbered frames, and its longest reply is one that may be given."""
    config = check(load_config("tiny:selectors"), devices=1)
    assert config.extensions["warm_up"].asks and not {"pretrain", "joint"} & set(config.phases)
    assert config.prompt.numbered_frames == FRAMES
    assert config.prompt.selector_tokens >= REPLY_TOKENS
    assert config.prompt.selector_prompt_tokens > 6 * config.frames.candidates
    assert set(ASKING) <= set(config.evaluate.arms)


def test_the_full_size_config_lacks_nothing_but_the_users_files():
    """Its data and checkpoints are not here; all else passes the check."""
    config = load_config("joint_v4")
    with pytest.raises(UserError) as refused:
        check(config, devices=16)
    fields = [f"data.{s}_{k}" for s in ("train", "heldout") for k in ("records", "questions")]
    fields += [f"{model}.{k}" for model in ("mllm", "clip") for k in ("tokenizer", "checkpoint")]
    assert [line.partition(" is not set")[:2] for line in refused.value.lines] == [
        (f"config.{field}", " is not set") for field in fields
    ]
    mesh = config.mesh.to_dict()
    assert mesh["data"] * mesh["fsdp"] * mesh["tensor"] == 16
    each = config.rollout.questions // config.rollout.waves
    assert each % (mesh["data"] * mesh["fsdp"]) == 0


def test_the_full_size_config_is_the_defaults_and_a_schedule():
    made = read_config(load_config("joint_v4"))
    assert (made.mllm.size, made.joint.steps) == ("qwen2.5-vl-7b", 1000)
    own = plain(made)
    changed = {name for name, value in plain(Config()).items() if own[name] != value}
    schedule = {
        "mllm",
        "clip",
        "rollouts_every",
        "rollout",
        "objective",
        "pretrain",
        "joint",
        "mesh",
        "prompt",
    }
    assert changed == schedule


def test_the_benchmark_runs_every_family():
    assert {name.partition(":")[0] for name in VARIANTS} == {f"ablations/{f}" for f in FAMILIES}
    for family in FAMILIES:
        with pytest.raises(UserError, match="name a variant, FILE\\.py:VARIANT"):
            load_config(f"ablations/{family}")
        with pytest.raises(UserError, match="no variant 'nothing'; it has: "):
            load_config(f"ablations/{family}:nothing")


def test_a_variant_with_a_field_that_does_not_exist_is_refused():
    from msjoe_jax.world.variants import family

    with pytest.raises((AttributeError, KeyError), match="temperatur"):
        family({"wrong": ("x", {"rollout.answer_temperatur": 1.0})})("wrong")


def test_variants_of_the_second_world():
    joined = load_config("tiny:v2+short")
    assert (joined.world.version, joined.joint.steps, joined.prompt.max_queries) == (2, 6, 3)
    assert load_config("tiny:short+v2").to_dict() == joined.to_dict()
    one = load_config("ablations/frames:v2+k12")
    assert (one.world.version, one.frames.key, load_config("tiny").world.version) == (2, 12, 1)
    with pytest.raises(UserError, match=r"no variant 'v3'; it has: short, selectors, v2"):
        load_config("tiny:v3")
    with pytest.raises(UserError, match=r"no variant 'v3'"):
        load_config("ablations/frames:v3+k12")


def test_a_variant_gives_its_frames_room_in_the_prompts():
    tiny, wide = load_config("tiny").prompt, load_config("ablations/frames:k12").prompt
    assert wide.answer_prompt_tokens == tiny.answer_prompt_tokens + 6 * 6
    assert wide.query_prompt_tokens == tiny.query_prompt_tokens


# --- where config files lie -----------------------------------------------------------------------


def test_an_installed_copy_finds_its_configs(tmp_path):
    """As the wheel lays them out: the configs inside the package, nothing beside it."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "msjoe_jax", tmp_path / "site" / "msjoe_jax", ignore=ignore)
    shutil.copytree(CONFIGS, tmp_path / "site" / "msjoe_jax" / "configs", ignore=ignore)
    program = (
        "from msjoe_jax.config_files import config_file, load_config, shipped_configs\n"
        "print(config_file('joint_v4'), *shipped_configs())\n"
        "print(config_file('tiny:short'), load_config('tiny:short').joint.steps)\n"
        "print(config_file('none'), load_config('ablations/frames:k2').frames.key)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site"), "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "site" / "msjoe_jax" / "configs"
    names = " ".join(sorted(file.stem for file in CONFIGS.glob("*.py")))
    assert done.stdout.splitlines() == [
        f"{folder}/joint_v4.py {names}",
        f"{folder}/tiny.py:short 6",
        "none 2",
    ]
