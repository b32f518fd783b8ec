"""The host's half of an episode: batches of questions, their frames and their prompts as arrays.

Every batch here is this host's rows of one: what it reads, decodes and parses.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int

from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.subtitles import of_video, shown_at
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.assemble import (
    Assembler,
    Frame,
    PromptTooLong,
    empty_row,
    longest_prompt,
    stack_rows,
)
from msjoe_jax.rollout.batches import Batch, question_number
from msjoe_jax.rollout.clock import DeviceClock
from msjoe_jax.rollout.frames import (
    FrameConfig,
    frames_per_unit,
    most_patches,
    preview_fn,
    step_seconds,
    units_of,
)
from msjoe_jax.rollout.generate import Prompts
from msjoe_jax.rollout.key_frames import FrameSet, KeyFrameLoader, frame_sets, times_of
from msjoe_jax.rollout.programs import Patches, Programs, Seeds
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.rollout.text import Text
from msjoe_jax.runtime import hosts
from msjoe_jax.selectors.base import Selection
from msjoe_jax.text import prompts

LENGTHS = 16  # compiled lengths of the prompts of another number of key frames, at most
AROUND = 16  # tokens of text around a frame's, at most
PromptRows = Sequence[Sequence[dict[str, np.ndarray]]]  # B × G


def answer_tokens_of(
    prompt: prompts.PromptConfig, frames: FrameConfig, number: int, merge: int, per_unit: int
) -> int:
    """Returns the most tokens of an answer's prompt that shows so many frames.

    Args:
      prompt: holds the limit of prompts of `frames.key` frames.
      frames: their number and size.
      number: of the frames.
      merge: patches on a side of a visual token.
      per_unit: frames that are encoded together.
    """
    more = max(0, number - frames.key)
    each = frames.key_patches // merge**2 + AROUND
    return prompt.answer_prompt_tokens + -(-more // per_unit) * each


class EpisodeBatches:
    """Batches of `questions` whose frames lie in `reader`, and the prompts of an episode.

    Args:
      config: see `EpisodeConfig`.
      programs: the compiled programs of a system.
      text: the system's tokenizers and prompts.
      reader: the record folder.
      questions: all questions that batches are made of.

    Attributes:
      machine: of the programs; every batch here is this host's rows of one.
      put: lays this host's rows of a batch out on the devices.
      failures: a record of every question that was dropped, and why.
      cut_queries: question id and text of every query that was longer than CLIP's context.
      clock: device seconds by step.
    """

    def __init__(
        self,
        config: EpisodeConfig,
        programs: Programs,
        text: Text,
        reader: RecordReader,
        questions: Sequence[Question],
    ):
        system = programs.system
        self.config, self.system, self.programs, self.text = config, system, programs, text
        self.reader, self.questions, self.machine = reader, questions, programs.machine
        self.put = self.machine.put
        self.vision = system.mllm_config.vision
        self.assembler = Assembler(
            text.tokenizer, system.family, system.mllm_config, system.position_rule
        )
        self.per_unit = frames_per_unit(config.frames, system)
        self._sizes = {(v.height, v.width) for v in reader.infos(q.video for q in questions)}
        self.room = {  # for patches of a preview and of a key frame of these videos
            budget: self.room_of(getattr(config.frames, budget))
            for budget in ("preview_patches", "key_patches")
        }
        self.loader = KeyFrameLoader(config.frames, reader, system, self.room["key_patches"])
        self.failures: list[dict[str, str]] = []
        self.cut_queries: set[tuple[str, str]] = set()
        self.clock = DeviceClock()

    def with_key_frames(self, number: int) -> Self:
        """Returns the same for answers from so many frames; what is dropped is told to both.

        A larger number has room for its tokens; prompts of a smaller one are padded to less.
        """
        frames, prompt = self.config.frames, self.text.prompt
        if number == frames.key:
            return self
        other = copy.copy(self)
        other.config = dataclasses.replace(
            self.config, frames=dataclasses.replace(frames, key=number)
        )
        limit = answer_tokens_of(prompt, frames, number, self.vision.merge, self.per_unit)
        step = prompt.length_step or -(-limit // LENGTHS)
        other.text = dataclasses.replace(
            self.text,
            prompt=dataclasses.replace(prompt, answer_prompt_tokens=limit, length_step=step),
        )
        other.loader = KeyFrameLoader(
            other.config.frames, self.reader, self.system, self.room["key_patches"]
        )
        return other

    def room_of(self, budget: int) -> int:
        """Returns the most patches that a frame of these videos takes of a budget."""
        return most_patches(self._sizes, self.system, budget)

    def batches(
        self,
        batch_size: int,
        order: Int[np.ndarray, "n"] | None = None,
        rows: Int[np.ndarray, "b"] | None = None,
        *,
        with_embeddings: bool = True,
    ) -> Any:
        """Makes batches of the questions, by default each question once and in order.

        Args:
          batch_size: questions per batch; the last one is filled up.
          order: another order, see `make_pipeline`.
          rows: those of each batch that are made here; None: those on this host's devices.
          with_embeddings: whether they hold those of the frames.
        """
        return make_pipeline(
            self.questions,
            self.reader,
            batch_size=batch_size,
            num_candidates=self.config.frames.candidates,
            num_preview=self.config.frames.preview,
            preview_fn=preview_fn(self.config.frames, self.system, self.room["preview_patches"]),
            with_embeddings=with_embeddings,
            order=order,
            rows=self.machine.rows(batch_size) if rows is None else rows,
        )

    def batch_questions(self, batch: Batch) -> list[Question]:
        """Returns the questions of a batch, in its order."""
        return [self.questions[i] for i in batch["index"]]

    def seeds(self, batch: Batch, update: int) -> Seeds:
        """Returns what every random choice of a batch derives from."""
        asked = zip(self.batch_questions(batch), batch["copy"], strict=True)
        numbers = [question_number(question.id, copy) for question, copy in asked]
        question = self.put(np.array(numbers, np.uint32))
        return Seeds(np.uint32(self.config.seed), np.uint32(update), question)

    def preview_prompts(
        self, batch: Batch, weight: Float[np.ndarray, "B"]
    ) -> tuple[list[list[dict[str, np.ndarray]]], Patches]:
        """Makes the prompts of reason as rows of arrays, and the previews' patches.

        Sets `weight` to 0 where a prompt is too long.
        """
        c = self.text.prompt
        pixels, grids = batch["preview"]
        features = pixels.shape[-4] // self.vision.merge**2
        rows = []
        for b, question in enumerate(self.batch_questions(batch)):
            times = batch["preview_times"][b][batch["preview_mask"][b]]
            number = len(units_of(range(len(times)), self.per_unit))
            frames = [
                Frame(u * features, (int(grids[b, u, 0]), int(grids[b, u, 1])))
                for u in range(number)
            ]
            text = prompts.query_prompt(
                c, question.question, question.options, c.max_queries, self.text.chat.turns
            )
            seconds = step_seconds(self.config.frames, self.per_unit, times, batch["duration"][b])
            try:
                row = self.assembler.row(text, frames, c.query_prompt_tokens, seconds)
            except PromptTooLong as error:
                row = empty_row(c.query_prompt_tokens)
                self.drop(batch, weight, b, f"prompt too long: {error}")
            rows.append([row])
        return rows, Patches(pixels, grids)

    def answer_prompts(
        self,
        batch: Batch,
        selection: Selection,
        weight: Float[np.ndarray, "B"],
        texts: Sequence[tuple[str, str]] | None = None,
    ) -> tuple[PromptRows, Patches]:
        """Reads the chosen frames and makes the prompts of answer: work of the host alone.

        Each distinct unit of a question (see rollout/frames.py) is encoded once. This step also
        reports what the pipeline could not read, as every rollout of a question ends here.

        Args:
          batch: of the pipeline.
          selection: the frames to show.
          weight: set to 0 where a prompt is too long or a frame unreadable.
          texts: of each question's prompts, before the frames and after them; None: the usual.
        """
        self.report_unreadable(batch)
        sets = self._frame_sets(selection)
        if texts is None:
            rows = self._answer_texts(batch, sets)
        else:
            rows = [[text] * len(row) for text, row in zip(texts, sets, strict=True)]
        return self.frame_prompts(
            batch,
            rows,
            sets,
            weight,
            selection.frames.shape[-1],
        )

    def _answer_texts(
        self, batch: Batch, sets: Sequence[Sequence[FrameSet]]
    ) -> list[list[tuple[str, str]]]:
        """Writes the usual prompts of answer, with the subtitles of their frames if wanted."""
        c, chat = self.text.prompt, self.text.chat.turns

        def text(b: int, question: Question, one: FrameSet) -> tuple[str, str]:
            times = times_of(batch, b, one).tolist()
            shown = shown_at(self.with_subtitles(question).subtitles, times) if c.subtitles else ()
            return prompts.answer_prompt(c, question.question, question.options, chat, shown)

        questions = enumerate(self.batch_questions(batch))
        return [
            [text(b, question, one) for one in row]
            for (b, question), row in zip(questions, sets, strict=True)
        ]

    def with_subtitles(self, question: Question) -> Question:
        """Returns a question with the subtitles of its video's record, if it has none itself."""
        try:
            info = self.reader.info(question.video)
        except UserError:  # its record is damaged, which is told when it is due
            return question
        return dataclasses.replace(question, subtitles=of_video(question, info))

    def _frame_sets(self, selection: Selection) -> list[list[FrameSet]]:
        def flat(x: np.ndarray | None, axes: int) -> np.ndarray | None:
            return None if x is None else x.reshape(len(x), -1, *x.shape[-axes:])

        if selection.keep is not None and self.per_unit > 1:
            raise ValueError("a selector that drops visual tokens needs config.frames.mode=image")
        frames, tokens = flat(selection.frames, 1), flat(selection.tokens, 1)
        assert frames is not None
        if tokens is not None and self.per_unit > 1:
            shown = np.where(frames >= 0, tokens, tokens[..., :1])
            if (shown != shown[..., :1]).any():
                raise UserError(
                    "a selector that shows frames in several sizes needs config.frames.mode=image"
                )
        return frame_sets(
            frames,
            tokens,
            flat(selection.keep, 2),
            per_unit=self.per_unit,
            patches=self.config.frames.key_patches,
            merge=self.vision.merge,
        )

    def frame_prompts(
        self,
        batch: Batch,
        texts: Sequence[Sequence[tuple[str, str]]],
        sets: Sequence[Sequence[FrameSet]],
        weight: Float[np.ndarray, "B"],
        most: int,
    ) -> tuple[list[list[dict[str, np.ndarray]]], Patches]:
        """Makes prompts of texts around candidate frames as rows, and the frames' patches.

        Args:
          batch: of the pipeline.
          texts: before the frames and after them.
          sets: the frames.
          weight: set to 0 where a prompt is too long or a frame unreadable.
          most: frames of a prompt at most.
        """
        length = self.text.prompt.answer_prompt_tokens

        def drop(b: int, why: str) -> None:
            self.drop(batch, weight, b, why)

        encoded = self.loader.load(batch, self.batch_questions(batch), sets, drop, most=most)
        rows: list[list[dict[str, np.ndarray]]] = []
        for b, (row_texts, row_sets) in enumerate(zip(texts, sets, strict=True)):
            rows.append([])
            for text, one in zip(row_texts, row_sets, strict=True):
                seconds = step_seconds(
                    self.config.frames,
                    self.per_unit,
                    times_of(batch, b, one),
                    batch["duration"][b],
                )
                frames = encoded.frames(b, one, self.vision.merge)
                try:
                    rows[b].append(self.assembler.row(text, frames, length, seconds))
                except PromptTooLong as error:
                    rows[b].append(empty_row(length))
                    drop(b, f"prompt too long: {error}")
        return rows, Patches(encoded.pixels, encoded.grids)

    def stack(self, rows: PromptRows) -> Prompts:
        """Stacks rows of B × G prompts to arrays on the devices, cut to a compiled length.

        The longest prompt of all hosts counts: they all run the same program.
        """
        step = self.text.prompt.length_step
        longest = None
        if step:
            longest = max(hosts.gather(longest_prompt(rows), "the length of the prompts"))
        return self.put(stack_rows(rows, step, longest))

    def drop(self, batch: Batch, weight: np.ndarray, b: int, why: str) -> None:
        """Drops question `b` of a batch by weight 0, and reports why, once."""
        if weight[b]:
            self._report(self.questions[batch["index"][b]], why)
        weight[b] = 0.0

    def report_unreadable(self, batch: Batch) -> None:
        """Reports the questions of a batch that the pipeline could not read, and why."""
        for question, error in zip(self.batch_questions(batch), batch["error"], strict=True):
            if error:
                self._report(question, str(error))

    def _report(self, question: Question, why: str) -> None:
        self.failures.append({"question": question.id, "video": question.video, "error": why})
