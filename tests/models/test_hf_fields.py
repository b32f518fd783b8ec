"""Fields of any Hugging Face config: those that transformers itself writes or drops are known."""

import pytest

from msjoe_jax.models.hf_fields import take_common, take_processor
from msjoe_jax.stated import Stated
from tests.support.torch_stubs import declare_torchvision_ops


def check(content, take=take_common):
    stated = Stated(content)
    take(stated)
    stated.end()


def test_what_transformers_writes_into_every_config_is_known():
    declare_torchvision_ops()
    from transformers import GenerationConfig, PreTrainedConfig

    content = PreTrainedConfig(id2label={0: "a"}, label2id={"a": 0}).to_dict()
    content.pop("model_type", None)
    check(content)
    check(GenerationConfig._get_default_generation_params())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"is_decoder": True}, "is_decoder is true; only false"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1; only 0"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config is stated, and"),
        ({"per_layer_config": {}}, "per_layer_config is {}, a field that is not known"),
    ],
)
def test_what_changes_a_model_is_refused(content, words):
    with pytest.raises(ValueError, match=words):
        check(content)


def test_processors():
    check(
        {"image_processor_type": "AFast", "device": "cuda"},
        lambda s: take_processor(s, "A", processor="B"),
    )
    for wrong, words in (
        ({"image_processor_type": "B"}, 'image_processor_type is "B"; only "A" or'),
        ({"do_resize": False}, "do_resize is false"),
        ({"data_format": "channels_last"}, "data_format"),
        ({"processor_class": "LlavaProcessor"}, 'processor_class is "LlavaProcessor"; only "B"'),
    ):
        with pytest.raises(ValueError, match=words):
            check(wrong, lambda s: take_processor(s, "A", processor="B"))
