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
from msjoe_jax.families import FAMILIES, family_of
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.clip.preprocess import Pixels
from msjoe_jax.models.params import Params, abstract
from msjoe_jax.rollout.model_files import read_clip_pixels, read_mllm_files
from msjoe_jax.runtime.files import on_disk, read_json
from msjoe_jax.runtime.param_store import ParamWriter
from msjoe_jax.runtime.progress import progress
from msjoe_jax.runtime.resumable_folder import ResumableFolder, resumable_folder
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.clip import HUGGING_FACE, OPEN_CLIP
from msjoe_jax.weights.folder import CONFIG, copy_side_files, write_json
from msjoe_jax.weights.safetensors import INDEX, SINGLE, Tensor, read_folder
from msjoe_jax.weights.settings_files import IMAGE_PROCESSOR, SettingsFiles
from msjoe_jax.weights.tables import Slot, Table, WeightsError, flatten, match, slots
from msjoe_jax.weights.tokenizer_files import check_tokenizer_files

CONFIGS = CONFIG, OPEN_CLIP_CONFIG = CONFIG, "open_clip_config.json"
OPENAI_TAG = r"(^|[._-])openai$"  # of open_clip's pretrained tags, in a folder's name
SAMPLED = 1 << 20  # bytes hashed of every file: with size and time they identify a source


class Source(NamedTuple):
    """What a folder of published weights holds.

    Attributes:
      name: mllm or clip.
      table: which tensor fills which parameter.
      params: the abstract parameters to be filled.
      vocab: rows of its embedding table.
      sizes: what the shapes of its parameters follow from, for messages.
      written: settings files that are written in place of the source's own, by name.
    """

    name: str
    table: Table
    params: Params
    vocab: int
    sizes: str
    written: dict[str, dict[str, Any]]


def understand(
    folder: epath.Path, tokenizer: Tokenizer, ignore_extra: bool = False, quick_gelu: str = ""
) -> Source:
    """Determines what a folder holds from its settings files.

    Args:
      folder: the source.
      tokenizer: its own.
      ignore_extra: whether fields that are not known here are passed over.
      quick_gelu: yes or no, of weights whose config does not say; empty: not stated.

    Raises:
      UserError: no config, another architecture, or a file that asks for what is not computed.
    """
    files = SettingsFiles(folder, ignore_extra)
    file, open_clip = folder / CONFIG, folder / OPEN_CLIP_CONFIG
    # Some folders have both, for both libraries; Hugging Face's file then has its own weights.
    if open_clip.is_file() and not any((folder / name).is_file() for name in (INDEX, SINGLE[0])):
        return _open_clip(files, tokenizer, quick_gelu)
    if quick_gelu:
        raise UserError(f"--quick_gelu={quick_gelu}: {file} says it; leave the flag out")
    config = read_json(file)
    kind = config.get("model_type")
    if kind == "clip":
        clip = files.parsed(CONFIG, CLIPConfig.from_hf)
        check_tokenizer_files(files, tokenizer, adds_tokens=True)
        read_clip_pixels(files, clip)
        return Source(
            "clip", HUGGING_FACE, _clip_params(clip), clip.vocab, _stated(config), files.changed
        )
    if not isinstance(kind, str) or kind not in FAMILIES:
        supported = f"{', '.join(FAMILIES)} and clip"
        raise UserError(f"{file}: model_type is {kind!r}; {supported} can be converted")
    family = family_of(config, file)
    sizes = files.parsed(CONFIG, family.read_config)
    read_mllm_files(files, family, sizes, tokenizer)
    params = family.abstract_params(sizes)
    return Source(
        "mllm", family.weight_table(sizes), params, sizes.vocab, _stated(config), files.changed
    )


def _check_source(folder: epath.Path) -> None:
    if not any((folder / name).is_file() for name in CONFIGS):
        raise UserError(
            f"{folder}: no {CONFIG} and no {OPEN_CLIP_CONFIG}; name the folder of a published model"
        )


def _stated(content: Mapping[str, Any]) -> str:
    """Lists the whole numbers of a config, by which shapes can be explained."""
    found: dict[str, int] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": number for name, number in _numbers(value)}
    found |= dict(_numbers(content))
    return ", ".join(f"{name} {number}" for name, number in found.items())


def _numbers(content: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(k, v) for k, v in content.items() if type(v) is int and not k.endswith("_id")]


def _clip_params(sizes: CLIPConfig) -> Params:
    return abstract(lambda: CLIP(sizes, rngs=nnx.Rngs(0)))[1]


def _open_clip(files: SettingsFiles, tokenizer: Tokenizer, quick_gelu: str) -> Source:
    """Reads the settings of open_clip's form, and says them in Hugging Face's."""
    name = OPEN_CLIP_CONFIG
    sizes = files.parsed(name, CLIPConfig.from_open_clip)
    config = files.content(name)
    assert config is not None
    if "quick_gelu" in config["model_cfg"]:
        if quick_gelu:
            raise UserError(
                f"--quick_gelu={quick_gelu}: {files.folder / name} says it; leave it out"
            )
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
    check_tokenizer_files(files, tokenizer, adds_tokens=True)
    side = sizes.image_size
    keys = ("preprocess_cfg",) if config.get("preprocess_cfg") else ()
    pixels = (
        files.parsed(name, lambda stated: Pixels.from_open_clip(stated, side), *keys)
        if keys
        else Pixels(side)
    )
    written = {CONFIG: sizes.to_hf(), IMAGE_PROCESSOR[1]: pixels.to_hf()}
    written |= files.changed
    return Source("clip", OPEN_CLIP, _clip_params(sizes), sizes.vocab, _stated(config), written)


def convert(
    source: epath.Path, out: epath.Path, ignore_extra: bool = False, quick_gelu: str = ""
) -> None:
    """Writes `out`, which appears whole or not at all.

    Peak memory: the largest tensor and a few blocks of CHUNK_BYTES beside what the process needs.

    Args:
      source, out: the folders.
      ignore_extra, quick_gelu: as for `understand`.

    Raises:
      UserError: the source is no model, is damaged or does not fit (all misfits at once), its
        tokenizer has ids beyond its table, `out` exists or is being made from another source, or
        there is no room for it.
    """
    on_disk(source, "a published model")
    _check_source(source)
    tokenizer = Tokenizer(source)  # without one the checkpoint could neither read nor write
    model = understand(source, tokenizer, ignore_extra, quick_gelu)
    tokenizer.check_fits(model.vocab)
    tensors = read_folder(source)
    targets = slots(model.table, model.params)
    available = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    try:
        names = match(available, model.table, targets)
    except WeightsError as error:
        raise UserError(f"{source}: {error}; by its config: {model.sizes}") from None
    work = [(tensors[names[published]], slot) for published, slot in targets.items()]
    work.sort(key=lambda item: (item[0].file, item[0].start))
    total = sum(tensor.stop - tensor.start for tensor, _ in work)
    origin = _origin(source, tensors) | {"written": model.written}
    with resumable_folder(out, origin, total) as output:
        _fill(output, model.name, work, model.params)
        side = output.folder / model.name
        side.mkdir(exist_ok=True)
        copy_side_files(source, side)
        if CONFIG not in model.written:
            shutil.copyfile(source / CONFIG, side / CONFIG)
        for file, content in model.written.items():
            if file != OPEN_CLIP_CONFIG:
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


def _origin(source: epath.Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Collects what distinguishes this source from others, without reading all of it."""
    files = {tensor.file for tensor in tensors.values()}
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
