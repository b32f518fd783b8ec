"""Fresh weights of the tiny world's MLLM, and which of them are matrices to Muon."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from optax.contrib import MuonDimensionNumbers

from msjoe_jax.models.params import Params
from msjoe_jax.rollout.system import System


def matrices(params: Params) -> Any:
    """Returns each weight matrix's input and output dimensions; None for leaves left to Adam."""
    sides = {
        ("q", "k", "v"): ((1,), (2, 3)),
        ("o",): ((1, 2), (3,)),
        ("gate", "up", "down"): ((1,), (2,)),
        ("kernel",): ((0,), (1,)),
    }

    def of(path: tuple, _: Array) -> MuonDimensionNumbers | None:
        name = path[-1].key
        dimensions = next((both for names, both in sides.items() if name in names), None)
        return dimensions and MuonDimensionNumbers(*dimensions)

    return jax.tree_util.tree_map_with_path(of, params)


def fresh_weights(system: System, seed: int) -> Params:
    """Draws fresh weights from which a narrow, shallow decoder soon learns to look things up.

    Std 0.02 suits a width of 2,500; here matrices get 1/√width (norms stay, and so does the patch
    embedding, which has as many inputs). In each layer's first head queries equal keys and the
    output is the value's transpose: tokens attend to what resembles them and copy it
    ("mimetic" initialisation, Trockman & Kolter 2023, arXiv 2305.09828, with a copy's sign).
    """
    width, layers = system.mllm_config.text.width, system.mllm_config.text.layers

    def scale(path: tuple, leaf: Array) -> Array:
        name = jax.tree_util.keystr(path)
        if "norm" in name or "patch_embed" in name:
            return leaf
        residual = name.endswith(("['o']", "['down']"))  # outputs of the 2 · layers branches
        return leaf * (width**-0.5 / 0.02) * ((2 * layers) ** -0.5 if residual else 1.0)

    params = jax.tree_util.tree_map_with_path(scale, system.init("mllm", seed))
    params["language"]["embedding"] *= 2.0  # so that tokens outweigh the branches' outputs
    params["language"]["norm"]["scale"] *= 0.25  # so that first predictions are nearly uniform
    w = params["language"]["layers"]
    w["q"] = w["q"].at[:, :, 0].set(w["k"][:, :, 0])
    w["o"] = w["o"].at[:, 0].set(jnp.swapaxes(w["v"][:, :, 0], 1, 2))
    return params
