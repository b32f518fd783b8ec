"""Where parameters lie on a mesh, by all tables together; nothing happens without a mesh."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AbstractMesh

from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.clip.sharding import CLIP as CLIP_TABLE
from msjoe_jax.models.lora import LORA, add_lora
from msjoe_jax.models.params import abstract
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.models.qwen2_5_vl.sharding import LANGUAGE, VISION
from msjoe_jax.models.sampler import SAMPLER, Sampler, SamplerConfig
from msjoe_jax.models.sharding import BATCH, HEADS, constrain, on_shards, ways
from msjoe_jax.runtime import mesh as mesh_lib
from msjoe_jax.runtime.mesh import AxisRules, param_shardings
from tests.support.qwen_oracle import published_sizes

STATE_TABLE = (*LORA, *LANGUAGE, *VISION, *CLIP_TABLE, *SAMPLER)


def published_params() -> dict:
    """Qwen2.5-VL-7B, CLIP ViT-L/14 and the sampler, as shapes."""
    qwen = published_sizes("qwen2.5-vl-7b")
    builds = {
        "mllm": lambda: QwenVL(qwen, rngs=nnx.Rngs(0)),
        "clip": lambda: CLIP(CLIPConfig.published("vit-l-14"), rngs=nnx.Rngs(0)),
        "sampler": lambda: Sampler(SamplerConfig(), rngs=nnx.Rngs(0)),
    }
    return {name: abstract(build)[1] for name, build in builds.items()}


def test_the_published_models_lie_evenly_on_sixteen_chips():
    shapes = published_params()
    state = {**shapes, "mllm_opt": jax.eval_shape(optax.adamw(1e-3).init, shapes["mllm"])}
    for sizes in ((1, 16, 1), (1, 8, 2), (1, 4, 4)):
        shardings = param_shardings(
            state, STATE_TABLE, AbstractMesh(sizes, mesh_lib.MESH_AXES), AxisRules()
        )
        pairs = list(zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True))
        whole = sum(leaf.size for leaf, _ in pairs)
        chip = sum(math.prod(sharding.shard_shape(leaf.shape)) for leaf, sharding in pairs)
        # What stays whole by rule (norms, small biases, the sampler) is under 0.1 % of the state.
        assert whole / 16 <= chip < whole / 16 * 1.02


def test_every_row_of_the_tables_is_the_first_match_of_some_parameter():
    params = published_params()
    adapt = functools.partial(add_lora, targets="^language/layers/", rank=8, seed=0)
    params = {**params, "mllm": jax.eval_shape(adapt, params["mllm"])}
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    names = [mesh_lib.path_name(path) for path, leaf in leaves if leaf.ndim]
    used = set()
    for name in names:
        used.add(next(p for p, _ in STATE_TABLE if re.fullmatch(f"(?:.*/)?(?:{p})", name)))
    assert used == {pattern for pattern, _ in STATE_TABLE}


def test_without_a_mesh_all_is_whole():
    x = jnp.arange(6.0).reshape(2, 3)
    assert ways(6, HEADS) == 1
    assert constrain(x, BATCH, HEADS) is x
    assert on_shards(lambda x, y: x + y, (x,), (x,)).tolist() == (2 * x).tolist()
