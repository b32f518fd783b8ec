"""Prompts as padded arrays: tokens, where frame features go, and M-RoPE positions (host, NumPy)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.positions import mrope_positions
from msjoe_jax.rollout.generate import Prompts
from msjoe_jax.tokenizer import Tokenizer


class Frame(NamedTuple):
    """A frame in a prompt: where its features begin in the question's rows, and its grid."""

    first_feature: int
    grid: tuple[int, int]  # patches (height, width)


class PromptTooLong(ValueError):
    """A prompt has more tokens than its compiled length; its question is dropped, never cut."""


class Assembler:
    """Turns (text before the frames, frames, text after) into rows of `Prompts`.

    Every frame is an image of its own between vision_start and vision_end, one placeholder token
    per merged patch. Encoded texts are remembered: a group asks the same question many times.
    """

    def __init__(self, tokenizer: Tokenizer, config: QwenConfig):
        self._tokenizer, self._config = tokenizer, config
        self._encoded: dict[str, list[int]] = {}

    def row(
        self, text: tuple[str, str], frames: Sequence[Frame], length: int
    ) -> dict[str, np.ndarray]:
        """One prompt, padded to `length` (its last token apart).

        Raises:
          PromptTooLong: it has more tokens than `length` + 1.
        """
        c, merge = self._config, self._config.vision.merge
        head, tail = (self._encode(part) for part in text)
        ids, index = list(head), [-1] * len(head)
        grids = []
        for frame in frames:
            h, w = frame.grid
            count = h * w // merge**2
            ids += [c.vision_start_token_id, *[c.image_token_id] * count, c.vision_end_token_id]
            index += [-1, *range(frame.first_feature, frame.first_feature + count), -1]
            grids.append((1, h, w))
        ids += tail
        index += [-1] * len(tail)
        if len(ids) - 1 > length:
            raise PromptTooLong(f"{len(ids) - 1} tokens, more than {length}")
        tokens = np.array(ids, np.int32)
        positions = mrope_positions(
            tokens,
            grids,
            image_token_id=c.image_token_id,
            video_token_id=c.video_token_id,
            merge=merge,
            tokens_per_second=c.tokens_per_second,
        )
        n, pad = len(ids) - 1, length - (len(ids) - 1)
        return {
            "tokens": np.pad(tokens[:n], (0, pad)),
            "feature_index": np.pad(np.array(index[:n], np.int32), (0, pad), constant_values=-1),
            "positions": np.pad(positions[:, :n].astype(np.int32), ((0, 0), (0, pad))),
            "segments": np.pad(np.ones(n, np.int32), (0, pad)),
            "first_token": np.array(tokens[n]),
            "start": np.array(positions[0, n], np.int32),
        }

    def _encode(self, text: str) -> list[int]:
        if text not in self._encoded:
            if len(self._encoded) > 100_000:  # bounds memory in long runs
                self._encoded.clear()
            self._encoded[text] = self._tokenizer.encode(text)
        return self._encoded[text]


def empty_row(length: int) -> dict[str, np.ndarray]:
    """A row that stands for a dropped prompt: one token of text, so that softmax has a key."""
    return {
        "tokens": np.zeros(length, np.int32),
        "feature_index": np.full(length, -1, np.int32),
        "positions": np.zeros((3, length), np.int32),
        "segments": np.pad(np.ones(1, np.int32), (0, length - 1)),
        "first_token": np.array(0, np.int32),
        "start": np.array(1, np.int32),
    }


def stack_rows(rows: Sequence[Sequence[dict[str, np.ndarray]]]) -> Prompts:
    """B lists of G rows as one `Prompts` of arrays [B, G, …]."""
    fields: Any = {
        key: np.stack([[r[key] for r in row] for row in rows]) for key in Prompts._fields
    }
    return Prompts(**fields)
