"""Converts published weights to a model folder: an MLLM of any family, CLIP, SigLIP, TSPO's agent.

    msjoe convert --source=HF_DIR --out=DIR [--base=HF_DIR] [--ignore_extra] [--quick_gelu=yes]

`--source` may be an adapter as peft writes it (LoRA, DoRA), which is merged onto `--base`, the
model that was adapted. `--ignore_extra` leaves out tensors and fields that are not known, and
names them. Reads safetensors tensor by tensor and writes each layer into its place of the stacked
leaf, so that neither the model nor a stacked leaf is ever in memory. Everything that does not fit
is named before anything is written. After a kill the same command goes on where it was.
"""

import shutil
import sys
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from etils import epath

from msjoe_jax.commands.cli import run_app
from msjoe_jax.commands.convert_source import Source, settled, stated_sizes, understand
from msjoe_jax.commands.convert_tensors import OPEN_CLIP_CONFIG, Part, fill, origin, plan
from msjoe_jax.commands.convert_tspo import convert_tspo, is_tspo
from msjoe_jax.errors import UserError
from msjoe_jax.models.clip.config import LEGACY_EOS
from msjoe_jax.runtime.files import on_disk, write_whole
from msjoe_jax.runtime.resumable_folder import resumable_folder
from msjoe_jax.text.tokenizer import START_OF_TURN, Tokenizer
from msjoe_jax.weights.adapters import Adapter, Change, changes, read_adapter
from msjoe_jax.weights.clip import OPEN_CLIP
from msjoe_jax.weights.folder import CONFIG, copy_side_files, untied, write_json
from msjoe_jax.weights.foreign import ADAPTER, ADAPTER_CONFIG, check_source
from msjoe_jax.weights.safetensors import INDEX, SINGLE, Tensor, read_folder
from msjoe_jax.weights.settings_files import SettingsFiles
from msjoe_jax.weights.tables import WeightsError, listed, slots
from msjoe_jax.weights.tokenizer_class import check_class
from msjoe_jax.weights.tokenizer_files import (
    TOKENIZER,
    has_tokenizer,
    read_tokenizer,
    text_ends,
)


class Prepared(NamedTuple):
    """All of a conversion but the values of its tensors.

    Attributes:
      model: what the folder holds.
      work, types: what is written, see convert_tensors.py.
      folder: of the whole model.
      text: of its tokenizer: that, or an adapter's.
      built: the tokenizer.json that a folder lacks.
      origin: what distinguishes the sources from others.
    """

    model: Source
    work: list[Part]
    types: dict[str, np.dtype]
    folder: epath.Path
    text: epath.Path
    built: str | None
    origin: dict[str, Any]


def prepare(
    source: epath.Path,
    base: epath.Path | None = None,
    ignore_extra: bool = False,
    quick_gelu: str = "",
) -> Prepared:
    """Reads all of a published model but the values of its tensors; arguments as `convert`.

    Raises:
      UserError: as `convert`.
    """
    source = on_disk(source, "a published model")
    check_source(source)
    adapter = read_adapter(source)
    folder = _whole_model(source, adapter, base, ignore_extra)
    text = source if adapter is not None and has_tokenizer(source) else folder
    files = SettingsFiles(folder, ignore_extra, over=text)
    model = understand(files, quick_gelu)
    built = model.tokenizer
    if built is None:  # without one the checkpoint could neither read nor write
        check_class(files, clip=model.family is None)
        tokenizer, built = read_tokenizer(text)
        tokenizer.check_fits(model.sizes.vocab)
        model = _with_text_ends(settled(model, files, tokenizer), tokenizer, files)
    model, tensors, made = _with_changes(model, files, adapter)
    try:
        work, types, lines = plan(model.table, model.params, tensors, made, ignore_extra)
    except WeightsError as error:
        config = files.content(OPEN_CLIP_CONFIG if model.table is OPEN_CLIP else CONFIG) or {}
        raise UserError(f"{folder}: {error}; by its config: {stated_sizes(config)}") from None
    for line in lines:
        _say(f"{folder}: {line}")
    stated = origin(folder, tensors) | {"written": dict(model.written)}
    if adapter is not None:
        stated |= origin(source, adapter.tensors)
    return Prepared(model, work, types, folder, text, built, stated)


def convert(
    source: epath.Path,
    out: epath.Path,
    base: epath.Path | None = None,
    ignore_extra: bool = False,
    quick_gelu: str = "",
) -> None:
    """Writes `out`, which appears whole or not at all.

    Peak memory: the largest tensor and a few blocks of CHUNK_BYTES beside what the process needs.

    Args:
      source: the folder of a published model, of an adapter, or of TSPO's agent.
      out: the folder to write.
      base: the published model that an adapter is merged onto.
      ignore_extra: whether tensors and fields that are not known are left out, and named.
      quick_gelu: yes or no, of an open_clip folder whose config does not say; empty: not stated.

    Raises:
      UserError: the source is no model, is damaged or does not fit (all misfits at once), its
        tokenizer has ids beyond its table, `out` exists or is being made from another source, or
        there is no room for it.
    """
    if is_tspo(source):
        for flag, value in (("base", base), ("quick_gelu", quick_gelu)):
            if value:
                raise UserError(f"--{flag}={value}: {source} is TSPO's agent; leave the flag out")
        convert_tspo(on_disk(source, "TSPO's agent"), out, ignore_extra)
        return
    made = prepare(source, base, ignore_extra, quick_gelu)
    model, folder = made.model, made.folder
    total = sum(part.tensor.stop - part.tensor.start for part in made.work)
    with resumable_folder(out, made.origin, total) as output:
        fill(output, model.name, made.work, made.types, model.params)
        side = output.folder / model.name
        side.mkdir(exist_ok=True)
        copy_side_files(folder, side)
        if made.text != folder:
            copy_side_files(made.text, side)
        if made.built is not None:
            write_whole(side / TOKENIZER, made.built)
        if CONFIG not in model.written:
            shutil.copyfile(folder / CONFIG, side / CONFIG)
        for name, content in model.written.items():
            write_json(side / name, content)


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


def _with_text_ends(model: Source, tokenizer: Tokenizer, files: SettingsFiles) -> Source:
    """Checks what begins and ends a text for CLIP; returns it with its true end in the config.

    The reference pools at the end that the config states, or, by an older rule, at the largest id.

    Raises:
      UserError: nothing says what begins a text, or the reference would not pool at its end.
    """
    if model.family is not None:
        return model
    config = model.written.get(CONFIG) or files.content(CONFIG) or {}
    ends, stated = text_ends(tokenizer), model.sizes.eot_token_id
    open_clip = model.table is OPEN_CLIP
    file = files.folder / (OPEN_CLIP_CONFIG if open_clip else CONFIG)
    if ends is None:
        if START_OF_TURN in tokenizer:  # the tiny world's vocabulary
            return model
        raise UserError(
            f"{tokenizer.file}: nothing says what begins and ends a text: no post_processor there, "
            "no bos_token and eos_token in tokenizer_config.json; add those two"
        )
    part = "text_config" if config.get("text_config_dict") is None else "text_config_dict"
    text = config.get(part) or {}
    oldest = open_clip or text.get("eos_token_id") == LEGACY_EOS
    if oldest and ends[1] != tokenizer.largest_id:
        raise UserError(
            f"{file}: pools a text at its largest id, and {tokenizer.file} ends one with "
            f"{ends[1]}, which is not: state text_config.eos_token_id, or use its own tokenizer"
        )
    if not oldest and ends[1] != stated:
        raise UserError(
            f"{file}: {part}.eos_token_id is {stated}, and {tokenizer.file} ends a text with "
            f"{ends[1]}; use the tokenizer that these weights came with"
        )
    if stated == ends[1]:
        return model
    content = {**config, part: {**text, "eos_token_id": ends[1]}}
    return model._replace(written={**model.written, CONFIG: content})


def _with_changes(
    model: Source, files: SettingsFiles, adapter: Adapter | None
) -> tuple[Source, dict[str, Tensor], dict[str, list[Change]]]:
    """Returns the model with a head of its own if it has one, its tensors, and what changes them.

    A config may tie a head whose values in the files are others; the reference then leaves it
    untied.
    """
    folder = files.folder
    tensors = read_folder(folder)
    if (folder / INDEX).is_file() and (folder / SINGLE[0]).is_file():
        _say(f"{folder}: {SINGLE[0]} is read, as transformers does, and {INDEX} is not")
    targets = slots(model.table, model.params)
    places = {place: name for name, place in model.table.locate_whole(tensors, targets).items()}
    for copy, original in model.table.copies.items():
        pair = [tensors[places[name]] for name in (copy, original) if name in places]
        if len(pair) == 2 and not pair[0].equals(pair[1]):
            _say(f"{folder}: {copy} differs from {original}: kept, tie_word_embeddings is false")
            model = _untied(model, files)
            break
    if adapter is None:
        return model, tensors, {}
    made, parted, unused = changes(adapter, model.table, targets)
    if unused:
        count = f"{len(unused)} tensors that {ADAPTER_CONFIG} does not select"
        _say(f"{adapter.folder}: left out, as peft does: {count} ({listed(unused)})")
    if parted:
        for copy, original in model.table.copies.items():
            if copy not in places and original in places:
                tensors[copy] = tensors[places[original]]
        model = _untied(model, files)
    return model, tensors, made


def _untied(model: Source, files: SettingsFiles) -> Source:
    """Returns the model with a head of its own."""
    family = model.family
    assert family is not None
    config = untied(model.written.get(CONFIG) or files.content(CONFIG) or {})
    sizes = family.read_config(config)
    return model._replace(
        table=family.weight_table(sizes),
        params=family.abstract_params(sizes),
        sizes=sizes,
        written={**model.written, CONFIG: config},
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr)


# --- the command ----------------------------------------------------------------------------------


def run(
    source: str, out: str, base: str = "", ignore_extra: bool = False, quick_gelu: str = ""
) -> None:
    """Checks the flags and converts.

    Args:
      source, out, base: paths of folders.
      ignore_extra, quick_gelu: as for `convert`.

    Raises:
      UserError: as `convert`, or a flag is missing.
    """
    for name, value in (("source", source), ("out", out)):
        if not value.strip():
            raise UserError(f"--{name} is missing or empty")
    onto = epath.Path(base) if base else None
    convert(epath.Path(source), epath.Path(out), onto, ignore_extra, quick_gelu)
    print(f"{out}: converted from {source}")


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    source = flags.DEFINE_string("source", "", "Folder of a published model (safetensors).")
    out = flags.DEFINE_string("out", "", "Folder to write.")
    base = flags.DEFINE_string("base", "", "Folder of the model that an adapter is merged onto.")
    extra = flags.DEFINE_bool(
        "ignore_extra", False, "Leave out tensors and fields that are not known, and name them."
    )
    quick_gelu = flags.DEFINE_enum(
        "quick_gelu", "", ["", "yes", "no"], "Of an open_clip folder whose config does not say."
    )

    def start() -> None:
        run(source.value, out.value, base.value, extra.value, quick_gelu.value)

    run_app(start)
