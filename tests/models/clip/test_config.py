"""Sizes of CLIP: what a file leaves out, and what is refused."""

import pytest

from msjoe_jax.models.clip.config import CLIPConfig
from tests.support.torch_stubs import declare_torchvision_ops


def test_fields_left_out_are_the_references():
    declare_torchvision_ops()
    from transformers import CLIPConfig as ReferenceCLIP

    assert CLIPConfig.from_hf({"model_type": "clip"}) == CLIPConfig.published("vit-b-32")
    assert CLIPConfig.from_hf(ReferenceCLIP().to_dict()) == CLIPConfig.published("vit-b-32")
    bare = {"model_cfg": {"embed_dim": 512, "quick_gelu": True, "vision_cfg": {}, "text_cfg": {}}}
    assert CLIPConfig.from_open_clip(bare) == CLIPConfig.published("vit-b-16")
    old = CLIPConfig.published("vit-l-14").to_hf()
    old["text_config"]["eos_token_id"] = 2  # as OpenAI's own are published
    assert CLIPConfig.from_hf(old) == CLIPConfig.published("vit-l-14")


def test_what_open_clip_itself_fails_on_is_refused():
    bare = {"model_cfg": {"embed_dim": 512, "cast_dtype": "fp16", "vision_cfg": {}, "text_cfg": {}}}
    with pytest.raises(ValueError, match=r'model_cfg\.cast_dtype is "fp16"; only null'):
        CLIPConfig.from_open_clip(bare)


def test_a_wrong_number_is_all_that_is_named():
    config = CLIPConfig.tiny(50, 49).to_hf()
    config["text_config"]["num_attention_heads"] = 7.0
    with pytest.raises(ValueError) as error:
        CLIPConfig.from_hf(config)
    words = "text_config.num_attention_heads is 7.0, not a whole number from 1 on"
    assert str(error.value) == words
