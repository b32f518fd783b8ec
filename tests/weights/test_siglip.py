"""A published folder of SigLIP: every tensor has its place, and comes back as it went."""

import json

import numpy as np
import pytest
import torch

from msjoe_jax.errors import UserError
from msjoe_jax.models.params import count_params
from msjoe_jax.models.siglip.config import SiglipConfig
from msjoe_jax.weights.siglip import read_images, read_published, siglip_params, siglip_table
from msjoe_jax.weights.tables import from_hf, match, slots, to_hf
from tests.support.siglip_oracle import (
    CONTEXT,
    KINDS,
    VOCAB,
    config,
    reference,
    siglip_folder,
)
from tests.support.torch_stubs import declare_torchvision_ops
from tests.support.torch_weights import arrays


# The base sizes that transformers builds by default, and the published so400m.
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("Siglip", {}),
        ("Siglip2", {}),
        (
            "Siglip",
            {
                part: {
                    "hidden_size": 1152,
                    "intermediate_size": 4304,
                    "num_hidden_layers": 27,
                    "num_attention_heads": 16,
                    **more,
                }
                for part, more in (
                    ("text_config", {}),
                    ("vision_config", {"image_size": 384, "patch_size": 14}),
                )
            },
        ),
    ],
    ids=["base", "naflex", "so400m"],
)
def test_published_sizes(kind, sizes):
    """The library's own model of that size: each of its tensors has its place."""
    declare_torchvision_ops()
    import transformers

    made = getattr(transformers, f"{kind}Config")(**sizes)
    with torch.device("meta"):
        module = getattr(transformers, f"{kind}Model")(made)
    c = SiglipConfig.from_hf({"model_type": kind.lower(), **sizes})
    shapes, table = siglip_params(c), siglip_table(c)
    assert count_params(shapes) == sum(x.numel() for x in module.parameters())
    given = {n: (np.dtype(np.float32), tuple(x.shape)) for n, x in module.state_dict().items()}
    wanted = slots(table, shapes)
    assert match(given, table, wanted).names == {n: n for n in wanted}


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_come_back_as_they_went(kind):
    tensors, table = arrays(reference(kind)), siglip_table(config(kind))
    back = to_hf(from_hf(tensors, table, siglip_params(config(kind))), table)
    assert back.keys() == tensors.keys() - table.ignored
    for name, x in back.items():
        np.testing.assert_array_equal(x, tensors[name])


def test_what_a_folder_says(tmp_path):
    siglip_folder(tmp_path / "hf", resample=2)
    made = read_published(tmp_path / "hf")
    assert (made.sizes.context, made.sizes.vocab) == (CONTEXT, VOCAB)
    assert json.loads(made.tokenizer)["padding"]["strategy"] == {"Fixed": CONTEXT}
    assert read_images(tmp_path / "hf", made.sizes).resample == 2
    (tmp_path / "hf" / "preprocessor_config.json").unlink()
    assert read_images(tmp_path / "hf", made.sizes).resample == 3
    inner = {"image_processor": {"resample": 1}, "processor_class": "SiglipProcessor"}
    (tmp_path / "hf" / "processor_config.json").write_text(json.dumps(inner))
    assert read_images(tmp_path / "hf", made.sizes).resample == 1


def test_settings_that_are_not_computed_are_refused_in_one_line(tmp_path):
    siglip_folder(tmp_path / "hf", do_rescale=False, resample=70)
    with pytest.raises(UserError) as error:
        read_published(tmp_path / "hf")
    file = tmp_path / "hf" / "preprocessor_config.json"
    assert error.value.lines == (f"{file}: not computed here: do_rescale=False, resample=70",)
