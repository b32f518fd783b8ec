"""Exports a model folder in the formats that others read.

    msjoe export --checkpoint=DIR --out=HF_DIR [--dtype=bfloat16]
    msjoe export --checkpoint=DIR --out=DIR --format=peft [--base=ORG/NAME]
    msjoe export --checkpoint=DIR --out=DIR --format=orbax

`hf`: the MLLM as `transformers` loads it, published tensor names, in shards of at most 5 GB, CLIP
in `clip/` and the sampler in `sampler/` beside it, and a model card. What `convert` read comes out
byte by byte; settings that the model folder lacks (tokenizer class, chat template, end ids,
preprocessor) are written. `peft`: what a training with LoRA has learned, as an adapter of `--base`
(of the model that the run started from). `orbax`: a model folder for inference, the MLLM in the
type that its family is published in. Tensors pass one at a time, and after a kill the same command
goes on (`hf`: with the file that it was at).
"""

import dataclasses
import hashlib
import shlex
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from etils import epath
from flax import nnx

from msjoe_jax.commands.cli import run_app
from msjoe_jax.errors import UserError
from msjoe_jax.families import family_of, read_model
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.params import Params, abstract
from msjoe_jax.models.sampler import SamplerConfig
from msjoe_jax.models.siglip.config import SiglipConfig
from msjoe_jax.report.model_card import model_card
from msjoe_jax.rollout.model_folder import ADAPTER_FOLDER, check_folder
from msjoe_jax.rollout.siglip import SIGLIP
from msjoe_jax.rollout.system import NAMES
from msjoe_jax.rollout.text import end_ids
from msjoe_jax.runtime.checkpoint import load_meta
from msjoe_jax.runtime.checkpoint_layout import STACKED
from msjoe_jax.runtime.files import read_json, write_whole
from msjoe_jax.runtime.param_store import ParamReader, ParamWriter
from msjoe_jax.runtime.progress import Progress, progress
from msjoe_jax.runtime.resumable_folder import ResumableFolder, resumable_folder
from msjoe_jax.text.prompts import PromptConfig
from msjoe_jax.text.tokenizer import END_OF_TEXT, END_OF_TURN, Tokenizer
from msjoe_jax.weights.clip import HUGGING_FACE
from msjoe_jax.weights.folder import CONFIG, copy_side_files, read_sizes, write_json
from msjoe_jax.weights.foreign import ADAPTER, ADAPTER_CONFIG
from msjoe_jax.weights.published_files import write_clip_files, write_mllm_files
from msjoe_jax.weights.safetensors import DTYPES, INDEX, plan_files, write_file
from msjoe_jax.weights.siglip import siglip_params, siglip_table
from msjoe_jax.weights.tables import Table, flatten, slots
from msjoe_jax.weights.tokenizer_files import TOKENIZER, clip_ends

FORMATS = ("hf", "peft", "orbax")
DTYPE_NAMES = {dtype.name: dtype for dtype in DTYPES.values()}  # "bfloat16" …


class Stored(NamedTuple):
    """What a model folder holds, and the types in which it is written.

    Attributes:
      folder: the model folder.
      reader: of its parameters.
      leaves: shapes by path, with the types that are written.
      meta: of the parameters.
      bar: counts the bytes that have been written.
    """

    folder: epath.Path
    reader: ParamReader
    leaves: dict[str, jax.ShapeDtypeStruct]
    meta: dict[str, Any]
    bar: Progress

    def of(self, name: str) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns a model's leaves, by full path."""
        return {path: x for path, x in self.leaves.items() if path.startswith(f"{name}/")}


def export(checkpoint: epath.Path, out: epath.Path, output_format: str, dtype: str = "") -> None:
    """Writes `out`, which appears whole or not at all.

    Args:
      checkpoint: a model folder that holds an MLLM at least.
      out: a folder that does not exist yet.
      output_format: "hf" or "orbax".
      dtype: of the MLLM's tensors; "" = as stored for "hf", as published for "orbax". CLIP and the
        sampler stay as they are: cached frame embeddings belong to CLIP's exact values, and the
        sampler's ranking is worth its 8 MB.

    Raises:
      UserError: no model folder, one without an MLLM, a damaged one, or `out` cannot be written.
    """
    check_folder(checkpoint, ["mllm"])
    family, _ = read_model(checkpoint / "mllm" / CONFIG)
    reader = ParamReader(checkpoint / "params")
    meta = load_meta(str(checkpoint / "params"))
    target_dtype = dtype or (family.published_dtype if output_format == "orbax" else "")
    leaves = {
        path: jax.ShapeDtypeStruct(
            leaf.shape,
            DTYPE_NAMES[target_dtype] if target_dtype and path.startswith("mllm/") else leaf.dtype,
        )
        for path, leaf in reader.leaves.items()
    }
    # This file holds the time of writing, which identifies the checkpoint.
    stamp = (checkpoint / "params" / "_CHECKPOINT_METADATA").read_bytes()
    origin = {
        "checkpoint": hashlib.sha256(stamp).hexdigest(),
        "format": output_format,
        "dtype": dtype,
    }
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
    with (
        resumable_folder(out, origin, total) as output,
        progress("export", total, unit="B") as bar,
    ):
        stored = Stored(checkpoint, reader, leaves, meta, bar)
        if output_format == "orbax":
            _orbax(stored, output)
            return
        present = [name for name in (*NAMES, SIGLIP) if stored.of(name)]
        for name in present:
            if name != "sampler":
                folder = output.folder if name == "mllm" else output.folder / name
                _hugging_face(stored, name, folder)
        if "sampler" in present:
            _sampler(stored, output.folder / "sampler")
        card = model_card(
            out.name,
            meta=meta,
            present=present,
            title=family.title,
            architecture=family.architecture,
        )
        write_whole(output.folder / "README.md", card)


def export_adapter(checkpoint: epath.Path, out: epath.Path, base: str = "") -> None:
    """Writes the adapter of a model folder that was trained with LoRA, and its tokenizer.

    Args:
      checkpoint: the model folder.
      out: a folder that does not exist yet.
      base: names the model that was adapted, for those who load the adapter; empty: as the run did.

    Raises:
      UserError: no model folder, or one without an adapter, or `out` cannot be written.
    """
    check_folder(checkpoint, ["mllm"])
    adapter = checkpoint / ADAPTER_FOLDER
    if not (adapter / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{checkpoint}: holds no adapter: it was not trained with config.mllm.lora_rank, or by "
            "an older version; --format=hf exports the whole model"
        )
    config = read_json(adapter / ADAPTER_CONFIG)
    if base:
        config["base_model_name_or_path"] = base
    values = (adapter / ADAPTER).read_bytes()
    with resumable_folder(out, {"config": config}, len(values)) as output:
        write_whole(output.folder / ADAPTER, values)
        write_json(output.folder / ADAPTER_CONFIG, config)
        copy_side_files(checkpoint / "mllm", output.folder)
    print(f"{out}: an adapter of {config['base_model_name_or_path']} (--base= names another)")


def _orbax(stored: Stored, output: ResumableFolder) -> None:
    """Writes a model folder."""
    leaves = stored.leaves
    stacked = frozenset(path for path in leaves if STACKED.search(path))
    writer = ParamWriter(output.folder / "params", leaves, stacked, stored.meta)
    for path, leaf in leaves.items():
        for layer in range(leaf.shape[0]) if path in stacked else (None,):
            part = f"{path} {layer}"
            if part not in output.finished:
                writer.write(path, layer, stored.reader.read(path, layer))
                output.note(part)
            layers = 1 if layer is None else leaf.shape[0]
            stored.bar.update(leaf.size * leaf.dtype.itemsize // layers)
    for name in ("mllm", "clip", SIGLIP):
        if (stored.folder / name).is_dir():
            (output.folder / name).mkdir(exist_ok=True)
            for file in (stored.folder / name).iterdir():
                write_whole(output.folder / name / file.name, file.read_bytes())


def _hugging_face(stored: Stored, name: str, folder: epath.Path) -> None:
    """Writes one model as safetensors with its config and side files."""
    source = stored.folder / name
    table, tree = _described(name, source / CONFIG)
    leaves = stored.of(name)
    shapes = {f"{name}/{path}": leaf.shape for path, leaf in flatten(tree).items()}
    stored_shapes = {path: leaf.shape for path, leaf in leaves.items()}
    if different := sorted(shapes.items() ^ stored_shapes.items()):
        raise UserError(f"{stored.folder}: params and config.json differ in {different[0][0]}")
    targets = slots(table, tree)
    tensors = {
        tensor: (leaves[f"{name}/{slot.row.paths[0]}"].dtype, slot.shape)
        for tensor, slot in targets.items()
    }
    sizes = {t: int(np.prod(shape)) * dtype.itemsize for t, (dtype, shape) in tensors.items()}

    def load(tensor: str) -> np.ndarray:
        slot = targets[tensor]
        stored.bar.update(sizes[tensor])
        return slot.join(
            [stored.reader.read(f"{name}/{path}", slot.layer) for path in slot.row.paths]
        )

    folder.mkdir(exist_ok=True)
    files = plan_files(sizes)
    for file, group in files.items():
        if (folder / file).exists():  # written by this command before it was killed
            stored.bar.update(sum(sizes[tensor] for tensor in group))
        else:
            write_file(folder / file, {tensor: tensors[tensor] for tensor in group}, load)
    if len(files) > 1:
        places = {tensor: file for file, group in files.items() for tensor in group}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        write_json(folder / INDEX, index)
    copy_side_files(source, folder)
    _write_missing(stored, name, folder)
    largest = max(tensors, key=lambda tensor: sizes[tensor])
    config = _config(source, tensors[largest][0])
    if name != SIGLIP:
        file = source / CONFIG
        whole = family_of(config, file).architecture if name == "mllm" else "CLIPModel"
        if whole not in (config.get("architectures") or [whole]):  # saved without a head
            config["architectures"] = [whole]
    write_json(folder / CONFIG, config)


def _write_missing(stored: Stored, name: str, folder: epath.Path) -> None:
    """Writes the settings that others read, where the model folder has none."""
    if name == SIGLIP or not (folder / TOKENIZER).is_file():
        return  # a published SigLIP has them all
    tokenizer, config = Tokenizer(folder), stored.folder / name / CONFIG
    if name == "clip":
        clip = read_sizes(config, CLIPConfig.from_hf)
        write_clip_files(folder, tokenizer=tokenizer, ends=clip_ends(tokenizer, clip), sizes=clip)
        return
    family, sizes = read_model(config)
    visuals = {}
    for kind in ("image", "video"):
        around = family.text_around(sizes, kind == "video")
        ids = (*around.before, around.placeholder, *around.after)
        spellings = [spelling for i in ids if (spelling := tokenizer.token(i))]
        if len(spellings) == len(ids):
            visuals[kind] = "".join(spellings)
    chat = END_OF_TURN in tokenizer and END_OF_TEXT in tokenizer
    write_mllm_files(
        folder,
        tokenizer=tokenizer,
        system=stored.meta.get("prompt", {}).get("system", PromptConfig().system),
        visuals=visuals,
        end_ids=end_ids(tokenizer) if chat else (),
        preprocessors=family.preprocessors(sizes),
    )


def _described(name: str, config: epath.Path) -> tuple[Table, Params]:
    """Reads a model's table and abstract parameters from its config.json."""
    if name == "mllm":
        family, sizes = read_model(config)
        return family.weight_table(sizes), family.abstract_params(sizes)
    if name == SIGLIP:
        siglip = read_sizes(config, SiglipConfig.from_hf)
        return siglip_table(siglip), siglip_params(siglip)
    clip = read_sizes(config, CLIPConfig.from_hf)
    return HUGGING_FACE, abstract(lambda: CLIP(clip, rngs=nnx.Rngs(0)))[1]


def _sampler(stored: Stored, folder: epath.Path) -> None:
    """Writes the sampler as safetensors with its sizes."""
    leaves = stored.of("sampler")
    paths = {path.removeprefix("sampler/").replace("/", "."): path for path in leaves}
    tensors = {name: (leaves[path].dtype, leaves[path].shape) for name, path in paths.items()}
    folder.mkdir(exist_ok=True)
    write_file(
        folder / "sampler.safetensors", tensors, lambda name: stored.reader.read(paths[name])
    )
    stated = stored.meta["sampler"]
    sizes = {f.name: stated[f.name] for f in dataclasses.fields(SamplerConfig)}
    network = {name: stated[name] for name in ("network", "signals") if name in stated}
    clip = stored.folder / "clip" / CONFIG
    embedding = read_sizes(clip, CLIPConfig.from_hf).embed_dim if clip.is_file() else 0
    content = {"model_type": "msjoe_sampler", **network, "embedding": embedding, "sizes": sizes}
    write_json(folder / CONFIG, content)
    stored.bar.update(sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values()))


def _config(source: epath.Path, dtype: np.dtype) -> dict[str, Any]:
    """Reads a model's config.json, with the tensors' type wherever it states a type."""

    def stated(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            key: dtype.name
            if key in ("dtype", "torch_dtype") and isinstance(inner, str)
            else stated(inner)
            for key, inner in value.items()
        }

    return stated(read_json(source / CONFIG))


def run(checkpoint: str, out: str, output_format: str, dtype: str, base: str = "") -> None:
    """Checks the flags and exports.

    Args:
      checkpoint, out: the model folder, and the folder to write.
      output_format: one of `FORMATS`.
      dtype: of the MLLM's tensors; empty: as `export` says.
      base: as `export_adapter` says.

    Raises:
      UserError: as `export`, or a flag is missing or wrong.
    """
    for name, value in (("checkpoint", checkpoint), ("out", out)):
        if not value.strip():
            raise UserError(f"--{name} is missing or empty")
    if output_format not in FORMATS:
        raise UserError(f"--format={output_format} is not one of {', '.join(FORMATS)}")
    if dtype and dtype not in DTYPE_NAMES:
        raise UserError(f"--dtype={dtype} is not one of {', '.join(DTYPE_NAMES)}")
    for flag, value, only in (("base", base, ("peft",)), ("dtype", dtype, ("hf", "orbax"))):
        if value and output_format not in only:
            raise UserError(f"--{flag}={value} is for --format={' or '.join(only)}")
    if output_format == "peft":
        export_adapter(epath.Path(checkpoint), epath.Path(out), base)
    else:
        export(epath.Path(checkpoint), epath.Path(out), output_format, dtype)
    print(f"{out}: exported from {checkpoint}")
    if output_format != "orbax":
        name = f"ORG/{epath.Path(out).resolve().name}"
        print(f"to publish it: hf upload {shlex.quote(name)} {shlex.quote(out)}")


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    checkpoint = flags.DEFINE_string("checkpoint", "", "Model folder (WORKDIR/final).")
    out = flags.DEFINE_string("out", "", "Folder to write.")
    output_format = flags.DEFINE_string("format", "hf", "hf, peft or orbax.")
    dtype = flags.DEFINE_string("dtype", "", "Type of the MLLM's tensors.")
    base = flags.DEFINE_string("base", "", "Names the model that a peft adapter belongs to.")

    def start() -> None:
        run(checkpoint.value, out.value, output_format.value, dtype.value, base.value)

    run_app(start)
