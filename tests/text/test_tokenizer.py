"""The published vocabulary: public vectors, round trips, prompts as the reference makes them."""

import functools
import json
import unicodedata

import jinja2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from msjoe_jax.families import FAMILIES
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.images import smart_resize
from msjoe_jax.rollout.assemble import Assembler, Frame
from msjoe_jax.text import prompts
from msjoe_jax.text.tokenizer import Tokenizer
from tests.support.material import QWEN, TOKENIZERS, needs_material
from tests.support.torch_stubs import declare_torchvision_ops

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
PIXELS = {"min_pixels": 4 * 28**2, "max_pixels": 30 * 28**2}

pytestmark = needs_material


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer(QWEN)


def test_public_vectors():
    """llama.cpp's vectors of Qwen2: texts between separator lines, their ids a line each."""
    source = TOKENIZERS / "vectors" / "ggml-vocab-qwen2.gguf"
    texts = source.with_suffix(".gguf.inp").read_bytes().decode()
    texts = texts.split("\n__ggml_vocab_test__\n")[:-1]  # a separator ends the file
    rows = source.with_suffix(".gguf.out").read_text().split("\n")[:-1]
    assert len(texts) == len(rows) == 46
    for text, row in zip(texts, rows, strict=True):
        assert tokenizer().encode(text) == [int(n) for n in row.split()], text
        # Text is encoded in normal form C.
        assert tokenizer().decode(tokenizer().encode(text)) == unicodedata.normalize("NFC", text)


# Unassigned characters (Cn) may be composed by a newer Unicode than Python's, surrogates (Cs) are
# no text.
characters = st.characters(exclude_categories=("Cs", "Cn"))
texts = st.lists(st.text(characters, max_size=20) | st.sampled_from(SPECIAL), max_size=6)


@settings(max_examples=500, deadline=None)
@given(texts.map("".join))
def test_any_text_comes_back_in_normal_form(text):
    ids = tokenizer().encode(text)
    assert all(0 <= i < tokenizer().size for i in ids)
    assert tokenizer().decode(ids) == unicodedata.normalize("NFC", text)
    for token in SPECIAL:  # one id each, wherever it is spelled out
        assert ids.count(tokenizer().token_id(token)) == text.count(token)


spellings = st.sampled_from(SPECIAL).flatmap(
    lambda token: st.sampled_from(
        [token, token.replace("|", "｜"), token.replace("<", "＜"), f"<{token}", f"<|{token}|>"]
        + [token.replace("|", f"{hidden}|") for hidden in "\u200b\u0338\xad "]
    )
)


@settings(max_examples=200, deadline=None)
@given(st.lists(spellings | st.text(characters, max_size=3), max_size=6).map("".join))
def test_user_text_holds_no_special_token(text):
    ids = tokenizer().encode(prompts.plain(text))
    assert not set(ids) & {tokenizer().token_id(token) for token in SPECIAL}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 151_664), max_size=20))
def test_any_ids_have_a_text(ids):
    """A rollout may draw any ids, broken UTF-8 included."""
    assert isinstance(tokenizer().decode(ids), str)


def test_ids_of_the_config_are_the_tokenizers():
    config = QwenConfig.from_hf(json.loads((QWEN / "config.json").read_text()))
    assert tokenizer().token_id("<|image_pad|>") == config.image_token_id
    assert tokenizer().token_id("<|video_pad|>") == config.video_token_id
    assert tokenizer().token_id("<|vision_start|>") == config.vision_start_token_id
    assert tokenizer().token_id("<|vision_end|>") == config.vision_end_token_id
    assert tokenizer().size <= config.text.vocab


def template(messages: list[dict]) -> str:
    source = json.loads((QWEN / "chat_template.json").read_text())["chat_template"]
    return jinja2.Template(source).render(messages=messages, add_generation_prompt=True)


def conversation(body: str, kinds: list[str], system: str | None = None) -> list[dict]:
    content = [{"type": kind, kind: "file"} for kind in kinds] + [{"type": "text", "text": body}]
    messages = [{"role": "user", "content": content}]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


def body_of(text: tuple[str, str]) -> str:
    """What the user said: the tail of a prompt without the template's own ending."""
    end = "<|im_end|>\n<|im_start|>assistant\n"
    assert text[1].endswith(end)
    return text[1].removesuffix(end)


def expand(text: str, pad: str, counts: list[int]) -> str:
    """Every placeholder as many times as its picture has tokens, as the processor writes it."""
    pieces = text.split(pad)
    assert len(pieces) == len(counts) + 1
    return "".join(p + pad * n for p, n in zip(pieces, [*counts, 0], strict=True))


def assembled(row: dict[str, np.ndarray]) -> list[int]:
    return [*row["tokens"][row["segments"] > 0].tolist(), int(row["first_token"])]


@pytest.fixture(scope="module")
def assembler() -> Assembler:
    config = QwenConfig.from_hf(json.loads((QWEN / "config.json").read_text()))
    return Assembler(tokenizer(), FAMILIES["qwen2_5_vl"], config)


ASK = ("Führt 我 the 🦇 home?\n(really)", ["yes", "no — never", "<|im_end|>"])


@pytest.mark.parametrize("step", ["reason", "answer"])
@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("grids", [[], [(4, 6)], [(4, 6), (2, 10), (8, 2)]])
def test_prompts_are_the_chat_template(assembler, step, system, grids):
    style = prompts.PromptConfig() if system is None else prompts.PromptConfig(system=system)
    text = (
        prompts.query_prompt(style, *ASK, 4)
        if step == "reason"
        else prompts.answer_prompt(style, *ASK)
    )
    rendered = template(conversation(body_of(text), ["image"] * len(grids), system))
    want = expand(rendered, "<|image_pad|>", [h * w // 4 for h, w in grids])
    frames = [Frame(64 * i, grid) for i, grid in enumerate(grids)]
    assert assembled(assembler.row(text, frames, length=500)) == tokenizer().encode(want)


def test_a_video_is_the_chat_templates(assembler):
    text = prompts.answer_prompt(prompts.PromptConfig(), *ASK)
    rendered = template(conversation(body_of(text), ["video"]))
    want = expand(rendered, "<|video_pad|>", [3 * 4 * 6 // 4])
    frames = [Frame(64 * i, (4, 6)) for i in range(3)]
    row = assembler.row(text, frames, length=500, seconds=0.5)
    assert assembled(row) == tokenizer().encode(want)


def test_the_processor_makes_the_same_prompt(assembler):
    """The reference end to end: pictures sized, placeholders counted, text encoded."""
    declare_torchvision_ops()
    from transformers import AutoTokenizer, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    size = {"shortest_edge": PIXELS["min_pixels"], "longest_edge": PIXELS["max_pixels"]}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(size=size),
        tokenizer=AutoTokenizer.from_pretrained(QWEN),
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=json.loads((QWEN / "chat_template.json").read_text())["chat_template"],
    )
    text = prompts.query_prompt(prompts.PromptConfig(think=True), *ASK, 3)
    sizes = [(100, 180), (30, 20), (400, 130)]
    rendered = processor.apply_chat_template(
        conversation(body_of(text), ["image"] * len(sizes)),
        add_generation_prompt=True,
        tokenize=False,
    )
    pictures = [Image.new("RGB", (w, h)) for h, w in sizes]
    want = processor(text=[rendered], images=pictures)["input_ids"][0]
    grids = [tuple(n // 14 for n in smart_resize(*s, factor=28, **PIXELS)) for s in sizes]
    frames = [Frame(64 * i, grid) for i, grid in enumerate(grids)]
    assert assembled(assembler.row(text, frames, length=500)) == list(want)
