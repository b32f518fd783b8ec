"""A model's own generation settings, held against transformers' GenerationConfig."""

import json

import pytest

from msjoe_jax.stated import UnknownFields
from msjoe_jax.weights.generation import Generation, read_generation
from tests.support.material import QWEN, needs_material
from tests.support.torch_stubs import declare_torchvision_ops


@needs_material
def test_the_published_file():
    """Its temperature of a millionth draws the likeliest token."""
    settings = json.loads((QWEN / "generation_config.json").read_text())
    assert read_generation(settings) == Generation((151645, 151643), 1.05)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eos_token_id": 7},
        {"do_sample": True},
        {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8},
        {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.3},
    ],
)
def test_what_transformers_writes_is_what_it_means(settings):
    declare_torchvision_ops()
    from transformers import GenerationConfig

    written = json.loads(GenerationConfig(**settings).to_json_string(use_diff=False))
    for content in (settings, written):
        made = read_generation(content)
        assert made.repetition_penalty == settings.get("repetition_penalty", 1.0)
        assert made.end_ids == ((7,) if "eos_token_id" in settings else ())
        if settings.get("do_sample"):
            assert made.temperature == settings.get("temperature", 1.0)
            assert (made.top_k, made.top_p) == (
                settings.get("top_k", 50),
                settings.get("top_p", 1.0),
            )
        else:
            assert made[2:] == (0.0, 0, 1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_beams": 4}, "num_beams is 4; only 1"),
        ({"max_time": 0.0001}, "max_time is 0.0001; only null"),
        ({"stop_strings": ["the"]}, "stop_strings"),
        ({"use_mtp": True}, "use_mtp is true"),
        ({"suppress_tokens": [3]}, r"suppress_tokens is \[3\]; only null"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size"),
        ({"eos_token_id": ["a"]}, "eos_token_id"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0, not a number above 0"),
        ({"do_sample": True, "temperature": -1}, "temperature is -1"),
        ({"do_sample": True, "top_p": 1.5}, "top_p is 1.5"),
        ({"guidance_scale": 3.0}, "guidance_scale"),
    ],
)
def test_what_is_not_computed_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        read_generation(settings)


def test_an_unknown_field_is_named():
    with pytest.raises(UnknownFields, match="entropy_goal is 2"):
        read_generation({"entropy_goal": 2})
