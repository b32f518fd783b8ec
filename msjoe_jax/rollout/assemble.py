"""Builds prompts as padded arrays: tokens, places of visual tokens, positions (host, NumPy)."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from msjoe_jax.families import Family, Seconds
from msjoe_jax.rollout.generate import Prompts
from msjoe_jax.text.tokenizer import Tokenizer

Row = dict[str, np.ndarray]  # one prompt of `Prompts`, by its fields


class Frame(NamedTuple):
    """A frame, or one temporal step of a video, in a prompt.

    Attributes:
      first_feature: the row of the features where its visual tokens begin.
      grid: patches (height, width).
      keep: which of its visual tokens the prompt shows, in raster order; None: all. The others have
        neither placeholder nor feature; those that are shown, and the text after them, have the
        positions that they have in the full prompt.
    """

    first_feature: int
    grid: tuple[int, int]
    keep: tuple[bool, ...] | None = None


class Visual(NamedTuple):
    """An image (of one frame; `seconds` None), or a video of temporal steps of one grid."""

    frames: tuple[Frame, ...]
    seconds: Seconds | None = None


class PromptTooLong(ValueError):
    """A prompt has more tokens than its compiled length; its question is dropped, never cut."""


class _Shape(NamedTuple):
    """The part of a visual that decides tokens and positions: all but the place of its features."""

    grids: tuple[tuple[int, int], ...]
    keeps: tuple[tuple[bool, ...] | None, ...]
    seconds: Seconds | None


class _Place(NamedTuple):
    """A token of a prompt. `frame`: index of its frame in the prompt; −1 at text."""

    token: int
    frame: int = -1
    offset: int = 0  # of the visual token in its frame
    shown: bool = True


class Assembler:
    """An assembler of text and pictures into rows of `Prompts`.

    A group asks one question of many frame sets. Rows are therefore cached by text, grids, shown
    tokens and the steps' seconds; only the places of their features are computed anew.

    Args:
      tokenizer: the MLLM's.
      family: the MLLM's.
      sizes: the MLLM's, an object of that family.
      rule: one of the family's `position_rules`; empty: its first.
    """

    def __init__(self, tokenizer: Tokenizer, family: Family, sizes: Any, rule: str = ""):
        self.family, self.sizes, self._tokenizer = family, sizes, tokenizer
        self._rule = rule or family.position_rules[0]
        self._rows = functools.lru_cache(maxsize=4_000)(self._build)  # 1 GB of 8,704 tokens each
        self._visual_lengths = functools.lru_cache(maxsize=None)(self._visual_length)

    def row(
        self,
        text: tuple[str, str],
        frames: Sequence[Frame],
        length: int,
        seconds: Seconds | None = None,
    ) -> Row:
        """Assembles text, frames, text, padded to `length` tokens (the last one apart).

        Args:
          text: before the frames, and after them.
          frames: images, each on its own; or with `seconds` the temporal steps of one video.
          length: tokens of the padded row.
          seconds: between the video's steps, or each step's time.

        Raises:
          PromptTooLong: it has more tokens than `length` + 1.
          ValueError: the steps of a video differ in their grids, or from `seconds` in number.
        """
        if seconds is None:
            visuals = [Visual((frame,)) for frame in frames]
        else:
            visuals = [Visual(tuple(frames), seconds)]
        return self.prompt([text[0], *visuals, text[1]], length)

    def length(self, text: tuple[str, str], grid: tuple[int, int], number: int, video: bool) -> int:
        """Counts the tokens of what `row` makes, the last one apart, without making it.

        Args:
          text: before the frames, and after them.
          grid: of every frame, in patches.
          number: of images, or of a video's temporal steps.
          video: which of the two.
        """
        tokens = sum(len(self._tokenizer.encode(part)) for part in text) - 1
        if video and number:
            return tokens + self._visual_lengths(_Shape((grid,) * number, (None,) * number, 1.0))
        return tokens + number * self._visual_lengths(_Shape((grid,), (None,), None))

    def _visual_length(self, shape: _Shape) -> int:
        return sum(1 for _ in self._visual(shape, 0))

    def prompt(self, parts: Sequence[str | Visual], length: int | None = None) -> Row:
        """Assembles texts, images and videos in their order; a visual without frames is left out.

        Args:
          parts: the prompt; each text is encoded by itself.
          length: to which the row is padded (the last token apart); None: not at all.

        Raises:
          PromptTooLong: it has more tokens than `length` + 1.
          ValueError: the steps of a video differ in their grids, or from their seconds in number;
            or `keep` has another number of entries than its frame has visual tokens.
        """
        shapes = tuple(
            part
            if isinstance(part, str)
            else _Shape(
                tuple(frame.grid for frame in part.frames),
                tuple(frame.keep for frame in part.frames),
                part.seconds,
            )
            for part in parts
        )
        frames = [f for part in parts if not isinstance(part, str) for f in part.frames]
        row, frame_of, offset = self._rows(shapes, length)
        first_features = np.array([0, *(frame.first_feature for frame in frames)], np.int32)
        index = np.where(frame_of >= 0, first_features[frame_of + 1] + offset, -1)
        return {**row, "feature_index": index.astype(np.int32)}

    def _build(
        self, parts: tuple[str | _Shape, ...], length: int | None
    ) -> tuple[Row, np.ndarray, np.ndarray]:
        """Builds a row but for feature_index, and each place's frame (−1: text) and token in it."""
        places: list[_Place] = []
        grids: list[tuple[int, int, int]] = []
        seconds: list[Seconds] = []
        number = 0  # of frames so far
        for part in parts:
            if isinstance(part, str):
                places += map(_Place, self._tokenizer.encode(part))
                continue
            if not part.grids:
                continue
            if len(set(part.grids)) > 1:
                distinct = sorted(set(part.grids))
                raise ValueError(f"the steps of a video have one grid, not {distinct}")
            grids.append((len(part.grids), *part.grids[0]))
            if part.seconds is not None:
                seconds.append(part.seconds)
            places += self._visual(part, number)
            number += len(part.grids)
        full = np.array([place.token for place in places], np.int32)
        is_shown = np.array([place.shown for place in places])
        tokens = full[is_shown]
        n = len(tokens) - 1
        length = n if length is None else length
        if n > length:
            raise PromptTooLong(f"{n} tokens, more than {length}")
        positions = self.family.positions(self.sizes, full, grids, seconds, self._rule)
        positions = positions.astype(np.int32)[:, is_shown]
        row = {
            "tokens": np.pad(tokens[:n], (0, length - n)),
            "positions": np.pad(positions[:, :n], ((0, 0), (0, length - n))),
            "segments": np.pad(np.ones(n, np.int32), (0, length - n)),
            "first_token": tokens[n],
            "start": positions[0, n],
        }
        sources = np.full((2, length), -1, np.int32)
        shown_places = [(place.frame, place.offset) for place in places if place.shown]
        sources[:, :n] = np.array(shown_places[:n], np.int32).reshape(n, 2).T
        return row, sources[0], sources[1]

    def _visual(self, shape: _Shape, number: int) -> Iterator[_Place]:
        """Lists the tokens of an image or a video whose first frame has this number."""
        around = self.family.text_around(self.sizes, shape.seconds is not None)
        yield from map(_Place, around.before)
        for step, ((height, width), keep) in enumerate(zip(shape.grids, shape.keeps, strict=True)):
            count = height * width // self.sizes.vision.merge**2
            if keep is not None and len(keep) != count:
                raise ValueError(f"a frame of {count} visual tokens has a mask of {len(keep)}")
            if step:
                yield from map(_Place, around.between)
            for i in range(count):
                yield _Place(around.placeholder, number + step, i, keep is None or keep[i])
        yield from map(_Place, around.after)


def labelled(
    text: tuple[str, str], labels: Sequence[str], frames: Sequence[Frame]
) -> list[str | Visual]:
    """Returns the parts of a prompt of images, each after a text of its own.

    Args:
      text: before the first label, and after the frames.
      labels: one a frame.
      frames: in their order.
    """
    parts: list[str | Visual] = []
    for number, (label, frame) in enumerate(zip(labels, frames, strict=True)):
        parts += [label if number else text[0] + label, Visual((frame,))]
    return [*parts, text[1]] if parts else [text[0], text[1]]


def empty_row(length: int) -> dict[str, np.ndarray]:
    """Makes the row of a dropped prompt: one text token, since softmax needs a key."""
    return {
        "tokens": np.zeros(length, np.int32),
        "feature_index": np.full(length, -1, np.int32),
        "positions": np.zeros((3, length), np.int32),
        "segments": np.pad(np.ones(1, np.int32), (0, length - 1)),
        "first_token": np.array(0, np.int32),
        "start": np.array(1, np.int32),
    }


def longest_prompt(rows: Sequence[Sequence[dict[str, np.ndarray]]]) -> int:
    """Returns the tokens of the longest of B × G prompts."""
    return max(int(r["segments"].sum()) for row in rows for r in row)


def stack_rows(
    rows: Sequence[Sequence[dict[str, np.ndarray]]], step: int = 0, longest: int | None = None
) -> Prompts:
    """Stacks B lists of G rows to one `Prompts` of arrays [B, G, …].

    They are cut to the next multiple of `step` that holds the longest prompt: a program compiles
    once for each length that occurs.

    Args:
      rows: from an `Assembler`.
      step: tokens between two lengths; 0: nothing is cut.
      longest: the tokens that must fit; None: of these prompts.
    """
    fields: Any = {
        key: np.stack([[r[key] for r in row] for row in rows]) for key in Prompts._fields
    }
    full = fields["tokens"].shape[-1]
    longest = longest_prompt(rows) if longest is None else longest
    length = min(full, step * max(1, -(-longest // step))) if step else full
    for key in ("tokens", "feature_index", "positions", "segments"):
        fields[key] = fields[key][..., :length]
    return Prompts(**fields)
