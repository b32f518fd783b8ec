"""The four stages for a batch of questions: device programs, and the host's text and JPEG work.

A question whose prompt is too long or whose frames cannot be read is dropped from the batch by
weight 0 and reported; it never stops a run.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from ml_collections import ConfigDict
from PIL import Image

from msjoe_jax import prompts
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.models.functional import Params
from msjoe_jax.models.qwen2_5_vl.images import MAX_ASPECT, frame_to_patches, resize_frame
from msjoe_jax.rl.subset import Draw
from msjoe_jax.rollout.assemble import (
    Assembler,
    Frame,
    PromptTooLong,
    empty_row,
    stack_rows,
)
from msjoe_jax.rollout.generate import Completions, Prompts
from msjoe_jax.rollout.programs import Patches, Programs, Selection
from msjoe_jax.system import System
from msjoe_jax.tokenizer import clip_tokens

Batch = dict[str, Any]  # what data/pipeline.py yields


class QueryStage(NamedTuple):
    """Stage 1 of B questions × I rollouts. `tokens` and `mask` are CLIP's input [B, I, Q, C]."""

    prompts: Prompts
    features: Any
    completions: Completions
    replies: list[list[prompts.QueryReply]]
    tokens: Int[np.ndarray, "B I Q C"]
    mask: Bool[np.ndarray, "B I Q"]


class AnswerStage(NamedTuple):
    """Stage 4 of B questions × G frame sets × n samples; `correct` and `valid` are [B, G·n]."""

    prompts: Prompts
    features: Any
    completions: Completions
    replies: list[list[prompts.AnswerReply]]
    texts: list[list[str]]
    correct: Float[np.ndarray, "B G"]
    valid: Float[np.ndarray, "B G"]


def to_patches(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]], patch: int, merge: int, num_patches: int
) -> tuple[UInt8[np.ndarray, "F P p p 3"], Int[np.ndarray, "F 2"]]:
    """Frames resized into a budget of `num_patches` and cut up; grids (height, width) beside.

    A frame too elongated for the budget (more than num_patches / merge² to 1, or than the
    reference's 200 to 1) is squashed to that.
    """
    factor = patch * merge
    budget = num_patches * patch**2
    limit = min(num_patches // merge**2, MAX_ASPECT)

    def squash(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        short = min(frame.shape[:2])
        height, width = (min(side, limit * short) for side in frame.shape[:2])
        if (height, width) == frame.shape[:2]:
            return frame
        return np.asarray(Image.fromarray(frame).resize((width, height)))

    cut = [
        frame_to_patches(
            resize_frame(squash(frame), factor=factor, min_pixels=factor**2, max_pixels=budget),
            patch,
            merge,
            num_patches,
        )
        for frame in frames
    ]
    return np.stack([c[0] for c in cut]), np.array([c[1] for c in cut], np.int32)


def preview_fn(config: ConfigDict, system: System) -> Callable[[np.ndarray], tuple]:
    """What the pipeline does with preview frames: low-resolution patches and their grids."""
    vision = system.qwen.vision
    return functools.partial(
        to_patches,
        patch=vision.patch,
        merge=vision.merge,
        num_patches=config.frames.preview_patches,
    )


class Episodes:
    """Runs the stages over batches of `questions` whose frames lie in `reader`.

    Args:
      put: places a pytree of host arrays with leading axis B on the devices (see runtime/mesh.py).
    """

    def __init__(
        self,
        config: ConfigDict,
        programs: Programs,
        reader: RecordReader,
        questions: Sequence[Question],
        put: Callable[[Any], Any] = jax.device_put,
    ):
        system = programs.system
        assert system.tokenizer is not None
        self.config, self.system, self.programs = config, system, programs
        self.reader, self.questions, self.put = reader, questions, put
        self.assembler = Assembler(system.tokenizer, system.qwen)
        self.failures: list[dict[str, str]] = []

    def batch_questions(self, batch: Batch) -> list[Question]:
        """The questions of a batch, in its order."""
        return [self.questions[i] for i in batch["index"]]

    def reason(
        self,
        mllm: Params,
        batch: Batch,
        step: int,
        *,
        rollouts: int,
        temperature: float,
        weight: Float[np.ndarray, "B"],
    ) -> QueryStage:
        """Stage 1. Sets `weight` to 0 where a prompt is too long."""
        c, style = self.config.prompt, self.system.style
        pixels, grids = batch["preview"]
        unit = self.system.qwen.vision.merge**2
        per_frame = pixels.shape[2] // unit
        rows = []
        for b, question in enumerate(self.batch_questions(batch)):
            shown = int(batch["preview_mask"][b].sum())
            frames = [Frame(u * per_frame, tuple(grids[b, u])) for u in range(shown)]
            text = prompts.query_prompt(style, question.question, question.options, c.max_queries)
            rows.append([self._row(question, text, frames, c.query_prompt_tokens, weight, b)])
        prompt = self.put(stack_rows(rows))
        completions, features = self.programs.reason(
            mllm,
            prompt,
            self.put(Patches(pixels, grids)),
            np.int32(self.config.seed),
            np.int32(step),
            self.put(batch["index"]),
            rollouts=rollouts,
            sampling=self.system.sampling(c.query_tokens, temperature),
        )
        tokens, mask, finished = fetch(
            (completions.tokens[:, 0], completions.mask[:, 0], completions.finished[:, 0])
        )
        replies = [
            [
                prompts.parse_queries(
                    self._text(tokens[b, i], mask[b, i]),
                    question.question,
                    max_queries=c.max_queries,
                    think=style.think,
                    finished=bool(finished[b, i]),
                )
                for i in range(rollouts)
            ]
            for b, question in enumerate(self.batch_questions(batch))
        ]
        texts = [[reply.queries for reply in row] for row in replies]
        return QueryStage(prompt, features, completions, replies, *self.query_tokens(texts))

    def query_tokens(
        self, texts: Sequence[Sequence[Sequence[str]]]
    ) -> tuple[Int[np.ndarray, "B I Q C"], Bool[np.ndarray, "B I Q"]]:
        """CLIP tokens of up to Q queries for each of B × I rollouts."""
        assert self.system.clip_tokenizer is not None
        B, I, Q = len(texts), len(texts[0]), self.config.prompt.max_queries
        context = self.system.clip.context
        tokens = np.zeros((B, I, Q, context), np.int32)
        mask = np.zeros((B, I, Q), bool)
        for b, row in enumerate(texts):
            for i, queries in enumerate(row):
                mask[b, i, : len(queries)] = True
        start, end = self.system.clip_start_end()
        flat = [prompts.plain(q) for row in texts for queries in row for q in queries]
        tokens[mask] = clip_tokens(self.system.clip_tokenizer, flat, context, start, end)
        # A missing query still needs an end token to be pooled at; its row is masked afterwards.
        tokens[~mask] = np.array([start, end] + [0] * (context - 2), np.int32)
        return tokens, mask

    def select(
        self,
        params: dict[str, Params],
        batch: Batch,
        tokens: Int[np.ndarray, "B I Q C"],
        mask: Bool[np.ndarray, "B I Q"],
        step: int,
        *,
        selector: str,
        draws: int,
    ) -> Selection:
        """Stages 2 and 3 on the device; the draw comes back as device arrays."""
        return self.programs.select(
            params["clip"],
            params["sampler"],
            *self.put((tokens, mask, batch["embeddings"], batch["frame_mask"])),
            np.int32(self.config.seed),
            np.int32(step),
            self.put(batch["index"]),
            selector=selector,
            draws=draws,
            k=self.config.frames.key,
        )

    def answer(
        self,
        mllm: Params,
        batch: Batch,
        frames: Int[np.ndarray, "B G K"],
        step: int,
        *,
        temperature: float,
        weight: Float[np.ndarray, "B"],
        samples: int = 1,
    ) -> AnswerStage:
        """Stage 4 on candidate indices `frames` (−1: none), `samples` answers to each set.

        Each distinct frame of a question is encoded once.
        """
        c, style = self.config.prompt, self.system.style
        B, G, K = frames.shape
        questions = self.batch_questions(batch)
        distinct = [np.unique(f[f >= 0]) for f in frames]
        pixels, grids = self._key_patches(
            batch, distinct, min(G * K, self.config.frames.candidates), weight
        )
        per_frame = pixels.shape[2] // self.system.qwen.vision.merge**2
        rows: list[list[dict[str, np.ndarray]]] = []
        for b, question in enumerate(questions):
            text = prompts.answer_prompt(style, question.question, question.options)
            place = {int(t): u for u, t in enumerate(distinct[b])}
            rows.append([])
            for g in range(G):
                chosen = [place[t] for t in sorted(int(t) for t in frames[b, g] if t >= 0)]
                shown = [Frame(u * per_frame, tuple(grids[b, u])) for u in chosen]
                rows[b].append(self._row(question, text, shown, c.answer_prompt_tokens, weight, b))
        prompt = self.put(stack_rows(rows))
        completions, features = self.programs.answer(
            mllm,
            prompt,
            self.put(Patches(pixels, grids)),
            np.int32(self.config.seed),
            np.int32(step),
            self.put(batch["index"]),
            samples=samples,
            sampling=self.system.sampling(c.answer_tokens, temperature),
        )
        tokens, mask, finished = (
            x.reshape(B, G * samples, *x.shape[3:])
            for x in fetch((completions.tokens, completions.mask, completions.finished))
        )
        texts = [
            [self._text(*row) for row in zip(tokens[b], mask[b], strict=True)] for b in range(B)
        ]
        replies = [
            [
                prompts.parse_answer(
                    texts[b][g],
                    num_options=len(question.options),
                    think=style.think,
                    finished=bool(finished[b, g]),
                )
                for g in range(G * samples)
            ]
            for b, question in enumerate(questions)
        ]
        correct = [
            [float(reply.answer == question.answer) for reply in row]
            for row, question in zip(replies, questions, strict=True)
        ]
        valid = [[float(reply.valid) for reply in row] for row in replies]
        return AnswerStage(
            prompt,
            features,
            completions,
            replies,
            texts,
            np.array(correct, np.float32),
            np.array(valid, np.float32),
        )

    def _row(
        self,
        question: Question,
        text: tuple[str, str],
        frames: list[Frame],
        length: int,
        weight: np.ndarray,
        b: int,
    ) -> dict[str, np.ndarray]:
        try:
            return self.assembler.row(text, frames, length)
        except PromptTooLong as error:
            self._drop(question, f"prompt too long: {error}", weight, b)
            return empty_row(length)

    def _key_patches(
        self,
        batch: Batch,
        distinct: list[np.ndarray],
        slots: int,
        weight: np.ndarray,
    ) -> tuple[UInt8[np.ndarray, "B U P p p 3"], Int[np.ndarray, "B U 2"]]:
        vision, P = self.system.qwen.vision, self.config.frames.key_patches
        B, p = len(distinct), vision.patch
        pixels = np.zeros((B, slots, P, p, p, 3), np.uint8)
        grids = np.zeros((B, slots, 2), np.int32)
        questions = self.batch_questions(batch)
        wanted = [batch["frame_index"][b][distinct[b]] for b in range(B)]
        try:
            found = self.reader.gather(
                [(q.video, list(w)) for q, w in zip(questions, wanted, strict=True)]
            )
        except Exception:  # one unreadable frame: read question by question to find whose it is
            found = [
                self._frames_or_drop(q, w, weight, b)
                for b, (q, w) in enumerate(zip(questions, wanted, strict=True))
            ]
        for b, frames in enumerate(found):
            n = len(frames)
            if n:
                pixels[b, :n], grids[b, :n] = to_patches(frames, p, vision.merge, P)
            # A dropped question's frames stand in as one block of grey, so that rows line up.
            grids[b, n : len(distinct[b])] = vision.merge
        return pixels, grids

    def _frames_or_drop(
        self, question: Question, wanted: np.ndarray, weight: np.ndarray, b: int
    ) -> np.ndarray:
        try:
            return self.reader.frames(question.video, list(wanted))
        except Exception as error:
            self._drop(question, f"frames unreadable: {error}", weight, b)
            return np.zeros((0, 0, 0, 3), np.uint8)

    def _drop(self, question: Question, why: str, weight: np.ndarray, b: int) -> None:
        if weight[b]:
            self.failures.append({"question": question.id, "video": question.video, "error": why})
        weight[b] = 0.0

    def _text(self, tokens: np.ndarray, mask: np.ndarray) -> str:
        assert self.system.tokenizer is not None
        ids = [int(t) for t in tokens[mask]]
        ends = self.system.sampling(1, 1.0).end_ids
        return self.system.tokenizer.decode([t for t in ids if t not in ends])


def fetch(tree: Any) -> Any:
    """Device arrays as NumPy arrays, all transfers started before the first is awaited."""
    return jax.device_get(tree)


def time_ordered(draw: Draw) -> Int[np.ndarray, "B G K"]:
    """Drawn candidate indices [B, I, J, K] as [B, I·J, K] by time, −1 for invalid picks (last)."""
    indices, valid = fetch((draw.indices, draw.valid))
    big = np.iinfo(np.int32).max
    ordered = np.sort(np.where(valid, indices, big), -1)
    ordered = np.where(ordered == big, -1, ordered)
    return ordered.reshape(ordered.shape[0], -1, ordered.shape[-1])
