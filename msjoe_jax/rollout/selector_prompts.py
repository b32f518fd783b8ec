"""Prompts of selectors' own for the MLLM: numbered frames, pooled frames, blocks of visual tokens.

All hosts run the same programs: numbers of prompts and frames are those of the host that has most.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from msjoe_jax.errors import UserError
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.assemble import (
    Frame,
    PromptTooLong,
    Row,
    Visual,
    empty_row,
    labelled,
    longest_prompt,
    stack_rows,
)
from msjoe_jax.rollout.batches import Batch
from msjoe_jax.rollout.frames import step_seconds, units_of
from msjoe_jax.rollout.generate import Prompts
from msjoe_jax.rollout.key_frames import EncodedFrames, FrameSet, ShownUnit, times_of
from msjoe_jax.rollout.programs import ASK, Patches
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.machine import fetch
from msjoe_jax.selectors.base import Ask, Block
from msjoe_jax.text import prompts

if TYPE_CHECKING:
    from msjoe_jax.rollout.episode import Episodes

POOLING = 2  # sides of the squares that are averaged where frames are pooled
FRAMES_AT_ONCE, BLOCKS_AT_ONCE = 64, 8  # of a question, where all its frames are encoded
SHORTEST = 64  # tokens of a compiled prompt


class SelectorPrompts:
    """The prompts of selectors for one batch.

    Args:
      episodes: the steps of an episode.
      mllm: its parameters.
      batch: from the pipeline.
      weight: set to 0 where a prompt is too long or a frame unreadable.
      update: number of the update.
    """

    def __init__(
        self,
        episodes: "Episodes",
        mllm: Params,
        batch: Batch,
        weight: Float[np.ndarray, "B"],
        update: int,
    ):
        self._episodes, self._mllm, self._batch = episodes, mllm, batch
        self._weight, self._update = weight, update
        self._questions = episodes.batch_questions(batch)
        self._style, self._merge = episodes.text.prompt, episodes.vision.merge
        self.length = self._style.selector_prompt_tokens or self._style.answer_prompt_tokens

    # --- replies -----------------------------------------------------------------------------

    def ask(self, asked: Sequence[Sequence[Ask]]) -> list[list[str]]:
        """Returns the MLLM's greedy replies; every question has equally many prompts."""
        episodes = self._episodes
        sets = [[self._frame_set(ask) for ask in row] for row in asked]
        encoded = self._load(sets, max(ask.tokens for row in asked for ask in row))
        rows = [
            [self._asking_row(b, ask, one, encoded) for ask, one in zip(row, own, strict=True)]
            for b, (row, own) in enumerate(zip(asked, sets, strict=True))
        ]
        completed = episodes.complete(
            ASK,
            self._mllm,
            self._cut(rows),
            Patches(encoded.pixels, encoded.grids),
            episodes.seeds(self._batch, self._update),
            samples=1,
            sampling=episodes.text.sampling(
                self._style.selector_tokens or self._style.query_tokens, 0.0
            ),
        )
        return completed.texts

    def room(self, texts: Sequence[str], label: str, tokens: int) -> int:
        """Returns how many frames a prompt has room for, with the longest of these texts: ≥ 1."""
        assembler, encode = self._episodes.assembler, self._episodes.text.tokenizer.encode
        wide = (self._merge, self._patches(tokens) // self._merge)
        per_frame = assembler.length(("", " "), wide, 1, False) + len(encode(label))
        per_frame -= assembler.length(("", " "), wide, 0, False)
        used = [assembler.length(self._around(text), wide, 0, False) for text in texts]
        free = self.length - max(hosts.gather(max(used), "the length of the prompts"))
        most = self._style.numbered_frames if label else 0
        return max(min(free // per_frame, most or free), 1)

    def _around(self, text: str) -> tuple[str, str]:
        return self._episodes.text.chat.turns(self._style.system, prompts.plain(text))

    def _patches(self, tokens: int) -> int:
        """Returns the most patches of a frame of so many visual tokens; 0: a key frame's."""
        most = self._episodes.config.frames.key_patches
        return min(most, tokens * self._merge**2) if tokens else most

    def _frame_set(self, ask: Ask) -> FrameSet:
        """Makes the frame set of a prompt, in the given order."""
        per_unit = self._episodes.per_unit
        if ask.labels:
            self._check_images("numbers its frames")
        units = units_of([int(frame) for frame in ask.frames], per_unit)
        shown = [ShownUnit(unit, self._patches(ask.tokens)) for unit in units]
        return FrameSet(list(ask.frames), shown, [None] * len(shown))

    def _check_images(self, what: str) -> None:
        if self._episodes.per_unit > 1:
            raise UserError(f"a selector that {what} needs config.frames.mode=image")

    def _asking_row(self, b: int, ask: Ask, one: FrameSet, encoded: EncodedFrames) -> Row:
        episodes, text = self._episodes, self._around(ask.text)
        frames = encoded.frames(b, one, self._merge)
        if ask.labels:
            return self._prompt(b, labelled(text, ask.labels, frames))
        seconds = step_seconds(
            episodes.config.frames,
            episodes.per_unit,
            times_of(self._batch, b, one),
            self._batch["duration"][b],
        )
        if seconds is None:
            return self._prompt(b, [text[0], *(Visual((frame,)) for frame in frames), text[1]])
        return self._prompt(b, [text[0], Visual(tuple(frames), seconds), text[1]])

    def _prompt(self, b: int, parts: Sequence[str | Visual]) -> Row:
        try:
            return self._episodes.assembler.prompt(parts, self.length)
        except PromptTooLong as error:
            self._drop(b, f"prompt too long: {error}")
            return empty_row(self.length)

    def _drop(self, b: int, why: str) -> None:
        self._episodes.drop(self._batch, self._weight, b, why)

    def _load(
        self, sets: Sequence[Sequence[FrameSet]], tokens: int, most: int = 0
    ) -> EncodedFrames:
        """Reads the frames; all have one budget. `most`: frames of a prompt, 0: of these."""
        episodes = self._episodes
        if not most:
            here = max(len(one.candidates) for row in sets for one in row)
            most = max(hosts.gather(here, "the frames of the prompts"))
        return episodes.loader.load(
            self._batch,
            self._questions,
            sets,
            self._drop,
            most=max(most, 1),
            room=episodes.room_of(self._patches(tokens)),
        )

    # --- attention ---------------------------------------------------------------------------

    def option_attention(
        self, frames: Sequence[Sequence[int]], layer: int, tokens: int
    ) -> list[Float[np.ndarray, "X F"]]:
        """Computes what the tokens of each question's options attend to, of frames before them."""
        self._check_images("pools frames")
        budget = self._patches(tokens * POOLING**2)
        side = next(s for s in (1, POOLING) if s == POOLING or budget <= tokens * self._merge**2)
        sets = [[_whole_frames(own, budget)] for own in frames]
        encoded = self._load(sets, tokens * POOLING**2)
        rows, spans = [], []
        for b, question in enumerate(self._questions):
            whole = prompts.question_text(question.question, question.options)
            _, _, options = whole.partition("\n")
            before, after = self._around(whole)
            lead, _, tail = after.rpartition(options)
            shown = [
                frame._replace(grid=self._pooled(frame.grid, side))
                for frame in encoded.frames(b, sets[b][0], self._merge)
            ]
            visuals = [Visual((frame,)) for frame in shown]
            row = self._prompt(b, [before, *visuals, lead, options, tail])
            encode = self._episodes.text.tokenizer.encode
            last = int(row["segments"].sum()) + 1 - len(encode(tail))
            spans.append((max(last - len(encode(options)), 0), max(last, 1)))
            rows.append([row])
        most = max(hosts.gather(max(b - a for a, b in spans), "the tokens of the options"))
        places = np.zeros((len(rows), rounded_up(most)), np.int32)
        for place, (first, last) in zip(places, spans, strict=True):
            place[: last - first] = np.arange(first, last)
        weights = self._run("option_attention", rows, encoded, places, layer=layer, side=side)
        per_frame = encoded.pixels.shape[-4] // self._merge**2
        out = []
        for b, (own, (first, last)) in enumerate(zip(sets, spans, strict=True)):
            index = rows[b][0]["feature_index"]
            paid = np.zeros((len(own[0].candidates), last - first), np.float32)
            slots = [encoded.place[b][unit] for unit in own[0].shown]
            frame_of = {slot: n for n, slot in enumerate(slots)}
            is_visual = np.flatnonzero(index >= 0)
            numbers = [frame_of[int(slot)] for slot in index[is_visual] // per_frame]
            np.add.at(paid, numbers, weights[b, : last - first, is_visual])
            out.append(paid.T)
        return out

    def _pooled(self, grid: tuple[int, int], side: int) -> tuple[int, int]:
        step = self._merge * side
        return -(-grid[0] // step) * self._merge, -(-grid[1] // step) * self._merge

    # --- features, keys and queries ----------------------------------------------------------

    def neighbour_cosines(self) -> list[Float[np.ndarray, "T P"]]:
        """Computes the cosine of each visual token with that at its place in the frame before."""
        self._check_images("drops visual tokens")
        counts = self._batch["frame_mask"].sum(-1)
        budget = self._patches(0)
        parts: list[list[np.ndarray]] = [[] for _ in counts]
        for start in range(0, self._batch["frame_mask"].shape[1], FRAMES_AT_ONCE - 1):
            # One frame of the part before is encoded again, to be compared with.
            sets = []
            for count in counts:
                frames = range(max(start - 1, 0), min(start + FRAMES_AT_ONCE - 1, int(count)))
                own = list(frames) if start < count else []
                sets.append([_whole_frames(own, budget)])
            encoded = self._load(sets, 0, FRAMES_AT_ONCE)
            put = self._episodes.put(Patches(encoded.pixels, encoded.grids))
            cosines = fetch(self._episodes.programs.neighbour_cosines(self._mllm, put))
            for b, (one,) in enumerate(sets):
                if one.candidates:
                    shown = encoded.frames(b, one, self._merge)
                    tokens = int(np.prod(shown[0].grid)) // self._merge**2
                    own_rows = cosines[b, : len(shown), :tokens]
                    parts[b].append(own_rows[min(start, 1) :])
        # Of a question that is dropped not all frames could be read: nothing is known.
        unknown = np.full((1, budget // self._merge**2), -1, np.float32)
        return [
            np.concatenate(own) if weight else np.repeat(unknown, count, 0)
            for own, weight, count in zip(parts, self._weight, counts, strict=True)
        ]

    def block_keys(self, blocks: Sequence[Sequence[Block]]) -> list[Float[np.ndarray, "G 2 C"]]:
        """Computes the mean key of each block's visual tokens, at the first and the last layer."""
        budget = self._patches(0)
        shown = [own if weight else [] for own, weight in zip(blocks, self._weight, strict=True)]
        turns = [_in_turns(own) for own in shown]
        number = max(hosts.gather(max(map(len, turns)), "the blocks of the prompts"))
        out: list[list[np.ndarray]] = [[] for _ in blocks]
        for turn in range(max(number, 1)):
            now = [own[turn] if turn < len(own) else [] for own in turns]
            sets = [
                [
                    FrameSet(
                        list(block.frames),
                        [ShownUnit((t,), budget) for t in block.frames],
                        list(block.keep),
                    )
                    for block in [*own, *[Block((), ())] * (BLOCKS_AT_ONCE - len(own))]
                ]
                for own in now
            ]
            encoded = self._load(sets, 0, FRAMES_AT_ONCE // BLOCKS_AT_ONCE)
            rows = [
                [self._visual_row(b, one, encoded) for one in row] for b, row in enumerate(sets)
            ]
            means = self._run("mean_keys_and_queries", rows, encoded)
            for b, own in enumerate(now):
                out[b].append(means[b, : len(own), :, 0])
        return [
            np.concatenate(own) if known else np.zeros((len(all_), *own[0].shape[1:]), np.float32)
            for own, known, all_ in zip(out, shown, blocks, strict=True)
        ]

    def question_queries(self) -> Float[np.ndarray, "B 2 C"]:
        """Computes the mean query of each question's tokens, at the first and the last layer."""
        rows = []
        for b, question in enumerate(self._questions):
            text = prompts.question_text(question.question, question.options)
            rows.append([self._prompt(b, self._around(text))])
        encoded = self._load([[FrameSet([], [], [])] for _ in rows], 0)
        return self._run("mean_keys_and_queries", rows, encoded)[:, 0, :, 1]

    def _visual_row(self, b: int, one: FrameSet, encoded: EncodedFrames) -> Row:
        """Makes a prompt of frames alone; its last mark stands apart, as a prompt's last token."""
        frames: list[Frame] = encoded.frames(b, one, self._merge)
        if not frames:
            return empty_row(self.length)
        return self._prompt(b, [Visual((frame,)) for frame in frames])

    def _run(
        self,
        name: str,
        rows: Sequence[Sequence[Row]],
        encoded: EncodedFrames,
        *more: Int[np.ndarray, "B X"],
        **choices: int,
    ) -> np.ndarray:
        """Runs a program of the MLLM on prompts."""
        put, programs = self._episodes.put, self._episodes.programs
        stacked: Prompts = put(stack_rows(self._cut(rows)))
        patches = put(Patches(encoded.pixels, encoded.grids))
        program = getattr(programs, name)
        return fetch(program(self._mllm, stacked, patches, *map(put, more), **choices))

    def _cut(self, rows: Sequence[Sequence[Row]]) -> list[list[Row]]:
        """Cuts rows to the longest prompt of all hosts, rounded up: few lengths are compiled."""
        longest = max(hosts.gather(longest_prompt(rows), "the length of the prompts"))
        length = min(self.length, rounded_up(longest))
        padded = ("tokens", "feature_index", "positions", "segments")
        return [
            [{k: x[..., :length] if k in padded else x for k, x in row.items()} for row in own]
            for own in rows
        ]


def _whole_frames(frames: Sequence[int], patches: int) -> FrameSet:
    shown = [ShownUnit((int(t),), patches) for t in frames]
    return FrameSet(list(frames), shown, [None] * len(shown))


def rounded_up(tokens: int) -> int:
    """Returns the next of 64, 96, 128, 192, 256, 384, …: at most half as much again."""
    size = SHORTEST
    while size < tokens:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def _in_turns(blocks: Sequence[Block]) -> list[list[Block]]:
    """Groups blocks so that a group has few of them, and of few distinct frames."""
    turns: list[list[Block]] = []
    frames: set[int] = set()
    for block in blocks:
        together = frames | set(block.frames)
        full = len(together) > FRAMES_AT_ONCE or (turns and len(turns[-1]) == BLOCKS_AT_ONCE)
        if full or not turns:
            turns.append([])
            together = set(block.frames)
        turns[-1].append(block)
        frames = together
    return turns
