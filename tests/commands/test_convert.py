"""Published folders into model folders: what is read, what is refused."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from msjoe_jax.commands.convert import convert, run
from msjoe_jax.errors import UserError
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.params import fingerprint
from msjoe_jax.rollout.model_folder import load_model_folder, save_model_folder
from msjoe_jax.rollout.system import (
    ClipSettings,
    MllmSettings,
    ModelSettings,
    SamplerSettings,
    load_tokenizers,
    make_system,
)
from msjoe_jax.runtime.checkpoint import load_meta, load_params
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.tables import to_hf
from tests.support.clip_oracle import config as clip_sizes
from tests.support.clip_oracle import embeddings, hugging_face_model, open_clip_model
from tests.support.commands import command
from tests.support.placed import placed
from tests.support.published import clip_folder, edit, edit_text, published, qwen_folder
from tests.support.qwen_oracle import numpy_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.bfloat16, "flat": True},
        {"tie": True, "sharded": False},
        {"dtype": torch.float16, "new_names": True},
    ],
    ids=["flat-bf16", "tied-single", "nested-names-fp16"],
)
def test_every_value_arrives(tmp_path, options):
    module = qwen_folder(tmp_path / "hf", **options)
    convert(tmp_path / "hf", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "out"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["mllm", "params"]
    for file in ("config.json", "tokenizer.json", "preprocessor_config.json", "merges.txt"):
        copy = tmp_path / "out" / "mllm" / file
        assert copy.read_bytes() == (tmp_path / "hf" / file).read_bytes()
    dtype = options.get("dtype", torch.float32)
    made = load_model_folder(tmp_path / "out", ["mllm"], str(dtype).removeprefix("torch."))
    sizes = made.system.mllm_config
    assert made.files is not None and made.files.image_bounds == (3136, 1003520)
    assert sizes.text.tie_embeddings == options.get("tie", False)
    tensors = to_hf(jax.tree.map(np.asarray, made.params["mllm"]), qwen_table(sizes))
    stored = {published(name): x for name, x in module.state_dict().items()}
    if options.get("tie"):
        del stored["lm_head.weight"]
    assert tensors.keys() == stored.keys()
    for name, x in tensors.items():
        assert x.tobytes() == numpy_of(stored[name]).tobytes(), name


@pytest.mark.parametrize("quick_gelu", [True, False])
@pytest.mark.parametrize("family", ["open_clip", "hugging_face"])
def test_clip_computes_what_the_source_does(tmp_path, family, quick_gelu):
    sizes = clip_sizes(quick_gelu)
    if family == "open_clip":
        module = open_clip_model(sizes)
        model = {
            "embed_dim": sizes.embed_dim,
            "vision_cfg": {
                "image_size": 28,
                "patch_size": 7,
                "width": 32,
                "layers": 2,
                "head_width": 16,
            },
            "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 24, "heads": 3,
                         "layers": 3},
        }  # fmt: skip
        tag = tmp_path / ("clip.openai" if quick_gelu else "clip.laion")  # the tag says it
        clip_folder(tag, module, {"model_cfg": model, "preprocess_cfg": {}}, True)
    else:
        module = hugging_face_model(sizes)
        tag = tmp_path / "clip"
        clip_folder(tag, module, module.config.to_dict(), False)
    unsaid = family == "open_clip" and not quick_gelu
    if unsaid:
        with pytest.raises(
            UserError, match=r"model_cfg\.quick_gelu is missing, .*--quick_gelu=yes"
        ):
            convert(tag, tmp_path / "out")
    convert(tag, tmp_path / "out", quick_gelu="no" if unsaid else "")
    made = load_model_folder(tmp_path / "out", ["clip"])
    assert made.system.clip_config == sizes and made.text is None
    assert made.tokenizers.clip is not None and made.tokenizers.mllm is None
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(2, 28, 28, 3)).astype(np.float32)
    tokens = rng.integers(0, 49, (2, 8))
    tokens[:, -1] = 49
    want = embeddings(module, family, pixels, tokens)
    model = made.system.clip_model(made.params["clip"])
    with jax.default_matmul_precision("highest"):
        got = model.encode_image(jnp.asarray(pixels)), model.encode_text(jnp.asarray(tokens))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w.numpy(), rtol=1e-5, atol=1e-5)


def test_sizes_tokenizers_and_settings_go_with_a_run(tmp_path):
    """A run that names checkpoints alone, up to the folder that it leaves."""
    qwen_folder(tmp_path / "hf", sharded=False)
    convert(tmp_path / "hf", tmp_path / "mllm")
    module = hugging_face_model(clip_sizes(True))
    clip_folder(tmp_path / "hf_clip", module, module.config.to_dict(), False)
    convert(tmp_path / "hf_clip", tmp_path / "clip")
    settings = ModelSettings(
        mllm=MllmSettings(size="", checkpoint=str(tmp_path / "mllm")),
        clip=ClipSettings(size="", checkpoint=str(tmp_path / "clip")),
        sampler=SamplerSettings(width=8, depth=1),
    )
    tokenizers = load_tokenizers(settings)
    system = make_system(settings, tokenizers)
    assert system.clip_config == clip_sizes(True) and system.mllm_config.text.layers == 2
    params = {
        name: load_params(tmp_path / name / "params", placed(system.abstract[name]), name)
        for name in ("mllm", "clip")
    }
    params["sampler"] = system.init("sampler", 0)
    save_model_folder(
        tmp_path / "final",
        settings=settings,
        parts={"trained": {"stages": ["joint"]}},
        system=system,
        tokenizers=tokenizers,
        params=params,
    )
    for file in ("tokenizer.json", "preprocessor_config.json", "merges.txt"):
        copy = tmp_path / "final" / "mllm" / file
        assert copy.read_bytes() == (tmp_path / "hf" / file).read_bytes()
    for name, source in (("mllm", "hf"), ("clip", "hf_clip")):
        written = json.loads((tmp_path / "final" / name / "config.json").read_text())
        assert written == json.loads((tmp_path / source / "config.json").read_text())
    for name in ("mllm", "clip"):
        shutil.rmtree(tmp_path / name)  # the folder stands on its own
    again = load_model_folder(tmp_path / "final")
    assert again.system.mllm_config == system.mllm_config
    assert again.system.clip_config == system.clip_config
    assert {n: fingerprint(p) for n, p in again.params.items()} == {
        n: fingerprint(p) for n, p in params.items()
    }
    assert load_meta(str(tmp_path / "final" / "params"))["trained"]["stages"] == ["joint"]


def add_tokens(folder: pathlib.Path, last: int) -> None:
    """Adds tokens to a tokenizer up to this id."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    first = tokenizer.get_vocab_size()
    tokenizer.add_tokens([f"<new{i}>" for i in range(first, last + 1)])
    tokenizer.save(str(folder / "tokenizer.json"))


def null(file: pathlib.Path, field: str) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), field: None}))


def shard(folder: pathlib.Path) -> pathlib.Path:
    return sorted(folder.glob("*.safetensors"))[1]


def cut(folder: pathlib.Path, size: int) -> None:
    shard(folder).write_bytes(shard(folder).read_bytes()[:size])


def with_index(folder: pathlib.Path, name: str) -> None:
    edit(folder / "model.safetensors.index.json", weight_map={"a": name})


@pytest.mark.parametrize(
    "spoil,message",
    [
        (lambda f: (f / "config.json").unlink(), r"hf: no config.json and no open_clip_config"),
        (lambda f: (f / "config.json").write_text("[1"), r"config.json: not JSON"),
        (lambda f: edit(f / "config.json", model_type="qwen2_vl"), r"model_type is 'qwen2_vl'; "),
        (lambda f: edit(f / "config.json", vision_config=None), r"vision_config"),
        (
            lambda f: edit(f / "config.json", text_config=7),
            r"config.json: text_config is 7, not an object",
        ),
        (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer.json: no readable tokenizer"),
        (
            lambda f: add_tokens(f, 60),
            r"tokenizer.json: the largest id is 60 .'<new60>'., and .* 60 r",
        ),
        (lambda f: edit(f / "preprocessor_config.json", image_mean=[0.5] * 3), r"image_mean is"),
        (lambda f: edit(f / "preprocessor_config.json", image_std=["a"] * 3), r'image_std is \["a'),
        (lambda f: null(f / "preprocessor_config.json", "image_mean"), r"image_mean is null"),
        (
            lambda f: edit_text(f, num_attention_heads=0),
            r"config.json: text_config.num_attention_heads is 0, not a whole num",
        ),
        (
            lambda f: edit_text(f, num_attention_heads=3),
            r"text_config.hidden_size is 32, not a multiple of num_attention_heads, 3",
        ),
        (
            lambda f: edit_text(f, hidden_size="32"),
            r'text_config.hidden_size is "32", not a whole number from 1',
        ),
        (lambda f: edit_text(f, rms_norm_eps=None), r"rms_norm_eps is null"),
        (lambda f: shard(f).unlink(), r"files that are absent: model-00002-of-\d+.safetensors"),
        (lambda f: with_index(f, "../config.json"), r"names a file outside its folder"),
        (lambda f: cut(f, 4), r"model-00002-of-\d+.safetensors: no safetensors file, or a dam"),
        (lambda f: cut(f, 100), r"model-00002-of-\d+.safetensors: .*the header is cut off"),
        (lambda f: cut(f, 20_000), r"model-00002-of-\d+.safetensors: .*cut off: 20000 bytes of"),
        (lambda f: [p.unlink() for p in f.glob("model*")], r"no model.safetensors.index.json and"),
    ],
)
def test_sources_that_are_refused(tmp_path, spoil, message):
    qwen_folder(tmp_path / "hf")
    spoil(tmp_path / "hf")
    with pytest.raises(UserError, match=message) as caught:
        convert(tmp_path / "hf", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf"]  # before anything is written


@pytest.mark.parametrize(
    "part, field, value, words",
    [
        ("vision_cfg", "head_width", 0, "head_width is 0"),
        ("vision_cfg", "layers", [3, 4, 6, 3], r"vision_cfg.layers is \[3, 4, 6, 3\], not a whole"),
        ("text_cfg", "heads", 7, "text_cfg.width is 512, not a multiple of 7 heads"),
    ],
)
def test_sizes_of_open_clip_that_are_refused(part, field, value, words):
    model = {"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}
    model[part] = {field: value}
    with pytest.raises(ValueError, match=words):
        CLIPConfig.from_open_clip({"model_cfg": model})


@pytest.mark.slow
def test_one_line_and_status_2(tmp_path):
    qwen_folder(tmp_path / "hf", sharded=False, tie=True)
    file = tmp_path / "hf" / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b"model.norm.weight", b"model.norm.height"))
    done = command("convert", f"--source={tmp_path / 'hf'}", f"--out={tmp_path / 'out'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"error: {tmp_path / 'hf'}: weights do not fit the model: 1 missing (model.norm.weight); "
        "1 not of this model (model.norm.height); by its config: "
    )
    assert "num_hidden_layers 2" in done.stderr and done.stderr.count("\n") == 1
    with pytest.raises(UserError, match="--out is missing or empty"):
        run(str(tmp_path / "hf"), " ")


def test_types_that_are_not_read_are_named(tmp_path):
    qwen_folder(tmp_path / "hf", sharded=False)
    file = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int64)
    name = "visual.blocks.0.norm1.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, file)
    words = r"2 of a type that is not read \(model.norm.weight I64, .*norm1.weight F8_E4M3\); by"
    with pytest.raises(UserError, match=words):
        convert(tmp_path / "hf", tmp_path / "out")


def test_what_is_there_is_left_alone(tmp_path, monkeypatch):
    qwen_folder(tmp_path / "hf", sharded=False)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out exists; remove it or name another folder"):
        convert(tmp_path / "hf", tmp_path / "out")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"new needs 0.0 GB, 0.0 GB are free there"):
        convert(tmp_path / "hf", tmp_path / "new")
    assert not (tmp_path / "new").exists()
