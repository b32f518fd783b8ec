"""A tokenizer.json and its class: where the ids of transformers would be others it is refused."""

import json
import pathlib

import pytest
from etils import epath
from tokenizers import pre_tokenizers

from msjoe_jax.errors import UserError
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.settings_files import SettingsFiles
from msjoe_jax.weights.tokenizer_class import check_class
from msjoe_jax.weights.tokenizer_files import build_tokenizer
from msjoe_jax.weights.tokenizer_settings import check_tokenizer_settings
from tests.support.torch_stubs import declare_torchvision_ops
from tests.weights.test_tokenizer_files import clip_folder, texts

pytestmark = pytest.mark.slow
FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True, "trim_offsets": True}
EXTRA = "What <foo> What Whatever <tool_call>"
SHOWN = [*texts(("<|im_start|>",), 100), EXTRA]
# A change, the field that a refusal names; empty: both give the same ids and text.
FILES = {
    "published": ({}, ""),
    "post_processor": ({"post_processor": None}, ""),
    "normalizer": ({"normalizer": None}, "normalizer or pre_tokenizer split '"),
    "pre_tokenizer": ({"pre_tokenizer": BYTES}, "normalizer or pre_tokenizer split '"),
    "decoder": ({"decoder": None}, "decoder is null"),
    "other decoder": ({"decoder": {"type": "Fuse"}}, 'decoder is {"type": "Fuse"}'),
    "dropout": ({"model.dropout": 0.5}, "model.dropout is 0.5"),
    "suffix": ({"model.end_of_word_suffix": "</w>"}, 'model.end_of_word_suffix is "</w>"'),
    "prefix": ({"model.continuing_subword_prefix": "##"}, "model.continuing_subword_prefix"),
    "no prefix": ({"model.continuing_subword_prefix": None}, ""),
    "merges": ({"model.ignore_merges": True}, "model.ignore_merges is true"),
    "unknown": ({"model.unk_token": "!", "model.fuse_unk": True}, ""),  # no byte is unknown
    "bytes": ({"model.byte_fallback": True}, ""),
}
NAMED = {
    "eos_token": {"eos_token": "<foo>"},
    "bos_token": {"bos_token": "What"},  # a word, which would be found within others
    "image_token": {"image_token": "<foo>"},
    "additional_special_tokens": {"additional_special_tokens": ["<foo>"]},
    "extra_special_tokens": {"extra_special_tokens": {"foo_token": "<foo>"}},
}


def qwen(folder: pathlib.Path) -> None:
    """Bytes, a few merges, a word that no merge makes, and added tokens."""
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"]
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Wh", "at", "\u0120W", "What"]
    (folder / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\nW h\na t\n\u0120 W\n")
    form = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    added = {
        str(len(vocabulary) + i): {"content": name, **form, "special": i < 3}
        for i, name in enumerate(names)
    }
    settings = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added}
    (folder / SETTINGS).write_text(json.dumps({**settings, "eos_token": "<|im_end|>"}))
    (folder / FILE).write_text(build_tokenizer(epath.Path(folder)))
    (folder / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()


def edit(file: pathlib.Path, changes: dict) -> None:
    content = json.loads(file.read_text()) if file.is_file() else {}
    for path, value in changes.items():
        part, _, key = path.rpartition(".")
        (content[part] if part else content)[key] = value
    file.write_text(json.dumps(content))


def equal(folder: pathlib.Path) -> bool:
    """Whether ids, and texts of ids, are those of the class that transformers finds."""
    declare_torchvision_ops()
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer(folder)
    rows = [ours.encode(text) for text in SHOWN]
    same = rows == [theirs.encode(text, add_special_tokens=False) for text in SHOWN]
    return same and [ours.decode(ids) for ids in rows] == [theirs.decode(ids) for ids in rows]


def check(folder: pathlib.Path, clip: bool = False) -> None:
    files = SettingsFiles(epath.Path(folder))
    check_class(files, clip)
    check_tokenizer_settings(files, Tokenizer(folder), adds_tokens=clip)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_its_class_would_not_read_so_is_refused(name, tmp_path):
    change, words = FILES[name]
    qwen(tmp_path)
    edit(tmp_path / FILE, change)
    if not words:
        check(tmp_path)
        assert equal(tmp_path)
        return
    with pytest.raises(UserError) as error:
        check(tmp_path)
    assert f"{FILE}: {words}" in str(error.value)
    if name == "prefix":
        return  # with these merges the library itself fails
    assert not equal(tmp_path)
    edit(tmp_path / SETTINGS, {"tokenizer_class": "PreTrainedTokenizerFast"})
    if name != "dropout":  # by chance, whoever reads it
        check(tmp_path)
        assert equal(tmp_path)


@pytest.mark.parametrize("file", [SETTINGS, "special_tokens_map.json"])
@pytest.mark.parametrize("name", NAMED)
def test_tokens_that_the_file_does_not_add_are_refused(name, file, tmp_path):
    """Without a list of added tokens transformers reads both files."""
    qwen(tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    del settings["added_tokens_decoder"]
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    check(tmp_path)
    assert equal(tmp_path)
    edit(tmp_path / file, NAMED[name])
    with pytest.raises(UserError, match=f"{file}: {name} is ") as error:
        check(tmp_path)
    assert "\n" not in str(error.value)
    assert not equal(tmp_path)


def test_a_list_of_added_tokens_is_all_that_its_class_adds(tmp_path):
    qwen(tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    del settings["added_tokens_decoder"]["263"]
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    assert not equal(tmp_path)
    with pytest.raises(UserError, match="added_tokens_decoder lacks '<tool_call>'"):
        check(tmp_path)
    edit(tmp_path / SETTINGS, {"tokenizer_class": "TokenizersBackend"})
    check(tmp_path)
    assert equal(tmp_path)
    edit(tmp_path / SETTINGS, {"tokenizer_class": "CLIPTokenizer"})
    with pytest.raises(UserError, match='tokenizer_class is "CLIPTokenizer"; only Qwen2Tokenizer'):
        check(tmp_path)


@pytest.mark.parametrize("file", [SETTINGS, "config.json"])
def test_of_clip(file, tmp_path):
    clip_folder(tmp_path, {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"})
    (tmp_path / FILE).write_text(build_tokenizer(epath.Path(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    edit(tmp_path / FILE, {"decoder": None})  # its texts are never decoded
    check(tmp_path, clip=True)
    edit(tmp_path / file, {"tokenizer_class": "BertTokenizer"})
    with pytest.raises(UserError, match=f'{file}: tokenizer_class is "BertTokenizer"; only CLIP'):
        check(tmp_path, clip=True)
    edit(tmp_path / file, {"tokenizer_class": "CLIPTokenizerFast"})
    check(tmp_path, clip=True)
    edit(tmp_path / FILE, {"model.end_of_word_suffix": ""})
    with pytest.raises(UserError, match=r'suffix is "", and "</w>" by the class'):
        check(tmp_path, clip=True)
