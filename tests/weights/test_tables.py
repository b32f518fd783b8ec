"""Tables of tensors: what does not fit is named, all of it at once."""

import ml_dtypes
import numpy as np
import pytest

from msjoe_jax.weights.clip import OPEN_CLIP
from msjoe_jax.weights.tables import WeightsError, from_hf, listed, match, slots
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
        "1 there twice (ln_final.bias and text.ln_final.bias)",
    ):
        assert words in message, words


def of_clip():
    c = config(True)
    given = {n: (x.dtype, x.shape) for n, x in arrays(open_clip_model(c)).items()}
    return given, slots(OPEN_CLIP, build(c)[1])


@pytest.mark.parametrize(
    "types, widest",
    [
        ((np.float16, ml_dtypes.bfloat16), np.float32),
        ((np.float16, np.float32), np.float32),
        ((ml_dtypes.bfloat16, np.float32), np.float32),
        ((ml_dtypes.bfloat16, np.float64), np.float64),
        ((np.float16, np.float16), np.float16),
    ],
)
def test_layers_of_several_types_become_the_widest(types, widest):
    given, targets = of_clip()
    row = "visual.transformer.resblocks.{layer}.ln_1.bias"
    for layer, dtype in enumerate(types):
        name = row.format(layer=layer)
        given[name] = np.dtype(dtype), given[name][1]
    found = match(given, OPEN_CLIP, targets)
    assert found.types[row] == widest and found.types["text_projection"] == np.float32
    said = [] if types[0] is types[1] else [f"stored as {np.dtype(widest).name})"]
    assert [line.split(", ")[-1] for line in found.mixed] == said
    for dtype in types:  # all of its values, ends and subnormals among them
        bits = np.dtype(dtype).itemsize * 8
        values = (
            np.linspace(0, 2.0**bits, 1 << 16, endpoint=False).astype(f"uint{bits}").view(dtype)
        )
        finite = values[np.isfinite(values.astype(np.float64))]
        assert len(finite) > 1000 and (finite.astype(widest).astype(dtype) == finite).all()


def test_extra_tensors_are_refused_or_named():
    given, targets = of_clip()
    given |= {f"value_head.{i}": (np.dtype(np.int64), (2,)) for i in range(8)}
    with pytest.raises(WeightsError) as caught:
        match(given, OPEN_CLIP, targets)
    message = str(caught.value)
    assert "8 not of this model (value_head.0, " in message and "and 5 more" in message
    assert message.endswith("; --ignore_extra leaves those out")
    found = match(given, OPEN_CLIP, targets, ignore_extra=True)
    assert found.extra == [f"value_head.{i}" for i in range(8)]
    assert found.names == {name: name for name in targets}
    given["visual.conv1.lora_A.weight"] = (np.dtype(np.float32), (2,))
    with pytest.raises(WeightsError, match="these are factors beside a model: merge them"):
        match(given, OPEN_CLIP, targets)
    del given["visual.proj"]
    with pytest.raises(WeightsError, match=r"1 missing \(visual.proj\)$"):
        match(given, OPEN_CLIP, targets, ignore_extra=True)


def test_long_lists():
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(i) for i in range(9)]) == "0, 1, 2 and 6 more"
