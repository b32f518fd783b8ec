"""Models as one folder: parameters, sizes, tokenizers and the settings that came with them.

`main` writes one of all three models, `convert` of one; `ask`, `evaluate`, `export` and the
`checkpoint` fields of a config read them. Layout:

    params/  Orbax: mllm/…, clip/…, sampler/…; its meta holds the config's model part
    mllm/    config.json and tokenizer.json, both as Hugging Face has them, and what else of
             `SIDE_FILES` the source had
    clip/    likewise
"""

import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from msjoe_jax.config import base
from msjoe_jax.errors import UserError
from msjoe_jax.models.params import Params, abstract
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.rollout.system import System, describe, make_system, read_json, read_sizes
from msjoe_jax.runtime.checkpoint import load_meta, load_params, save_params
from msjoe_jax.text.tokenizer import Tokenizer

NAMES = ("mllm", "clip", "sampler")
HOW = ("rollout", "objective", "optimizer")  # parts of a config that concern its training
TEXT_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")
SIDE_FILES = (
    *TEXT_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
)


def copy_side_files(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies those of `SIDE_FILES` that `source` has, byte by byte."""
    for name in SIDE_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def write_json(file: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON object as Hugging Face does."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_bundle(
    folder: pathlib.Path,
    config: ConfigDict,
    system: System,
    params: dict[str, Params],
    trained: Sequence[str] = (),
) -> None:
    """Writes the folder, or leaves one that is whole as it is; half a one is replaced.

    What a model's checkpoint had beside its parameters goes with it. `trained`: the stages that
    the parameters have been through; the meta then holds their settings.
    """
    if folder.exists():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    meta = describe(config)
    if trained:
        meta["trained"] = {"stages": list(trained), **describe(config, (*trained, *HOW))}
    save_params(str(partial / "params"), {n: params[n] for n in NAMES}, meta)
    models: tuple[tuple[str, Any, Tokenizer | None], ...] = (
        ("mllm", system.qwen, system.tokenizer),
        ("clip", system.clip, system.clip_tokenizer),
    )
    for name, sizes, tokenizer in models:
        assert tokenizer is not None
        (partial / name).mkdir()
        content = sizes.to_hf()
        if config[name].checkpoint:
            source = pathlib.Path(config[name].checkpoint) / name
            copy_side_files(source, partial / name)
            if read_sizes(source / "config.json", type(sizes).from_hf) == sizes:
                content = read_json(source / "config.json")
        write_json(partial / name / "config.json", content)
        shutil.copyfile(tokenizer.file, partial / name / "tokenizer.json")
    partial.rename(folder)


def load_bundle(
    folder: pathlib.Path, names: Sequence[str] = NAMES
) -> tuple[ConfigDict, System, dict[str, Params]]:
    """Reads a model folder; the config has defaults in all that is not the model.

    `names`: the models whose parameters are wanted; those of the others are not read.

    Raises:
      UserError: the folder is missing, is none of ours, lacks one of `names`, or holds another
        architecture.
    """
    check_folder(folder, names)
    config = base()
    meta = load_meta(str(folder / "params"))
    meta.pop("trained", None)  # for its readers, not for its use
    with config.unlocked():
        for key, fields in meta.items():
            if key not in config:
                raise UserError(f"{folder}: made by another version (unknown part {key!r})")
            config[key].update(fields)
    system = make_system(config, folder=folder)
    path = str(folder / "params")
    return config, system, {n: load_params(path, system.abstract[n], prefix=n) for n in names}


def check_folder(folder: pathlib.Path, names: Sequence[str]) -> None:
    """UserError unless `folder` is a model folder that has the sizes of `names`."""
    if not (folder / "params").is_dir():
        raise UserError(f"{folder}: no checkpoint there (expected the folder params in it)")
    for name in names:
        if name != "sampler" and not (folder / name / "config.json").is_file():
            raise UserError(f"{folder}: holds no {name} ({name}/config.json is missing)")


class Mllm(NamedTuple):
    """An MLLM on its own, ready to run.

    `settings`: the JSON side files by stem, such as `preprocessor_config`.
    """

    config: QwenConfig
    definition: nnx.GraphDef
    params: Params
    tokenizer: Tokenizer
    settings: dict[str, dict[str, Any]]


def load_mllm(folder: pathlib.Path, dtype: str = "bfloat16") -> Mllm:
    """Reads the MLLM of a model folder, computing and stored in `dtype`, on the first device.

    Raises:
      UserError: the folder is missing, holds no MLLM, or a file of it cannot be read.
    """
    check_folder(folder, ["mllm"])
    config = read_sizes(folder / "mllm" / "config.json", QwenConfig.from_hf)
    kind = jnp.dtype(dtype)
    definition, shapes = abstract(
        lambda: QwenVL(config, rngs=nnx.Rngs(0), dtype=kind, param_dtype=kind)
    )
    params = load_params(str(folder / "params"), shapes, prefix="mllm")
    settings = {
        pathlib.PurePath(name).stem: read_json(folder / "mllm" / name)
        for name in SIDE_FILES
        if name.endswith(".json") and name not in TEXT_FILES and (folder / "mllm" / name).is_file()
    }
    return Mllm(config, definition, params, Tokenizer(folder / "mllm"), settings)
