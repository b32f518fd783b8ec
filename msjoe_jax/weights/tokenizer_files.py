"""The tokenizer of a published folder: its tokenizer.json, or one built from vocabulary and merges.

Folders from before there was a `tokenizer.json` have vocab.json and merges.txt, and the tokens that
were added in tokenizer_config.json or added_tokens.json. What splits and normalises text is not in
them: it is that of Qwen2, or of CLIP, whose words end in `</w>`.
"""

from typing import Any

import tokenizers
from etils import epath
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from msjoe_jax.errors import UserError
from msjoe_jax.models.clip.config import VOCAB as PUBLISHED_VOCAB
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.runtime.files import read_json
from msjoe_jax.text.tokenizer import START_OF_TURN, Tokenizer

TOKENIZER, VOCAB, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
SETTINGS, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
END_OF_WORD = "</w>"
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MORE = ("additional_special_tokens", "extra_special_tokens")
QWEN_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CLIP_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def has_tokenizer(folder: epath.Path) -> bool:
    """Says whether a folder has a tokenizer in one of the two forms."""
    return (folder / TOKENIZER).is_file() or _has_parts(folder)


def _has_parts(folder: epath.Path) -> bool:
    return (folder / VOCAB).is_file() and (folder / MERGES).is_file()


def read_tokenizer(folder: epath.Path) -> tuple[Tokenizer, str | None]:
    """Reads a folder's tokenizer; returns the tokenizer.json that was built if there is none.

    Raises:
      UserError: there is no readable tokenizer, or ids that it states are not those it would get.
    """
    if (folder / TOKENIZER).is_file() or not _has_parts(folder):
        return Tokenizer(folder), None
    content = build_tokenizer(folder)
    return Tokenizer(folder, content), content


def build_tokenizer(folder: epath.Path) -> str:
    """Builds the tokenizer.json of a folder's vocab.json, merges.txt and added tokens.

    Raises:
      UserError: a file is damaged, or a token cannot have the id that a file states.
    """
    vocabulary = read_json(folder / VOCAB)
    clip = any(token.endswith(END_OF_WORD) for token in vocabulary)
    stated, added = _settings(folder)
    names = {key: _text(stated.get(key, usual)) for key, usual in _usual_names(clip).items()}
    more = [_text(token) for key in MORE for token in stated.get(key) or ()]
    _place(folder, vocabulary, added)
    try:
        merges = [
            tuple(line.split(" "))
            for line in (folder / MERGES).read_text().split("\n")
            if line and not line.startswith("#version")
        ]
        tokenizer = tokenizers.Tokenizer(
            models.BPE(
                vocab=vocabulary,
                merges=merges,
                unk_token=names["unk_token"] if clip else None,
                continuing_subword_prefix="",
                end_of_word_suffix=END_OF_WORD if clip else "",
            )
        )
    except Exception as error:  # the library raises bare Exception for every cause
        raise UserError(f"{folder}: {VOCAB} and {MERGES} do not fit together ({error})") from None
    split_text(tokenizer, clip)
    for _, token in sorted(added.items()):
        tokenizer.add_tokens([token])
    for text in filter(None, [*names.values(), *more]):
        tokenizer.add_tokens([AddedToken(text, special=True, normalized=False)])
    for index, token in added.items():
        if tokenizer.token_to_id(token.content) != index:
            raise UserError(f"{folder}: the token {token.content!r} cannot have the id {index}")
    if clip:
        begin, end = names["bos_token"], names["eos_token"]
        if begin is None or end is None:
            raise UserError(f"{folder / SETTINGS}: bos_token and eos_token must both be stated")
        ids = tokenizer.get_vocab()
        tokenizer.post_processor = processors.RobertaProcessing(
            (end, ids[end]), (begin, ids[begin]), trim_offsets=False, add_prefix_space=False
        )
    return tokenizer.to_str(pretty=True)


def _usual_names(clip: bool) -> dict[str, str | None]:
    """Returns the named tokens, in the order in which they get ids, where no file states them."""
    end = "<|endoftext|>"
    names: dict[str, str | None] = dict.fromkeys(NAMES)
    names |= {"eos_token": end, "unk_token": end, "pad_token": end}
    return {**names, "bos_token": "<|startoftext|>"} if clip else names


def split_text(tokenizer: tokenizers.Tokenizer, clip: bool) -> None:
    """Sets how text becomes pieces, and pieces text."""
    space = normalizers.Replace(Regex(r"\s+"), " ")
    if clip:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), space, normalizers.Lowercase()]
        )
        split = pre_tokenizers.Split(Regex(CLIP_PIECES), "removed", invert=True)
    else:
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN_PIECES), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=clip)]
    )
    tokenizer.decoder = decoders.ByteLevel()


def _settings(folder: epath.Path) -> tuple[dict[str, Any], dict[int, AddedToken]]:
    """Reads which tokens have names, and those that were added, by id."""
    settings, special, added = (
        read_json(folder / name) if (folder / name).is_file() else {}
        for name in (SETTINGS, SPECIAL, ADDED)
    )
    try:
        if "added_tokens_decoder" in settings:
            stated = settings["added_tokens_decoder"].items()
            return settings, {int(i): AddedToken(**_plain(token)) for i, token in stated}
        settings = {**settings, **special}
        named = {_text(settings.get(key)) for key in NAMES}
        named |= {_text(token) for key in MORE for token in settings.get(key) or ()}
        return settings, {
            int(i): AddedToken(text, special=text in named, normalized=text not in named)
            for text, i in added.items()
        }
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder}: the added tokens cannot be read ({error!r})") from None


def _place(folder: epath.Path, vocabulary: dict[str, int], added: dict[int, AddedToken]) -> None:
    """Puts added tokens into the vocabulary, unless appending gives them their ids anyway."""
    new = {i: token.content for i, token in added.items() if token.content not in vocabulary}
    if sorted(new) == list(range(len(vocabulary), len(vocabulary) + len(new))):
        return
    if twice := new.keys() & set(vocabulary.values()):
        index = min(twice)
        raise UserError(f"{folder}: the id {index} of {new[index]!r} is another token's in {VOCAB}")
    vocabulary |= {text: i for i, text in new.items()}


def _plain(token: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in token.items() if key != "__type"}


def _text(token: Any) -> str | None:
    """Returns the spelling of a token, which files state as text or as an object."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) and content else None


def text_ends(tokenizer: Tokenizer) -> tuple[int, int] | None:
    """Returns the ids that begin and end a text, as the tokenizer or its settings say; else None.

    Raises:
      UserError: the settings beside it cannot be read, or name tokens that it lacks.
    """
    if len(tokenizer.around) == 2:
        first, last = tokenizer.around
        return first, last
    for name in (SETTINGS, SPECIAL):
        file = tokenizer.file.parent / name
        stated = read_json(file) if file.is_file() else {}
        begin, end = _text(stated.get("bos_token")), _text(stated.get("eos_token"))
        if begin and end:
            return tokenizer.token_id(begin), tokenizer.token_id(end)
    return None


def clip_ends(tokenizer: Tokenizer, sizes: CLIPConfig) -> tuple[int, int]:
    """Returns the ids that begin and end a text for CLIP; it is pooled at the latter.

    A vocabulary that says nothing of them is OpenAI's, or the tiny world's with its own names.

    Raises:
      UserError: as `text_ends`, or nothing begins a text.
    """
    if ends := text_ends(tokenizer):
        return ends[0], sizes.eot_token_id
    published = sizes.vocab == PUBLISHED_VOCAB
    begin = sizes.eot_token_id - 1 if published else tokenizer.token_id(START_OF_TURN)
    return begin, sizes.eot_token_id
