"""Tokenizers that are built, against transformers' own from the same files."""

import functools
import gzip
import json
import pathlib
import random
import shutil

import pytest
from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.tokenizer_files import (
    build_tokenizer,
    clip_ends,
    has_tokenizer,
    read_tokenizer,
    text_ends,
)
from msjoe_jax.world.word_tokenizer import build_word_tokenizer
from tests.support.material import QWEN, needs_material
from tests.support.torch_stubs import declare_torchvision_ops

RANGES = ((32, 127), (160, 0x250), (0x300, 0x370), (0x400, 0x530), (0x590, 0x700), (0x900, 0x980),
          (0xE00, 0xE80), (0x1100, 0x1200), (0x2000, 0x2070), (0x3040, 0x3100), (0x4E00, 0x5000),
          (0xAC00, 0xAD00), (0xFF00, 0xFFF0), (0x1F300, 0x1F650))  # fmt: skip
SPACES = (" ", "  ", "\n", "\r\n", "\t", " \n ", "\u3000", "\u00a0", "")
WORDS = (
    "don't",
    "WE'LL",
    "it's",
    "naïve",
    "e\u0301",
    "1234",
    "a_b",
    "(x)",
    "<|",
    "|>",
    "##",
    "\ufb01",
)


def texts(specials: tuple[str, ...], count: int = 1000) -> list[str]:
    """Texts of all kinds of characters, with the spellings of special tokens in them."""
    rng = random.Random(0)

    def piece() -> str:
        kind = rng.random()
        if kind < 0.15:
            return rng.choice(specials)
        if kind < 0.4:
            return rng.choice(WORDS)
        low, high = rng.choice(RANGES)
        return "".join(chr(rng.randrange(low, high)) for _ in range(rng.randrange(1, 6)))

    return [
        "".join(piece() + rng.choice(SPACES) for _ in range(rng.randrange(0, 9)))
        for _ in range(count)
    ]


def same(folder: pathlib.Path, specials: tuple[str, ...], kind: str) -> Tokenizer:
    """Asserts that ids, and texts of ids, are those of the library's class from the same files."""
    declare_torchvision_ops()
    import transformers

    theirs = getattr(transformers, kind).from_pretrained(folder)
    ours, built = read_tokenizer(epath.Path(folder))
    assert built is not None and not (folder / "tokenizer.json").exists()
    assert ours.size == len(theirs)
    for text in texts(specials):
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False), text
        if kind == "Qwen2Tokenizer":
            assert ours.decode(ids) == theirs.decode(ids), text
    assert set(specials) <= set(theirs.get_vocab())
    for token in specials:
        assert ours.token_id(token) == theirs.convert_tokens_to_ids(token)
        assert ours.encode(f"a{token}b").count(ours.token_id(token)) == 1
    return ours


@needs_material
@pytest.mark.parametrize("legacy", [False, True], ids=["added_tokens_decoder", "added_tokens.json"])
def test_the_published_vocabulary(tmp_path, legacy):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(QWEN / name, tmp_path)
    settings = json.loads((QWEN / "tokenizer_config.json").read_text())
    added = settings["added_tokens_decoder"]
    if legacy:
        settings = {key: value for key, value in settings.items() if key != "added_tokens_decoder"}
        names = {token["content"]: int(index) for index, token in added.items()}
        (tmp_path / "added_tokens.json").write_text(json.dumps(names))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    specials = tuple(token["content"] for token in added.values())
    built = same(tmp_path, specials, "Qwen2Tokenizer")
    published = Tokenizer(QWEN)
    assert built.size == published.size
    for text in texts(specials):
        assert built.encode(text) == published.encode(text), text


@functools.cache
def openai() -> tuple[dict[str, int], list[str]]:
    """OpenAI's vocabulary, as open_clip makes it of the merges that it ships."""
    declare_torchvision_ops()
    import open_clip.tokenizer as reference

    file = pathlib.Path(reference.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    return reference.SimpleTokenizer().encoder, merges


def clip_folder(folder: pathlib.Path, settings: dict, more: tuple[str, ...] = ()) -> None:
    vocabulary, merges = openai()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): i for token, i in vocabulary.items()}
    vocabulary |= {token: len(vocabulary) + i for i, token in enumerate(more)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_openais_vocabulary(tmp_path):
    clip_folder(tmp_path, {})
    ours = same(tmp_path, ("<|startoftext|>", "<|endoftext|>"), "CLIPTokenizer")
    assert ours.around == text_ends(ours) == (49406, 49407) and ours.largest_id == 49407
    assert clip_ends(ours, CLIPConfig.published("vit-l-14")) == (49406, 49407)


def test_a_clip_with_tokens_of_its_own(tmp_path):
    added = {
        "49408": {"content": "<thing>", "lstrip": False, "rstrip": False, "normalized": True,
                  "single_word": False, "special": False},
        "49409": {"content": "<|stop|>", "lstrip": False, "rstrip": False, "normalized": False,
                  "single_word": False, "special": True},
    }  # fmt: skip
    settings = {"added_tokens_decoder": added, "eos_token": "<|stop|>", "pad_token": "<|stop|>",
                "bos_token": {"content": "<|startoftext|>", "__type": "AddedToken"},
                "unk_token": "<|endoftext|>"}  # fmt: skip
    clip_folder(tmp_path, settings)
    ours = same(tmp_path, ("<|stop|>", "<|startoftext|>"), "CLIPTokenizer")
    assert text_ends(ours) == (49406, 49409)


def test_ids_that_are_not_the_next_ones(tmp_path):
    """Added tokens keep the ids that the file states, or the file is refused."""
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "merges.txt").write_text("a b\n")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<e>", "pad_token": "<e>", '
                                                    '"unk_token": null}')  # fmt: skip
    (tmp_path / "added_tokens.json").write_text('{"<e>": 7, "<f>": 5}')
    ours = Tokenizer(tmp_path, build_tokenizer(epath.Path(tmp_path)))
    assert ours.encode("ab<e>b<f>") == [2, 7, 1, 5]
    (tmp_path / "added_tokens.json").write_text('{"<e>": 2}')
    with pytest.raises(UserError, match=r"the id 2 of '<e>' is another token's in vocab.json"):
        build_tokenizer(epath.Path(tmp_path))
    (tmp_path / "added_tokens.json").write_text('{"ab": 9}')
    with pytest.raises(UserError, match="the token 'ab' cannot have the id 9"):
        build_tokenizer(epath.Path(tmp_path))
    (tmp_path / "added_tokens.json").write_text('{"<e>": "x"}')
    with pytest.raises(UserError, match="added tokens cannot be read"):
        build_tokenizer(epath.Path(tmp_path))
    (tmp_path / "added_tokens.json").unlink()
    (tmp_path / "merges.txt").write_text("a c\n")
    with pytest.raises(UserError, match=r"vocab.json and merges.txt do not fit together"):
        build_tokenizer(epath.Path(tmp_path))


def test_what_stands_around_a_text(tmp_path):
    """The tokenizer's own rule, else the settings beside it, else what the sizes imply."""
    folder = epath.Path(tmp_path)
    assert not has_tokenizer(folder)
    build_word_tokenizer(tmp_path / "tokenizer.json", ["a red cup"])
    assert has_tokenizer(folder)
    words, built = read_tokenizer(folder)
    assert built is None and text_ends(words) is None
    sizes = CLIPConfig.tiny(words.size, words.token_id("<|endoftext|>"))
    assert clip_ends(words, sizes) == (1, 0)
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "red", "eos_token": "cup"}')
    assert text_ends(words) == (words.token_id("red"), words.token_id("cup"))
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "no", "eos_token": "cup"}')
    with pytest.raises(UserError, match="the vocabulary lacks the token 'no'"):
        text_ends(words)
