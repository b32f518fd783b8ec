"""CLIP's two published layouts: every tensor has its place, and comes back as it went."""

import numpy as np
import pytest
import torch

from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.params import count_params
from msjoe_jax.weights.clip import HUGGING_FACE, OPEN_CLIP
from msjoe_jax.weights.tables import from_hf, match, slots, to_hf
from tests.support.clip_oracle import build, config, hugging_face_model, open_clip_model
from tests.support.torch_stubs import declare_torchvision_ops
from tests.support.torch_weights import arrays


# As open_clip prints for ViT-B-32, ViT-B-16, ViT-L-14 and ViT-L-14-336.
@pytest.mark.parametrize(
    "name,count",
    [
        ("vit-b-32", 151_277_313),
        ("vit-b-16", 149_620_737),
        ("vit-l-14", 427_616_513),
        ("vit-l-14-336", 427_944_193),
    ],
)
def test_published_sizes(name: str, count: int):
    """The count, and open_clip's own model of that name: each of its tensors has its place."""
    declare_torchvision_ops()
    import open_clip
    from open_clip.model import CLIP as Reference

    c = CLIPConfig.published(name)
    _, shapes = build(c)
    assert count_params(shapes) == count
    words = open_clip.get_model_config(name.replace("vit", "ViT").replace("-b-", "-B-")
                                       .replace("-l-", "-L-") + "-quickgelu")  # fmt: skip
    with torch.device("meta"):
        reference = Reference(**words)
    given = {n: (np.dtype(np.float32), tuple(x.shape)) for n, x in reference.state_dict().items()}
    wanted = slots(OPEN_CLIP, shapes)
    assert match(given, OPEN_CLIP, wanted).names == {n: n for n in wanted}
    assert CLIPConfig.from_open_clip({"model_cfg": words}) == c
    assert CLIPConfig.from_hf(c.to_hf()) == c


@pytest.mark.parametrize("table", [OPEN_CLIP, HUGGING_FACE], ids=["open_clip", "hugging_face"])
def test_tensors_come_back_as_they_went(table):
    c = config(True)
    make = open_clip_model if table is OPEN_CLIP else hugging_face_model
    tensors = arrays(make(c))
    back = to_hf(from_hf(tensors, table, build(c)[1]), table)
    assert back.keys() == tensors.keys() - table.ignored
    for name, x in back.items():
        np.testing.assert_array_equal(x, tensors[name])
