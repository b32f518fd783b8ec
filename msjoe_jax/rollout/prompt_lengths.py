"""Counts the tokens of a question's prompts from its text and its video's frame size alone."""

from typing import Any

from msjoe_jax.data.pipeline import uniform_indices
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import VideoInfo
from msjoe_jax.data.subtitles import of_video, shown_at
from msjoe_jax.families import Family
from msjoe_jax.rollout.assemble import Assembler
from msjoe_jax.rollout.frames import FrameConfig, grid_of
from msjoe_jax.text import prompts
from msjoe_jax.text.chat import Chat
from msjoe_jax.text.prompts import PromptConfig
from msjoe_jax.text.tokenizer import Tokenizer


class PromptLengths:
    """A counter of the tokens that episodes' prompts have (the last one apart, as limits count).

    Args:
      frames: number and size of the frames.
      prompt: the wording.
      family, sizes, tokenizer, chat: the MLLM's.
    """

    def __init__(
        self,
        frames: FrameConfig,
        prompt: PromptConfig,
        family: Family,
        sizes: Any,
        tokenizer: Tokenizer,
        chat: Chat,
    ):
        self.frames, self.prompt = frames, prompt
        self._family, self._vision, self._chat = family, sizes.vision, chat
        self._per_unit = self._vision.temporal_patch if frames.mode == "video" else 1
        self._assembler = Assembler(tokenizer, family, sizes)

    def query(self, question: Question, video: VideoInfo) -> int:
        """Counts the tokens of the prompt of reason, with the previews of a video."""
        c = self.prompt
        text = prompts.query_prompt(
            c, question.question, question.options, c.max_queries, self._chat.turns
        )
        number = min(self.frames.preview, video.num_frames)
        return self._length(text, video, number, self.frames.preview_patches)

    def answer(self, question: Question, video: VideoInfo) -> int:
        """Counts the tokens of the prompt of answer, with as many key frames as a video gives.

        Subtitles, if there are to be any, are those of evenly spaced frames: of others there may be
        more or less.
        """
        number = min(self.frames.key, self.frames.candidates, video.num_frames)
        shown: tuple[str, ...] = ()
        if self.prompt.subtitles:
            times = video.timestamps[uniform_indices(number, video.num_frames)]
            shown = shown_at(of_video(question, video), times)
        text = prompts.answer_prompt(
            self.prompt, question.question, question.options, self._chat.turns, shown
        )
        return self._length(text, video, number, self.frames.key_patches)

    def blind(self, question: Question, video: VideoInfo) -> int:
        """Counts the tokens of the prompt of answer without a frame."""
        text = prompts.answer_prompt(
            self.prompt, question.question, question.options, self._chat.turns
        )
        return self._length(text, video, 0, self.frames.key_patches)

    def _length(self, text: tuple[str, str], video: VideoInfo, number: int, patches: int) -> int:
        size = (video.height, video.width)
        grid = grid_of(size, self._vision, self._family.images, patches)
        steps = -(-number // self._per_unit)
        return self._assembler.length(text, grid, steps, self._per_unit > 1)
