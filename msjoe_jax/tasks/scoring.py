"""Scores replies by a task's rules side by side, and counts what scores alone hide."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from msjoe_jax.data.questions import Question
from msjoe_jax.runtime.digest import digest
from msjoe_jax.tasks.base import Judged, Rule, Task
from msjoe_jax.tasks.extractors import letters_of, tagged
from msjoe_jax.tasks.multiple_choice import letter_by, rules_of
from msjoe_jax.text.prompts import ends_in_thought


class Said(NamedTuple):
    """A reply to be scored.

    text: of it, or what another tool has read of it; cut: whether it was cut off, None where it is
    not known; missing: whether there was no video to ask about; whole: the reply itself, where
    `text` is less; what is strict reads that.
    """

    text: str
    cut: bool | None = None
    missing: bool = False
    whole: str = ""

    @property
    def raw(self) -> str:
        """The reply itself."""
        return self.whole or self.text


def count(questions: Sequence[Question], said: Mapping[str, Said]) -> dict[str, int]:
    """Counts the questions, and what kinds of replies there are to them.

    asked: questions; answered: of these with a reply; unanswered: without one; missing_video: whose
    video the predictions call missing; no_gold: whose right answer is not known; cut_off: replies
    that were cut off, or end within a thought; tagged: with one letter in one answer tag; empty.
    """
    known = [(q, said[q.id]) for q in questions if q.id in said]
    replies = [(q, s) for q, s in known if not s.missing]
    return {
        "asked": len(questions),
        "answered": len(replies),
        "unanswered": len(questions) - len(known),
        "missing_video": len(known) - len(replies),
        "no_gold": sum(q.answer is None for q in questions),
        "cut_off": sum(ends_in_thought(s.raw) if s.cut is None else s.cut for _, s in replies),
        "tagged": sum(bool(tagged(s.raw, letters_of(len(q.options)))) for q, s in replies),
        "empty": sum(not s.raw.strip() for _, s in replies),
    }


def judge(
    task: Task,
    rule: str,
    questions: Sequence[Question],
    said: Mapping[str, Said],
    draw_unparsed: int | None = None,
) -> list[Judged]:
    """Finds the letter of every reply whose question's right answer is known.

    Args:
      task: whose rule it is.
      rule: its name.
      questions: all that were to be asked.
      said: replies by the question's id.
      draw_unparsed: seed by which a reply without a letter is given one at random, where the rule
        draws, as LongVideoBench's does; None: it has none.
    """
    by, judged = rules_of(task)[rule], []
    for q in questions:
        if q.answer is not None and q.id in said and _counts(by, said[q.id]):
            letter = letter_by(by, q, said[q.id].raw if rule == "strict" else said[q.id].text)
            drawn = by.draws and not letter and draw_unparsed is not None
            letter = _drawn(q, draw_unparsed) if drawn else letter
            judged.append(Judged(q, letter, drawn))
    return judged


def _counts(rule: Rule, said: Said) -> bool:
    return not said.missing or (rule.missing and bool(said.text))


def score(
    task: Task,
    rule: str,
    questions: Sequence[Question],
    said: Mapping[str, Said],
    draw_unparsed: int | None = None,
) -> dict[str, Any]:
    """Scores replies by one rule.

    Args:
      task: whose rule it is.
      rule: its name.
      questions: all that were to be asked.
      said: replies by the question's id.
      draw_unparsed: see `judge`; None: a reply without a letter is wrong.

    Returns:
      version, right, unparsed; accuracy: of the answered questions; of_parsed: of those with a
      letter; of_all: of all asked, the unanswered being wrong; totals: the benchmark's own numbers.
    """
    judged = judge(task, rule, questions, said, draw_unparsed)
    right, gold = sum(j.right for j in judged), sum(q.answer is not None for q in questions)
    parsed = sum(bool(j.letter) for j in judged)
    totals = rules_of(task)[rule].totals
    return {
        "version": rules_of(task)[rule].version,
        "right": right,
        "unparsed": sum(j.drawn or not j.letter for j in judged),
        "accuracy": _share(right, len(judged)),
        "of_parsed": _share(right, parsed),
        "of_all": _share(right, gold),
        "totals": totals(judged) if totals and judged else {},
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _drawn(question: Question, seed: int | None) -> str:
    """Draws a letter; which depends on the seed and the question alone."""
    letters = letters_of(len(question.options))
    place = int(digest(seed, question.id), 16)
    return letters[int(np.random.default_rng(place).integers(len(letters)))]
