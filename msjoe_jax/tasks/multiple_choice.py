"""Grades multiple-choice replies, and what scoring rules have in common."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msjoe_jax.data.questions import Question, load_questions
from msjoe_jax.tasks.base import Grade, Judged, Reply, Rule, Task
from msjoe_jax.tasks.extractors import legacy, letters_of, lmms_eval, strict
from msjoe_jax.tasks.presets import Preset
from msjoe_jax.tasks.reading import Form, is_imported, read_questions
from msjoe_jax.text.prompts import LETTERS, parse_answer

OURS = "msjoe_jax: the one answer tag, or a reply that is but a letter"
SHARED = "lmms-eval, shared extractor of 2026-04 (#1274), letters of the question's own options"
LEGACY = "Video-MME evaluation/eval_your_results.py 4e7566d: prefixes, then the first letter"


def grade(question: Question, reply: Reply) -> Grade:
    """Grades a reply: 1 if its one letter is the right option's, else 0; NaN if that is unknown."""
    parsed = parse_answer(
        reply.text,
        num_options=len(question.options),
        think=reply.think,
        finished=reply.finished,
    )
    letter = "" if parsed.answer is None else LETTERS[parsed.answer]
    right = math.nan if question.answer is None else float(parsed.answer == question.answer)
    return Grade(right, parsed.valid, letter)


def groups(question: Question) -> dict[str, str]:
    """Returns the groups under the record's `extra.groups`; none by default."""
    names = question.extra.get("groups", {})
    return {str(k): str(v) for k, v in names.items()} if isinstance(names, dict) else {}


# --- rules ----------------------------------------------------------------------------------------

RULES: Mapping[str, Rule] = {
    "strict": Rule(OURS, strict),
    "official": Rule(LEGACY, legacy),
    "lmms-eval": Rule(SHARED, lmms_eval),
}


def rules(official: Rule, lmms: Rule, **others: Rule) -> dict[str, Rule]:
    """Returns a benchmark's rules: ours, with the totals of lmms-eval's, and those given."""
    return {
        "strict": Rule(OURS, strict, lmms.totals, lmms.parts),
        "official": official,
        "lmms-eval": lmms,
        **others,
    }


def rules_of(task: Task) -> Mapping[str, Rule]:
    """Returns the rules of a task by name."""
    return RULES if task.rules is None else task.rules


def extracted(task: Task, question: Question, text: str) -> dict[str, str]:
    """Returns the letter that each rule of a task finds in a reply; "" where it finds none."""
    return {name: letter_by(rule, question, text) for name, rule in rules_of(task).items()}


def letter_by(rule: Rule, question: Question, text: str) -> str:
    """Returns the letter that a rule finds in a reply; "" where it finds none.

    Of several, any of which the rule takes for right, the right one.
    """
    found = rule.extract(text, letters_of(len(question.options)))
    if not found and rule.by_text:
        found = rule.by_text(text, question.options)
    return question.letter if question.letter and question.letter in found else found[:1]


def percent(judged: Sequence[Judged]) -> float | None:
    """Computes the percentage of right answers; None of nothing."""
    return 100 * sum(j.right for j in judged) / len(judged) if judged else None


def by_group(
    judged: Sequence[Judged], kind: str, measure: Callable[[Sequence[Judged]], Any] = percent
) -> dict[str, Any]:
    """Measures the questions of each group of a kind, by the group's name."""
    members: dict[str, list[Judged]] = defaultdict(list)
    for j in judged:
        if name := groups(j.question).get(kind):
            members[name].append(j)
    return {name: measure(members[name]) for name in sorted(members)}


def mean(values: Sequence[float | None]) -> float | None:
    """Computes the mean of what is known; None of nothing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


# --- tasks ----------------------------------------------------------------------------------------


def letters_by_id(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Makes the submission that several benchmarks take: a JSON object of id to letter."""
    return _json({row["id"]: row["answer"] for row in rows})


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def json_file(rows: Sequence[Mapping[str, Any]], entry: Callable[..., Any]) -> bytes:
    """Makes a JSON list with `entry(row, question)` for each row."""
    return _json([entry(row, row["question"]) for row in rows])


def benchmark(
    form: Form,
    task_rules: Mapping[str, Rule] | None = None,
    submission: Callable[[Sequence[Mapping[str, Any]]], bytes] = letters_by_id,
    preset: Preset | None = None,
) -> Task:
    """Makes the task of a benchmark whose questions are multiple choice."""

    def read(path: Any) -> list[Question]:
        return load_questions(path) if is_imported(path) else read_questions(form, path)

    return Task(read, grade, groups, submission, task_rules, preset, form)
