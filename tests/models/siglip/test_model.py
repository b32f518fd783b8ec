"""SigLIP and SigLIP 2 against transformers on small models with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from msjoe_jax.models.params import abstract
from msjoe_jax.models.siglip.model import Siglip
from msjoe_jax.weights.siglip import siglip_table
from msjoe_jax.weights.tables import from_hf
from tests.support.siglip_oracle import CONTEXT, GRID, KINDS, PATCH, SIDE, VOCAB, config, reference
from tests.support.torch_weights import arrays

pytestmark = pytest.mark.slow

# float32 on both sides; sums over 16 to 147 terms in another order differ by a few ulps a layer.
TOLERANCE = 1e-5
# As many patches as positions, fewer, more along one side, and a row of one. A column is left out:
# torch's CPU kernel repeats the first row when it upsamples a table that is one wide.
SHAPES = np.array([[4, 4], [2, 3], [5, 3], [1, 16], [8, 2], [3, 5], [1, 1], [2, 8]])


def ours(kind, module):
    c = config(kind)
    graphdef, shapes = abstract(lambda: Siglip(c, rngs=nnx.Rngs(0)))
    params = from_hf(arrays(module), siglip_table(c), shapes)
    return nnx.merge(graphdef, jax.tree.map(jnp.asarray, params))


def inputs(kind, rng):
    """The library's image inputs, and ours."""
    number = len(SHAPES)
    if kind == "siglip":
        pixels = rng.normal(size=(number, 3, SIDE, SIDE)).astype(np.float32)
        cut = pixels[:, :, : GRID * PATCH, : GRID * PATCH]
        cut = cut.reshape(number, 3, GRID, PATCH, GRID, PATCH).transpose(0, 2, 4, 3, 5, 1)
        shapes = np.full((number, 2), GRID)
        return {"pixel_values": torch.from_numpy(pixels)}, (cut.reshape(number, 16, -1), shapes)
    patches = rng.normal(size=(number, 16, 3 * PATCH**2)).astype(np.float32)
    mask = np.arange(16) < SHAPES.prod(1)[:, None]
    theirs = {
        "pixel_values": torch.from_numpy(patches),
        "pixel_attention_mask": torch.from_numpy(mask.astype(np.int64)),
        "spatial_shapes": torch.from_numpy(SHAPES),
    }
    return theirs, (np.where(mask[..., None], patches, 1e3), SHAPES)  # ours ignores what is masked


@pytest.mark.parametrize("kind", KINDS)
def test_parity(kind):
    module = reference(kind)
    rng = np.random.default_rng(1)
    theirs, (patches, shapes) = inputs(kind, rng)
    tokens = rng.integers(0, VOCAB, (5, CONTEXT))
    with torch.no_grad():
        want = module(input_ids=torch.from_numpy(tokens), **theirs)
        images = module.get_image_features(**theirs).pooler_output.numpy()
        texts = module.get_text_features(torch.from_numpy(tokens)).pooler_output.numpy()
    model = ours(kind, module)
    with jax.default_matmul_precision("highest"):
        got_images = model.encode_image(jnp.asarray(patches), jnp.asarray(shapes))
        got_texts = model.encode_text(jnp.asarray(tokens))
    for got, expected in ((got_images, images), (got_texts, texts)):
        assert np.abs(expected).max() > 0.1 and np.ptp(expected, 0).max() > 0.01
        np.testing.assert_allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE)
    unit = [x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (got_images, got_texts)]
    logits = jnp.exp(model.logit_scale[...]) * unit[0] @ unit[1].T + model.logit_bias[...]
    np.testing.assert_allclose(
        logits, want.logits_per_image.numpy(), rtol=TOLERANCE, atol=TOLERANCE
    )


@pytest.mark.soak
def test_every_shape_gets_its_own_positions():
    """With zero patches all that differs between pictures is where their patches lie."""
    c = config("siglip2")
    model = Siglip(c, rngs=nnx.Rngs(0))
    shapes = jnp.asarray([[4, 4], [2, 8], [8, 2]])
    embedded = np.asarray(model.encode_image(jnp.zeros((3, 16, 3 * PATCH**2)), shapes))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(embedded[a] - embedded[b]).max() > 1e-3


@pytest.mark.parametrize("shape", [(16, 1), (5, 3), (8, 2)])
def test_a_column_is_a_row_of_the_turned_table(shape):
    c = config("siglip2")
    model = Siglip(c, rngs=nnx.Rngs(0))
    zeros = jnp.zeros((1, 16, 3 * PATCH**2))
    upright = model.encode_image(zeros, jnp.asarray([shape]))
    table = model.vision.position_embedding[...].reshape(c.grid, c.grid, -1)
    model.vision.position_embedding[...] = table.swapaxes(0, 1).reshape(c.grid**2, -1)
    lying = model.encode_image(zeros, jnp.asarray([shape[::-1]]))
    np.testing.assert_allclose(upright, lying, atol=TOLERANCE)
