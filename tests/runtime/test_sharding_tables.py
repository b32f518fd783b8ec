"""The tables say where every parameter of the published models lies, and nothing else."""

import functools
import math
import re

import jax
import optax
from flax import nnx
from jax.sharding import AbstractMesh

from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.lora import add_lora
from msjoe_jax.models.params import abstract
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.models.sampler import Sampler, SamplerConfig
from msjoe_jax.rollout.system import qwen_config
from msjoe_jax.runtime import mesh as mesh_lib
from msjoe_jax.runtime.mesh import AxisRules, param_shardings
from msjoe_jax.runtime.sharding_tables import STATE_TABLE


def published_params() -> dict:
    """Qwen2.5-VL-7B, CLIP ViT-L/14 and the sampler, as shapes."""
    qwen = qwen_config("qwen2.5-vl-7b", None)
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
