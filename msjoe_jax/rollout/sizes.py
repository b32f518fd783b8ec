"""The sizes of the models that a config names: by a name, or as their checkpoints state them."""

from typing import Any

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.families import Family, named_model, read_model
from msjoe_jax.models.checks import flat_fields
from msjoe_jax.models.clip.config import SIZES, CLIPConfig
from msjoe_jax.models.clip.preprocess import Pixels
from msjoe_jax.rollout.model_files import read_clip_pixels
from msjoe_jax.text.tokenizer import END_OF_TEXT, Tokenizer
from msjoe_jax.weights.folder import CONFIG, read_sizes
from msjoe_jax.weights.settings_files import SettingsFiles

UNUSED = {"mllm": "qwen2.5-vl-7b", "clip": "vit-l-14"}  # sizes of a model that a folder lacks


def folder_of(name: str, checkpoint: str, folder: epath.Path | None) -> epath.Path | None:
    """Returns the folder of a model's files: in the model folder, else in its checkpoint."""
    above = folder or (epath.Path(checkpoint) if checkpoint else None)
    return above / name if above else None


def mllm_sizes_of(
    size: str, checkpoint: str, tokenizer: Tokenizer | None, folder: epath.Path | None
) -> tuple[Family, Any]:
    """Returns the MLLM's family and sizes.

    Args:
      size: the name of a fresh model's; beside a checkpoint empty, or the same.
      checkpoint: a model folder, or empty.
      tokenizer: gives a `tiny` model its vocabulary.
      folder: a model folder that counts before both; a model that it lacks has the named size.

    Raises:
      UserError: neither is named, or both and they differ, or the checkpoint cannot be read.
    """
    own_folder = _stated_in("mllm", size, checkpoint, folder)
    if own_folder is None:
        return named_model(size or UNUSED["mllm"], tokenizer)
    family, sizes = read_model(own_folder / CONFIG)
    if size and folder is None:
        _check_same("mllm", size, checkpoint, named_model(size, tokenizer)[1], sizes)
    return family, sizes


def clip_sizes_of(
    size: str, checkpoint: str, tokenizer: Tokenizer | None, folder: epath.Path | None
) -> tuple[CLIPConfig, Pixels]:
    """Returns CLIP's sizes and how it takes frames; arguments and errors as `mllm_sizes_of`."""
    own_folder = _stated_in("clip", size, checkpoint, folder)
    if own_folder is None:
        sizes = _named_clip(size or UNUSED["clip"], tokenizer)
        return sizes, Pixels(sizes.image_size)
    sizes = read_sizes(own_folder / CONFIG, CLIPConfig.from_hf)
    if size and folder is None:
        _check_same("clip", size, checkpoint, _named_clip(size, tokenizer), sizes)
    return sizes, read_clip_pixels(SettingsFiles(own_folder), sizes)


def _stated_in(
    name: str, size: str, checkpoint: str, folder: epath.Path | None
) -> epath.Path | None:
    """Returns the folder that states a model's sizes, or None if only a size is named."""
    own_folder = folder_of(name, checkpoint, folder)
    if own_folder and (folder is None or own_folder.is_dir()):
        return own_folder
    if not size and folder is None:
        raise UserError(f"config.{name}.size is empty: name a size, or config.{name}.checkpoint")
    return None


def _check_same(name: str, size: str, checkpoint: str, named: Any, stated: Any) -> None:
    """Checks that a size that is named beside a checkpoint is the checkpoint's."""
    theirs = flat_fields(stated)
    for field, value in flat_fields(named).items():
        if size == "tiny" and field.endswith(("vocab", "_id")):
            continue  # of the vocabulary, which need not exist yet
        if field not in theirs or theirs[field] != value:
            raise UserError(
                f"config.{name}.size={size} is not the model of config.{name}.checkpoint="
                f"{checkpoint}: {field} is {value}, and the checkpoint has {theirs.get(field)}; "
                f'--config.{name}.size="" takes all sizes from the checkpoint'
            )


def _named_clip(size: str, tokenizer: Tokenizer | None) -> CLIPConfig:
    """Returns the sizes of one of OpenAI's CLIPs, or of the tiny world's CLIP."""
    if size in SIZES:
        return CLIPConfig.published(size)
    if size != "tiny":
        raise UserError(f"config.clip.size={size!r} is not one of {', '.join(['tiny', *SIZES])}")
    if tokenizer is None:
        raise UserError("config.clip.size=tiny needs a tokenizer: set config.clip.tokenizer")
    return CLIPConfig.tiny(tokenizer.size, tokenizer.token_id(END_OF_TEXT))
