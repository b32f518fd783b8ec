"""Tables of tensors: what does not fit is named, all of it at once."""

import numpy as np
import pytest

from msjoe_jax.weights.clip import OPEN_CLIP
from msjoe_jax.weights.tables import WeightsError, from_hf
from tests.support.clip_oracle import build, config, open_clip_model
from tests.support.torch_weights import arrays


def test_bad_weights_are_named_together():
    c = config(True)
    tensors = arrays(open_clip_model(c))
    _, shapes = build(c)
    del tensors["visual.proj"], tensors["transformer.resblocks.1.mlp.c_fc.bias"]
    tensors["visual.head.weight"] = np.zeros(3)
    tensors["transformer.resblocks.3.ln_1.weight"] = np.zeros(24)
    tensors["ln_final.weight"] = np.zeros(25)
    tensors["visual.conv1.weight"] = tensors["visual.conv1.weight"][:, :2]
    tensors["text.ln_final.bias"] = tensors["ln_final.bias"]
    tensors["logit_scale"] = np.array(4)
    tensors["visual.transformer.resblocks.0.ln_1.bias"] = np.zeros(32, np.float16)
    with pytest.raises(WeightsError) as caught:
        from_hf(tensors, OPEN_CLIP, shapes)
    message = str(caught.value)
    assert "\n" not in message
    for words in (
        "2 missing (visual.proj, transformer.resblocks.1.mlp.c_fc.bias)",
        "2 not of this model (visual.head.weight, transformer.resblocks.3.ln_1.weight)",
        "visual.conv1.weight [32, 2, 7, 7] for [32, 3, 7, 7]",
        "ln_final.weight [25] for [24]",
        "logit_scale int64",
        "visual.transformer.resblocks.{layer}.ln_1.bias ['float16', 'float32']",
        "1 there twice (ln_final.bias and text.ln_final.bias)",
    ):
        assert words in message, words
