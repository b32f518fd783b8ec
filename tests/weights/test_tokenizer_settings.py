"""What stands beside a tokenizer.json has to say what that file says."""

import json

import pytest
import tokenizers

from msjoe_jax.errors import UserError
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.settings_files import SettingsFiles
from msjoe_jax.weights.tokenizer_settings import ADDED, CONFIG, check_tokenizer_settings
from msjoe_jax.world.word_tokenizer import build_word_tokenizer
from tests.support.material import QWEN, needs_material


def check(folder, content=None, adds_tokens=False, file=CONFIG):
    build_word_tokenizer(folder / "tokenizer.json", ["a red cup"])
    if content is not None:
        (folder / file).write_text(json.dumps(content))
    check_tokenizer_settings(SettingsFiles(folder), Tokenizer(folder), adds_tokens)


@needs_material
def test_the_published_files():
    check_tokenizer_settings(SettingsFiles(QWEN), Tokenizer(QWEN), adds_tokens=False)


def test_what_transformers_writes(tmp_path):
    from transformers import PreTrainedTokenizerFast

    file = build_word_tokenizer(tmp_path / "tokenizer.json", ["a red cup"])
    made = PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="<|im_end|>")
    made.save_pretrained(tmp_path / "out")
    check_tokenizer_settings(SettingsFiles(tmp_path / "out"), Tokenizer(tmp_path / "out"), False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"add_bos_token": True}, "add_bos_token is true"),
        ({"add_prefix_space": True}, "add_prefix_space"),
        ({"split_special_tokens": True}, "split_special_tokens"),
        ({"clean_up_tokenization_spaces": True}, "clean_up_tokenization_spaces"),
        (
            {"added_tokens_decoder": {"999": {"content": "<x>"}}},
            "added_tokens_decoder.999 is a tok",
        ),
        ({"added_tokens_decoder": {"1": {"content": "<x>"}}}, '1.content is "<x>"; only "<|im_st'),
        ({"added_tokens_decoder": {"1": {"special": False}}}, "1.special is false; only true"),
        ({"eos_token": 3}, "eos_token is 3, no token"),
        ({"eos_token": {"content": "<x>"}}, "'<x>' is not among the added_tokens of"),
        ({"additional_special_tokens": ["<|im_end|>", "red"]}, "additional_special_tokens is"),
        ({"extra_special_tokens": {"x_token": "<x>"}}, "extra_special_tokens is"),
        ({"vocabulary_size": 3}, "vocabulary_size is 3, a field that is not known"),
    ],
)
def test_what_says_otherwise_is_refused(tmp_path, content, words):
    with pytest.raises(UserError, match=f"tokenizer_config.json: .*{words.split('|')[0]}"):
        check(tmp_path, content)


def test_added_tokens(tmp_path):
    check(tmp_path, {"<|im_start|>": 1}, file=ADDED)
    with pytest.raises(UserError, match=r"im_start\|> is 2; only 1"):
        check(tmp_path, {"<|im_start|>": 2}, file=ADDED)
    with pytest.raises(UserError, match=r"<new> is 60, and not in .*tokenizer\.json"):
        check(tmp_path, {"<new>": 60}, file=ADDED)


def test_tokens_around_a_text(tmp_path):
    file = build_word_tokenizer(tmp_path / "tokenizer.json", ["a red cup"])
    made = tokenizers.Tokenizer.from_file(str(file))
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    made.save(str(file))
    assert Tokenizer(file).encode("a cup") != made.encode("a cup").ids
    files = SettingsFiles(tmp_path)
    with pytest.raises(UserError, match="post_processor puts tokens around a text"):
        check_tokenizer_settings(files, Tokenizer(file), adds_tokens=False)
    check_tokenizer_settings(files, Tokenizer(file), adds_tokens=True)
