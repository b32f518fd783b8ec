"""Our pipeline as a model of lmms-eval: its tasks, our reader, frames and prompts.

    python -m lmms_eval --model msjoe --model_args checkpoint=run/final --tasks videomme

docs/lmms_eval.md says what is asked in our way, and what of a task is left out.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from lmms_eval.api.model import lmms
from tqdm import tqdm

from msjoe_jax.errors import UserError
from msjoe_jax.integrations.lmms_eval_requests import Asked, read_request
from msjoe_jax.rollout.answerer import Answer, Answerer

# What lmms-eval passes to every model, and has no meaning here: questions are asked one by one.
UNUSED = ("batch_size", "max_batch_size", "device")
REPLIES = ("letter", "verbatim")
KEPT_SETTINGS = ("temperature", "top_p", "num_beams", "do_sample")  # of a greedy reply


class MsjoeModel(lmms):
    """A trained model folder, answering lmms-eval's requests.

    Args:
      checkpoint: the folder (`WORKDIR/final`).
      frames: most key frames; empty: as many as in training.
      selector: name of SELECTORS; empty: the folder's own.
      reply: `letter` gives a valid answer as its bare letter, which every task reads, and all else
        as the model wrote it; `verbatim` gives every reply as it was written.
      others: of UNUSED.

    Raises:
      UserError: an argument is unknown or cannot be, or the folder cannot be used.
    """

    is_simple = False

    def __init__(
        self,
        checkpoint: str = "",
        frames: Any = "",
        selector: str = "",
        reply: str = "letter",
        **others: Any,
    ) -> None:
        super().__init__()
        unknown = sorted(set(others) - set(UNUSED))
        if unknown:
            raise UserError(
                f"--model_args {unknown[0]}: not one of checkpoint, frames, selector, reply"
            )
        if not checkpoint:
            raise UserError("--model_args checkpoint=DIR is missing: the folder of a trained model")
        if reply not in REPLIES:
            raise UserError(f"--model_args reply={reply} is not one of {', '.join(REPLIES)}")
        number = str(frames)
        if number and (not number.isdecimal() or int(number) < 1):
            raise UserError(f"--model_args frames={frames} is not a number from 1")
        self.reply = reply
        self.answerer = Answerer(
            checkpoint,
            key_frames=int(number) if number else None,
            selector=selector or None,
        )
        self.notes: dict[str, int] = {}  # what was not done as asked, and how often

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers requests, in their order; every video is decoded once.

        A video or a question that cannot be used has an empty reply, which no task counts as right;
        how many, and why, is printed at the end.

        Args:
          requests: whose `args` are (context, doc_to_messages, settings of generation, the row's
            number, task, split).
        """
        by_video: dict[str, list[tuple[int, Asked]]] = {}
        for place, request in enumerate(requests):
            _, messages_of, settings, row, task, split = request.args
            record = self.task_dict[task][split][row]
            asked = read_request(messages_of(record), record)
            by_video.setdefault(asked.video, []).append((place, asked))
            self._note_settings(settings)
            if asked.rest:
                self._note(f"lines of a task's prompt left out, such as {asked.rest[-1]!r}")
            if not asked.options:
                self._note("prompts without options, asked as they are")
        replies = [""] * len(requests)
        with tqdm(total=len(requests), desc="msjoe") as bar:
            for video, places in by_video.items():
                for place, reply in self._replies(video, places, bar.update):
                    replies[place] = reply
        for note, count in self.notes.items():
            print(f"msjoe: {count} × {note}", file=sys.stderr)
        self.notes.clear()
        return replies

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refuses: the model writes an answer, it does not rank texts."""
        raise UserError("msjoe answers tasks of output_type generate_until, not loglikelihood")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuses: a question is asked once."""
        raise UserError("msjoe answers tasks of output_type generate_until, not several rounds")

    def _replies(
        self, video: str, places: Sequence[tuple[int, Asked]], done: Callable[[], Any]
    ) -> list[tuple[int, str]]:
        """Answers the questions about one video."""
        replies = []
        try:
            with self.answerer.opened(video) as opened:
                for place, asked in places:
                    try:
                        answer = self.answerer.answer_opened(opened, asked.question, asked.options)
                        replies.append((place, self._text(answer)))
                    except UserError as error:
                        self._note(f"question without a reply: {error}")
                    done()
        except UserError as error:
            for _ in places:
                self._note(f"question without a reply: {error}")
                done()
        return replies

    def _text(self, answer: Answer) -> str:
        if self.reply == "letter" and answer.letter is not None:
            return answer.letter
        return answer.answer_words

    def _note_settings(self, settings: dict[str, Any]) -> None:
        """Notes the settings of generation that are not taken: replies are greedy and our own."""
        greedy = not settings.get("do_sample") and not settings.get("temperature")
        for name, value in settings.items():
            if name not in KEPT_SETTINGS or not greedy:
                self._note(f"generation_kwargs {name}={value!r} not taken")

    def _note(self, text: str) -> None:
        self.notes[text] = self.notes.get(text, 0) + 1
