"""Texts as rows of ids: transformers' own tokenizers as the oracles, on texts of many scripts."""

import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from msjoe_jax.errors import UserError
from msjoe_jax.text.siglip import SiglipTokenizer, make_tokenizer
from tests.support.siglip_oracle import LINES, spiece
from tests.support.torch_stubs import declare_torchvision_ops

CONTEXT, ROWS = 16, 1000
TEXTS = (
    *LINES,
    "",
    " ",
    "?!",
    "A dog; running — over GRASS (fast)!",
    "  spaces\tand\nlines \u00a0 and\u3000more\x1f ",
    "under_score-and/slash▁block",
    "ΟΔΥΣΣΕΥΣ Σ. ΑΣ' ΑΣ'Α ΣΣ",
    "İSTANBUL ǅ ẞ ﬁne ﬂat ½ ① Ⅷ",
    "ｆｕｌｌ　ｗｉｄｔｈ ﾊﾝｶｸ",
    "café cafe\u0301 naïve",
    "日本語のテキスト 中文 한국어 हिन्दी العربية ไทย",
    "😀 a 👩‍👩‍👧 family \u200b zero\u00adwidth",
    "a very long query that does not fit into a row of sixteen ids whatever is done to it",
)


def folder_of(folder, model, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "spiece.model").write_bytes(model)
    stated = {"tokenizer_class": "SiglipTokenizer", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    return stated


def converted(folder, settings, context=CONTEXT):
    (folder / "tokenizer.json").write_text(make_tokenizer(folder, settings, context, ROWS))
    return SiglipTokenizer(folder, context)


def slow(folder, **options):
    declare_torchvision_ops()
    from transformers.models.siglip.tokenization_siglip import SiglipTokenizer as Slow

    return Slow(vocab_file=str(folder / "spiece.model"), **options)


def rows_of(reference, texts):
    return reference(list(texts), padding="max_length", truncation=True, max_length=CONTEXT)[
        "input_ids"
    ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Ours and the slow tokenizer of the published kind of model."""
    folder = tmp_path_factory.mktemp("pieces")
    stated = folder_of(folder, spiece(vocab=200))
    return converted(folder, stated), slow(folder)


@pytest.mark.parametrize("rule", ["nmt_nfkc", "identity", "nmt_nfkc_cf"])
@pytest.mark.parametrize("collapses", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
def test_ids_are_the_slow_tokenizers(tmp_path, rule, collapses, prefix):
    model = spiece(
        vocab=200,
        normalization_rule_name=rule,
        remove_extra_whitespaces=collapses,
        add_dummy_prefix=prefix,
    )
    stated = folder_of(tmp_path / "pieces", model)
    own, reference = converted(tmp_path / "pieces", stated), slow(tmp_path / "pieces")
    got = own.rows(TEXTS)
    assert got.shape == (len(TEXTS), CONTEXT)
    for text, row, want in zip(TEXTS, got.tolist(), rows_of(reference, TEXTS), strict=True):
        # Of no text at all the library makes a lone space, where a model keeps those at the end.
        assert row == want or (not text and not collapses), text
    assert own.is_cut(TEXTS[-1]) and not own.is_cut("a dog")


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=12))
def test_ids_of_any_text(pair, text):
    own, reference = pair
    assert own.rows([text]).tolist() == rows_of(reference, [text])


def test_letters_keep_their_case_if_the_settings_say_so(tmp_path):
    stated = folder_of(tmp_path / "p", spiece(), do_lower_case=False)
    own, reference = converted(tmp_path / "p", stated), slow(tmp_path / "p", do_lower_case=False)
    texts = ["A dog", "a dog"]
    assert own.rows(texts).tolist() == rows_of(reference, texts)
    assert own.rows(texts)[0].tolist() != own.rows(texts)[1].tolist()


def test_what_spells_a_control_token_is_text(pair):
    own, _ = pair
    assert own.rows(["a</s>dog"]).tolist() == own.rows(["asdog"]).tolist()


# --- SigLIP 2: Gemma's kind of vocabulary ---------------------------------------------------------


def gemma(folder):
    """A small byte-fallback BPE, as files of vocabulary and merges."""
    made = Library(tokenizers.models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special + [f"<0x{i:02X}>" for i in range(256)],
        show_progress=False,
    )
    made.train_from_iterator([line.lower() for line in LINES] * 5, trainer)
    folder.mkdir(exist_ok=True)
    made.model.save(str(folder))
    return json.loads((folder / "vocab.json").read_text()), folder / "merges.txt"


STATED = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True}


@pytest.mark.parametrize("side", [None, "right", "left"])
@pytest.mark.parametrize("whole", [True, False])
def test_siglip_2_is_the_librarys(tmp_path, side, whole):
    declare_torchvision_ops()
    from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer

    vocab, file = gemma(tmp_path / "g")
    merges = [tuple(line.split(" ")) for line in file.read_text().splitlines()[1:]]
    stated = {**STATED, **({"padding_side": side} if side else {})}
    own_settings = {k: v for k, v in stated.items() if k != "tokenizer_class"}
    reference = Siglip2Tokenizer(vocab=vocab, merges=merges, **own_settings)
    if whole:  # as published: a file that knows nothing of lower case
        plain = json.loads(reference.backend_tokenizer.to_str())
        plain["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        (tmp_path / "g" / "tokenizer.json").write_text(json.dumps(plain))
    own = converted(tmp_path / "g", stated)
    assert own.rows(TEXTS).tolist() == rows_of(reference, TEXTS)
    ids = own.rows(["a dog"])[0].tolist()
    assert (ids[-1] == vocab["<pad>"]) == (side == "right") and vocab["<eos>"] in ids


def test_the_settings_of_published_files_are_read(tmp_path):
    """All fields of tokenizer_config.json of google/siglip-base-patch16-224 and siglip2-base-…"""
    common = {
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids"],
        "model_max_length": 64,
        "processor_class": "SiglipProcessor",
        "sp_model_kwargs": {},
        "unk_token": "<unk>",
    }
    flags = {"lstrip": True, "normalized": False, "rstrip": True, "single_word": False}
    tokens = {"1": {"content": "</s>", **flags}, "2": {"content": "<unk>", **flags}}
    first = {
        **common,
        "added_tokens_decoder": tokens,
        "additional_special_tokens": [],
        "do_lower_case": True,
        "eos_token": "</s>",
        "pad_token": {"content": "</s>", **flags},
        "tokenizer_class": "SiglipTokenizer",
    }
    plain = converted(tmp_path / "a", folder_of(tmp_path / "a", spiece()))
    assert (
        converted(tmp_path / "b", folder_of(tmp_path / "b", spiece(), **first)).rows(TEXTS).tolist()
        == plain.rows(TEXTS).tolist()
    )
    vocab, _ = gemma(tmp_path / "g")
    second = {
        **common,
        **STATED,
        "added_tokens_decoder": {"0": {"content": "<pad>"}, "1": {"content": "<eos>"}},
        "additional_special_tokens": ["<mask>", {"content": "<bos>"}],
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "extra_special_tokens": {},
        "pad_token": "<pad>",
        "padding_side": "right",
        "spaces_between_special_tokens": False,
        "use_default_system_prompt": False,
    }
    assert converted(tmp_path / "g", second).rows(["a dog"])[0, -1] == vocab["<pad>"]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"pad_token": "<nothing>"}, "the token '<nothing>', which is not there"),
        ({"additional_special_tokens": ["<x>"]}, r"additional_special_tokens=\['<x>'\]"),
        ({"sp_model_kwargs": {"enable_sampling": True}}, "sp_model_kwargs="),
        ({"padding_side": "middle"}, "padding_side='middle'"),
        ({"truncation_side": "left"}, "truncation_side='left'"),
        ({"model_max_length": 8}, "model_max_length=8"),
        ({"added_tokens_decoder": {"7": {"content": "</s>"}}}, "added_tokens_decoder="),
        ({"stem": True}, "stem=True"),
    ],
)
def test_settings_that_are_not_computed(tmp_path, settings_, said):
    stated = folder_of(tmp_path / "p", spiece(), **settings_)
    with pytest.raises(UserError, match=said) as error:
        make_tokenizer(tmp_path / "p", stated, CONTEXT, ROWS)
    (line,) = error.value.lines
    assert line.startswith(f"{tmp_path / 'p' / 'tokenizer_config.json'}: not computed here: ")


def test_vocabularies_that_are_not_there_or_do_not_fit(tmp_path):
    with pytest.raises(UserError, match=r"no spiece\.model, which holds the vocabulary of a Sig"):
        make_tokenizer(tmp_path, {"tokenizer_class": "SiglipTokenizer"}, CONTEXT, ROWS)
    with pytest.raises(UserError, match=r"no spiece\.model, no tokenizer\.json, no vocab\.json"):
        make_tokenizer(tmp_path, {}, CONTEXT, ROWS)
    stated = folder_of(tmp_path / "p", spiece())
    with pytest.raises(UserError, match="embedding table has 10 rows"):
        make_tokenizer(tmp_path / "p", stated, CONTEXT, 10)
    gemma(tmp_path / "g")
    (tmp_path / "g" / "tokenizer.json").write_text(Library(tokenizers.models.BPE()).to_str())
    with pytest.raises(UserError, match="states no padding; `msjoe convert` makes the file"):
        SiglipTokenizer(tmp_path / "g", CONTEXT)
