"""A tokenizer.json beside the class that transformers takes it by: both have to give the same ids.

Of the classes of Qwen2 and CLIP transformers takes vocabulary, merges and added tokens from the
files and all else from itself; other programs read the file. Reference: transformers
`tokenization_qwen2.py`, `tokenization_clip.py`, `tokenization_auto.py` (5.23).
"""

from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import read_json
from msjoe_jax.stated import shown
from msjoe_jax.weights.folder import CONFIG
from msjoe_jax.weights.settings_files import SettingsFiles
from msjoe_jax.weights.tokenizer_files import END_OF_WORD, SETTINGS, TOKENIZER, split_text

FIELD = "tokenizer_class"
# Classes that take the file as it is, without the end Fast.
AS_IS = ("PreTrainedTokenizer", "TokenizersBackend")
PROBES = (
    *(
        "Where is it?",
        " a  b   c ",
        "don't I'LL",
        "12345 6",
        "x\n\n y\r\n",
        "\tq\u00a0r",
        "é e\u0301",
    ),
    *(
        "Ünïcode ΑΒΓ",
        "日本語の文",
        "क्षेत्र",
        "🙂👍🏽!!",
        "a_b-c/d.e,f",
        "\ufb01 \u2126 \u1e9b\u0323",
        "<x> </x>",
    ),
)


def check_class(files: SettingsFiles, clip: bool) -> None:
    """Checks that a tokenizer.json splits text as the class does that transformers reads it by.

    Args:
      files: of the folder.
      clip: whether it is CLIP's, not an MLLM's.

    Raises:
      UserError: naming the field by which they differ, or the class, which is another model's.
    """
    file = files.file(TOKENIZER)
    if not file.is_file():
        return
    content = read_json(file)
    model = content.get("model") or {}
    if model.get("dropout"):
        raise UserError(
            f"{file}: model.dropout is {shown(model['dropout'])}, which splits a text by chance; "
            "only null is computed here"
        )
    usual = "CLIPTokenizer" if clip else "Qwen2Tokenizer"
    stated = ((name, (files.content(name) or {}).get(FIELD)) for name in (SETTINGS, CONFIG))
    where, kind = next(((name, kind) for name, kind in stated if kind), (SETTINGS, None))
    if kind is None and "merges" not in model:
        return  # a vocabulary of our own, which no class of theirs reads
    short = str(kind or usual).removesuffix("Fast")
    if short in AS_IS:
        return
    if short != usual:
        raise UserError(
            f"{files.file(where)}: {FIELD} is {shown(kind)}; only {usual}, or "
            f"{AS_IS[0]}Fast for the file as it is, is computed here"
        )
    for field, value, wanted in _other_fields(content, files.content(SETTINGS) or {}, clip):
        raise UserError(
            f"{file}: {field} is {shown(value)}, and {wanted} by the class {usual}; take the file "
            f"that belongs to these weights, or state {FIELD} {AS_IS[0]}Fast in {SETTINGS}"
        )
    _check_added(files, usual)
    own = tokenizers.Tokenizer.from_str(file.read_text())
    by_class = tokenizers.Tokenizer.from_str(own.to_str())
    split_text(by_class, clip)
    for text in PROBES:
        ids = [each.encode(text, add_special_tokens=False).ids for each in (own, by_class)]
        if ids[0] != ids[1]:
            raise UserError(
                f"{file}: normalizer or pre_tokenizer split {text!r} into other "
                f"tokens than the {FIELD} of {SETTINGS}, {usual}, does; take the file that "
                f"belongs to these weights, or state {AS_IS[0]}Fast there"
            )


def _other_fields(
    content: dict[str, Any], settings: dict[str, Any], clip: bool
) -> list[tuple[str, Any, str]]:
    """Lists the fields that matter and are not the class's: name, value, and what it has there."""
    model = content["model"]
    end = END_OF_WORD if clip else ""
    wanted: dict[str, Any] = {
        "continuing_subword_prefix": "",
        "end_of_word_suffix": end,
        "ignore_merges": False,
    }
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if not all(c in model["vocab"] and c + end in model["vocab"] for c in alphabet):
        # Some text has no tokens, so that what stands for it counts.
        unknown = settings.get("unk_token", "<|endoftext|>") if clip else None
        unknown = unknown.get("content") if isinstance(unknown, dict) else unknown
        wanted |= {"unk_token": unknown, "fuse_unk": False, "byte_fallback": False}
    found = [
        (f"model.{name}", model.get(name), shown(value))
        for name, value in wanted.items()
        if (model.get(name) or None) != (value or None)  # null, "" and false ask for the same
    ]
    decoder = content.get("decoder")
    if not clip and (decoder or {}).get("type") != "ByteLevel":  # CLIP's texts are never decoded
        found.append(("decoder", decoder, "of type ByteLevel"))
    return found


def _check_added(files: SettingsFiles, usual: str) -> None:
    """Checks that a list of added tokens, which then counts, has all of the tokenizer.json."""
    settings = files.content(SETTINGS) or {}
    if not isinstance(stated := settings.get("added_tokens_decoder"), dict):
        return
    for token in read_json(files.file(TOKENIZER)).get("added_tokens") or ():
        if str(token["id"]) not in stated:
            raise UserError(
                f"{files.file(SETTINGS)}: added_tokens_decoder lacks {token['content']!r}, which "
                f"{files.file(TOKENIZER)} adds; the class {usual} would not find it in a text"
            )
