"""The text side: end ids, completions as text, CLIP's rows."""

import dataclasses

import numpy as np
import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.rollout.system import (
    ClipSettings,
    MllmSettings,
    ModelSettings,
    Tokenizers,
    load_tokenizers,
    make_system,
)
from msjoe_jax.rollout.text import end_ids, make_text
from tests.support.tiny import TINY_PROMPT, tiny_settings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = tiny_settings(tmp_path_factory.mktemp("tokenizer"))
    tokenizers = load_tokenizers(settings)
    return make_system(settings, tokenizers), tokenizers


@pytest.fixture(scope="module")
def text(made):
    return make_text(*made, TINY_PROMPT)


def test_replies_end_as_the_chat_does(made, text):
    tokenizer = made[1].mllm
    chat = tuple(tokenizer.token_id(name) for name in ("<|im_end|>", "<|endoftext|>"))
    assert text.end_ids == chat == end_ids(tokenizer)
    how = text.sampling(5, 0.5)
    assert (how.max_tokens, how.end_ids, how.temperature) == (5, chat, 0.5)
    assert how.banned_ids == text.banned_ids == made[0].banned_ids()


def test_completions_as_text(text):
    ids = [*text.tokenizer.encode("red cup"), text.end_ids[0], 0]
    mask = np.array([True] * (len(ids) - 1) + [False])
    assert text.decode(np.array(ids), mask) == text.tokenizer.decode(ids[:-2])
    assert text.verbatim(np.array(ids), mask) == text.tokenizer.decode(ids[:-1])
    assert text.verbatim(np.array(ids), mask).endswith("<|im_end|>")


def test_clips_rows(text):
    """A row a text, cut to the context; a missing one can still be pooled."""
    long = " ".join(["red"] * 20)
    tokens, mask = text.clip_rows([[("cup", long)], [("<|im_end|> dog",)]])
    start, end = text.clip_start_end
    assert tokens.shape == (2, 1, 2, text.clip_context) and tokens.dtype == np.int32
    assert mask.tolist() == [[[True, True]], [[True, False]]]
    assert (tokens[..., 0] == start).all()
    assert tokens[0, 0, 0, :3].tolist() == [start, *text.clip_tokenizer.encode("cup"), end]
    assert tokens[0, 0, 1, -1] == end
    assert tokens[1, 0, 1].tolist() == [start, end] + [0] * (text.clip_context - 2)


def test_a_query_is_cut_where_a_longer_context_would_hold_more(text):
    whole = dataclasses.replace(text, clip_context=100)
    for count in range(1, 12):
        query = " ".join(["red"] * count)
        (row,), (all_,) = (t.clip_rows([[(query,)]])[0][0] for t in (text, whole))
        assert text.is_cut(query) == ((row[0] > 0).sum() < (all_[0] > 0).sum())
    assert text.is_cut(" ".join(["red"] * 11)) and not text.is_cut("red")
    assert text.cut_note(3).startswith(f"queries cut at CLIP's {text.clip_context} tokens: 3;")


def test_the_ends_of_openais_vocabulary(made):
    system = make_system(
        ModelSettings(MllmSettings(size="qwen2.5-vl-7b"), ClipSettings(size="vit-l-14"))
    )
    assert system.clip_config == CLIPConfig.published("vit-l-14")
    assert make_text(system, made[1], TINY_PROMPT).clip_start_end == (49406, 49407)


def test_a_missing_tokenizer_is_named(made):
    system, (mllm, clip) = made
    for name, given in (("mllm", Tokenizers(None, clip)), ("clip", Tokenizers(mllm, None))):
        with pytest.raises(UserError, match=rf"no tokenizer for {name}: set config\.{name}"):
            make_text(system, given, TINY_PROMPT)
