"""The four stages for a batch of questions: device programs, and the host's text and JPEG work.

A question whose prompt is too long or whose frames cannot be read is dropped from the batch by
weight 0 and reported; it never stops a run.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.draws.draw import Draw
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.assemble import (
    Assembler,
    Frame,
    PromptTooLong,
    Seconds,
    empty_row,
    stack_rows,
)
from msjoe_jax.rollout.clock import DeviceClock
from msjoe_jax.rollout.frames import (
    Unit,
    frames_per_unit,
    step_seconds,
    to_patches,
    unit_slots,
    units_of,
)
from msjoe_jax.rollout.generate import Completions, Prompts, Sampling
from msjoe_jax.rollout.programs import Patches, Programs, Selection
from msjoe_jax.text import prompts
from msjoe_jax.text.tokenizer import clip_tokens

Batch = dict[str, Any]  # what data/pipeline.py yields
STAGES = {"reason": 1, "answer": 4}  # of the method, by their kind of work


class QueryStage(NamedTuple):
    """Stage 1 of B questions × I rollouts; `num_tokens` were drawn.

    `tokens` and `mask` are CLIP's input [B, I, Q, C].
    """

    prompts: Prompts
    patches: Patches
    features: Any
    completions: Completions
    num_tokens: int
    replies: list[list[prompts.QueryReply]]
    tokens: Int[np.ndarray, "B I Q C"]
    mask: Bool[np.ndarray, "B I Q"]


class AnswerStage(NamedTuple):
    """Stage 4 of B questions × G frame sets × n samples; `correct` and `valid` are [B, G·n]."""

    prompts: Prompts
    patches: Patches
    features: Any
    completions: Completions
    num_tokens: int
    replies: list[list[prompts.AnswerReply]]
    texts: list[list[str]]
    correct: Float[np.ndarray, "B G"]
    valid: Float[np.ndarray, "B G"]


class _Done(NamedTuple):
    """Replies as they lie on the device, and their (tokens, mask, finished) [B, G·n, …] here."""

    prompts: Prompts
    patches: Patches
    features: Any
    completions: Completions
    replies: tuple[np.ndarray, ...]


def question_number(question_id: str) -> int:
    """A question's id as the 32 bits from which its random choices derive."""
    return zlib.crc32(question_id.encode())


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
        self.per_unit = frames_per_unit(config, system.qwen.vision)
        self.failures: list[dict[str, str]] = []
        self.clock = DeviceClock()

    def _seeds(self, batch: Batch, step: int) -> tuple[Any, Any, Any]:
        """What every random choice of a batch derives from: seed, step, question ids."""
        ids = [question_number(question.id) for question in self.batch_questions(batch)]
        seed, step_ = np.uint32(self.config.seed), np.uint32(step)
        return seed, step_, self.put(np.array(ids, np.uint32))

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
        rows = []
        for b, question in enumerate(self.batch_questions(batch)):
            times = batch["preview_times"][b][batch["preview_mask"][b]]
            units = range(len(units_of(range(len(times)), self.per_unit)))
            shown = self._shown(pixels, grids[b], units)
            seconds = self._seconds(times, batch["duration"][b])
            text = prompts.query_prompt(style, question.question, question.options, c.max_queries)
            row = self._row(question, text, shown, seconds, c.query_prompt_tokens, weight, b)
            rows.append([row])
        sampling = self.system.sampling(c.query_tokens, temperature)
        done = self._complete("reason", mllm, rows, pixels, grids, batch, step, rollouts, sampling)
        tokens, mask, finished = done.replies
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
        found = self.query_tokens(texts)
        return QueryStage(*done[:4], int(mask.sum()), replies, *found)

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
            *self._seeds(batch, step),
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

        Each distinct unit of a question (see rollout/frames.py) is encoded once. Sets `weight` to 0
        where a prompt is too long or a frame unreadable. Reports what the pipeline dropped too:
        every question comes here once a rollout, by whatever stages before.
        """
        c, style = self.config.prompt, self.system.style
        B, G, _ = frames.shape
        questions = self.batch_questions(batch)
        for question, error in zip(questions, batch["error"], strict=True):
            if error:
                self._report(question, str(error))
        ordered = [[sorted(int(t) for t in f if t >= 0) for f in row] for row in frames]
        units = [[units_of(f, self.per_unit) for f in row] for row in ordered]
        distinct = [sorted({unit for units_g in row for unit in units_g}) for row in units]
        slots = unit_slots(self.config, self.per_unit, G)
        pixels, grids = self._key_patches(batch, distinct, slots, weight)
        rows: list[list[dict[str, np.ndarray]]] = []
        for b, question in enumerate(questions):
            text = prompts.answer_prompt(style, question.question, question.options)
            place = {unit: u for u, unit in enumerate(distinct[b])}
            rows.append([])
            for g in range(G):
                shown = self._shown(pixels, grids[b], [place[unit] for unit in units[b][g]])
                seconds = self._seconds(batch["timestamps"][b][ordered[b][g]], batch["duration"][b])
                rows[b].append(
                    self._row(question, text, shown, seconds, c.answer_prompt_tokens, weight, b)
                )
        sampling = self.system.sampling(c.answer_tokens, temperature)
        done = self._complete("answer", mllm, rows, pixels, grids, batch, step, samples, sampling)
        tokens, mask, finished = done.replies
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
            *done[:4],
            int(mask.sum()),
            replies,
            texts,
            np.array(correct, np.float32),
            np.array(valid, np.float32),
        )

    def _complete(
        self,
        kind: str,
        mllm: Params,
        rows: Sequence[Sequence[dict[str, np.ndarray]]],
        pixels: np.ndarray,
        grids: np.ndarray,
        batch: Batch,
        step: int,
        samples: int,
        sampling: Sampling,
    ) -> "_Done":
        """Stage 1 or 4 on the device: `samples` replies to each of B × G prompts, fetched."""
        prompt = self.put(stack_rows(rows, self.config.prompt.length_buckets))
        patches = self.put(Patches(pixels, grids))
        with self.clock(kind):
            completions, features = self.programs.complete(
                mllm,
                prompt,
                patches,
                *self._seeds(batch, step),
                stage=STAGES[kind],
                samples=samples,
                sampling=sampling,
            )
            found = fetch((completions.tokens, completions.mask, completions.finished))
        B, G = found[0].shape[:2]
        replies = tuple(x.reshape(B, G * samples, *x.shape[3:]) for x in found)
        return _Done(prompt, patches, features, completions, replies)

    def _shown(
        self, pixels: np.ndarray, grids: Int[np.ndarray, "U 2"], units: Sequence[int]
    ) -> list[Frame]:
        """Units of a question as they enter a prompt; `pixels` ends in P p p 3."""
        rows = pixels.shape[-4] // self.system.qwen.vision.merge**2
        return [Frame(u * rows, (int(grids[u, 0]), int(grids[u, 1]))) for u in units]

    def _seconds(self, times: np.ndarray, duration: float) -> Seconds | None:
        return step_seconds(self.config, self.per_unit, times, duration)

    def _row(
        self,
        question: Question,
        text: tuple[str, str],
        frames: list[Frame],
        seconds: Seconds | None,
        length: int,
        weight: np.ndarray,
        b: int,
    ) -> dict[str, np.ndarray]:
        try:
            return self.assembler.row(text, frames, length, seconds)
        except PromptTooLong as error:
            self._drop(question, f"prompt too long: {error}", weight, b)
            return empty_row(length)

    def _key_patches(
        self,
        batch: Batch,
        distinct: list[list[Unit]],
        slots: int,
        weight: np.ndarray,
    ) -> tuple[UInt8[np.ndarray, "B U *t P p p 3"], Int[np.ndarray, "B U 2"]]:
        """Patches of each question's units, read and cut once a frame (t: frames of a unit)."""
        vision, P = self.system.qwen.vision, self.config.frames.key_patches
        B, p = len(distinct), vision.patch
        pixels = np.zeros((B, slots, self.per_unit, P, p, p, 3), np.uint8)
        grids = np.zeros((B, slots, 2), np.int32)
        questions = self.batch_questions(batch)
        needed = [np.unique(np.array(units, np.int32)) for units in distinct]
        wanted = [batch["frame_index"][b][needed[b]] for b in range(B)]
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
            n = len(distinct[b])
            if len(frames):
                cut, grid = to_patches(frames, p, vision.merge, P)
                at = np.searchsorted(needed[b], distinct[b])  # [n, frames of a unit]
                pixels[b, :n], grids[b, :n] = cut[at], grid[at[:, 0]]
            else:  # a dropped question's units stand in as a block of grey, so that rows line up
                grids[b, :n] = vision.merge
        return (pixels[:, :, 0] if self.per_unit == 1 else pixels), grids

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
            self._report(question, why)
        weight[b] = 0.0

    def _report(self, question: Question, why: str) -> None:
        self.failures.append({"question": question.id, "video": question.video, "error": why})

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
