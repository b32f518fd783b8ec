"""What a SigLIP's config.json may say: published forms are read, other models refused by field."""

import pytest

from msjoe_jax.models.siglip.config import SiglipConfig
from tests.support.siglip_oracle import KINDS, hf_config
from tests.support.torch_stubs import declare_torchvision_ops


def test_what_a_file_leaves_out_is_the_base_size():
    """As google/siglip-base-patch16-224 does, whose inner configs are empty."""
    file = {"model_type": "siglip", "text_config": {}, "vision_config": {}}
    base = SiglipConfig.from_hf(file)
    assert (base.image_size, base.grid, base.patch, base.embed_dim) == (224, 14, 16, 768)
    assert (base.context, base.vocab, base.text_layers, base.text_eps) == (64, 32000, 12, 1e-6)
    naflex = SiglipConfig.from_hf({"model_type": "siglip2"})
    assert (naflex.image_size, naflex.grid, naflex.patch) == (None, 16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_library_writes_is_read(kind):
    declare_torchvision_ops()
    import transformers

    name = {"siglip": "SiglipConfig", "siglip2": "Siglip2Config"}[kind]
    sizes = {k: v for k, v in hf_config(kind).items() if k != "model_type"}
    written = getattr(transformers, name)(**sizes).to_dict()
    assert SiglipConfig.from_hf(written) == SiglipConfig.from_hf(hf_config(kind))
    defaults = getattr(transformers, name)().to_dict()
    assert SiglipConfig.from_hf(defaults) == SiglipConfig.from_hf({"model_type": kind})


def test_a_side_that_is_no_multiple_of_the_patch():
    """384 pixels in patches of 14, as the published so400m has them."""
    file = {"model_type": "siglip", "vision_config": {"image_size": 384, "patch_size": 14}}
    assert SiglipConfig.from_hf(file).grid == 27


@pytest.mark.parametrize(
    ("part", "field", "value", "said"),
    [
        ("vision_config", "hidden_act", "gelu", "vision_config.hidden_act='gelu'"),
        ("text_config", "hidden_act", "quick_gelu", "text_config.hidden_act='quick_gelu'"),
        ("vision_config", "vision_use_head", False, "vision_config.vision_use_head=False"),
        ("vision_config", "num_channels", 1, "vision_config.num_channels=1"),
        ("vision_config", "window", 3, "vision_config.window=3"),
        ("text_config", "causal", True, "text_config.causal=True"),
        ("text_config", "projection_size", 16, "text_config.projection_size=16 beside"),
        ("vision_config", "patch_size", 0, "patch_size is 0"),
        ("vision_config", "image_size", [30, 30], r"image_size is \[30, 30\]"),
        ("text_config", "num_attention_heads", 3, "text_width 16 is not a multiple of the 3"),
    ],
)
def test_what_is_not_computed_is_named_with_its_value(part, field, value, said):
    file = hf_config("siglip")
    file[part][field] = value
    with pytest.raises(ValueError, match=said):
        SiglipConfig.from_hf(file)


def test_other_models_and_fields_of_the_other_type():
    with pytest.raises(ValueError, match=r"model_type is 'clip', not one of siglip, siglip2"):
        SiglipConfig.from_hf({"model_type": "clip"})
    with pytest.raises(ValueError, match=r"vision_config\.num_patches=256"):
        SiglipConfig.from_hf({"model_type": "siglip", "vision_config": {"num_patches": 256}})
    with pytest.raises(ValueError, match="num_patches is 12, not a square"):
        SiglipConfig.from_hf({"model_type": "siglip2", "vision_config": {"num_patches": 12}})
    with pytest.raises(ValueError, match="tower='x'"):
        SiglipConfig.from_hf({"model_type": "siglip", "tower": "x"})
