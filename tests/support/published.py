"""Folders such as are published, written by the libraries that publish them."""

import json
import pathlib
from typing import Any

import torch
from safetensors.torch import save_file

from msjoe_jax.models.qwen2_5_vl.config import SPECIAL_TOKENS
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.world.word_tokenizer import build_word_tokenizer
from tests.support.qwen_oracle import reference
from tests.support.torch_weights import randomise

SHARD = 30_000  # bytes: five files of a tiny model


def published(name: str) -> str:
    """A tensor's name in the files on the hub, from transformers 5's name for it."""
    name = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
    return name.removeprefix("text.") if name.startswith("text.") else name


def qwen_folder(
    folder: pathlib.Path,
    *,
    tie: bool = False,
    dtype: torch.dtype = torch.float32,
    sharded: bool = True,
    new_names: bool = False,
    flat: bool = False,
    clean: bool = False,
) -> Any:
    """A tiny Qwen2.5-VL; `flat`: its config without the inner `text_config`; `clean`: no NaNs."""
    module = reference(tie=tie, dtype=dtype)
    with torch.no_grad():  # signed zeros and NaNs are values like any other
        if not clean:
            module.model.visual.merger.ln_q.weight[:3] = torch.tensor([-0.0, float("nan"), 0.0])
            module.model.visual.blocks[0].norm1.weight[:] = -0.0
    tensors = {
        name if new_names else published(name): tensor.clone()
        for name, tensor in module.state_dict().items()
        if not (tie and name == "lm_head.weight")
    }
    build = build_word_tokenizer(folder.parent / "tokenizer.json", ["a red cup"])
    config = module.config.to_dict() | special_ids(build)
    config["torch_dtype"] = str(dtype).removeprefix("torch.")
    if flat:
        text = config.pop("text_config")
        rope = text.pop("rope_parameters")
        config = text | {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope} | config
    write_folder(folder, config, tensors, sharded)
    build.rename(folder / "tokenizer.json")
    (folder / "preprocessor_config.json").write_text(
        '{"min_pixels": 3136,\n "patch_size": 4, "transformers_version": "\\u00e9"}'
    )
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    return module


def special_ids(tokenizer: Any) -> dict[str, int]:
    """The ids of the frames' tokens in a tokenizer.json, by the fields of a config."""
    made = Tokenizer(tokenizer)
    return {field: made.token_id(spelling) for field, (spelling, _) in SPECIAL_TOKENS.items()}


def write_folder(
    folder: pathlib.Path,
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    sharded: bool = False,
    single: str = "model.safetensors",
) -> None:
    """config.json and safetensors, in one file or in several of at least SHARD bytes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if not sharded:
        save_file(tensors, folder / single, {"format": "pt"})
        return
    files: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in tensors.items():
        files[-1][name] = tensor
        if sum(x.nbytes for x in files[-1].values()) >= SHARD:
            files.append({})
    files = [file for file in files if file]
    places: dict[str, str] = {}
    for i, file in enumerate(files, start=1):
        name = f"model-{i:05}-of-{len(files):05}.safetensors"
        save_file(file, folder / name, {"format": "pt"})
        places |= dict.fromkeys(file, name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def clip_folder(
    folder: pathlib.Path, module: torch.nn.Module, config: dict[str, Any], open_clip: bool
) -> None:
    """A CLIP of either library with random weights; `config` as that library writes it."""
    randomise(module)
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    single = "open_clip_model.safetensors" if open_clip else "model.safetensors"
    write_folder(folder, config, tensors, single=single)
    if open_clip:
        (folder / "config.json").rename(folder / "open_clip_config.json")
    build_word_tokenizer(folder / "tokenizer.json", ["a red cup"])


def edit(file: pathlib.Path, **fields) -> None:
    """Changes fields of a JSON file; None takes one out."""
    content = json.loads(file.read_text())
    content.update(fields)
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def edit_text(folder: pathlib.Path, **fields) -> None:
    """Of config.json, the part that tells the decoder's sizes."""
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit(folder / "config.json", text_config={**text, **fields})
