"""Word-level `tokenizer.json` of tiny models: one id per word, Qwen's names of special tokens."""

import re
from collections.abc import Iterable

from etils import epath
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import write_whole

# Order fixes the ids. The first is also padding, since Qwen pads with <|endoftext|>.
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = ("<query>", "</query>", "<think>", "</think>", "<answer>", "</answer>")
UNKNOWN = "<unk>"
ROLES = ("system", "user", "assistant")
LETTERS = tuple("ABCD")
_NAMES = "|".join(re.escape(name) for name in (*SPECIAL, *TAGS))
_PIECE = r"\w+|\n|[^\w\s]"


def split_words(text: str) -> list[str]:
    """Splits a text into words, punctuation marks and newlines; special tokens are left out."""
    return re.findall(_PIECE, re.sub(_NAMES, " ", text))


def build_word_tokenizer(path: epath.PathLike, texts: Iterable[str]) -> epath.Path:
    """Writes a tokenizer.json with the fixed tokens and then the words of `texts`, sorted.

    Decoding puts one space between tokens, which the reply parser strips; other white space but
    the newline is lost. A word that is not among them becomes `<unk>`.

    Raises:
      UserError: a text spells out `<unk>`.
    """
    words = {word for text in texts for word in split_words(text)}
    if any(UNKNOWN in text for text in texts):
        raise UserError(f"a text of the word tokenizer holds {UNKNOWN}; leave it out")
    fixed = [*SPECIAL, *TAGS, UNKNOWN, "\n", *ROLES, *LETTERS]
    names = [*fixed, *sorted(words - set(fixed))]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace(Regex(r"[^\S\n]+"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), "removed", invert=True)
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens(list(TAGS))
    write_whole(path, tokenizer.to_str(pretty=True))
    return epath.Path(path)
