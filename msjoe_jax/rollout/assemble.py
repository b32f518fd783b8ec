"""Prompts as padded arrays: tokens, where frame features go, and M-RoPE positions (host, NumPy)."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.positions import mrope_positions
from msjoe_jax.rollout.generate import Prompts
from msjoe_jax.text.tokenizer import Tokenizer

# Of a video in a prompt: seconds between its temporal steps, or each step's time in seconds.
Seconds = float | tuple[float, ...]


class Frame(NamedTuple):
    """A frame, or one temporal step of a video: where its features begin, and its grid."""

    first_feature: int
    grid: tuple[int, int]  # patches (height, width)


class PromptTooLong(ValueError):
    """A prompt has more tokens than its compiled length; its question is dropped, never cut."""


class Assembler:
    """Turns (text before the frames, frames, text after) into rows of `Prompts`.

    Every frame is an image of its own between vision_start and vision_end, one placeholder token
    per merged patch; or all are the temporal steps of one video between one such pair. A group asks
    one question of many frame sets: rows are remembered by text, grids and the steps' seconds, and
    only where their features lie is worked out anew.
    """

    def __init__(self, tokenizer: Tokenizer, config: QwenConfig):
        self._tokenizer, self._config = tokenizer, config
        self._rows = functools.lru_cache(maxsize=4_000)(self._build)  # 1 GB of 8,704 tokens each

    def row(
        self,
        text: tuple[str, str],
        frames: Sequence[Frame],
        length: int,
        seconds: Seconds | None = None,
    ) -> dict[str, np.ndarray]:
        """One prompt, padded to `length` (its last token apart).

        Args:
          seconds: None if the frames are images; else they are a video's temporal steps, all of
            one grid (as `mrope_positions` takes it).

        Raises:
          PromptTooLong: it has more tokens than `length` + 1.
          ValueError: the steps of a video differ in their grids, or from `seconds` in number.
        """
        grids = tuple(frame.grid for frame in frames)
        row, frame_of, offset = self._rows(text, grids, seconds, length)
        first = np.array([0, *(frame.first_feature for frame in frames)], np.int32)
        index = np.where(frame_of >= 0, first[frame_of + 1] + offset, -1)
        return {**row, "feature_index": index.astype(np.int32)}

    def _build(
        self,
        text: tuple[str, str],
        grids: tuple[tuple[int, int], ...],
        seconds: Seconds | None,
        length: int,
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """The row but for feature_index; of each place its frame (−1: text) and token within it."""
        c, merge = self._config, self._config.vision.merge
        head, tail = (self._tokenizer.encode(part) for part in text)
        ids, frame_of, offset = list(head), [-1] * len(head), [0] * len(head)
        blocks, pad = [(1, h, w) for h, w in grids], c.image_token_id
        if seconds is not None:
            if len(set(grids)) > 1:
                raise ValueError(f"the steps of a video have one grid, not {sorted(set(grids))}")
            blocks, pad = [(len(grids), *grid) for grid in grids[:1]], c.video_token_id
        number = 0
        for steps, h, w in blocks:
            count = h * w // merge**2
            ids += [c.vision_start_token_id, *[pad] * (steps * count), c.vision_end_token_id]
            frame_of += [-1, *(number + i // count for i in range(steps * count)), -1]
            offset += [0, *(i % count for i in range(steps * count)), 0]
            number += steps
        ids += tail
        n = len(ids) - 1
        if n > length:
            raise PromptTooLong(f"{n} tokens, more than {length}")
        tokens = np.array(ids, np.int32)
        positions = mrope_positions(
            tokens,
            blocks,
            image_token_id=c.image_token_id,
            video_token_id=c.video_token_id,
            merge=merge,
            tokens_per_second=c.tokens_per_second,
            second_per_grid=None if seconds is None else [seconds],
        ).astype(np.int32)
        row = {
            "tokens": np.pad(tokens[:n], (0, length - n)),
            "positions": np.pad(positions[:, :n], ((0, 0), (0, length - n))),
            "segments": np.pad(np.ones(n, np.int32), (0, length - n)),
            "first_token": tokens[n],
            "start": positions[0, n],
        }
        places = np.full((2, length), -1, np.int32)
        places[:, : len(frame_of)] = frame_of, offset  # the tail is text: −1
        return row, places[0], places[1]


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


def stack_rows(rows: Sequence[Sequence[dict[str, np.ndarray]]], buckets: int = 1) -> Prompts:
    """B lists of G rows as one `Prompts` of arrays [B, G, …].

    Cut to the shortest of `buckets` evenly spaced lengths that holds the longest prompt: a program
    compiles once for each length that occurs.
    """
    fields: Any = {
        key: np.stack([[r[key] for r in row] for row in rows]) for key in Prompts._fields
    }
    full, longest = fields["tokens"].shape[-1], int(fields["segments"].sum(-1).max())
    length = next(n for i in range(1, buckets + 1) if (n := -(-full * i // buckets)) >= longest)
    for key in ("tokens", "feature_index", "positions", "segments"):
        fields[key] = fields[key][..., :length]
    return Prompts(**fields)
