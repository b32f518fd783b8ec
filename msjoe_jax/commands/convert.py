"""Converts published weights to a model folder: an MLLM of any family, or CLIP of either layout.

    msjoe convert --source=HF_DIR --out=DIR [--base=HF_DIR] [--ignore_extra]

`--source` may be an adapter as peft writes it (LoRA, DoRA), which is merged onto `--base`, the
model that was adapted. `--ignore_extra` leaves out tensors that are not of the model, and names
them. Reads safetensors tensor by tensor and writes each layer into its place of the stacked leaf,
so that neither the model nor a stacked leaf is ever in memory. Everything that does not fit is
named before anything is written. After a kill the same command goes on where it was.
"""

import dataclasses
import re
import shutil
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from etils import epath
from flax import nnx

from msjoe_jax.commands.cli import run_app
from msjoe_jax.commands.convert_tensors import OPEN_CLIP_CONFIG, fill, origin, plan
from msjoe_jax.errors import UserError
from msjoe_jax.families import FAMILIES, family_of
from msjoe_jax.models.clip.config import LEGACY_EOS, CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.clip.preprocess import PIXEL_MEAN, PIXEL_STD
from msjoe_jax.models.params import Params, abstract
from msjoe_jax.runtime.files import on_disk, read_json, write_whole
from msjoe_jax.runtime.resumable_folder import resumable_folder
from msjoe_jax.text.tokenizer import START_OF_TURN, Tokenizer
from msjoe_jax.weights.adapters import Adapter, Change, changes, read_adapter
from msjoe_jax.weights.clip import HUGGING_FACE, OPEN_CLIP
from msjoe_jax.weights.folder import CONFIG, copy_side_files, read_sizes, untied, write_json
from msjoe_jax.weights.foreign import ADAPTER, ADAPTER_CONFIG, check_source
from msjoe_jax.weights.safetensors import INDEX, SINGLE, Tensor, read_folder
from msjoe_jax.weights.tables import Table, listed, slots
from msjoe_jax.weights.tokenizer_files import (
    TOKENIZER,
    has_tokenizer,
    read_tokenizer,
    text_ends,
)

OPENAI_TAG = r"(^|[._-])openai$"  # of open_clip's pretrained tags, in a folder's name


class Source(NamedTuple):
    """What a folder of published weights holds.

    Attributes:
      name: mllm or clip.
      table: which tensor fills which parameter.
      params: the abstract parameters to be filled.
      vocab: rows of its embedding table.
      config: the config.json to be written; None: the source's own, byte by byte.
      preprocessor: its preprocessor's settings, where the source has them in another form.
    """

    name: str
    table: Table
    params: Params
    vocab: int
    config: dict[str, Any] | None = None
    preprocessor: dict[str, Any] | None = None


def understand(folder: epath.Path) -> Source:
    """Determines what a folder holds from its config files.

    Raises:
      UserError: no config, another architecture, or preprocessing that is not ours.
    """
    file, open_clip = folder / CONFIG, folder / OPEN_CLIP_CONFIG
    # Some folders have both, for both libraries; Hugging Face's file then has its own weights.
    if open_clip.is_file() and not any((folder / name).is_file() for name in (INDEX, SINGLE[0])):
        return _open_clip(open_clip)
    if not file.is_file():
        raise UserError(
            f"{folder}: no {CONFIG} and no {OPEN_CLIP_CONFIG}; name the folder of a published model"
        )
    config = read_json(file)
    kind, preprocessor = config.get("model_type"), folder / "preprocessor_config.json"
    if kind == "clip":
        _check_pixels(preprocessor, "", {"image_mean": PIXEL_MEAN, "image_std": PIXEL_STD})
        clip = read_sizes(file, CLIPConfig.from_hf)
        return Source("clip", HUGGING_FACE, _clip_params(clip), clip.vocab)
    if not isinstance(kind, str) or kind not in FAMILIES:
        supported = f"{', '.join(FAMILIES)} and clip"
        raise UserError(f"{file}: model_type is {kind!r}; {supported} can be converted")
    family = family_of(config, file)
    images = family.images
    _check_pixels(preprocessor, "", {"image_mean": images.mean, "image_std": images.std})
    sizes = read_sizes(file, family.read_config)
    return Source("mllm", family.weight_table(sizes), family.abstract_params(sizes), sizes.vocab)


def _clip_params(sizes: CLIPConfig) -> Params:
    return abstract(lambda: CLIP(sizes, rngs=nnx.Rngs(0)))[1]


def _open_clip(file: epath.Path) -> Source:
    sizes = read_sizes(file, CLIPConfig.from_open_clip)
    if not sizes.quick_gelu and re.search(OPENAI_TAG, file.parent.resolve().name):
        # The config names the architecture only: that these are OpenAI's weights, which were
        # trained with quick-GELU, follows from the tag alone.
        print(f"{file.parent}: OpenAI's weights, converted with quick-GELU", file=sys.stderr)
        sizes = dataclasses.replace(sizes, quick_gelu=True)
    _check_pixels(file, "preprocess_cfg", {"mean": PIXEL_MEAN, "std": PIXEL_STD})
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": sizes.image_size},
        "crop_size": {"height": sizes.image_size, "width": sizes.image_size},
        "resample": 3,  # PIL's bicubic
        "image_mean": PIXEL_MEAN,
        "image_std": PIXEL_STD,
    }
    return Source("clip", OPEN_CLIP, _clip_params(sizes), sizes.vocab, sizes.to_hf(), preprocessor)


def _check_pixels(
    file: epath.Path, part: str, computed: Mapping[str, tuple[float, float, float]]
) -> None:
    """Checks that a preprocessor's settings, if they exist, ask for the statistics used here.

    Args:
      file: the settings.
      part: the field that holds them; empty: the top level.
      computed: the statistics used here, by field.

    Raises:
      UserError: the file states others.
    """
    if not file.is_file():
        return
    content = read_json(file)
    content = content.get(part) or {} if part else content
    for key, ours in computed.items():
        theirs = content.get(key, ours)
        numbers = isinstance(theirs, list | tuple) and [type(x) for x in theirs] == [float] * 3
        if not numbers or not np.allclose(theirs, ours, atol=1e-6):
            raise UserError(f"{file}: {key} is {theirs}; only {list(ours)} is computed here")


def convert(
    source: epath.Path,
    out: epath.Path,
    base: epath.Path | None = None,
    ignore_extra: bool = False,
) -> None:
    """Writes `out`, which appears whole or not at all.

    Peak memory: the largest tensor and a few blocks of CHUNK_BYTES beside what the process needs.

    Args:
      source: the folder of a published model, or of an adapter.
      out: the folder to write.
      base: the published model that an adapter is merged onto.
      ignore_extra: whether tensors that are not of the model are left out, and named.

    Raises:
      UserError: the source is no model, is damaged or does not fit (all misfits at once), its
        tokenizer has ids beyond its table, `out` exists or is being made from another source, or
        there is no room for it.
    """
    source = on_disk(source, "a published model")
    check_source(source)
    adapter = read_adapter(source)
    folder = _whole_model(source, adapter, base, ignore_extra)
    model = understand(folder)
    text = source if adapter is not None and has_tokenizer(source) else folder
    # Without one the checkpoint could neither read nor write.
    tokenizer, built = read_tokenizer(text)
    tokenizer.check_fits(model.vocab)
    model = _with_text_ends(model, tokenizer, folder)
    model, tensors, made = _with_changes(model, folder, adapter)
    work, types, lines = plan(model.table, model.params, tensors, made, ignore_extra)
    for line in lines:
        _say(f"{folder}: {line}")
    total = sum(part.tensor.stop - part.tensor.start for part in work)
    stated = origin(folder, tensors)
    if adapter is not None:
        stated |= origin(source, adapter.tensors)
    with resumable_folder(out, stated, total) as output:
        fill(output, model.name, work, types, model.params)
        side = output.folder / model.name
        side.mkdir(exist_ok=True)
        copy_side_files(folder, side)
        if text != folder:
            copy_side_files(text, side)
        if built is not None:
            write_whole(side / TOKENIZER, built)
        if model.preprocessor:
            write_json(side / "preprocessor_config.json", model.preprocessor)
        if model.config is None:
            shutil.copyfile(folder / CONFIG, side / CONFIG)
        else:
            write_json(side / CONFIG, model.config)


def _whole_model(
    source: epath.Path, adapter: Adapter | None, base: epath.Path | None, ignore_extra: bool
) -> epath.Path:
    """Returns the folder of the whole model: the source, or the base of an adapter."""
    if adapter is None:
        if base is not None:
            raise UserError(f"--base={base} is for an adapter, and {source} is a whole model")
        return source
    if base is None:
        raise UserError(
            f"{source}: an adapter of {adapter.base}; name that model's folder, onto which it is "
            "merged: --base=DIR"
        )
    base = on_disk(base, "a published model")
    check_source(base)
    if base == source:
        return base
    if (base / ADAPTER_CONFIG).is_file():
        raise UserError(f"{base}: an adapter too; merge it first, or name a whole model as --base")
    others = sorted(file.name for file in source.glob("*.safetensors") if file.name != ADAPTER)
    if others and not ignore_extra:
        raise UserError(
            f"{source}: has {listed(others)} beside {ADAPTER}; --ignore_extra leaves those out"
        )
    for name in others:
        _say(f"{source}: left out: {name}")
    _say(f"{source}: an adapter of {adapter.base}, merged onto {base}")
    return base


def _with_text_ends(model: Source, tokenizer: Tokenizer, folder: epath.Path) -> Source:
    """Checks what begins and ends a text for CLIP; returns it with its true end in the config.

    The reference pools at the end that the config states, or, by an older rule, at the largest id.

    Raises:
      UserError: nothing says what begins a text, or the reference would not pool at its end.
    """
    config = model.config or read_json(folder / CONFIG)
    if config.get("model_type") != "clip":
        return model
    ends, stated = text_ends(tokenizer), CLIPConfig.from_hf(config).eot_token_id
    open_clip = model.table is OPEN_CLIP
    file = folder / (OPEN_CLIP_CONFIG if open_clip else CONFIG)
    if ends is None:
        if START_OF_TURN in tokenizer:  # the tiny world's vocabulary
            return model
        raise UserError(
            f"{tokenizer.file}: nothing says what begins and ends a text: no post_processor there, "
            "no bos_token and eos_token in tokenizer_config.json; add those two"
        )
    text = config.get("text_config") or config.get("text_config_dict") or {}
    oldest = open_clip or text.get("eos_token_id") == LEGACY_EOS
    if oldest and ends[1] != tokenizer.largest_id:
        raise UserError(
            f"{file}: pools a text at its largest id, and {tokenizer.file} ends one with "
            f"{ends[1]}, which is not: state text_config.eos_token_id, or use its own tokenizer"
        )
    if not oldest and ends[1] != stated:
        raise UserError(
            f"{file}: text_config.eos_token_id is {stated}, and {tokenizer.file} ends a text with "
            f"{ends[1]}; use the tokenizer that these weights came with"
        )
    if stated == ends[1]:
        return model
    return model._replace(config={**config, "text_config": {**text, "eos_token_id": ends[1]}})


def _with_changes(
    model: Source, folder: epath.Path, adapter: Adapter | None
) -> tuple[Source, dict[str, Tensor], dict[str, list[Change]]]:
    """Returns the model with a head of its own if it has one, its tensors, and what changes them.

    A config may tie a head whose values in the files are others; the reference then leaves it
    untied.
    """
    tensors = read_folder(folder)
    if (folder / INDEX).is_file() and (folder / SINGLE[0]).is_file():
        _say(f"{folder}: {SINGLE[0]} is read, as transformers does, and {INDEX} is not")
    targets = slots(model.table, model.params)
    places = {place: name for name, place in model.table.locate_whole(tensors, targets).items()}
    for copy, original in model.table.copies.items():
        pair = [tensors[places[name]] for name in (copy, original) if name in places]
        if len(pair) == 2 and not pair[0].equals(pair[1]):
            _say(f"{folder}: {copy} differs from {original}: kept, tie_word_embeddings is false")
            model = _untied(model, folder)
            break
    if adapter is None:
        return model, tensors, {}
    made, parted = changes(adapter, model.table, targets)
    if parted:
        for copy, original in model.table.copies.items():
            if copy not in places and original in places:
                tensors[copy] = tensors[places[original]]
        model = _untied(model, folder)
    return model, tensors, made


def _untied(model: Source, folder: epath.Path) -> Source:
    """Returns the model with a head of its own."""
    file = folder / CONFIG
    config = untied(model.config or read_json(file))
    family = family_of(config, file)
    sizes = family.read_config(config)
    return model._replace(
        table=family.weight_table(sizes), params=family.abstract_params(sizes), config=config
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr)


# --- the command ----------------------------------------------------------------------------------


def run(source: str, out: str, base: str = "", ignore_extra: bool = False) -> None:
    """Checks the flags and converts.

    Raises:
      UserError: as `convert`, or a flag is missing.
    """
    for name, value in (("source", source), ("out", out)):
        if not value.strip():
            raise UserError(f"--{name} is missing or empty")
    convert(epath.Path(source), epath.Path(out), epath.Path(base) if base else None, ignore_extra)
    print(f"{out}: converted from {source}")


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    source = flags.DEFINE_string("source", "", "Folder of a published model (safetensors).")
    out = flags.DEFINE_string("out", "", "Folder to write.")
    base = flags.DEFINE_string("base", "", "Folder of the model that an adapter is merged onto.")
    extra = flags.DEFINE_bool("ignore_extra", False, "Leave out tensors that are not the model's.")

    def start() -> None:
        run(source.value, out.value, base.value, extra.value)

    run_app(start)
