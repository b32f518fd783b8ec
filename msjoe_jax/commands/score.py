"""Scores a file of predictions by a benchmark's rules; no model is loaded.

    msjoe score --task=video_mme:annotations.parquet --predictions=FILE [--extractor=…] [--json]

--task names a task and the file of its questions, which may be left out where the predictions hold
them (Video-MME's nested JSON, samples of lmms-eval). Predictions: the benchmark's official form,
lmms-eval's samples, our samples.jsonl, or any JSON, JSON lines or table with an id and a reply. The
task's rules are shown side by side, and the numbers of --extractor by group: `official` unless the
predictions are ours, then `strict`. docs/benchmarks.md has the rules.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from msjoe_jax.commands.cli import run_app
from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.statistics import cluster_interval, covered
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.base import Judged, Task
from msjoe_jax.tasks.matching import Matched, match
from msjoe_jax.tasks.multiple_choice import by_group, groups, rules_of
from msjoe_jax.tasks.predictions import Prediction, questions_within
from msjoe_jax.tasks.predictions import read_predictions as read
from msjoe_jax.tasks.scoring import Said, count, judge, score

TOLD = 5


def score_file(
    task: str,
    predictions: str,
    extractor: str = "",
    draw_unparsed: int | None = None,
    arm: str = "",
) -> dict[str, Any]:
    """Scores a file of predictions, and prints how its rows and the questions were counted.

    Args:
      task: NAME of a task, or NAME:FILE with the file of its questions.
      predictions: the file.
      extractor: a rule of the task, whose numbers are given by group; "": see above.
      draw_unparsed: see `scoring.score`.
      arm: see `read_predictions`.

    Returns:
      What --json prints.

    Raises:
      UserError: a name or a file that cannot be used, or no prediction fits a question.
    """
    name, _, file = task.partition(":")
    if name not in TASKS:
        raise UserError(f"--task={name} is not one of {', '.join(TASKS)}")
    chosen = TASKS[name]
    if extractor and extractor not in rules_of(chosen):
        raise UserError(f"--extractor={extractor} is not one of {', '.join(rules_of(chosen))}")
    if draw_unparsed is not None and not any(rule.draws for rule in rules_of(chosen).values()):
        raise UserError(f"--draw_unparsed: none of the rules of {name} draws letters; leave it out")
    rows, faults = read(predictions, arm)
    questions = _questions(name, chosen, file, predictions)
    found = match(rows, questions, faults)
    if not found.replies:
        raise UserError(
            f"{predictions}: none of its {len(rows)} predictions is for a question of {name}, such "
            f"as {_some([q.id for q in questions])}; they are for {_some(found.unmatched)}"
        )
    ours = any("arm" in row.values for row in rows)
    rule = extractor or ("strict" if ours else "official")
    said = {k: Said(p.text, p.cut, p.missing, p.whole) for k, p in found.replies.items()}
    scores = {one: score(chosen, one, questions, said, draw_unparsed) for one in rules_of(chosen)}
    for one, result in scores.items():
        judged = judge(chosen, one, questions, said, draw_unparsed)
        result["ci95"] = _interval(judged)
        if (kind := rules_of(chosen)[one].parts) and judged:
            result["macro_ci95"] = _interval(judged, kind)
    judged = judge(chosen, rule, questions, said, draw_unparsed)
    return {
        "format": 1,
        "task": name,
        "predictions": predictions,
        "arm": arm,
        "extractor": rule,
        "draw_unparsed": draw_unparsed,
        "sheet": {
            **count(questions, said),
            "predictions": len(rows) + len(faults),
            "repeated": found.repeated,
            "other_right_answer": len(found.other_gold),
            "other_option_order": len(found.other_order),
            "unmatched": len(found.unmatched),
            "unreadable": len(found.unreadable),
        },
        "left_out": {
            "unmatched": found.unmatched[:TOLD],
            "unreadable": found.unreadable[:TOLD],
            "other_right_answer": found.other_gold[:TOLD],
            "other_option_order": found.other_order[:TOLD],
        },
        "rules": scores,
        "groups": _groups(judged),
        "covered": _coverage(questions, found),
    }


def _questions(name: str, task: Task, file: str, predictions: str) -> list[Question]:
    if file:
        return task.read(file)
    if task.form is None:
        raise UserError(f"--task={name} names no file of questions: --task={name}:FILE")
    reading = questions_within(task.form, predictions)
    print("\n".join(reading.lines()))
    return reading.questions


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (" …" if len(names) > 3 else "")


def _interval(judged: Sequence[Judged], kind: str = "") -> list[float]:
    right = np.array([j.right for j in judged], float)
    parts = [groups(j.question).get(kind, "") for j in judged] if kind else None
    return list(cluster_interval(right, [j.question.video for j in judged], parts=parts))


def _groups(judged: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    def of(members: Sequence[Judged]) -> dict[str, Any]:
        right = sum(j.right for j in members)
        return {
            "accuracy": right / len(members),
            "ci95": _interval(members),
            "questions": len(members),
        }

    kinds = dict.fromkeys(kind for j in judged for kind in groups(j.question))
    return {kind: by_group(judged, kind, of) for kind in kinds}


def _coverage(questions: Sequence[Question], found: Matched) -> dict[str, Any] | None:
    """Returns the share of questions of which a chosen frame shows the evidence, if known."""
    told = [
        covered(times, question.evidence)
        for question in questions
        if isinstance(times := _times(found.replies.get(question.id)), list)
    ]
    known = [value for value in told if value is not None]
    return {"share": sum(known) / len(known), "questions": len(known)} if known else None


def _times(prediction: Prediction | None) -> Any:
    return prediction.values.get("times") if prediction else None


# --- what is printed ------------------------------------------------------------------------------


def lines_of(result: Mapping[str, Any]) -> list[str]:
    """Formats a result of `score_file` for people."""
    sheet = ", ".join(f"{what.replace('_', ' ')} {n}" for what, n in result["sheet"].items())
    lines = [sheet]
    for what, places in result["left_out"].items():
        lines += [f"  {what.replace('_', ' ')}: {place}" for place in places]
    lines.append(
        f"{'rule':16} {'accuracy':>8}   {'95 % interval':15} {'of parsed':>9} {'of all':>7} "
        f"{'unparsed':>8}"
    )
    for name, row in result["rules"].items():
        low, high = row["ci95"]
        numbers = [_number(row[key]) for key in ("accuracy", "of_parsed", "of_all")]
        lines.append(
            f"{name:16} {numbers[0]:>8}   [{low:.3f}, {high:.3f}]  {numbers[1]:>9} {numbers[2]:>7} "
            f"{row['unparsed']:8}"
        )
    chosen = result["rules"][result["extractor"]]
    lines.append(f"{result['extractor']}: {chosen['version']}")
    for what, value in chosen["totals"].items():
        if isinstance(value, dict) and not value:
            continue
        if isinstance(value, dict):
            lines.append(f"  {what}: " + ", ".join(f"{k} {_number(v)}" for k, v in value.items()))
        else:
            lines.append(f"  {what}: {_number(value)}")
    if not chosen["totals"]:
        for kind, by_name in result["groups"].items():
            each = ", ".join(f"{k} {_number(v['accuracy'])}" for k, v in by_name.items())
            lines.append(f"  {kind}: {each}")
    if result["covered"]:
        share, number = result["covered"]["share"], result["covered"]["questions"]
        lines.append(f"evidence shown: {share:.3f} of {number} questions that have it")
    if result["draw_unparsed"] is not None:
        lines.append(f"unparsed replies: drawn at random by the seed {result['draw_unparsed']}")
    return lines


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    task = flags.DEFINE_string("task", "", "NAME of a task, or NAME:FILE of its questions.")
    predictions = flags.DEFINE_string("predictions", "", "The file of predictions.")
    extractor = flags.DEFINE_string("extractor", "", "The rule whose numbers are given by group.")
    drawn = flags.DEFINE_integer(
        "draw_unparsed",
        None,
        "Seed by which replies without a letter get one at random, as in LongVideoBench's scorer.",
    )
    arm = flags.DEFINE_string(
        "arm", "", "Of our own samples: NAME, NAME@BUDGET or NAME@BUDGET@DRAW."
    )
    as_line = flags.DEFINE_bool("json", False, "The result as JSON, in the last line.")

    def start() -> None:
        if not task.value or not predictions.value:
            raise UserError("--task=NAME[:FILE] and --predictions=FILE are needed")
        result = score_file(task.value, predictions.value, extractor.value, drawn.value, arm.value)
        print("\n".join(lines_of(result)))
        if as_line.value:
            print(json.dumps(result))

    run_app(start)
