"""A `tokenizer.json` behind the four calls that the project makes of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers
from etils import epath
from jaxtyping import Int

from msjoe_jax.errors import UserError

# Special tokens of the chat format, which every vocabulary here has.
START_OF_TURN, END_OF_TURN, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


class Tokenizer:
    """Text to ids and back, for the MLLM's and CLIP's vocabulary alike.

    Args:
      path: a `tokenizer.json`, or a folder that holds one.
      content: what to read in place of that file, which then need not be there.

    Attributes:
      padding: how the file says that rows are filled up; None: not at all. Nothing here does it.

    Raises:
      UserError: there is no readable tokenizer there.
    """

    def __init__(self, path: epath.PathLike, content: str | None = None):
        file = epath.Path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        try:
            text = file.read_text() if content is None else content
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception for every cause
            raise UserError(f"{file}: no readable tokenizer.json ({error})") from None
        self.padding = self._tokenizer.padding
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.file = file

    @property
    def largest_id(self) -> int:
        """The largest id of a token."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    @property
    def around(self) -> tuple[int, ...]:
        """The ids that its own rule puts around a text."""
        return tuple(self._tokenizer.encode("", add_special_tokens=True).ids)

    @property
    def underlying(self) -> tokenizers.Tokenizer:
        """The library's object."""
        return self._tokenizer

    @property
    def size(self) -> int:
        """Number of ids, added tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def check_fits(self, rows: int) -> None:
        """Checks that an embedding table of so many rows has one for every id.

        An id beyond it would silently get the last row.

        Raises:
          UserError: an id is beyond the table.
        """
        token, largest = max(
            self._tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1]
        )
        if largest >= rows:
            raise UserError(
                f"{self.file}: the largest id is {largest} ({token!r}), and the model's embedding "
                f"table has {rows} rows; use the tokenizer that these weights came with"
            )

    def __contains__(self, token: str) -> bool:
        return self._tokenizer.token_to_id(token) is not None

    def token_id(self, token: str) -> int:
        """The id of one token; UserError if the vocabulary lacks it."""
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise UserError(f"{self.file}: the vocabulary lacks the token {token!r}")
        return index

    def find(self, token: str) -> int | None:
        """The id of one token; None if the vocabulary lacks it."""
        return self._tokenizer.token_to_id(token)

    def token(self, index: int) -> str | None:
        """The spelling of an id; None if the vocabulary lacks it."""
        return self._tokenizer.id_to_token(index)

    def added_tokens(self) -> dict[int, dict[str, Any]]:
        """The tokens that are looked for before a text is split, by id: how each is found."""
        names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
        return {
            number: {name: getattr(token, name) for name in names}
            for number, token in self._tokenizer.get_added_tokens_decoder().items()
        }

    def encode(self, text: str) -> list[int]:
        """Ids of a text, nothing added; spellings of special tokens become those tokens."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens kept."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def clip_tokens(
    tokenizer: Tokenizer, texts: Sequence[str], context: int, start_id: int, end_id: int
) -> Int[np.ndarray, "N C"]:
    """Makes CLIP's input rows: start, text cut to `context` − 2 ids, end, zeros.

    Args:
      tokenizer: CLIP's.
      texts: one a row.
      context: the length of a row.
      start_id, end_id: what stands around a text.
    """
    rows = np.zeros((len(texts), context), np.int32)
    for row, text in zip(rows, texts, strict=True):
        ids = [start_id, *tokenizer.encode(text)[: context - 2], end_id]
        row[: len(ids)] = ids
    return rows
