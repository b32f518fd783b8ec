"""Converts published weights to a model folder: an MLLM of any family, or CLIP of either layout.

    msjoe convert --source=HF_DIR --out=DIR [--ignore_extra] [--quick_gelu=yes]

Reads safetensors tensor by tensor and writes each layer into its place of the stacked leaf, so
that neither the model nor a stacked leaf is ever in memory. Everything that does not fit is named
before anything is written. After a kill the same command goes on where it was.
"""

import dataclasses
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from absl import flags
from etils import epath
from flax import nnx

from msjoe_jax.commands.cli import run_app
from msjoe_jax.errors import UserError
from msjoe_jax.families import FAMILIES, Family, family_of
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.clip.preprocess import Pixels
from msjoe_jax.models.params import Params, abstract
from msjoe_jax.rollout.model_files import read_clip_pixels, read_mllm_files
from msjoe_jax.runtime.files import on_disk
from msjoe_jax.runtime.param_store import ParamWriter
from msjoe_jax.runtime.progress import progress
from msjoe_jax.runtime.resumable_folder import ResumableFolder, resumable_folder
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.clip import HUGGING_FACE, OPEN_CLIP
from msjoe_jax.weights.folder import CONFIG, copy_side_files, write_json
from msjoe_jax.weights.safetensors import INDEX, SINGLE, Tensor, read_folder
from msjoe_jax.weights.settings_files import IMAGE_PROCESSOR, SettingsFiles
from msjoe_jax.weights.tables import Slot, Table, WeightsError, flatten, match, slots
from msjoe_jax.weights.tokenizer_settings import check_tokenizer_settings

CONFIGS = CONFIG, OPEN_CLIP_CONFIG = CONFIG, "open_clip_config.json"
OPENAI_TAG = r"(^|[._-])openai$"  # of open_clip's pretrained tags, in a folder's name
SAMPLED = 1 << 20  # bytes hashed of every file: with size and time they identify a source


class Source(NamedTuple):
    """What a folder of published weights holds.

    Attributes:
      name: mllm or clip.
      table: which tensor fills which parameter.
      params: the abstract parameters to be filled.
      sizes: an object of its family, or a CLIPConfig.
      family: of an MLLM.
      written: settings files that are written in place of the source's own, by name.
    """

    name: str
    table: Table
    params: Params
    sizes: Any
    family: Family | None = None
    written: Mapping[str, dict[str, Any]] = {}


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
    if not isinstance(kind, str) or kind not in FAMILIES:
        supported = f"{', '.join(FAMILIES)} and clip"
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
        check_tokenizer_settings(files, tokenizer, adds_tokens=True)
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


def _stated(content: Mapping[str, Any]) -> str:
    """Lists the sizes that a config states, by which shapes can be explained."""
    parts = [
        _stated(value) if isinstance(value, Mapping) else f"{name} {value}"
        for name, value in content.items()
        if (isinstance(value, Mapping) and name not in ("id2label", "label2id"))
        or (type(value) in (int, float) and value and not name.endswith("_id"))
    ]
    return ", ".join(part for part in parts if part)


def read_source(
    folder: epath.Path, ignore_extra: bool = False, quick_gelu: str = ""
) -> tuple[Source, list[tuple[Tensor, Slot]]]:
    """Reads all of a published model but the values of its tensors.

    Args:
      folder: the model's.
      ignore_extra: whether fields that are not known here are passed over.
      quick_gelu: as for `understand`.

    Returns:
      What it holds, and where each tensor goes, in the order in which they lie in their files.

    Raises:
      UserError: as `convert`.
    """
    files = SettingsFiles(folder, ignore_extra)
    model = understand(files, quick_gelu)
    tokenizer = Tokenizer(folder)  # without one the checkpoint could neither read nor write
    tokenizer.check_fits(model.sizes.vocab)
    model = settled(model, files, tokenizer)
    tensors = read_folder(folder)
    targets = slots(model.table, model.params)
    available = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    try:
        names = match(available, model.table, targets)
    except WeightsError as error:
        config = files.content(OPEN_CLIP_CONFIG if model.table is OPEN_CLIP else CONFIG) or {}
        raise UserError(f"{folder}: {error}; by its config: {_stated(config)}") from None
    work = [(tensors[names[published]], slot) for published, slot in targets.items()]
    return model, sorted(work, key=lambda item: (item[0].file, item[0].start))


def convert(
    source: epath.Path, out: epath.Path, ignore_extra: bool = False, quick_gelu: str = ""
) -> None:
    """Writes `out`, which appears whole or not at all.

    Peak memory: the largest tensor and a few blocks of CHUNK_BYTES beside what the process needs.

    Args:
      source, out: the folders.
      ignore_extra, quick_gelu: as for `read_source`.

    Raises:
      UserError: the source is no model, is damaged or does not fit (all misfits at once), its
        tokenizer has ids beyond its table, `out` exists or is being made from another source, or
        there is no room for it.
    """
    model, work = read_source(on_disk(source, "a published model"), ignore_extra, quick_gelu)
    total = sum(tensor.stop - tensor.start for tensor, _ in work)
    origin = _origin(source, {tensor.file for tensor, _ in work})
    origin |= {"written": dict(model.written)}
    with resumable_folder(out, origin, total) as output:
        _fill(output, model.name, work, model.params)
        side = output.folder / model.name
        side.mkdir(exist_ok=True)
        copy_side_files(source, side)
        if CONFIG not in model.written:
            shutil.copyfile(source / CONFIG, side / CONFIG)
        for file, content in model.written.items():
            write_json(side / file, content)


def _fill(
    output: ResumableFolder, name: str, work: list[tuple[Tensor, Slot]], tree: Params
) -> None:
    """Writes the tensors, in their order, into the checkpoint `params` of a model's name."""
    shapes = flatten(tree)
    types = {path: tensor.dtype for tensor, slot in work for path in slot.row.paths}
    leaves = {
        f"{name}/{path}": jax.ShapeDtypeStruct(leaf.shape, types[path])
        for path, leaf in shapes.items()
    }
    stacked = {path for _, slot in work if slot.layer is not None for path in slot.row.paths}
    writer = ParamWriter(
        output.folder / "params", leaves, frozenset(f"{name}/{path}" for path in stacked), meta={}
    )
    total = sum(tensor.stop - tensor.start for tensor, _ in work)
    with progress("convert", total, unit="B") as bar:
        for tensor, slot in work:
            part = f"{tensor.file.name} {tensor.start}"
            if part not in output.finished:
                _move(tensor, slot, name, writer)
                output.note(part)
            bar.update(tensor.stop - tensor.start)


def _move(tensor: Tensor, slot: Slot, name: str, writer: ParamWriter) -> None:
    """Writes one tensor; as a function of its own it frees the tensor on return."""
    for path, values in slot.split(tensor.read()):
        writer.write(f"{name}/{path}", slot.layer, values)


def _origin(source: epath.Path, files: set[epath.Path]) -> dict[str, Any]:
    """Collects what distinguishes this source from others, without reading all of it."""
    origin = {}
    for file in sorted(files | {source / name for name in CONFIGS if (source / name).is_file()}):
        with file.open("rb") as stream:
            digest = hashlib.sha256(stream.read(SAMPLED)).hexdigest()
        status = os.stat(file)
        origin[file.name] = [status.st_size, status.st_mtime_ns, digest]
    return origin


def run(source: str, out: str, ignore_extra: bool = False, quick_gelu: str = "") -> None:
    """Checks the flags and converts.

    Raises:
      UserError: as `convert`, or a flag is missing.
    """
    for name, value in (("source", source), ("out", out)):
        if not value.strip():
            raise UserError(f"--{name} is missing or empty")
    convert(epath.Path(source), epath.Path(out), ignore_extra, quick_gelu)
    print(f"{out}: converted from {source}")


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    source = flags.DEFINE_string("source", "", "Folder of a published model (safetensors).")
    out = flags.DEFINE_string("out", "", "Folder to write.")
    ignore_extra = flags.DEFINE_bool(
        "ignore_extra", False, "Pass over fields that are not known here; each is printed."
    )
    quick_gelu = flags.DEFINE_enum(
        "quick_gelu", "", ["", "yes", "no"], "Of an open_clip folder whose config does not say."
    )

    def start() -> None:
        run(source.value, out.value, ignore_extra.value, quick_gelu.value)

    run_app(start)
