"""SigLIP's texts as rows of ids, and the `tokenizer.json` that makes them so.

Published folders of SigLIP hold a sentencepiece model, those of SigLIP 2 Gemma's vocabulary. Either
becomes one `tokenizer.json` at conversion which says all that is done to a text: what is folded and
removed, what is added, and with what a row is filled up. What spells a control token of a
sentencepiece model is a text like any other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from etils import epath
from jaxtyping import Int
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from msjoe_jax.errors import UserError
from msjoe_jax.text.sentencepiece import read_pieces
from msjoe_jax.text.tokenizer import Tokenizer

PIECES, SETTINGS = "spiece.model", "tokenizer_config.json"
SPACE = "▁"  # as pieces write it
# A sigma that ends a word has a form of its own; what comes after it may be ignored for that.
FINAL_SIGMA = r"\p{Cased}\p{Case_Ignorable}*\KΣ(?!\p{Case_Ignorable}*\p{Cased})"
PUNCTUATION = r"[!-/:-@\[-`{-~]"  # of ASCII: all that is no letter, figure, space or control
BLANK = r"[\s\x1c-\x1f]"  # what Python calls so
# Settings of a tokenizer of no effect on ids here: of decoding, of loading, of other inputs.
HARMLESS = frozenset(
    {"tokenizer_class", "processor_class", "model_input_names", "name_or_path", "backend"}
    | {"clean_up_tokenization_spaces", "spaces_between_special_tokens", "is_local", "legacy"}
    | {"auto_map", "vocab_file", "use_default_system_prompt", "chat_template"}
    | {"bos_token", "mask_token", "cls_token", "sep_token"}  # never added but by add_bos_token
)


class SiglipTokenizer(Tokenizer):
    """A tokenizer whose file states how a text fills a row.

    Args:
      path: a `tokenizer.json` that `make_tokenizer` has made, or its folder.
      context: ids of a row, also an attribute.

    Raises:
      UserError: there is no readable tokenizer there, or it states no padding.
    """

    def __init__(self, path: epath.PathLike, context: int):
        super().__init__(path)
        if self.padding is None:
            raise UserError(
                f"{self.file}: states no padding; `msjoe convert` makes the file that is needed"
            )
        stated = {name: self.padding[name] for name in ("direction", "pad_id", "pad_token")}
        self.context = context
        self._tokenizer.enable_truncation(context)
        self._tokenizer.enable_padding(length=context, **stated)

    def rows(self, texts: Sequence[str]) -> Int[np.ndarray, "N C"]:
        """Makes the rows of texts, one each."""
        encoded = self._tokenizer.encode_batch(list(texts))
        return np.array([one.ids for one in encoded], np.int32)

    def is_cut(self, text: str) -> bool:
        """Says whether a text does not fit into a row, so that only its beginning counts."""
        return bool(self._tokenizer.encode(text).overflowing)


def make_tokenizer(folder: epath.Path, settings: Mapping[str, Any], context: int, rows: int) -> str:
    """Makes the content of a `tokenizer.json` from a published folder's vocabulary.

    Args:
      folder: the folder.
      settings: the content of its `SETTINGS`; {}: it has none.
      context: ids of a row.
      rows: of the embedding table.

    Raises:
      UserError: there is no vocabulary that fits the table, or its settings ask for something that
        is not computed here.
    """
    kind, pieces, settings = settings.get("tokenizer_class"), folder / PIECES, dict(settings)
    if pieces.is_file() and kind in (None, "SiglipTokenizer"):
        made = _of_pieces(pieces, settings.pop("do_lower_case", True))
        eos, pad, side = "</s>", "</s>", "right"
        settings["add_eos_token"] = True
    elif kind == "SiglipTokenizer":
        raise UserError(f"{folder}: no {PIECES}, which holds the vocabulary of a {kind}")
    else:
        made = _of_gemma(folder, settings)
        eos, pad, side = "<eos>", "<pad>", "left"
    bos, eos, pad = (
        _spelling(settings, name, default)
        for name, default in (("bos_token", "<bos>"), ("eos_token", eos), ("pad_token", pad))
    )
    settings.pop("unk_token", None)  # the vocabulary's own
    slips = _check_settings(made, settings, context)
    ids = {token: made.token_to_id(token) for token in (bos, eos, pad)}
    added = {"bos": settings.get("add_bos_token"), "eos": settings.get("add_eos_token")}
    needed = [pad, *(token for name, token in (("bos", bos), ("eos", eos)) if added[name])]
    slips += [f"the token {token!r}, which is not there" for token in needed if ids[token] is None]
    if slips:
        raise UserError(f"{folder / SETTINGS}: not computed here: {', '.join(slips)}")
    if set(added.values()) != {None}:  # else what the file says is added
        around = f"{bos} " * bool(added["bos"]) + "$A" + f" {eos}" * bool(added["eos"])
        special = [(token, ids[token]) for token in needed[1:]]
        made.post_processor = processors.TemplateProcessing(single=around, special_tokens=special)
    side = settings.get("padding_side", side)
    made.enable_padding(direction=side, pad_id=ids[pad], pad_token=pad, length=context)
    made.no_truncation()
    token, largest = max(made.get_vocab().items(), key=lambda item: item[1])
    if largest >= rows:
        raise UserError(
            f"{folder}: the largest id is {largest} ({token!r}), and the model's embedding table "
            f"has {rows} rows; use the tokenizer that these weights came with"
        )
    return made.to_str()


def _of_pieces(file: epath.Path, lower: bool) -> tokenizers.Tokenizer:
    """Builds SigLIP's: lower case, no punctuation, single spaces, then the model's own rules.

    The model sees a text behind a space. It is put there by hand, as the model may be one that
    drops it.
    """
    pieces = read_pieces(file)
    steps: list[normalizers.Normalizer] = [
        normalizers.Replace(SPACE, " "),
        normalizers.Prepend(SPACE),
    ]
    if lower:
        steps += [normalizers.Replace(Regex(FINAL_SIGMA), "ς"), normalizers.Lowercase()]
    steps += [
        normalizers.Replace(Regex(PUNCTUATION), ""),
        normalizers.Replace(Regex(f"{BLANK}+"), " "),
        normalizers.Strip(),
    ]
    if pieces.charsmap:
        steps.append(normalizers.Precompiled(pieces.charsmap))
    if pieces.collapses:
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    steps.append(normalizers.Replace(" ", SPACE))
    if pieces.collapses:
        steps.append(normalizers.Replace(Regex(f"{SPACE}+\\z"), ""))
    made = tokenizers.Tokenizer(models.Unigram(pieces.pieces, pieces.unknown, False))
    made.normalizer = normalizers.Sequence(steps)
    made.decoder = decoders.Metaspace(SPACE)
    return made


def _of_gemma(folder: epath.Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Reads Gemma's tokenizer.json, or builds it from vocabulary and merges; lower case first."""
    whole, parts = folder / "tokenizer.json", (folder / "vocab.json", folder / "merges.txt")
    lower = normalizers.Lowercase()
    if whole.is_file():
        made = Tokenizer(whole).underlying
        own = made.normalizer
        if "Lowercase" not in str(own):
            made.normalizer = normalizers.Sequence([lower, own]) if own else lower
        return made
    if not all(part.is_file() for part in parts):
        raise UserError(f"{folder}: no {PIECES}, no {whole.name}, no {parts[0].name} with merges")
    special = {
        name: _spelling(settings, f"{name}_token", f"<{name}>")
        for name in ("pad", "eos", "bos", "unk", "mask")
    }
    vocabulary, merges = models.BPE.read_file(*map(str, parts))
    made = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token=special["unk"], fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence([lower, normalizers.Replace(" ", SPACE)])
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    known = [token for token in special.values() if token in vocabulary]
    made.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False, special=True) for token in known]
    )
    return made


def _spelling(settings: Mapping[str, Any], name: str, default: str) -> str:
    """Returns a token as the settings spell it: a text, or an object around one."""
    value = settings.get(name) or default
    return value["content"] if isinstance(value, dict) else value


def _check_settings(
    made: tokenizers.Tokenizer, settings: Mapping[str, Any], context: int
) -> list[str]:
    """Lists the settings that ask for what is not computed here, with their values."""
    special = {token.content for token in made.get_added_tokens_decoder().values()}
    computed = {
        "eos_token": True,
        "pad_token": True,
        "padding_side": settings.get("padding_side", "right") in ("left", "right"),
        "truncation_side": settings.get("truncation_side", "right") == "right",
        "add_bos_token": type(settings.get("add_bos_token", False)) is bool,
        "add_eos_token": type(settings.get("add_eos_token", False)) is bool,
        "do_lower_case": settings.get("do_lower_case", True) is True,
        # Nothing, or more than any text has: rows are of the model's context.
        "model_max_length": settings.get("model_max_length", context) >= context,
        "added_tokens_decoder": all(
            made.token_to_id(token["content"]) == int(index)
            for index, token in settings.get("added_tokens_decoder", {}).items()
        ),
    }
    for name in ("additional_special_tokens", "extra_special_tokens"):
        listed = settings.get(name) or []
        tokens = listed.values() if isinstance(listed, dict) else listed
        computed[name] = all(_spelling({name: x}, name, "") in special for x in tokens)
    return [
        f"{name}={value!r}"
        for name, value in sorted(settings.items())
        if name not in HARMLESS
        and not computed.get(name, value in (None, False, [], {}, ""))  # nothing is asked for
    ]
