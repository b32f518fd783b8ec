"""Evaluates arms at frame budgets on the same questions, a batch and a set of weights at a time."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from msjoe_jax.evaluation.arms import Arm
from msjoe_jax.evaluation.columns import Column, Pass, columns_of, passes
from msjoe_jax.evaluation.grading import extractor_of, grade_of
from msjoe_jax.evaluation.kept_frames import from_kept, to_keep
from msjoe_jax.evaluation.other_previews import OtherPreviews
from msjoe_jax.evaluation.reasons import Reasons, refuse_unusable
from msjoe_jax.evaluation.steps import Answered, Chosen, Steps, Watch
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.batches import (
    Batch,
    finished_rows,
    full_weight,
    unfinished_batches,
)
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.kept_rows import KeptRows, Row
from msjoe_jax.runtime.progress import Progress, progress
from msjoe_jax.runtime.stopping import end_if_asked
from msjoe_jax.selectors.base import Selection
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.base import Reply
from msjoe_jax.tasks.extractors import letters_of, tagged
from msjoe_jax.tasks.multiple_choice import extracted

# Of a question its columns by their keys, each with an entry for each draw.
Entries = dict[str, list[dict[str, Any]]]


class Evaluator:
    """An evaluator of arms on held-out questions; all decoding is greedy, so that two runs agree.

    Args:
      episodes: over the held-out questions.
      task: name of TASKS, by which replies are graded.
      load: gives the parameters of a set (base, pretrain, joint) and a model (mllm, clip,
        sampler, siglip); one set's MLLM is held at a time.
      batch_size: questions at a time.
      budgets: frame budgets; none: the config's.
      timed: whether each step is timed; rows of two runs then differ.
      looked_at: ids of the questions that pictures are made of.
      rewards: whether replies are scored as a training's rewards do (see grading.py).
    """

    def __init__(
        self,
        episodes: Episodes,
        task: str,
        load: Callable[[str, str], Params],
        batch_size: int,
        budgets: Sequence[int] = (),
        timed: bool = False,
        looked_at: Collection[str] = (),
        rewards: bool = False,
    ):
        self.episodes, self.task, self.load = episodes, task, load
        self.batch_size, self.timed, self.looked_at = batch_size, timed, looked_at
        self.budgets = tuple(budgets) or (episodes.config.frames.key,)
        self.extractor = extractor_of(TASKS[task], rewards)
        self._other_previews = OtherPreviews(episodes)
        self._begun, self._several = False, False  # a batch is done; there are several arms

    def run(self, arms: Mapping[str, Arm], kept: KeptRows, label: str = "evaluate") -> "Outcome":
        """Evaluates arms on the questions whose rows are not kept yet.

        A question that cannot be asked under one of the arms counts under none, so that all arms
        are judged by the same questions, whatever their order.

        Args:
          arms: by name.
          kept: gets the rows, batch by batch.
          label: of the display of progress.
        """
        number = len(self.episodes.questions)
        columns, self._several = columns_of(arms, self.budgets), len(arms) > 1
        plan = passes(columns)
        finished = [
            finished_rows(row for row in kept.rows if row["pass"] == p) for p in range(len(plan))
        ]
        if any(len(rows) < number for rows in finished):
            done = sum(len(rows) for rows in finished)
            with (
                progress(label, len(plan) * number, unit="question", initial=done) as bar,
                contextlib.closing(Watch(self.batch_size if self.timed else 0)) as watch,
            ):
                for p, one in enumerate(plan):
                    self._go_through(p, one, finished[p], kept, bar, watch)
        merged = _by_question(kept.rows, len(plan))
        whole = [merged[index] for index in range(number)]
        ids = [question.id for question in self.episodes.questions]
        return Outcome(
            columns,
            [{} if row["dropped"] else row["columns"] for row in whole],
            [row["looks"] for row in whole],
            {name: row["dropped"] for name, row in zip(ids, whole, strict=True) if row["dropped"]},
        )

    def _go_through(
        self,
        number: int,
        one: Pass,
        finished: set[int],
        kept: KeptRows,
        bar: Progress,
        watch: Watch,
    ) -> None:
        """Does one pass.

        Args:
          number: of the pass.
          one: the pass.
          finished: places of the questions whose rows are there.
          kept: has the rows of the passes before, and gets those of this one.
          bar: the display of progress.
          watch: measures the steps.
        """
        params: dict[str, dict[str, Params]] = {}
        before = _by_question(kept.rows, number)
        for places, batch in unfinished_batches(self.episodes, self.batch_size, finished):
            params = params or self._load(one)
            steps = Steps(self.episodes, batch, params, self._other_previews, watch, self.looked_at)
            rows = self._rows(one, steps, batch, places, before)
            made = {row["index"]: {**row, "pass": number} for row in rows}
            kept.add(list(hosts.merge(made, f"rows of {bar.label}").values()))
            bar.update(sum(index not in finished for index in made))
            if kept.on_disk:
                end_if_asked(f"a batch of {bar.label} ({len(kept.rows)} rows)")

    def _load(self, one: Pass) -> dict[str, dict[str, Params]]:
        """Loads what a pass takes, by the set of the sampler."""
        if not one.selected:
            return {one.mllm: {"mllm": self.load(one.mllm, "mllm")}}
        models = (name for name in self.episodes.system.abstract if name != "sampler")
        shared = {name: self.load(one.mllm, name) for name in models}
        samplers = dict.fromkeys(column.arm.sampler for column in one.selected)
        return {name: {**shared, "sampler": self.load(name, "sampler")} for name in samplers}

    def _rows(
        self,
        one: Pass,
        steps: Steps,
        batch: Batch,
        places: list[int],
        before: Mapping[int, Row],
    ) -> list[Row]:
        """Does a pass on a batch.

        Args:
          one: the pass.
          steps: of the batch.
          batch: of the pipeline.
          places: of its questions among all, without what only fills the batch up.
          before: what the passes before have made of a question, by its place.
        """
        reasons = Reasons(self.episodes, batch)
        earlier = [before.get(index, {"columns": {}, "dropped": None}) for index in places]
        can_be_asked = full_weight(batch) > 0
        can_be_asked[: len(places)] &= np.array([not row["dropped"] for row in earlier], bool)
        columns: list[Entries] = [{} for _ in places]
        looks: list[dict[str, Any]] = [{} for _ in places]
        for column in dict.fromkeys((*one.selected, *one.answered)):
            weight = full_weight(batch)
            if column in one.selected:
                chosen = steps.select(column, weight)
                draws = chosen.draws
                for b, entries in enumerate(columns):
                    entries[column.key] = [_entry(chosen, draw, b) for draw in draws]
                    if b in chosen.looks:
                        looks[b].setdefault(column.name, chosen.looks[b])
            else:
                for entries, row in zip(columns, earlier, strict=True):
                    entries[column.key] = [dict(e) for e in row["columns"].get(column.key, ())]
                draws = [
                    from_kept(
                        [e[column.key][j] if e[column.key] else None for e in columns], weight
                    )
                    for j in range(column.draws)
                ]
            if column in one.answered:
                for j, draw in enumerate(draws):
                    answered = steps.answer(column, draw, weight)
                    for b, entries in enumerate(columns):
                        if entries[column.key]:
                            entries[column.key][j] |= self._answer(answered, b)
            lost = can_be_asked & (weight == 0)
            noted, first = reasons.note(column), next(iter(np.flatnonzero(lost)), None)
            if not self._begun:
                example = "" if first is None else reasons.text(steps.questions[first].id, False)
                refuse_unusable(
                    column, min(noted, int(lost.sum())), int(can_be_asked.sum()), example
                )
            can_be_asked &= weight > 0
        self._begun = True
        rows = []
        for b, index in enumerate(places):
            name, asked = steps.questions[b].id, bool(can_be_asked[b])
            known = earlier[b]["dropped"] or str(batch["error"][b]) or "cannot be asked"
            row = {
                "index": index,
                "id": name,
                "columns": columns[b] if asked else {},
                "dropped": None if asked else reasons.text(name, self._several) or known,
            }
            rows.append({**row, "looks": looks[b]} if looks[b] and asked else row)
        return rows

    def _answer(self, answered: Answered, b: int) -> dict[str, Any]:
        """Returns what a reply adds to an entry."""
        put, text = answered.asked[b], answered.texts[b]
        reply = Reply(text, answered.finished[b], self.episodes.text.prompt.think)
        grade = grade_of(TASKS[self.task], self.extractor, put.question, reply)
        letters = extracted(TASKS[self.task], put.question, text)
        return {
            "reply": text,
            "finished": reply.finished,
            "prompt_tokens": answered.prompt_tokens[b],
            "score": None if math.isnan(grade.score) else float(grade.score),
            "valid": grade.valid,
            "answer": put.in_record(grade.answer),
            "tagged": bool(tagged(text, letters_of(len(put.question.options)))),
            "extracted": {name: put.in_record(letter) for name, letter in letters.items()},
            "answer_seconds": answered.seconds,
        }


def _entry(chosen: Chosen, draw: Selection, b: int) -> dict[str, Any]:
    """Returns what is kept of a selection of a question."""
    return {
        **to_keep(draw, b),
        "queries": [query for query in chosen.queries[b][0] if query],
        "seconds": chosen.seconds,
        "auc": chosen.auc[b],
        "parsed": chosen.parsed[b],
        "named": chosen.named[b],
        "nameable": chosen.nameable[b],
    }


def _by_question(rows: Sequence[Row], passes: int) -> dict[int, Row]:
    """Merges the rows of the first passes, by the place of the question.

    Of a question that was asked again the last row of a pass counts. `dropped` has all reasons.
    """
    last = {(row["pass"], row["index"]): row for row in rows if row["pass"] < passes}
    merged: dict[int, Row] = {}
    for (_, index), row in sorted(last.items(), key=lambda item: item[0]):
        one = merged.setdefault(index, {"columns": {}, "dropped": None, "looks": {}})
        why = {*(one["dropped"] or "").split("; "), *(row["dropped"] or "").split("; ")} - {""}
        one["columns"] |= row["columns"]
        one["looks"] |= row.get("looks", {})
        one["dropped"] = "; ".join(sorted(why)) or None
    return merged


class Outcome(NamedTuple):
    """Results of an evaluation.

    Attributes:
      columns: arms at budgets.
      entries: of each question in order, what is kept by column; {}: it was dropped.
      looks: of each question, what pictures show by arm.
      dropped: why a question was dropped, by its id.
    """

    columns: list[Column]
    entries: list[Entries]
    looks: list[dict[str, Any]]
    dropped: dict[str, str]

    @property
    def names(self) -> dict[str, str]:
        """What the tables call each column, by its key: the arm, with its budget if it has more."""
        count = Counter(column.name for column in self.columns)
        return {c.key: c.name if count[c.name] == 1 else c.key for c in self.columns}

    @property
    def labels(self) -> dict[str, str]:
        """Likewise for people, by what the tables call each."""
        names = self.names
        return {
            names[c.key]: c.arm.label + (f", {c.budget} frames" if names[c.key] != c.name else "")
            for c in self.columns
        }

    @property
    def scores(self) -> dict[str, Float[np.ndarray, "n"]]:
        """The score of each question, by column; NaN: dropped, or the right answer is not known."""
        return self._means("score")

    @property
    def valid(self) -> dict[str, Float[np.ndarray, "n"]]:
        """Likewise the share of draws whose reply was valid."""
        return self._means("valid")

    @property
    def answers(self) -> dict[str, list[str]]:
        """Likewise the answer of the first draw; "": dropped."""
        return {
            self.names[c.key]: [e[c.key][0]["answer"] if e else "" for e in self.entries]
            for c in self.columns
        }

    def _means(self, field: str) -> dict[str, Float[np.ndarray, "n"]]:
        def mean(draws: Sequence[Mapping[str, Any]]) -> float:
            values = [entry[field] for entry in draws]
            return float("nan") if None in values or not values else float(np.mean(values))

        return {
            self.names[c.key]: np.array([mean(e.get(c.key, ())) for e in self.entries])
            for c in self.columns
        }
