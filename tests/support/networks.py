"""Inputs of selectors' networks, and what holds of every network, whatever it computes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from msjoe_jax.models.params import Params, split_module
from msjoe_jax.models.sampler import SamplerConfig
from msjoe_jax.rl.batch import FrameInputs
from msjoe_jax.selectors import SELECTORS

R, Q, T, E = 3, 2, 21, 16
LENGTHS = np.array([21, 9, 4])  # frames that exist
# float32 sums in another order, times the 40 of a cosine's 1 / τ: a few hundred roundings of 6e-8.
TOLERANCE = 2e-4

Call = Callable[[Params, FrameInputs], jax.Array]


def make_inputs(seed: int = 0, rows: int = R, frames: int = T) -> Any:
    """Random `FrameInputs` of NumPy arrays: as many queries as there can be, and all frames."""
    rng = np.random.default_rng(seed)
    floats = lambda *shape: np.float32(rng.normal(size=shape))  # noqa: E731
    arrays: Any = (
        0.2 + 0.05 * floats(rows, Q, frames),
        np.ones((rows, Q), bool),
        np.ones((rows, frames), bool),
        3.0 * floats(rows, frames, E),
        5.0 * floats(rows, Q, E),
    )
    return FrameInputs(*arrays)


def make_network(name: str, seed: int = 0, moved: bool = True) -> tuple[Call, Params]:
    """Builds a selector's network; `moved`: every parameter away from where it starts."""
    network = SELECTORS[name].network
    assert network is not None
    definition, params = split_module(network.build(SamplerConfig.tiny(), E, nnx.Rngs(seed)))
    if moved:
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        more = [0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        params = jax.tree.unflatten(tree, [a + b for a, b in zip(leaves, more, strict=True)])
    call = lambda params, inputs: network.logits(nnx.merge(definition, params), inputs)  # noqa: E731
    return jax.jit(call), params


def finite(tree: Any) -> bool:
    """Whether all numbers of a tree are."""
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def gradient_of(call: Call, params: Params, inputs: FrameInputs) -> Params:
    """The gradient of a sum of squares of the valid logits."""

    def loss(params: Params) -> jax.Array:
        logits = call(params, inputs)
        return jnp.sum(jnp.where(inputs.frame_mask, logits, 0.0) ** 2)

    return jax.jit(jax.grad(loss))(params)


def check_padding(name: str) -> None:
    """Frames and queries beyond those that exist are poison, and change nothing."""
    call, params = make_network(name)
    inputs = make_inputs()
    frame_mask = np.arange(T) < LENGTHS[:, None]
    query_mask = np.array([[True, True], [True, False], [True, False]])
    alone = []
    for row, length in enumerate(LENGTHS):
        count = query_mask[row].sum()
        one = jax.tree.map(lambda x, row=row: x[row : row + 1], inputs)
        one = FrameInputs(
            one.similarity[:, :count, :length],
            one.query_mask[:, :count],
            one.frame_mask[:, :length],
            one.embeddings[:, :length],
            one.queries[:, :count],
        )
        alone.append(call(params, one)[0])
    shown = query_mask[..., None] & frame_mask[:, None]
    for poison in (np.nan, np.inf, -1e30):
        arrays: Any = (
            np.where(shown, inputs.similarity, np.float32(poison)),
            query_mask,
            frame_mask,
            np.where(frame_mask[..., None], inputs.embeddings, np.float32(poison)),
            np.where(query_mask[..., None], inputs.queries, np.float32(poison)),
        )
        padded = FrameInputs(*arrays)
        logits = np.asarray(call(params, padded))
        assert np.isneginf(logits[~frame_mask]).all()
        for row, length in enumerate(LENGTHS):
            np.testing.assert_allclose(logits[row, :length], alone[row], atol=TOLERANCE)
        assert finite(gradient_of(call, params, padded))


def check_few_frames(name: str) -> None:
    """One frame, three, none, no query, embeddings of zeros: finite, and so are gradients."""
    call, params = make_network(name)
    for frames in (1, 3):
        inputs = make_inputs(frames=frames)
        assert call(params, inputs).shape == (R, frames) and finite(call(params, inputs))
        assert finite(gradient_of(call, params, inputs))
    inputs = make_inputs()
    inputs.query_mask[0], inputs.frame_mask[1] = False, False
    inputs.embeddings[2] = 0.0
    logits = np.asarray(call(params, inputs))
    assert np.isneginf(logits[1]).all() and finite(np.delete(logits, 1, 0))
    assert finite(gradient_of(call, params, inputs))


def check_query_order(name: str) -> None:
    """The order of the queries does not matter."""
    call, params = make_network(name)
    inputs = make_inputs()
    turned = inputs._replace(similarity=inputs.similarity[:, ::-1], queries=inputs.queries[:, ::-1])
    want, got = (np.asarray(call(params, x)) for x in (inputs, turned))
    np.testing.assert_allclose(got, want, atol=TOLERANCE)
