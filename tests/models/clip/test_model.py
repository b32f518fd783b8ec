"""CLIP against open_clip and Hugging Face on a small model with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.weights.clip import HUGGING_FACE, OPEN_CLIP
from msjoe_jax.weights.tables import from_hf
from tests.support.clip_oracle import (
    EOT,
    VOCAB,
    build,
    config,
    embeddings,
    hugging_face_model,
    open_clip_model,
)
from tests.support.torch_weights import arrays, randomise

pytestmark = pytest.mark.slow

# float32 on both sides; sums over 32 to 147 terms in another order differ by a few ulps a layer.
TOLERANCE = 1e-5


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("source", ["open_clip", "hugging_face"])
def test_parity(source: str, quick_gelu: bool):
    c = config(quick_gelu)
    make = open_clip_model if source == "open_clip" else hugging_face_model
    reference = make(c)
    randomise(reference)
    graphdef, shapes = build(c)
    table = OPEN_CLIP if source == "open_clip" else HUGGING_FACE
    params = jax.tree.map(jnp.asarray, from_hf(arrays(reference), table, shapes))
    model = nnx.merge(graphdef, params)

    rng = np.random.default_rng(1)
    pixels = rng.normal(size=(3, 28, 28, 3)).astype(np.float32)
    tokens = rng.integers(0, EOT, (4, 8))
    tokens[np.arange(4), [7, 3, 5, 1]] = EOT
    tokens[1, 6] = EOT  # padding with the end token itself, as CLIP's tokenizer does
    want = embeddings(reference, source, pixels, tokens)
    with jax.default_matmul_precision("highest"):
        got = model.encode_image(jnp.asarray(pixels)), model.encode_text(jnp.asarray(tokens))
    for g, w in zip(got, want, strict=True):
        assert np.abs(w.numpy()).max() > 0.1
        np.testing.assert_allclose(g, w.numpy(), rtol=TOLERANCE, atol=TOLERANCE)
    assert float(model.logit_scale[...]) == reference.logit_scale.item()


def test_text_behind_the_end_token_changes_nothing():
    """With an end token that is not the largest id, as a small vocabulary may have it."""
    end = 20
    graphdef, params = nnx.split(CLIP(CLIPConfig.tiny(VOCAB, end), rngs=nnx.Rngs(0)))
    tokens = np.array([[3, 40, end, 0, 0, 0, 0, 0], [3, 40, end, 45, end, 9, 1, 2]])
    a, b = nnx.merge(graphdef, params).encode_text(jnp.asarray(tokens))
    np.testing.assert_array_equal(a, b)
    short = nnx.merge(graphdef, params).encode_text(jnp.asarray(tokens[:1, :4]))
    np.testing.assert_allclose(short[0], a, atol=1e-6)  # fewer keys: another summation order
