"""Every shipped config passes its check on its slice, and so do its variants."""

import pytest

from msjoe_jax.config_check import check
from msjoe_jax.config_files import load_config, shipped_configs

DEVICES = {
    "eval_v4": 4,
    "joint_h100x8": 8,
    "joint_k64": 16,
    "joint_v4": 16,
    "joint_v5e": 32,
    "joint_v5p": 8,
    "joint_v6e": 16,
    "joint_v7x": 8,
    "lora_v5e8": 8,
    "pretrain_sampler_v4": 8,
}


def test_every_full_size_config_is_listed():
    assert [name for name in shipped_configs() if name not in ("tiny", "own")] == sorted(DEVICES)


@pytest.mark.parametrize("name", DEVICES)
def test_a_config_passes_on_its_slice_in_both_sizes(name):
    for variant in ("", ":3b"):
        check(load_config(name + variant), DEVICES[name], files=False)
    assert load_config(name + ":3b").mllm.size == "qwen2.5-vl-3b"


@pytest.mark.parametrize("name", DEVICES)
def test_a_config_shrinks_to_one_device(name):
    whole, small = load_config(name), load_config(f"{name}:local")
    config = check(small, 1)
    assert config.mllm.size == config.clip.size == "tiny"
    assert config.phases == ("world", "warm_up", *whole.phases)
    assert config.mllm.lora_rank == whole.mllm.lora_rank
    assert config.rollout.waves == whole.rollout.waves


def test_another_variant_is_refused():
    with pytest.raises(Exception, match="no variant 'large'; there are: 3b, local"):
        load_config("joint_v4:large")
