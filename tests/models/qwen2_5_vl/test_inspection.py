"""Attention, keys and queries inside the decoder, against transformers with eager attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from tests.support.qwen_oracle import IMAGE, make_batch, ours, reference, reference_inputs

pytestmark = pytest.mark.slow
# Two prompts of different lengths: text, images between texts, text.
ROWS = [[3, (IMAGE, 1, 4, 4), 2, (IMAGE, 1, 4, 6), 6], [2, (IMAGE, 1, 4, 4), 4]]
PLACES = np.array([[19, 17, 18, 3], [8, 9, 7, 0]])  # in any order, text and visual tokens alike


@functools.cache
def both():
    """The reference's attentions, keys and queries of every layer; our model on the same rows."""
    module = reference()
    module.set_attn_implementation("eager")
    config, graphdef, params = ours(module)
    model: QwenVL = nnx.merge(graphdef, jax.tree.map(jnp.asarray, params))
    batch = make_batch(ROWS, config)
    seen: dict[str, list[np.ndarray]] = {"q_proj": [], "k_proj": []}
    for layer in module.model.language_model.layers:
        for name, outputs in seen.items():
            getattr(layer.self_attn, name).register_forward_hook(
                lambda _, __, output, outputs=outputs: outputs.append(output.numpy())
            )
    with torch.no_grad():
        out = module(**reference_inputs(batch), output_attentions=True, use_cache=False)
    attentions = [layer.numpy().mean(1) for layer in out.attentions]
    patches = jnp.asarray(batch.patches)
    grids = jnp.asarray(batch.grids).reshape(-1, 2)
    features = model.vision(patches.reshape(-1, *patches.shape[2:]), grids)
    features = features.reshape(len(ROWS), -1, features.shape[-1])
    x = model.prompt_embeds(
        jnp.asarray(batch.tokens)[:, None], jnp.asarray(batch.feature_index)[:, None], features
    )
    prompts = x[:, 0], jnp.asarray(batch.positions), jnp.asarray(batch.valid.astype(np.int32))
    return attentions, seen, model, prompts, batch


@pytest.mark.parametrize("layer", [0, 1])
def test_attention_is_the_references(layer):
    attentions, _, model, prompts, batch = both()
    got = jax.jit(lambda *a: model.language.token_attention(*a, layer))(
        *prompts, jnp.asarray(PLACES)
    )
    want = np.take_along_axis(attentions[layer], PLACES[..., None], 1)
    assert np.abs(np.asarray(got) - want).max() <= 1e-5
    np.testing.assert_allclose(np.asarray(got).sum(-1), 1, atol=1e-5)
    assert want.std() > 0.01  # there is something to compare
    assert (np.asarray(got)[~np.broadcast_to(batch.valid[:, None], got.shape)] == 0).all()


def test_padding_reaches_nothing():
    _, _, model, (x, positions, segments), _ = both()
    poisoned = jnp.where((segments != 0)[..., None], x, jnp.nan)
    got = model.language.token_attention(poisoned, positions, segments, jnp.asarray(PLACES), 1)
    clean = model.language.token_attention(x, positions, segments, jnp.asarray(PLACES), 1)
    np.testing.assert_array_equal(got, clean)
    tokens = segments != 0
    got = model.language.mean_keys_and_queries(poisoned, positions, segments, tokens)
    assert np.isfinite(np.asarray(got)).all()


def test_keys_and_queries_are_the_references_before_their_rotation():
    _, seen, model, prompts, batch = both()
    tokens = batch.feature_index >= 0
    got = np.asarray(model.language.mean_keys_and_queries(*prompts, jnp.asarray(tokens)))
    heads, kv_heads, head_dim = (
        model.config.text.heads,
        model.config.text.kv_heads,
        model.config.text.head_dim,
    )
    for place, layer in enumerate((0, len(seen["k_proj"]) - 1)):
        for b, counted in enumerate(tokens):
            keys = seen["k_proj"][layer][b][counted].mean(0)
            queries = seen["q_proj"][layer][b][counted].mean(0)
            shared = queries.reshape(kv_heads, heads // kv_heads, head_dim).mean(1)
            np.testing.assert_allclose(got[b, place, 0], keys, atol=1e-5)
            np.testing.assert_allclose(got[b, place, 1], shared.reshape(-1), atol=1e-5)


def test_no_tokens_have_no_mean():
    _, _, model, prompts, batch = both()
    nothing = jnp.zeros(batch.tokens.shape, bool)
    assert (np.asarray(model.language.mean_keys_and_queries(*prompts, nothing)) == 0).all()
