"""Settings into models: sizes, tokenizers, attention, and where every leaf lies."""

import dataclasses
import functools
import json
import math
import pathlib
import re

import jax
import optax
import pytest
from jax.sharding import AbstractMesh

from msjoe_jax.errors import UserError
from msjoe_jax.families import FAMILIES, family_of, named_model
from msjoe_jax.fields import read
from msjoe_jax.models.lora import add_lora
from msjoe_jax.models.params import count_params
from msjoe_jax.rollout.system import (
    ClipSettings,
    MllmSettings,
    ModelSettings,
    SamplerSettings,
    Tokenizers,
    load_tokenizers,
    make_system,
    mllm_sizes,
    state_table,
)
from msjoe_jax.runtime.mesh import MESH_AXES, AxisRules, param_shardings, path_name
from msjoe_jax.selectors import SELECTORS, networks
from tests.support.tiny import tiny_settings


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_settings(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def published():
    """Qwen2.5-VL-7B, CLIP ViT-L/14 and the sampler."""
    return make_system(
        ModelSettings(MllmSettings(size="qwen2.5-vl-7b"), ClipSettings(size="vit-l-14"))
    )


def with_mllm(settings: ModelSettings, **fields) -> ModelSettings:
    return dataclasses.replace(settings, mllm=dataclasses.replace(settings.mllm, **fields))


def with_clip(settings: ModelSettings, **fields) -> ModelSettings:
    return dataclasses.replace(settings, clip=dataclasses.replace(settings.clip, **fields))


def test_special_tokens_are_the_vocabularys(tiny, published):
    tokenizers = load_tokenizers(tiny)
    assert tokenizers.mllm is not None
    sizes = make_system(tiny, tokenizers).mllm_config
    assert sizes.image_token_id == tokenizers.mllm.token_id("<|image_pad|>")
    assert sizes.text.vocab == tokenizers.mllm.size
    assert published.mllm_config.image_token_id == 151655
    assert published.banned_ids() == (151655, 151656)


@pytest.mark.parametrize("part", ["mllm", "clip"])
def test_ids_beyond_the_embedding_table_are_refused(tiny, tmp_path, part):
    """The largest counts, not how many there are."""
    content = json.loads(pathlib.Path(tiny.mllm.tokenizer).read_text())
    rows = len(content["model"]["vocab"])
    content["model"]["vocab"]["kitchen"] = rows  # leaves the id that it had without a word
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    settings = {"mllm": with_mllm, "clip": with_clip}[part](tiny, tokenizer=str(file))
    words = rf"{file}: the largest id is {rows} \('kitchen'\), and .* table has {rows} rows"
    with pytest.raises(UserError, match=words):
        make_system(settings, load_tokenizers(settings))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: with_mllm(s, tokenizer=""), r"config\.mllm\.tokenizer is not set: name a token"),
        (lambda s: with_clip(s, tokenizer="x"), r"x: no readable tokenizer"),
        (lambda s: with_mllm(s, size="none"), r"config\.mllm\.size='none' is not one of tiny, qw"),
        (lambda s: with_clip(s, size="none"), r"config\.clip\.size='none' is not one of tiny, vit"),
        (lambda s: with_mllm(s, size=""), r"config\.mllm\.size is empty: name a size, or config"),
        (lambda s: with_clip(s, size=""), r"config\.clip\.size is empty"),
        (lambda s: with_clip(s, size="", checkpoint="/no"), r"/no/clip/config\.json: cannot be re"),
    ],
)
def test_what_is_not_there_is_named(tiny, change, words):
    settings = change(tiny)
    with pytest.raises(UserError, match=words):
        make_system(settings, load_tokenizers(settings))


def test_tiny_sizes_need_a_vocabulary(tiny):
    with pytest.raises(UserError, match=r"config\.mllm\.size=tiny needs a tokenizer"):
        make_system(tiny)
    with pytest.raises(UserError, match=r"config\.clip\.size=tiny needs a tokenizer"):
        make_system(tiny, Tokenizers(load_tokenizers(tiny).mllm, None))


def test_attention_that_cannot_be_is_refused(tiny, monkeypatch):
    settings, tokenizers = with_mllm(tiny, attention="cudnn"), load_tokenizers(tiny)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with pytest.raises(UserError, match="needs an NVIDIA GPU"):
        make_system(settings, tokenizers)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match="does not take float32"):
        make_system(settings, tokenizers)


@pytest.mark.parametrize(
    "kind, values, words",
    [
        (MllmSettings, {"size": "qwen"}, "size=qwen is not one of"),
        (MllmSettings, {"attention": "cudnn", "dtype": "float32"}, "attention=cudnn takes 16-bit"),
        (MllmSettings, {"trainable": "["}, "trainable=[ is no regular expression"),
        (MllmSettings, {"lora_rank": -1}, "lora_rank=-1 must be at least 0"),
        (ModelSettings, {"sampler": {"kernel": 4}}, "sampler.kernel=4 must be odd"),
    ],
)
def test_slips(kind, values, words):
    slips: list[str] = []
    read(kind, values, "", slips)
    assert len(slips) == 1 and slips[0].startswith(words)


def test_families_are_found_by_their_model_type():
    assert family_of({"model_type": "qwen2_5_vl"}, "x") is FAMILIES["qwen2_5_vl"]
    for kind in ("llava", None, ["qwen2_5_vl"]):
        with pytest.raises(UserError, match=r"x: model_type is .*; known are qwen2_5_vl"):
            family_of({"model_type": kind}, "x")
    for size in mllm_sizes()[2:]:
        family, sizes = named_model(size, None)
        assert family.read_config(family.write_config(sizes)) == sizes


# --- sharding -------------------------------------------------------------------------------------


def test_the_published_models_lie_evenly_on_sixteen_chips(published):
    shapes = published.abstract
    state = {**shapes, "mllm_opt": jax.eval_shape(optax.adamw(1e-3).init, shapes["mllm"])}
    for sizes in ((1, 16, 1), (1, 8, 2), (1, 4, 4)):
        mesh = AbstractMesh(sizes, MESH_AXES)
        shardings = param_shardings(state, state_table(published), mesh, AxisRules())
        pairs = list(zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True))
        whole = sum(leaf.size for leaf, _ in pairs)
        chip = sum(math.prod(sharding.shard_shape(leaf.shape)) for leaf, sharding in pairs)
        # What stays whole by rule (norms, small biases, the sampler) is under 0.1 % of the state.
        assert whole / 16 <= chip < whole / 16 * 1.02


def test_networks_of_other_papers_stay_whole_and_have_the_stated_sizes():
    """As docs/networks.md states them; every network has the row of a table."""
    sizes = {"msjoe": 2087169, "mlp": 2098000, "tspo": 2952960, "evidential": 8261381}
    assert sizes.keys() == set(networks())
    for name, size in sizes.items():
        system = make_system(
            ModelSettings(
                MllmSettings(size="qwen2.5-vl-7b"),
                ClipSettings(size="vit-l-14"),
                SamplerSettings(network=name),
            )
        )
        sampler = system.abstract["sampler"]
        assert count_params(sampler) == pytest.approx(size, rel=0.01 if name == "mlp" else 0)
        mesh = AbstractMesh((1, 8, 2), MESH_AXES)
        state = {"sampler": sampler, "sampler_opt": jax.eval_shape(optax.adamw(1e-3).init, sampler)}
        places = param_shardings(state, state_table(system), mesh, AxisRules())
        assert all(place.is_fully_replicated for place in jax.tree.leaves(places))
        patterns = {p for p, _ in SELECTORS[name].network.sharding_table}
        assert first_rows(state_table(system), sampler) == patterns


def first_rows(table, params):
    """The patterns of a table that are the first to match a parameter."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    names = [path_name(path) for path, leaf in leaves if leaf.ndim]
    rows = [(re.compile(f"(?:.*/)?(?:{pattern})"), pattern) for pattern, _ in table]
    return {next(p for row, p in rows if row.fullmatch(name)) for name in names}


def test_every_row_of_the_tables_is_the_first_match_of_some_parameter(published):
    adapt = functools.partial(add_lora, targets="^language/layers/", rank=8, seed=0)
    params = {**published.abstract, "mllm": jax.eval_shape(adapt, published.abstract["mllm"])}
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    table, used = state_table(published), set()
    names = [path_name(path) for path, leaf in leaves if leaf.ndim]
    for name in (*names, "sampler_opt/0/norms"):  # of a training's clip
        used.add(next(p for p, _ in table if re.fullmatch(f"(?:.*/)?(?:{p})", name)))
    assert used == {pattern for pattern, _ in table}
