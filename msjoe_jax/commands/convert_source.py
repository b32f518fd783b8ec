"""What a folder of published weights holds, by its settings files."""

import dataclasses
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from flax import nnx

from msjoe_jax.commands.convert_tensors import OPEN_CLIP_CONFIG
from msjoe_jax.errors import UserError
from msjoe_jax.families import FAMILIES, Family, family_of
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.clip.preprocess import PROCESSOR as CLIP_PROCESSOR
from msjoe_jax.models.clip.preprocess import Pixels
from msjoe_jax.models.params import Params, abstract
from msjoe_jax.models.siglip.config import POSITIONS
from msjoe_jax.rollout.model_files import read_clip_pixels, read_mllm_files
from msjoe_jax.stated import names
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.clip import HUGGING_FACE, OPEN_CLIP
from msjoe_jax.weights.folder import CONFIG
from msjoe_jax.weights.safetensors import INDEX, SINGLE
from msjoe_jax.weights.settings_files import IMAGE_PROCESSOR, SettingsFiles
from msjoe_jax.weights.siglip import read_published
from msjoe_jax.weights.tables import Table
from msjoe_jax.weights.tokenizer_settings import check_tokenizer_settings

SHAPES = names(  # fields by which tensors get their shapes
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
    "num_key_value_heads max_position_embeddings projection_dim projection_size depth num_heads "
    "out_hidden_size image_size num_patches patch_size spatial_merge_size temporal_patch_size "
    "embed_dim width layers heads context_length head_width mlp_ratio"
)
OPENAI_TAG = r"(^|[._-])openai$"  # of open_clip's pretrained tags, in a folder's name


class Source(NamedTuple):
    """What a folder of published weights holds.

    Attributes:
      name: mllm, clip or siglip.
      table: which tensor fills which parameter.
      params: the abstract parameters to be filled.
      sizes: an object of its family, or a CLIPConfig.
      family: of an MLLM.
      written: settings files that are written in place of the source's own, by name.
      tokenizer: the tokenizer.json of a SigLIP, which is made anew.
    """

    name: str
    table: Table
    params: Params
    sizes: Any
    family: Family | None = None
    written: Mapping[str, dict[str, Any]] = {}
    tokenizer: str | None = None


def understand(files: SettingsFiles, quick_gelu: str = "") -> Source:
    """Determines what a folder holds from its config files.

    Args:
      files: of the folder.
      quick_gelu: yes or no, of weights whose config does not say; empty: not stated.

    Raises:
      UserError: no config, another architecture, or one that asks for what is not computed.
    """
    folder = files.folder
    file, open_clip = folder / CONFIG, folder / OPEN_CLIP_CONFIG
    # Some folders have both, for both libraries; Hugging Face's file then has its own weights.
    if open_clip.is_file() and not any((folder / name).is_file() for name in (INDEX, SINGLE[0])):
        return _open_clip(files, quick_gelu)
    config = files.content(CONFIG)
    if config is None:
        raise UserError(
            f"{folder}: no {CONFIG} and no {OPEN_CLIP_CONFIG}; name the folder of a published model"
        )
    if quick_gelu:
        raise UserError(f"--quick_gelu={quick_gelu}: {file} says it; leave the flag out")
    kind = config.get("model_type")
    if kind == "clip":
        clip = files.parsed(CONFIG, CLIPConfig.from_hf)
        return Source("clip", HUGGING_FACE, _clip_params(clip), clip)
    if kind in POSITIONS:
        try:
            made = read_published(folder)
        except UserError as error:
            raise UserError(
                f"{error} (a SigLIP, as {file.name} states model_type {kind})"
            ) from None
        return Source("siglip", made.table, made.params, made.sizes, tokenizer=made.tokenizer)
    if not isinstance(kind, str) or kind not in FAMILIES:
        supported = ", ".join([*FAMILIES, "clip", *POSITIONS])
        raise UserError(f"{file}: model_type is {kind!r}; {supported} can be converted")
    family = family_of(config, file)
    sizes = files.parsed(CONFIG, family.read_config)
    params = family.abstract_params(sizes)
    return Source("mllm", family.weight_table(sizes), params, sizes, family)


def settled(model: Source, files: SettingsFiles, tokenizer: Tokenizer) -> Source:
    """Reads the settings files beside the config, and notes which are not copied as they are.

    Args:
      model: what the folder holds.
      files: of the folder.
      tokenizer: its own.

    Raises:
      UserError: a file asks for what is not computed here.
    """
    if model.family is not None:
        read_mllm_files(files, model.family, model.sizes, tokenizer)
    else:
        check_tokenizer_settings(files, tokenizer, adds_tokens=True, processor=CLIP_PROCESSOR)
        if IMAGE_PROCESSOR[1] not in model.written:
            read_clip_pixels(files, model.sizes)
    changed = {name: x for name, x in files.changed.items() if name != OPEN_CLIP_CONFIG}
    return model._replace(written={**changed, **model.written})


def _open_clip(files: SettingsFiles, quick_gelu: str) -> Source:
    """Reads the settings of open_clip's form, and says them in Hugging Face's."""
    name = OPEN_CLIP_CONFIG
    sizes = files.parsed(name, CLIPConfig.from_open_clip)
    config = files.content(name)
    assert config is not None
    if "quick_gelu" in config["model_cfg"]:
        if quick_gelu:
            file = files.folder / name
            raise UserError(f"--quick_gelu={quick_gelu}: {file} says it; leave the flag out")
    else:
        # The config names the architecture only, and which activation these weights were trained
        # with makes a difference that no shape shows.
        openai = re.search(OPENAI_TAG, files.folder.resolve().name)
        if openai and not quick_gelu:
            print(f"{files.folder}: OpenAI's weights, converted with quick-GELU", file=sys.stderr)
            quick_gelu = "yes"
        if not quick_gelu:
            raise UserError(
                f"{files.folder / name}: model_cfg.quick_gelu is missing, and decides what these "
                "weights compute: --quick_gelu=yes for OpenAI's own, DFN's and MetaCLIP's, "
                "--quick_gelu=no for LAION's, DataComp's and others (open_clip's default)"
            )
        sizes = dataclasses.replace(sizes, quick_gelu=quick_gelu == "yes")
    side, keys = sizes.image_size, ("preprocess_cfg",)
    pixels = Pixels(side)
    if config.get(keys[0]):
        pixels = files.parsed(name, lambda stated: Pixels.from_open_clip(stated, side), *keys)
    written = {CONFIG: sizes.to_hf(), IMAGE_PROCESSOR[1]: pixels.to_hf()}
    return Source("clip", OPEN_CLIP, _clip_params(sizes), sizes, written=written)


def _clip_params(sizes: CLIPConfig) -> Params:
    return abstract(lambda: CLIP(sizes, rngs=nnx.Rngs(0)))[1]


def stated_sizes(content: Mapping[str, Any]) -> str:
    """Lists the sizes that a config states, tower by tower, by which shapes can be explained."""
    own = [f"{name} {content[name]}" for name in SHAPES if type(content.get(name)) in (int, float)]
    towers = {
        name: stated_sizes(value)
        for name, value in content.items()
        if isinstance(value, Mapping) and not content.get(f"{name}_dict")
    }
    parts = [f"{name} ({sizes})" for name, sizes in towers.items() if sizes]
    return ", ".join([*own, *parts])
