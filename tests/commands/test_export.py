"""Model folders out again: byte by byte, into transformers, and into inference checkpoints."""

import functools
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts
import torch
from safetensors import safe_open

from msjoe_jax.commands import export as module
from msjoe_jax.commands.convert import convert
from msjoe_jax.commands.export import export
from msjoe_jax.errors import UserError
from msjoe_jax.models.params import fingerprint
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.runtime.checkpoint import leaf_shapes
from msjoe_jax.runtime.param_store import ParamReader
from msjoe_jax.runtime.progress import progress
from msjoe_jax.weights.safetensors import plan_files, write_file
from tests.support.clip_oracle import config as clip_sizes
from tests.support.clip_oracle import hugging_face_model
from tests.support.commands import PYTHON, ROOT
from tests.support.published import SHARD, clip_folder, published, qwen_folder
from tests.support.tiny import tiny_model_folder
from tests.support.torch_stubs import declare_torchvision_ops

# A warning of a class of peft would have to be read by the process that collects results.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::peft")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "plan_files", functools.partial(plan_files, limit=SHARD))


def tensors(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    """By the library's own reader."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def raw(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    values = tensor.reshape(-1).view(torch.uint8).numpy()
    return str(tensor.dtype), tuple(tensor.shape), values.tobytes()


def from_pretrained(folder: pathlib.Path) -> torch.nn.Module:
    declare_torchvision_ops()
    from transformers import Qwen2_5_VLForConditionalGeneration

    load: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained
    loaded, info = load(folder, output_loading_info=True)
    assert not any(info.values()), info
    return loaded.eval()


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.bfloat16, "flat": True},
        {"tie": True, "sharded": False},
        {"new_names": True},
        {"tie": True, "dtype": torch.bfloat16, "new_names": True, "sharded": False},
    ],
    ids=["flat-bf16", "tied", "nested-names", "tied-bf16"],
)
def test_what_was_converted_comes_out(tmp_path, options, small_shards):
    source, checkpoint, out = (tmp_path / name for name in ("hf", "checkpoint", "out"))
    reference = qwen_folder(source, **options)
    convert(source, checkpoint)
    export(checkpoint, out, "hf")
    before = {published(name): raw(x) for name, x in tensors(source).items()}
    after = {name: raw(x) for name, x in tensors(out).items()}
    assert after == before
    assert len(list(out.glob("*.safetensors"))) > 3
    for name in ("tokenizer.json", "merges.txt", "preprocessor_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    config = json.loads((source / "config.json").read_text())
    assert json.loads((out / "config.json").read_text()) == config
    loaded = from_pretrained(out)
    for name, x in loaded.state_dict().items():
        assert raw(x) == raw(reference.state_dict()[name])
    assert "Not by msjoe_jax" in (out / "README.md").read_text()


def test_clip_comes_out_beside(tmp_path):
    reference = hugging_face_model(clip_sizes(False))
    clip_folder(tmp_path / "hf", reference, reference.config.to_dict(), False)
    convert(tmp_path / "hf", tmp_path / "clip")
    with pytest.raises(UserError, match=r"clip: holds no mllm"):
        export(tmp_path / "clip", tmp_path / "out", "hf")
    reader = ParamReader(tmp_path / "clip" / "params")
    target = tmp_path / "out"
    with progress("export", 1) as bar:
        stored = module.Stored(tmp_path / "clip", reader, reader.leaves, {}, bar)
        module._hugging_face(stored, "clip", target)
    before = {name: raw(x) for name, x in tensors(tmp_path / "hf").items()}
    assert {name: raw(x) for name, x in tensors(target).items()} == before


def test_a_model_folder_in_transformers(tmp_path, folder):
    """Logits of text and features of a picture, of the tiny world's kind of model."""
    export(folder, tmp_path / "out", "hf")
    reference = from_pretrained(tmp_path / "out")
    mllm = load_model_folder(folder, ["mllm"], "float32")
    ids = np.arange(1, 20)[None] % 7 + mllm.text.tokenizer.token_id("<unk>")
    positions = np.broadcast_to(np.arange(ids.shape[1]), (1, 3, ids.shape[1]))
    vision = mllm.system.mllm_config.vision
    patches = np.random.default_rng(0).normal(size=(24, vision.patch_dim)).astype(np.float32)

    @jax.jit
    def run(params, ids, positions, patches):
        model = mllm.system.mllm(params)
        x = model.language.embed(ids)
        hidden, _ = model.language.prefill(x, positions, jnp.ones_like(ids))
        return model.language.logits(hidden), model.vision(patches[None], jnp.array([[4, 6]]))

    with jax.default_matmul_precision("highest"):
        logits, features = run(mllm.params["mllm"], ids, positions, patches)
    with torch.no_grad():
        want = reference(input_ids=torch.from_numpy(ids)).logits.numpy()
        grid = torch.tensor([[1, 4, 6]])
        seen = reference.model.visual(torch.from_numpy(patches), grid_thw=grid)
    seen = getattr(seen, "pooler_output", seen).numpy()
    # float32 on both sides: summation order alone, as in test_qwen_parity.
    for got, expected in ((logits, want), (features[0], seen)):
        scale = np.abs(expected).max()
        assert scale > 1e-3
        np.testing.assert_allclose(got, expected, atol=1e-5 * scale, rtol=0)


@pytest.mark.slow
def test_sampler_by_the_cards_own_words(tmp_path, folder):
    export(folder, tmp_path / "out", "hf")
    card = (tmp_path / "out" / "README.md").read_text()
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", card, re.S) if "SELECTORS[" in c)
    code += "\nfrom msjoe_jax.models.params import fingerprint, split_module\n"
    code += "print(fingerprint(split_module(sampler)[1]))\n"
    line = [sys.executable, "-c", code]
    cwd = tmp_path / "out"
    done = subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=PYTHON)
    assert done.returncode == 0, done.stderr
    params = load_model_folder(folder, ["sampler", "clip"]).params
    assert done.stdout.strip() == fingerprint(params["sampler"])
    # The CLIP beside it is one that can be converted again, to the very same values.
    convert(tmp_path / "out" / "clip", tmp_path / "clip")
    again = load_model_folder(tmp_path / "clip", ["clip"]).params
    assert fingerprint(again["clip"]) == fingerprint(params["clip"])


def test_checkpoint_for_inference(tmp_path, folder):
    export(folder, tmp_path / "out", "orbax")
    stored = leaf_shapes(str(tmp_path / "out" / "params"))
    assert {x.dtype.name for n, x in stored.items() if n.startswith("mllm/")} == {"bfloat16"}
    made, out = load_model_folder(folder), load_model_folder(tmp_path / "out")
    assert out.settings == made.settings
    assert out.system.mllm_config == made.system.mllm_config
    assert out.system.clip_config == made.system.clip_config
    params, params_out = made.params, out.params
    for name in ("clip", "sampler"):  # embeddings in records name CLIP by its exact values
        assert fingerprint(params_out[name]) == fingerprint(params[name])
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), params["mllm"])
    assert fingerprint(params_out["mllm"]) == fingerprint(rounded)
    # The same rounding on the way to transformers, which the config then states.
    export(folder, tmp_path / "a", "hf", "bfloat16")
    export(tmp_path / "out", tmp_path / "b", "hf")
    a, b = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert {n: raw(x) for n, x in a.items()} == {n: raw(x) for n, x in b.items()}
    assert {x.dtype for x in a.values()} == {torch.bfloat16}


def test_stated_type_follows_the_tensors(tmp_path):
    qwen_folder(tmp_path / "hf", sharded=False)
    convert(tmp_path / "hf", tmp_path / "checkpoint")
    export(tmp_path / "checkpoint", tmp_path / "out", "hf", "bfloat16")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"
    assert next(from_pretrained(tmp_path / "out").parameters()).dtype == torch.bfloat16


def test_layers_of_a_trained_model_lie_apart(folder):
    """Else a layer could not be read without its stack."""
    kvstore = ParamReader(folder / "params")._kvstore("mllm/language/layers/up")
    store = ts.open({"driver": "zarr", "kvstore": kvstore}).result()
    assert store.shape[0] == 3 and store.chunk_layout.read_chunk.shape[0] == 1


def test_goes_on_after_a_kill(tmp_path, folder, small_shards, monkeypatch):
    export(folder, tmp_path / "whole", "hf")
    calls = []

    def killed(file, *rest):
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        calls.append(file.name)
        write_file(file, *rest)

    monkeypatch.setattr(module, "write_file", killed)
    with pytest.raises(UserError, match=r"out.partial: cannot be written \(No space left"):
        export(folder, tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists() and len(calls) == 3
    with pytest.raises(UserError, match="begun from another source or with other flags"):
        export(folder, tmp_path / "out", "hf", "bfloat16")
    written = []
    monkeypatch.setattr(
        module, "write_file", lambda *a: (written.append(a[0].name), write_file(*a))
    )
    export(folder, tmp_path / "out", "hf")
    assert not set(written) & set(calls)
    files = [p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert len(files) == len([p for p in (tmp_path / "whole").rglob("*") if p.is_file()])
    for file in files:
        same = (tmp_path / "whole" / file).read_bytes()
        assert (tmp_path / "out" / file).read_bytes().replace(b"# out", b"# whole") == same


@pytest.mark.soak
def test_a_model_in_a_bucket_comes_out_the_same(tmp_path, folder, bucket):
    for file in (p for p in folder.rglob("*") if p.is_file()):
        (bucket / file.relative_to(folder)).write_bytes(file.read_bytes())
    for source, place in ((folder, "disk"), (bucket, "bucket")):
        (tmp_path / place).mkdir()
        for output_format in ("hf", "orbax"):
            export(source, tmp_path / place / output_format, output_format)
    disk, copy = tmp_path / "disk", tmp_path / "bucket"
    names = [p.relative_to(disk) for p in (disk / "hf").rglob("*") if p.is_file()]
    assert len(names) > 5
    for name in (*names, "orbax/mllm/tokenizer.json", "orbax/clip/config.json"):
        assert (disk / name).read_bytes() == (copy / name).read_bytes(), name
    out = str(bucket / "out")
    with pytest.raises(UserError, match=r"gs://.*/out: the new folder must be on a disk"):
        export(folder, out, "hf")


def test_slips_are_one_line(tmp_path, folder):
    with pytest.raises(UserError, match="no checkpoint there"):
        export(tmp_path, tmp_path / "out", "hf")
    for flags, words in (
        (("", "x", "hf", ""), "--checkpoint is missing"),
        (("x", "y", "gguf", ""), "--format=gguf is not one of hf, peft, orbax"),
        (("x", "y", "hf", "int8"), "--dtype=int8 is not one of float64, float32, float16, bfl"),
    ):
        with pytest.raises(UserError, match=words):
            module.run(*flags)
    line = [
        sys.executable,
        "-m",
        "msjoe_jax",
        "export",
        f"--checkpoint={folder}",
        f"--out={folder}",
    ]
    done = subprocess.run(line, capture_output=True, text=True, env=PYTHON, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == f"error: {folder} exists; remove it or name another folder\n"
