"""A model folder (`bundle.py`) in the forms that others read.

    msjoe export --checkpoint=DIR --out=HF_DIR [--dtype=bfloat16]
    msjoe export --checkpoint=DIR --out=DIR --format=orbax

`hf`: the MLLM as `transformers` loads it, published tensor names, in shards of at most 5 GB, CLIP
in `clip/` and the sampler in `sampler/` beside it, and a model card. What `convert` read comes out
byte by byte. `orbax`: a model folder for inference, the MLLM in bfloat16. Tensors pass one at a
time, and after a kill the same command goes on (`hf`: with the file that it was at).
"""

import dataclasses
import hashlib
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
from absl import flags
from flax import nnx
from tqdm import tqdm

from msjoe_jax.commands.cli import run_app
from msjoe_jax.errors import UserError
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.params import abstract
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.models.sampler import SamplerConfig
from msjoe_jax.report.model_card import model_card
from msjoe_jax.rollout.model_folder import NAMES, check_folder, copy_side_files, write_json
from msjoe_jax.rollout.system import read_json, read_sizes
from msjoe_jax.runtime.checkpoint import STACKED, load_meta
from msjoe_jax.runtime.param_store import ParamReader, ParamWriter
from msjoe_jax.runtime.resumable_folder import ResumableFolder, resumable_folder
from msjoe_jax.weights.clip import HUGGING_FACE
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.safetensors import DTYPES, INDEX, plan_files, write_file
from msjoe_jax.weights.tables import Table, flatten, slots

FORMATS = ("hf", "orbax")
WORDS = {dtype.name: dtype for dtype in DTYPES.values()}  # "bfloat16" …


def export(checkpoint: pathlib.Path, out: pathlib.Path, form: str, dtype: str = "") -> None:
    """Writes `out`, which appears whole or not at all.

    Args:
      checkpoint: a model folder that holds an MLLM at least.
      out: a folder that is not there yet.
      form: "hf" or "orbax".
      dtype: of the MLLM's tensors; "" = as stored for "hf", bfloat16 for "orbax". CLIP and the
        sampler stay as they are: cached frame embeddings belong to CLIP's exact values, and the
        sampler's ranking is worth its 8 MB.

    Raises:
      UserError: no model folder, one without an MLLM, a damaged one, or `out` cannot be written.
    """
    check_folder(checkpoint, ["mllm"])
    reader = ParamReader(checkpoint / "params")
    meta = load_meta(str(checkpoint / "params"))
    wanted = WORDS[dtype] if dtype else (WORDS["bfloat16"] if form == "orbax" else None)
    leaves = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, wanted if wanted and path.startswith("mllm/") else leaf.dtype
        )
        for path, leaf in reader.leaves.items()
    }
    present = [name for name in NAMES if any(path.startswith(f"{name}/") for path in leaves)]
    stamp = (
        checkpoint / "params" / "_CHECKPOINT_METADATA"
    ).read_bytes()  # holds the time of writing
    origin = {"checkpoint": hashlib.sha256(stamp).hexdigest(), "format": form, "dtype": dtype}
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
    with (
        resumable_folder(out, origin, total) as made,
        tqdm(total=total, desc="export", unit="B", unit_scale=True) as bar,
    ):
        if form == "orbax":
            _orbax(checkpoint, made, reader, leaves, meta, bar)
        else:
            for name, folder in (("mllm", made.folder), ("clip", made.folder / "clip")):
                if name in present:
                    _hugging_face(name, checkpoint / name, folder, reader, leaves, bar)
            if "sampler" in present:
                _sampler(made.folder / "sampler", reader, leaves, meta, bar)
            card = model_card(out.name, meta, present)
            (made.folder / "README.md").write_text(card, encoding="utf-8")


def _orbax(
    checkpoint: pathlib.Path,
    made: ResumableFolder,
    reader: ParamReader,
    leaves: dict[str, jax.ShapeDtypeStruct],
    meta: dict[str, Any],
    bar: tqdm,
) -> None:
    stacked = frozenset(path for path in leaves if STACKED.search(path))
    writer = ParamWriter(made.folder / "params", leaves, stacked, meta)
    for path, leaf in leaves.items():
        for layer in range(leaf.shape[0]) if path in stacked else (None,):
            mark = f"{path} {layer}"
            if mark not in made.finished:
                writer.write(path, layer, reader.read(path, layer))
                made.note(mark)
            bar.update(leaf.size * leaf.dtype.itemsize // (1 if layer is None else leaf.shape[0]))
    for name in ("mllm", "clip"):
        if (checkpoint / name).is_dir():
            shutil.copytree(checkpoint / name, made.folder / name, dirs_exist_ok=True)


def _hugging_face(
    name: str,
    source: pathlib.Path,
    folder: pathlib.Path,
    reader: ParamReader,
    leaves: dict[str, jax.ShapeDtypeStruct],
    bar: tqdm,
) -> None:
    """One model as safetensors with its config and side files."""
    table, tree = _described(name, source)
    shapes = {f"{name}/{path}": leaf.shape for path, leaf in flatten(tree).items()}
    stored = {p: leaf.shape for p, leaf in leaves.items() if p.startswith(f"{name}/")}
    if different := sorted(shapes.items() ^ stored.items()):
        raise UserError(f"{source.parent}: params and config.json differ in {different[0][0]}")
    wanted = slots(table, tree)
    tensors = {
        tensor: (leaves[f"{name}/{slot.row.paths[0]}"].dtype, slot.shape)
        for tensor, slot in wanted.items()
    }
    sizes = {t: int(np.prod(shape)) * dtype.itemsize for t, (dtype, shape) in tensors.items()}

    def load(tensor: str) -> np.ndarray:
        slot = wanted[tensor]
        bar.update(sizes[tensor])
        return slot.join([reader.read(f"{name}/{path}", slot.layer) for path in slot.row.paths])

    folder.mkdir(exist_ok=True)
    files = plan_files(sizes)
    for file, group in files.items():
        if (folder / file).exists():  # by this command, before it was killed
            bar.update(sum(sizes[tensor] for tensor in group))
        else:
            write_file(folder / file, {tensor: tensors[tensor] for tensor in group}, load)
    if len(files) > 1:
        places = {tensor: file for file, group in files.items() for tensor in group}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        write_json(folder / INDEX, index)
    copy_side_files(source, folder)
    largest = max(tensors, key=lambda tensor: sizes[tensor])
    write_json(folder / "config.json", _config(source, tensors[largest][0]))


def _described(name: str, source: pathlib.Path) -> tuple[Table, Any]:
    """Table and abstract parameters of a model by its config.json."""
    file = source / "config.json"
    if name == "mllm":
        qwen = read_sizes(file, QwenConfig.from_hf)
        return qwen_table(qwen), abstract(lambda: QwenVL(qwen, rngs=nnx.Rngs(0)))[1]
    clip = read_sizes(file, CLIPConfig.from_hf)
    return HUGGING_FACE, abstract(lambda: CLIP(clip, rngs=nnx.Rngs(0)))[1]


def _sampler(
    folder: pathlib.Path,
    reader: ParamReader,
    leaves: dict[str, jax.ShapeDtypeStruct],
    meta: dict[str, Any],
    bar: tqdm,
) -> None:
    paths = [path for path in leaves if path.startswith("sampler/")]
    names = {path.removeprefix("sampler/").replace("/", "."): path for path in paths}
    tensors = {name: (leaves[path].dtype, leaves[path].shape) for name, path in names.items()}
    folder.mkdir(exist_ok=True)
    write_file(folder / "sampler.safetensors", tensors, lambda name: reader.read(names[name]))
    sizes = {f.name: meta["sampler"][f.name] for f in dataclasses.fields(SamplerConfig)}
    write_json(folder / "config.json", {"model_type": "msjoe_sampler", **sizes})
    bar.update(sum(leaves[p].size * leaves[p].dtype.itemsize for p in paths))


def _config(source: pathlib.Path, dtype: np.dtype) -> dict[str, Any]:
    """A model's config.json; where it states a type, the type of its tensors."""

    def stated(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            key: dtype.name
            if key in ("dtype", "torch_dtype") and isinstance(inner, str)
            else stated(inner)
            for key, inner in value.items()
        }

    return stated(read_json(source / "config.json"))


def run(checkpoint: str, out: str, form: str, dtype: str) -> None:
    """Checks the flags and exports.

    Raises:
      UserError: as `export`, or a flag is missing or wrong.
    """
    for name, value in (("checkpoint", checkpoint), ("out", out)):
        if not value.strip():
            raise UserError(f"--{name} is missing or empty")
    if form not in FORMATS:
        raise UserError(f"--format={form} is not one of {', '.join(FORMATS)}")
    if dtype and dtype not in WORDS:
        raise UserError(f"--dtype={dtype} is not one of {', '.join(WORDS)}")
    export(pathlib.Path(checkpoint), pathlib.Path(out), form, dtype)
    print(f"{out}: exported from {checkpoint}")


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    checkpoint = flags.DEFINE_string("checkpoint", "", "Model folder (WORKDIR/final).")
    out = flags.DEFINE_string("out", "", "Folder to write.")
    form = flags.DEFINE_string("format", "hf", "hf or orbax.")
    dtype = flags.DEFINE_string("dtype", "", "Type of the MLLM's tensors.")

    def start() -> None:
        run(checkpoint.value, out.value, form.value, dtype.value)

    run_app(start)
