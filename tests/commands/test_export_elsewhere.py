"""Exports in transformers: the same prompt, the same text, the same end, from the files alone."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
import torch
from PIL import Image

from msjoe_jax.commands import export as module
from msjoe_jax.commands import generate
from msjoe_jax.commands.convert import convert
from msjoe_jax.errors import UserError
from msjoe_jax.families import FAMILIES
from msjoe_jax.fields import plain
from msjoe_jax.models.lora import add_lora
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.rollout.model_folder import load_model_folder, save_model_folder
from msjoe_jax.rollout.stored_models import StoredModel
from msjoe_jax.rollout.system import load_tokenizers, make_system
from msjoe_jax.runtime.checkpoint import save_params
from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.text.prompts import turns
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.world.word_tokenizer import build_word_tokenizer
from tests.support.tiny import TINY_PROMPT, tiny_params, tiny_settings
from tests.support.torch_stubs import declare_torchvision_ops
from tests.support.torch_weights import randomise
from tests.test_meshes import BASE

# A warning of a class of peft would have to be read by the process that collects results.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::peft")]

TOKENS = 128
WORDS = [f"w{i}" for i in range(80)]
PROMPT = "w3 w1 ? w4"


def next_words(model: Any, tokenizer: Tokenizer) -> None:
    """Makes a model say w0 w1 … and end, through its last MLP; all else stays random."""
    chain = [*map(tokenizer.token_id, ["\n", *WORDS, "<|im_end|>"])]
    width, rng = model.config.text_config.hidden_size, np.random.default_rng(0)
    randomise(model)
    with torch.no_grad():
        text = model.model.language_model
        table = torch.from_numpy(rng.normal(size=text.embed_tokens.weight.shape)).float()
        text.embed_tokens.weight.copy_(table)
        for layer in text.layers:
            layer.self_attn.o_proj.weight *= 0.3
            layer.mlp.down_proj.weight *= 0.3
        mlp, before, after = text.layers[-1].mlp, table[chain[:-1]], table[chain[1:]]
        text.layers[-1].post_attention_layernorm.weight.fill_(1.0)
        mlp.gate_proj.weight[: len(before)] = 8 * before / width
        mlp.up_proj.weight[: len(before)] = before / width
        mlp.down_proj.weight[:, : len(before)] = 0.5 * after.T
        if not model.config.tie_word_embeddings:
            model.lm_head.weight.copy_(table)
    model.tie_weights()


def published(folder: pathlib.Path, tie: bool) -> pathlib.Path:
    """A folder as save_pretrained leaves it, with a tokenizer and no settings of its own."""
    declare_torchvision_ops()
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    folder.mkdir()
    build_word_tokenizer(folder / "tokenizer.json", [" ".join([*WORDS, "?"])])
    tokenizer = Tokenizer(folder)
    sizes = QwenConfig.tiny(tokenizer.size, FAMILIES["qwen2_5_vl"].token_ids(tokenizer))
    text = dataclasses.replace(sizes.text, tie_embeddings=tie)
    config = Qwen2_5_VLConfig(**dataclasses.replace(sizes, text=text).to_hf())
    model = Qwen2_5_VLForConditionalGeneration._from_config(config).eval()
    next_words(model, tokenizer)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)  # of a class, not of this model
    return folder


def ours(folder: pathlib.Path, prompt: str, system: str, capsys, images=()) -> list[int]:
    """Ids of a greedy reply, its end among them."""
    capsys.readouterr()
    generate.run(
        str(folder),
        prompt,
        images,
        (),
        system=system,
        fps=2.0,
        max_pixels=0,
        max_tokens=TOKENS,
        drawn={"temperature": 0.0, "repetition_penalty": 1.0},
        seed=0,
        dtype="float32",
        as_json=True,
    )
    return json.loads(capsys.readouterr().out.strip().split("\n")[-1])["token_ids"]


class Reference:
    """What a user of transformers has: the Auto classes and a folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        declare_torchvision_ops()
        from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.processor = AutoProcessor.from_pretrained(folder)
        load = AutoModelForImageTextToText.from_pretrained
        self.model = load(folder, dtype=torch.float32).eval()

    def prompt(self, text: str) -> list[int]:
        """By the tokenizer and by the processor."""
        said = [{"role": "user", "content": text}]
        parts = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        (ids,) = self.processor.apply_chat_template(
            parts, add_generation_prompt=True, tokenize=True, return_dict=True
        )["input_ids"]
        one = self.tokenizer.apply_chat_template(said, add_generation_prompt=True)["input_ids"]
        assert list(one) == list(ids)
        return list(ids)

    def reply_to(self, text: str, image: Image.Image) -> list[int]:
        """The same to a picture and a text."""
        parts = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        grid = inputs["image_grid_thw"]
        count = (inputs["input_ids"] == self.model.config.image_token_id).sum()
        assert len(grid) == 1 and grid.prod() == 4 * count > 4
        with torch.no_grad():
            out = self.model.generate(**inputs, max_new_tokens=TOKENS)
        return out[0, inputs["input_ids"].shape[1] :].tolist()

    def reply(self, text: str) -> list[int]:
        """With the settings of the folder's generation_config.json."""
        ids = torch.tensor([self.prompt(text)])
        with torch.no_grad():
            out = self.model.generate(ids, max_new_tokens=TOKENS)
        return out[0, ids.shape[1] :].tolist()


def check(folder: pathlib.Path, export: pathlib.Path, system: str, capsys) -> list[int]:
    """Compares prompt and reply; returns the reply."""
    tokenizer, reference = Tokenizer(folder / "mllm"), Reference(export)
    assert reference.prompt(PROMPT) == tokenizer.encode("".join(turns(system, PROMPT)))
    said = ours(folder, PROMPT, system, capsys)
    assert reference.reply(PROMPT) == said
    assert reference.tokenizer.decode(said) == tokenizer.decode(said)
    return said


@pytest.mark.parametrize("tie", [False, True], ids=["own-head", "tied"])
def test_a_converted_model(tmp_path, capsys, tie):
    convert(published(tmp_path / "hf", tie), tmp_path / "model")
    module.run(str(tmp_path / "model"), str(tmp_path / "out"), "hf", "")
    out = capsys.readouterr().out
    assert out.endswith(f"to publish it: hf upload ORG/out {tmp_path / 'out'}\n")
    said = check(tmp_path / "model", tmp_path / "out", "You are a helpful assistant.", capsys)
    tokenizer = Tokenizer(tmp_path / "hf")
    assert said == [*map(tokenizer.token_id, WORDS), tokenizer.token_id("<|im_end|>")]
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (90, 120, 3), np.uint8))
    picture.save(tmp_path / "picture.png")
    files = [str(tmp_path / "picture.png")]
    seen = ours(tmp_path / "model", PROMPT, "You are a helpful assistant.", capsys, files)
    assert Reference(tmp_path / "out").reply_to(PROMPT, picture) == seen
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                 "generation_config.json", "preprocessor_config.json"):  # fmt: skip
        assert (tmp_path / "out" / name).is_file(), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"]


@pytest.mark.soak
def test_the_tiny_worlds_model(tmp_path, capsys):
    """Trained, with nothing but its config and its vocabulary: it ends what it says."""
    convert(BASE, tmp_path / "model")
    module.run(str(tmp_path / "model"), str(tmp_path / "out"), "hf", "")
    tokenizer, reference = Tokenizer(BASE), Reference(tmp_path / "out")
    names = json.loads((BASE / "tokenizer.json").read_text())["model"]["vocab"]
    words = [name for name in names if name.isalpha() and len(name) > 1]
    total, ends = [], 0
    for prompt in (" ".join(words[i : i + 6]) for i in range(0, 30, 5)):
        said = ours(tmp_path / "model", prompt, "You are a helpful assistant.", capsys)
        assert reference.reply(prompt) == said
        total += said
        ends += said[-1] == tokenizer.token_id("<|im_end|>")
    assert len(total) >= 64 and len(set(total)) >= 15 and ends  # all that it ever says


@pytest.mark.soak
def test_a_training_with_lora(tmp_path, capsys):
    """The merged model and the factors, which peft adds to the base."""
    convert(published(tmp_path / "hf", True), tmp_path / "base")
    base = load_model_folder(tmp_path / "base", ["mllm"])
    settings = tiny_settings(
        tmp_path, lora_rank=2, lora_alpha=6.0, checkpoint=str(tmp_path / "base")
    )
    mllm = dataclasses.replace(settings.mllm, size="", tokenizer="")
    settings = dataclasses.replace(settings, mllm=mllm)
    tokenizers = load_tokenizers(settings)
    system = make_system(settings, tokenizers)
    assert system.lora_scale == 3.0
    adapted = add_lora(base.params["mllm"], "layers/", 2, 0)
    keys = iter(jax.random.split(jax.random.key(0), 99))
    noise = jax.tree.map(
        lambda x: x + 0.02 * jax.random.normal(next(keys), x.shape), adapted["lora"]
    )
    others = tiny_params(system.abstract)
    save_params(tmp_path / "checkpoint", {"state": {"mllm": {**adapted, "lora": noise}}}, {})
    stored = StoredModel("mllm", tmp_path / "checkpoint", "state/mllm")
    save_model_folder(
        tmp_path / "final",
        settings=settings,
        parts={"prompt": plain(TINY_PROMPT)},
        system=system,
        tokenizers=tokenizers,
        params={**others, "mllm": stored.load(system, make_machine())},
        factors=stored.factors(settings.mllm, "unused"),
    )
    module.run(str(tmp_path / "final"), str(tmp_path / "out"), "hf", "")
    said = check(tmp_path / "final", tmp_path / "out", TINY_PROMPT.system, capsys)
    assert len(said) >= 64 and len(set(said)) >= 20
    module.run(str(tmp_path / "final"), str(tmp_path / "lora"), "peft", "", "ORG/BASE")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "ORG/BASE"
    kept = json.loads((tmp_path / "final" / "adapter" / "adapter_config.json").read_text())
    assert kept["base_model_name_or_path"] == str(tmp_path / "base")
    module.run(str(tmp_path / "base"), str(tmp_path / "base hf"), "hf", "")
    from peft import PeftModel

    ids = torch.arange(7, 40)[None]
    merged, whole = Reference(tmp_path / "out").model, Reference(tmp_path / "base hf").model
    with torch.no_grad():
        before = whole(input_ids=ids).logits
        want = merged(input_ids=ids).logits
        got = PeftModel.from_pretrained(whole, tmp_path / "lora")(input_ids=ids).logits
    assert (before - want).abs().max() > 0.1 * want.abs().max()
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    # And in again, by convert: the values that were exported.
    convert(tmp_path / "lora", tmp_path / "again", tmp_path / "base hf")
    back, final = (
        load_model_folder(tmp_path / n, ["mllm"]).params["mllm"] for n in ("again", "final")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), back, final)


def test_an_adapter_that_is_not_there(tmp_path):
    convert(BASE, tmp_path / "model")
    with pytest.raises(UserError, match=r"model: holds no adapter: .*--format=hf exports"):
        module.run(str(tmp_path / "model"), str(tmp_path / "out"), "peft", "")
    for flags, words in (
        (("hf", "", "ORG/X"), "--base=ORG/X is for --format=peft"),
        (("peft", "bfloat16", ""), "--dtype=bfloat16 is for --format=hf or orbax"),
    ):
        with pytest.raises(UserError, match=words):
            module.run(str(tmp_path / "model"), str(tmp_path / "out"), *flags)
