"""Other people's folders: fine-tunes, adapters, vocabularies, as their tools leave them."""

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

from msjoe_jax.commands.convert import convert
from msjoe_jax.commands.export import export
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.tables import to_hf
from msjoe_jax.weights.tokenizer_files import clip_ends
from msjoe_jax.world.word_tokenizer import SPECIAL
from tests.support.adapted import adapted, base_folder, load, write_adapter
from tests.support.clip_oracle import config as clip_sizes
from tests.support.clip_oracle import embeddings, hugging_face_model
from tests.support.commands import command
from tests.support.published import clip_folder, edit, edit_text
from tests.support.torch_stubs import declare_torchvision_ops

# A warning of a class of peft would have to be read by the process that collects results.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::peft")]


def rewrite(folder: pathlib.Path, change) -> dict[str, torch.Tensor]:
    """Changes the tensors of a folder of one file."""
    file = folder / "model.safetensors"
    tensors = change(load_file(file))
    save_file(tensors, file, {"format": "pt"})
    return tensors


def params_of(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Every tensor of a converted folder, by published name."""
    made = load_model_folder(folder, ["mllm"], "float32")
    tree = jax.tree.map(np.asarray, made.params["mllm"])
    return to_hf(tree, qwen_table(made.system.mllm_config))


def logits(folder: pathlib.Path, ids: np.ndarray) -> np.ndarray:
    made = load_model_folder(folder, ["mllm"], "float32")
    positions = np.broadcast_to(np.arange(ids.shape[1]), (1, 3, ids.shape[1]))

    @jax.jit
    def run(params, ids, positions):
        language = made.system.mllm(params).language
        hidden, _ = language.prefill(language.embed(ids), positions, jnp.ones_like(ids))
        return language.logits(hidden)

    with jax.default_matmul_precision("highest"):
        return np.asarray(run(made.params["mllm"], ids, positions))


IDS = np.arange(3, 20)[None]


def reference_logits(folder: pathlib.Path) -> np.ndarray:
    with torch.no_grad():
        return load(folder, torch.float32)(input_ids=torch.from_numpy(IDS)).logits.numpy()


def close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=0)


def test_tensors_that_are_not_the_models(tmp_path):
    base_folder(tmp_path / "hf")
    extra = {"v_head.summary.weight": torch.zeros(2), "model.rotary_emb.inv_freq": torch.zeros(2)}
    rewrite(tmp_path / "hf", lambda tensors: tensors | extra)
    flags = f"--source={tmp_path / 'hf'}", f"--out={tmp_path / 'out'}"
    done = command("convert", *flags)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert all(name in done.stderr for name in extra) and "--ignore_extra leaves" in done.stderr
    done = command("convert", *flags, "--ignore_extra")
    assert done.returncode == 0
    assert [line for line in done.stderr.split("\n") if "left out" in line] == [
        f"{tmp_path / 'hf'}: left out: {name}" for name in sorted(extra)
    ]
    close(logits(tmp_path / "out", IDS), reference_logits(tmp_path / "hf"))


def test_layers_of_several_types(tmp_path, capsys):
    module = base_folder(tmp_path / "hf")
    name = "model.layers.{}.mlp.up_proj.weight"

    def mix(tensors):
        for layer, dtype in enumerate((torch.bfloat16, torch.float16)):
            tensors[name.format(layer)] = tensors[name.format(layer)].to(dtype)
        return tensors

    tensors = rewrite(module, mix)
    convert(tmp_path / "hf", tmp_path / "out")
    (line,) = [row for row in capsys.readouterr().err.split("\n") if "several types" in row]
    assert line.endswith("mlp.up_proj.weight (bfloat16 and float16, stored as float32)")
    ours = params_of(tmp_path / "out")
    for layer in (0, 1):
        want = tensors[name.format(layer)].float().numpy()
        np.testing.assert_array_equal(ours[name.format(layer)], want)


@pytest.mark.parametrize("where", ["root", "text_config", "both"])
@pytest.mark.parametrize("kind", ["other", "same", "alone"])
def test_heads_are_what_the_reference_takes(tmp_path, capsys, kind, where):
    """A config may tie what the files do not: other values stay a head, in and out."""
    folder = base_folder(tmp_path / "hf", tie=True)
    edit(folder / "config.json", tie_word_embeddings=where != "text_config")
    edit_text(folder, tie_word_embeddings=where != "root")

    def change(tensors):
        embedding = tensors["model.embed_tokens.weight"]
        head = embedding.clone() if kind != "other" else embedding + torch.randn(embedding.shape)
        tensors["lm_head.weight"] = head
        if kind == "alone":
            del tensors["model.embed_tokens.weight"]
        return tensors

    rewrite(folder, change)
    convert(folder, tmp_path / "out")
    said = "lm_head.weight differs from model.embed_tokens.weight: kept" in capsys.readouterr().err
    assert said == (kind == "other")
    tied = load_model_folder(tmp_path / "out", ["mllm"]).system.mllm_config.text.tie_embeddings
    assert tied == (kind != "other")
    want = reference_logits(folder)
    close(logits(tmp_path / "out", IDS), want)
    export(tmp_path / "out", tmp_path / "again", "hf")
    np.testing.assert_array_equal(reference_logits(tmp_path / "again"), want)
    theirs = load(folder).state_dict()
    for name, x in load(tmp_path / "again").state_dict().items():
        assert torch.equal(x, theirs[name]), name


@pytest.mark.parametrize(
    "layout",
    [
        lambda model: (model, {}),
        lambda model: (model, {"max_shard_size": "50KB"}),
        lambda model: (model, {"save_original_format": False}),
        lambda model: (model.model, {}),  # without its head
    ],
    ids=["plain", "sharded", "nested", "headless"],
)
def test_what_save_pretrained_writes(tmp_path, layout):
    base = base_folder(tmp_path / "hf", tie=True)
    model, options = layout(load(base))
    model.save_pretrained(tmp_path / "saved", **options)
    shutil.copy(base / "tokenizer.json", tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "out")
    close(logits(tmp_path / "out", IDS), reference_logits(base))
    export(tmp_path / "out", tmp_path / "again", "hf")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]


def test_a_stale_index_beside_a_single_file(tmp_path, capsys):
    folder = base_folder(tmp_path / "hf")
    base_folder(tmp_path / "other", tie=False)
    stale = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(stale))
    convert(folder, tmp_path / "out")
    assert "model.safetensors is read, as transformers does" in capsys.readouterr().err
    close(logits(tmp_path / "out", IDS), reference_logits(folder))


def test_an_adapter_is_merged_onto_its_base(tmp_path):
    base = base_folder(tmp_path / "base", tie=True)
    model = adapted(base, r=4, lora_alpha=9, target_modules=["q_proj", "qkv"],
                    modules_to_save=["lm_head"])  # fmt: skip
    adapter = write_adapter(model, tmp_path / "adapter")
    flags = f"--source={adapter}", f"--out={tmp_path / 'out'}"
    done = command("convert", *flags)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {adapter}: an adapter of {base}; name that model's folder, onto which it is "
        "merged: --base=DIR\n"
    )
    done = command("convert", *flags, f"--base={base}")
    assert done.returncode == 0, done.stderr
    assert f"{adapter}: an adapter of {base}, merged onto {base}\n" in done.stderr
    with torch.no_grad():
        want = model(input_ids=torch.from_numpy(IDS)).logits.numpy()
    close(logits(tmp_path / "out", IDS), want)
    with pytest.raises(UserError, match=r"--base=.* is for an adapter, and .*base is a whole"):
        convert(base, tmp_path / "no", base)
    with pytest.raises(UserError, match="adapter: an adapter too; merge it first"):
        convert(shutil.copytree(adapter, tmp_path / "second"), tmp_path / "no", adapter)


def test_an_adapter_of_clip(tmp_path):
    module = hugging_face_model(clip_sizes(True))
    clip_folder(tmp_path / "base", module, module.config.to_dict(), False)
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(module, LoraConfig(r=3, target_modules=["q_proj", "fc1"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(tmp_path / "adapter")
    convert(tmp_path / "adapter", tmp_path / "out", tmp_path / "base")
    made = load_model_folder(tmp_path / "out", ["clip"])
    pixels = np.random.default_rng(0).normal(size=(2, 28, 28, 3)).astype(np.float32)
    tokens = np.array([[1, 5, 7, 49, 0, 0, 0, 0]])
    want = embeddings(model.merge_and_unload(), "hugging_face", pixels, tokens)
    clip = made.system.clip_model(made.params["clip"])
    with jax.default_matmul_precision("highest"):
        got = clip.encode_image(jnp.asarray(pixels)), clip.encode_text(jnp.asarray(tokens))
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w.numpy(), rtol=1e-5, atol=1e-5)


def test_what_lies_beside_an_adapter(tmp_path, capsys):
    """Files of weights are never passed over in silence; what else a run leaves is none."""
    base = base_folder(tmp_path / "base")
    adapter = write_adapter(adapted(base, target_modules=["q_proj"]), tmp_path / "adapter")
    for name in ("vit.safetensors", "training_args.bin", "trainer_state.json"):
        (adapter / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"has vit.safetensors beside adapter_model"):
        convert(adapter, tmp_path / "out", base)
    convert(adapter, tmp_path / "out", base, ignore_extra=True)
    assert f"{adapter}: left out: vit.safetensors\n" in capsys.readouterr().err
    # Both in one folder, as transformers takes it.
    shutil.rmtree(tmp_path / "out")
    (adapter / "vit.safetensors").unlink()
    whole = shutil.copytree(adapter, tmp_path / "both")
    shutil.copytree(base, whole, dirs_exist_ok=True)
    convert(whole, tmp_path / "out", whole)
    convert(adapter, tmp_path / "apart", base)
    one, other = params_of(tmp_path / "out"), params_of(tmp_path / "apart")
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_the_tokenizer_of_an_adapter_counts(tmp_path):
    base = base_folder(tmp_path / "base")
    adapter = write_adapter(adapted(base, target_modules=["q_proj"]), tmp_path / "adapter")
    text = (base / "tokenizer.json").read_text().replace("cup", "mug")
    (adapter / "tokenizer.json").write_text(text)
    convert(adapter, tmp_path / "out", base)
    assert (tmp_path / "out" / "mllm" / "tokenizer.json").read_text() == text


def test_vocabulary_and_merges_without_a_tokenizer(tmp_path):
    base = base_folder(tmp_path / "hf")
    (base / "tokenizer.json").unlink()
    (base / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (base / "merges.txt").write_text("a b\n")
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
                "added_tokens_decoder": {str(3 + i): {"content": name, "special": True}
                for i, name in enumerate(SPECIAL)}}  # fmt: skip
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    ids = {"vision_start": 6, "vision_end": 7, "image": 8, "video": 9}
    edit(base / "config.json", **{f"{name}_token_id": number for name, number in ids.items()})
    convert(base, tmp_path / "out")
    tokenizer = load_model_folder(tmp_path / "out", ["mllm"]).tokenizers.mllm
    assert tokenizer is not None and tokenizer.encode("ab<|im_end|>b") == [2, 5, 1]


def clip_with_ends(folder: pathlib.Path, eos: int, tokenizer_eos: str, **files) -> pathlib.Path:
    """A CLIP of 50 ids whose config ends a text with `eos` and whose tokenizer with that word."""
    module = hugging_face_model(clip_sizes(True))
    module.config.text_config.eos_token_id = eos
    clip_folder(folder, module, module.config.to_dict(), False)
    names = {"bos_token": "<query>", "eos_token": tokenizer_eos, **files}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.add_tokens([word for word in [tokenizer_eos] if word in made.get_vocab()])
    made.save(str(folder / "tokenizer.json"))
    return folder


def ends_of(folder: pathlib.Path) -> tuple[int, int]:
    made = load_model_folder(folder, ["clip"])
    assert made.tokenizers.clip is not None
    return clip_ends(made.tokenizers.clip, made.system.clip_config)


def test_the_ends_of_a_text_for_another_clip(tmp_path):
    """What transformers pools at, from the tokenizer's own ids."""
    last = tokenizers.Tokenizer.from_file(
        str(clip_with_ends(tmp_path / "x", 49, "cup") / "tokenizer.json")
    ).get_vocab_size() - 1  # fmt: skip
    ids = tokenizers.Tokenizer.from_file(str(tmp_path / "x" / "tokenizer.json")).get_vocab()
    largest = max(ids, key=ids.__getitem__)
    assert ids[largest] == last and last > 7
    for name, eos, word in (("stated", ids["cup"], "cup"), ("old", 2, largest)):
        folder = clip_with_ends(tmp_path / name, eos, word)
        convert(folder, tmp_path / f"{name} out")
        begin, end = ends_of(tmp_path / f"{name} out")
        assert (begin, end) == (ids["<query>"], ids[word])
        tokens = np.array([[begin, ids["a"], ids["red"], end, 0, 0, 0, 0]])
        declare_torchvision_ops()
        from transformers import CLIPModel

        with torch.no_grad():
            reference = CLIPModel.from_pretrained(folder).eval()
            want = reference.get_text_features(torch.from_numpy(tokens)).pooler_output.numpy()
        made = load_model_folder(tmp_path / f"{name} out", ["clip"])
        with jax.default_matmul_precision("highest"):
            got = made.system.clip_model(made.params["clip"]).encode_text(jnp.asarray(tokens))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_ends_of_a_text_that_cannot_be(tmp_path):
    for name, eos, word, message in (
        ("one", 5, "cup", r"text_config.eos_token_id is 5, and .* ends a text with \d+; use the"),
        ("two", 2, "a", r"pools a text at its largest id, and .* ends one with \d+, which is not"),
        ("three", 5, "no such", "eos_token is .*'no such' is not among the added_tokens"),
    ):
        folder = clip_with_ends(tmp_path / name, eos, word)
        with pytest.raises(UserError, match=message):
            convert(folder, tmp_path / "out")
    folder = clip_with_ends(tmp_path / "four", 5, "", eos_token=None)
    text = (folder / "tokenizer.json").read_text().replace("<|im_start|>", "<|other|>")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match="nothing says what begins and ends a text: no post_proc"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
