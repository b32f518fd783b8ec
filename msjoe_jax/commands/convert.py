"""Converts published weights to a model folder: an MLLM of any family, CLIP, or SigLIP.

    msjoe convert --source=HF_DIR --out=DIR

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
import numpy as np
from absl import flags
from etils import epath
from flax import nnx

from msjoe_jax.commands.cli import run_app
from msjoe_jax.errors import UserError
from msjoe_jax.families import FAMILIES, family_of
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.clip.preprocess import PIXEL_MEAN, PIXEL_STD
from msjoe_jax.models.params import Params, abstract
from msjoe_jax.models.siglip.config import POSITIONS
from msjoe_jax.runtime.files import on_disk, read_json, write_whole
from msjoe_jax.runtime.param_store import ParamWriter
from msjoe_jax.runtime.progress import progress
from msjoe_jax.runtime.resumable_folder import ResumableFolder, resumable_folder
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.clip import HUGGING_FACE, OPEN_CLIP
from msjoe_jax.weights.folder import CONFIG, copy_side_files, read_sizes, write_json
from msjoe_jax.weights.safetensors import INDEX, SINGLE, Tensor, read_folder
from msjoe_jax.weights.siglip import read_published
from msjoe_jax.weights.tables import Slot, Table, flatten, match, slots

CONFIGS = CONFIG, OPEN_CLIP_CONFIG = CONFIG, "open_clip_config.json"
OPENAI_TAG = r"(^|[._-])openai$"  # of open_clip's pretrained tags, in a folder's name
SAMPLED = 1 << 20  # bytes hashed of every file: with size and time they identify a source


class Source(NamedTuple):
    """What a folder of published weights holds.

    Attributes:
      name: mllm, clip or siglip.
      table: which tensor fills which parameter.
      params: the abstract parameters to be filled.
      vocab: rows of its embedding table.
      config: the config.json to be written; None: the source's own, byte by byte.
      preprocessor: its preprocessor's settings, where the source has them in another form.
      tokenizer: the tokenizer.json to be written; None: the source's own.
    """

    name: str
    table: Table
    params: Params
    vocab: int
    config: dict[str, Any] | None = None
    preprocessor: dict[str, Any] | None = None
    tokenizer: str | None = None


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
    if kind in POSITIONS:
        made = read_published(folder)
        tokenizer, vocab = made.tokenizer, made.sizes.vocab
        return Source("siglip", made.table, made.params, vocab, tokenizer=tokenizer)
    if not isinstance(kind, str) or kind not in FAMILIES:
        supported = ", ".join([*FAMILIES, "clip", *POSITIONS])
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


def convert(source: epath.Path, out: epath.Path) -> None:
    """Writes `out`, which appears whole or not at all.

    Peak memory: the largest tensor and a few blocks of CHUNK_BYTES beside what the process needs.

    Raises:
      UserError: the source is no model, is damaged or does not fit (all misfits at once), its
        tokenizer has ids beyond its table, `out` exists or is being made from another source, or
        there is no room for it.
    """
    model = understand(on_disk(source, "a published model"))
    # Without one the checkpoint could neither read nor write.
    if model.tokenizer is None:
        Tokenizer(source).check_fits(model.vocab)
    tensors = read_folder(source)
    targets = slots(model.table, model.params)
    available = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    names = match(available, model.table, targets)
    work = [(tensors[names[published]], slot) for published, slot in targets.items()]
    work.sort(key=lambda item: (item[0].file, item[0].start))
    total = sum(tensor.stop - tensor.start for tensor, _ in work)
    with resumable_folder(out, _origin(source, tensors), total) as output:
        _fill(output, model.name, work, model.params)
        side = output.folder / model.name
        side.mkdir(exist_ok=True)
        copy_side_files(source, side)
        if model.tokenizer is not None:
            write_whole(side / "tokenizer.json", model.tokenizer)
        if model.preprocessor:
            write_json(side / "preprocessor_config.json", model.preprocessor)
        if model.config is None:
            shutil.copyfile(source / CONFIG, side / CONFIG)
        else:
            write_json(side / CONFIG, model.config)


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


def run(source: str, out: str) -> None:
    """Checks the flags and converts.

    Raises:
      UserError: as `convert`, or a flag is missing.
    """
    for name, value in (("source", source), ("out", out)):
        if not value.strip():
            raise UserError(f"--{name} is missing or empty")
    convert(epath.Path(source), epath.Path(out))
    print(f"{out}: converted from {source}")


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    source = flags.DEFINE_string("source", "", "Folder of a published model (safetensors).")
    out = flags.DEFINE_string("out", "", "Folder to write.")

    def start() -> None:
        run(source.value, out.value)

    run_app(start)
