"""Sizes of CLIP: what a file leaves out, and what is refused."""

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
