"""What `summary.json` says: what each arm comes to, and everything that moves a number."""

import dataclasses
import importlib.metadata
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from msjoe_jax.evaluation.columns import DRAWS
from msjoe_jax.evaluation.evaluator import Outcome
from msjoe_jax.evaluation.evidence import DOES_NOT_WORK
from msjoe_jax.evaluation.samples import STEPS, names_of
from msjoe_jax.evaluation.statistics import DRAWS as BOOTSTRAP
from msjoe_jax.evaluation.statistics import cluster_difference, cluster_interval
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.digest import digest
from msjoe_jax.runtime.facts import commit, versions
from msjoe_jax.selectors.overlap import SAME, listed_as_same, same_set_shares
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.multiple_choice import rules_of
from msjoe_jax.text import prompts

FORMAT = 1
Rows = Sequence[Mapping[str, Any]]
# Arms that others are compared with; of the first two also at half the others' frames.
HALF = ("joint", "msjoe")
FEWER = 500  # draws of the bootstrap for the interval of a group
AGAINST = (*HALF, "uniform")
# Of the replies to a selector's own prompts; with fewer that can be read its row is its fallback's.
READABLE = 0.9


def summarize(
    rows: Rows, outcome: Outcome, episodes: Episodes, task: str, extractor: str
) -> dict[str, Any]:
    """Returns the summary of an evaluation.

    Args:
      rows: of samples.jsonl.
      outcome: that they were made of.
      episodes: over the questions.
      task: name of TASKS.
      extractor: by which scores go (see grading.py).
    """
    by_column: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        by_column.setdefault((row["arm"], row["budget"]), []).append(row)
    signals, rules = episodes.config.signals, tuple(rules_of(TASKS[task]))
    means = {key: _by_question(asked, "score") for key, asked in by_column.items()}
    return {
        "format": FORMAT,
        "task": task,
        "code": {"version": importlib.metadata.version("msjoe_jax"), "commit": commit()},
        "machine": {
            "devices": dict(Counter(device.device_kind for device in jax.devices())),
            "hosts": hosts.count(),
            **versions(),
        },
        "settings": {**settings_of(outcome, episodes, task), "extractor": extractor},
        "sheet": sheet(rows, outcome, episodes),
        "arms": [
            {**names_of(c, signals), **figures(by_column[c.name, c.budget], rules)}
            for c in outcome.columns
        ],
        "differences": differences(means),
        "overlap": overlap(outcome),
    }


def settings_of(outcome: Outcome, episodes: Episodes, task: str) -> dict[str, Any]:
    """Returns the settings that move a number, and a digest of the wording of the prompts."""
    frames, prompt, chat = episodes.config.frames, episodes.text.prompt, episodes.text.chat.turns
    infos = episodes.reader.infos(question.video for question in episodes.questions)
    words = (
        prompts.query_prompt(prompt, "?", ("a", "b"), prompt.max_queries, chat),
        prompts.answer_prompt(prompt, "?", ("a", "b"), chat),
    )
    return {
        "budgets": sorted({column.budget for column in outcome.columns}),
        **dataclasses.asdict(frames),
        "candidate_fps": sorted({round(info.fps, 4) for info in infos}),
        "previews": frames.preview,
        "prompt": digest(words),
        "think": prompt.think,
        "max_queries": prompt.max_queries,
        "query_tokens": prompt.query_tokens,
        "answer_tokens": prompt.answer_tokens,
        "signals": list(episodes.config.signals),
        "law": episodes.config.law,
        "smooth": episodes.config.smooth,
        "draws": DRAWS,
        "decoding": "greedy",
        "rules": {name: rule.version for name, rule in rules_of(TASKS[task]).items()},
        "seed": episodes.config.seed,
    }


def sheet(rows: Rows, outcome: Outcome, episodes: Episodes) -> dict[str, Any]:
    """Returns how many questions were asked, and why the others were not."""
    there = {info.id for info in episodes.reader.infos(q.video for q in episodes.questions)}
    return {
        "questions": len(episodes.questions),
        "asked": len(episodes.questions) - len(outcome.dropped),
        "missing_video": sum(question.video not in there for question in episodes.questions),
        "without_answer": sum(question.answer is None for question in episodes.questions),
        "dropped": dict(Counter(outcome.dropped.values())),
        "rows": len(rows),
    }


def figures(rows: Rows, rules: Sequence[str]) -> dict[str, Any]:
    """Returns what the rows of an arm at a budget come to; shares and means are over the asked.

    Args:
      rows: of one arm and budget.
      rules: names of the task's rules, by which replies are read beside each other.
    """
    asked = [row for row in rows if row["dropped"] is None]
    graded = [row for row in asked if row["score"] is not None]
    groups: dict[str, dict[str, Any]] = {}
    kinds = sorted({kind for row in graded for kind in row["groups"]})
    for kind in kinds:
        names = sorted({row["groups"][kind] for row in graded if kind in row["groups"]})
        groups[kind] = {
            name: _accuracy([row for row in graded if row["groups"].get(kind) == name], FEWER)
            for name in names
        }
    parsed, named, nameable = (
        _mean(row[name] for row in asked if row[name] is not None)
        for name in ("parsed", "named", "nameable")
    )
    return {
        **_accuracy(graded),
        "draws": 1 + max((row["draw"] for row in asked), default=0),
        "valid": _mean(row["valid"] for row in asked),
        "tagged": _mean(row["tagged"] for row in asked),
        "cut_off": _mean(not row["finished"] for row in asked),
        "unparsed": _mean(not row["answer"] for row in asked),
        "frames": _mean(len(row["frames"]) for row in asked),
        "tokens_per_frame": _mean(t for row in asked for t in row["tokens"]),
        "tokens_total": _mean(row["prompt_tokens"] for row in asked),
        "covered": _mean(row["covered"] for row in asked if row["covered"] is not None),
        "auc": _mean(row["auc"] for row in asked if row["auc"] is not None),
        "parsed": parsed,
        "named": named,
        "nameable": nameable,
        "void": parsed is not None and parsed < READABLE,
        "seconds": _seconds(asked),
        "groups": groups,
        **{name: _mean(row["extracted"][name] == row["gold"] for row in graded) for name in rules},
    }


def _accuracy(graded: Rows, draws: int = BOOTSTRAP) -> dict[str, Any]:
    """Returns the accuracy over questions, of each of which the draws are averaged."""
    scores = _by_question(graded, "score")
    values = [score for score, _ in scores.values()]
    videos = [video for _, video in scores.values()]
    return {
        "accuracy": _mean(values),
        "ci95": list(cluster_interval(np.array(values), videos, draws=draws)),
        "questions": len(values),
    }


def _by_question(rows: Rows, field: str) -> dict[str, tuple[float, str]]:
    """Returns the mean of a field over the draws of each question, and its video."""
    values: dict[str, list[float]] = {}
    videos = {}
    for row in rows:
        if row["dropped"] is None and row[field] is not None:
            values.setdefault(row["id"], []).append(float(row[field]))
            videos[row["id"]] = row["video"]
    return {name: (float(np.mean(one)), videos[name]) for name, one in values.items()}


def _seconds(asked: Rows) -> dict[str, float | None] | None:
    """Returns the mean seconds of a question by step, over those that tell; None: none does."""
    timed = [row["seconds"] for row in asked if row["seconds"]]
    if not timed:
        return None
    return {step: _mean(s[step] for s in timed if s[step] is not None) for step in STEPS}


def _mean(values: Iterable[float]) -> float | None:
    found = [float(value) for value in values]
    return float(np.mean(found)) if found else None


def differences(
    means: Mapping[tuple[str, int], Mapping[str, tuple[float, str]]],
) -> list[dict[str, Any]]:
    """Returns paired differences: of AGAINST to all others of a budget, of HALF to twice its own.

    Args:
      means: the mean score of each question and its video, by arm and budget.
    """
    found: dict[tuple[Any, Any], None] = {}
    columns = sorted(means, key=lambda c: AGAINST.index(c[0]) if c[0] in AGAINST else len(AGAINST))
    for one, other in itertools.permutations(columns, 2):
        same, double = one[1] == other[1], other[1] == 2 * one[1]
        compared = (one[0] in AGAINST and same) or (one[0] in HALF and double)
        if compared and one[0] != other[0] and (other, one) not in found:
            found[one, other] = None
    rows = []
    for one, other in found:
        both = [name for name in means[one] if name in means[other]]
        if both:
            mean, low, high = cluster_difference(
                np.array([means[one][name][0] for name in both]),
                np.array([means[other][name][0] for name in both]),
                [means[one][name][1] for name in both],
            )
            rows.append(
                {
                    "arm": one[0],
                    "budget": one[1],
                    "against": other[0],
                    "against_budget": other[1],
                    "difference": mean,
                    "ci95": [low, high],
                    "questions": len(both),
                }
            )
    return rows


def cost_table(summary: Mapping[str, Any]) -> str:
    """Formats the seconds of a question by step, a line an arm and budget; "": none are known."""
    timed = [row for row in summary["arms"] if row["seconds"]]
    if not timed:
        return ""
    head = f"{'seconds a question':40} " + " ".join(f"{step:>10}" for step in (*STEPS, "in all"))
    lines = [head]
    for row in timed:
        values = [row["seconds"][step] for step in STEPS]
        known = None if None in values else sum(values)
        cells = ["–" if x is None else f"{x:.4f}" for x in (*values, known)]
        name = f"{row['arm']}@{row['budget']}"
        lines.append(f"{name:40} " + " ".join(f"{cell:>10}" for cell in cells))
    if any(None in row["seconds"].values() for row in timed):
        lines.append("–: its programs were compiled in every batch: more batches tell")
    return "\n".join(lines)


def notes(summary: Mapping[str, Any]) -> str:
    """Formats what is to be known of arms beside their accuracy, a line each; "": nothing.

    Arms that search for nothing have no scores that could tell evidence.
    """
    lines = []
    for row in summary["arms"]:
        name = f"{row['arm']}@{row['budget']}"
        if row["void"]:
            share = f"{row['parsed']:.0%} of its selector's replies could be read"
            lines.append(
                f"{name}: void, {share}; below {READABLE:.0%} the frames are its fallback's"
            )
        elif row["parsed"] is not None:
            lines.append(
                f"{name}: {row['parsed']:.0%} of its selector's replies could be read, which name "
                f"{row['named']:.0%} of its frames{_perfect(row)}; the others its fallback"
            )
        if row["auc"] is not None and row["queries_by"] != "none":
            fault = "" if row["auc"] > DOES_NOT_WORK else ": does not work here"
            text = f"AUC of its scores for evidence frames {row['auc']:.3f}{fault}"
            lines.append(f"{row['arm']}: {text}")  # mostly the same at every budget
    return "\n".join(dict.fromkeys(lines))


def _perfect(row: Mapping[str, Any]) -> str:
    most = row["nameable"]
    return "" if most is None else f" (perfect replies {most:.0%}: what shows the answer)"


def overlap(outcome: Outcome) -> dict[str, Any]:
    """Returns how often two arms take the same frames at a budget, and who does nearly always.

    Of arms that draw their frames the first draw counts; arms without frames are left out.
    """
    found: dict[str, Any] = {}
    for budget in sorted({column.budget for column in outcome.columns} - {0}):
        columns = [column for column in outcome.columns if column.budget == budget]
        frames = {
            column.name: [e[column.key][0]["frames"] if e else None for e in outcome.entries]
            for column in columns
        }
        shares = same_set_shares(frames)
        found[str(budget)] = {
            "shares": [[*pair, share] for pair, share in shares.items()],
            "same": listed_as_same(shares),
        }
    return found


def overlap_table(summary: Mapping[str, Any]) -> str:
    """Formats of each budget how often two arms take the same frames; "": there are no two."""
    lines: list[str] = []
    for budget, found in summary["overlap"].items():
        if not found["shares"]:
            continue
        shares = {(one, other): share for one, other, share in found["shares"]}
        names = list(dict.fromkeys(name for pair in shares for name in pair))
        width = max(map(len, names))
        lines.append(f"the same frames, of {budget}: share of the questions")
        lines.append(" " * (width + 5) + " ".join(f"{i:>4}" for i in range(1, len(names))))
        for i, name in enumerate(names):
            row = [shares.get((other, name)) for other in names[:i]]
            cells = ["   –" if share is None else f"{share:4.2f}" for share in row]
            lines.append(f"{i + 1:>3}  {name:{width}} {' '.join(cells)}".rstrip())
        lines += [f"the same above {SAME:.0%}: {', '.join(group)}" for group in found["same"]]
    return "\n".join(lines)
