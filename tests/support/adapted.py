"""Adapters written by peft, on the tiny models of the oracles."""

import pathlib
from typing import Any

import torch

from tests.support.published import qwen_folder
from tests.support.torch_stubs import declare_torchvision_ops


def base_folder(folder: pathlib.Path, **options: Any) -> pathlib.Path:
    """A published Qwen2.5-VL without the NaNs that other tests want."""
    qwen_folder(folder, sharded=False, clean=True, **options)
    return folder


def load(folder: pathlib.Path, dtype: str | torch.dtype = "auto") -> Any:
    declare_torchvision_ops()
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()


def adapted(base: pathlib.Path, seed: int = 1, scale: float = 0.2, **config: Any) -> Any:
    """The base with an adapter whose every tensor is random."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(load(base), LoraConfig(**config))
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert trained
    with torch.no_grad():
        for name, parameter in trained:
            noise = scale * torch.randn(parameter.shape)
            keep = parameter.float() if "magnitude" in name or "modules_to_save" in name else 0
            parameter.copy_(keep + noise.abs() if "magnitude" in name else keep + noise)
    return model


def write_adapter(model: Any, folder: pathlib.Path) -> pathlib.Path:
    model.save_pretrained(folder)
    return folder
