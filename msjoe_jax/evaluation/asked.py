"""How an arm asks a question: with its options in another order, or with subtitles."""

import dataclasses
from collections.abc import Sequence
from string import ascii_uppercase
from typing import NamedTuple

import numpy as np

from msjoe_jax.data.questions import Question
from msjoe_jax.data.subtitles import shown_at
from msjoe_jax.evaluation.arms import Arm
from msjoe_jax.rollout.batches import question_number
from msjoe_jax.text.characters import without_letters
from msjoe_jax.text.prompts import one_line

SHUFFLE = 7  # tells the orders of options from other random choices of the same seed


class Asked(NamedTuple):
    """A question as it is asked.

    question: with the options that answer sees; order: of each of those, its place in the record;
    subtitles: that answer reads.
    """

    question: Question
    order: tuple[int, ...]
    subtitles: tuple[str, ...] = ()

    def in_record(self, letter: str) -> str:
        """Returns the letter that an option has in the record, by the one that it was given."""
        place = ascii_uppercase.find(letter) if len(letter) == 1 else -1
        return ascii_uppercase[self.order[place]] if 0 <= place < len(self.order) else letter


def asked(question: Question, arm: Arm, seed: int, times: Sequence[float]) -> Asked:
    """Returns a question as an arm asks it.

    Args:
      question: of the file.
      arm: says whether options are shuffled and subtitles shown.
      seed: with the question's id decides the order of the options.
      times: of the frames that are shown, in seconds.
    """
    order = tuple(range(len(question.options)))
    subtitles = subtitles_of(question, times) if arm.subtitles else ()
    if arm.shuffled:
        rng = np.random.default_rng((seed, question_number(question.id), SHUFFLE))
        order = tuple(int(place) for place in rng.permutation(len(order)))
        texts = without_letters([one_line(option) for option in question.options])
        question = dataclasses.replace(
            question,
            options=tuple(texts[place] for place in order),
            answer=None if question.answer is None else order.index(question.answer),
        )
    return Asked(question, order, subtitles)


def subtitles_of(question: Question, times: Sequence[float]) -> tuple[str, ...]:
    """Returns the subtitles of its video that overlap a frame's `MOMENT`, each once, in order."""
    return tuple(dict.fromkeys(filter(None, map(one_line, shown_at(question.subtitles, times)))))
