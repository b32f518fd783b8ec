"""The steps of an evaluation on one batch, each computed once for all columns that share it."""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from msjoe_jax.data.evidence import evidence_frames, has_evidence
from msjoe_jax.data.questions import Question
from msjoe_jax.evaluation.arms import Arm
from msjoe_jax.evaluation.asked import Asked, asked
from msjoe_jax.evaluation.columns import Column
from msjoe_jax.evaluation.evidence import auc
from msjoe_jax.evaluation.other_previews import OtherPreviews
from msjoe_jax.evaluation.tiers import with_tiers
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.batches import Batch
from msjoe_jax.rollout.candidates import BatchCandidates
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.compile_counter import CompileCounter
from msjoe_jax.runtime.machine import fetch
from msjoe_jax.selectors.base import Selection
from msjoe_jax.text import prompts

Queries = list[list[tuple[str, ...]]]
Look = dict[str, Any]  # what a picture of a question needs of a column


def queries_of(kind: str, question: Question) -> tuple[str, ...]:
    """Returns the queries that need no MLLM: none, the question, or the record's oracle queries."""
    if kind == "oracle":
        return tuple(question.extra["oracle_queries"])
    return (question.question,) if kind == "question" else ("",)


class Chosen(NamedTuple):
    """The frames of a column.

    draws: a selection for each draw; queries: of each question; seconds: of a question, by step,
    None where something was compiled or nothing is timed; looks: by place in the batch, of the
    questions that pictures are made of; auc: of each question, how well the scores tell its
    evidence, None without scores or evidence; parsed: the share of the selector's own replies that
    could be read, None where it does not ask; named: likewise, the share of frames they named;
    nameable: that which perfect replies would name, None where it does not ask or without evidence.
    """

    draws: list[Selection]
    queries: Queries
    seconds: dict[str, float | None]
    looks: dict[int, Look]
    auc: list[float | None]
    parsed: list[float | None]
    named: list[float | None]
    nameable: list[float | None]


class Answered(NamedTuple):
    """Replies to one draw of a column, and what was asked.

    texts, finished, prompt_tokens, asked: of each question; prompts with their last token;
    weight: 0 where a question was dropped; seconds: of a question, see `Chosen`.
    """

    texts: list[str]
    finished: list[bool]
    prompt_tokens: list[int]
    asked: list[Asked]
    weight: Float[np.ndarray, "B"]
    seconds: float | None


class Watch:
    """A stopwatch that knows when something was compiled.

    Args:
      questions: of a batch, among which its seconds are divided; 0: it tells nothing.
    """

    def __init__(self, questions: int = 0):
        self.timed, self.questions = bool(questions), questions
        self._compiled = CompileCounter() if questions else None

    def __call__(self, function: Callable[[], Any]) -> tuple[Any, float | None]:
        """Calls a function; returns its value, and the seconds of it if they say something."""
        if self._compiled is None:
            return function(), None
        before, start = self._compiled.count, time.perf_counter()
        value = function()
        seconds = time.perf_counter() - start
        return value, seconds if self._compiled.count == before else None

    def of_a_question(self, seconds: float | None) -> float | None:
        """Returns the seconds of a question, of those of a batch."""
        return None if seconds is None or not self.timed else seconds / self.questions

    def close(self) -> None:
        """Ends it."""
        if self._compiled is not None:
            self._compiled.close()


class Steps:
    """The steps on one batch with the MLLM of one set.

    Args:
      episodes: over the questions.
      batch: of the pipeline.
      params: of the set's models, by the set of the sampler.
      other_previews: shows reason another video's.
      watch: measures the steps.
      looked_at: ids of the questions that pictures are made of.
    """

    def __init__(
        self,
        episodes: Episodes,
        batch: Batch,
        params: Mapping[str, dict[str, Params]],
        other_previews: OtherPreviews,
        watch: Watch,
        looked_at: Collection[str] = (),
    ):
        self.episodes, self.batch, self.params = episodes, batch, params
        self.questions = episodes.batch_questions(batch)
        self._other_previews, self._watch = other_previews, watch
        self._looks = [b for b, q in enumerate(self.questions) if q.id in looked_at]
        self._written: dict[bool, tuple[Queries, float | None]] = {}
        self._candidates: dict[Any, BatchCandidates] = {}
        self._similarity_seconds: dict[Any, float | None] = {}
        self._answers: dict[str, tuple[Any, Answered]] = {}

    def select(self, column: Column, weight: Float[np.ndarray, "B"]) -> Chosen:
        """Chooses the frames of a column; sets `weight` to 0 where that cannot be done."""
        arm, frames = column.arm, self.episodes.config.frames
        queries, query_seconds = self._queries(arm, weight)
        kind = arm.sampler, arm.queries, arm.own_previews
        if kind not in self._candidates:
            self._candidates[kind] = self.episodes.candidates(
                self.params[arm.sampler], self.batch, queries, 0, weight=weight
            )
            self._candidates[kind].timed = self._watch.timed
        candidates = self._candidates[kind].again(
            weight, draws=column.draws, sample=arm.sampled, signal=arm.scorer
        )
        arrays = candidates.on_devices
        reads, known = arrays.reads, arrays.seconds
        most = min(column.budget or frames.key, frames.candidates)
        selection, passed = self._watch(
            lambda: self.episodes.choose(candidates, arm.selector, most)
        )
        read, computed = arrays.reads > reads, arrays.seconds - known
        if computed:  # what compiled may have been S: then its seconds say nothing either
            self._similarity_seconds[kind] = None if passed is None else computed
        similarity = self._similarity_seconds.get(kind) if read else 0.0
        sampler = None if passed is None else passed - computed + candidates.remembered
        logits = None if selection.logits is None else fetch(selection.logits)
        looks = self._looked_at(candidates, logits, queries, read)
        if arm.tiers:
            tokens = frames.key_patches // self.episodes.vision.merge**2
            selection = with_tiers(selection, arm.tiers, tokens, self.batch["timestamps"])
        seconds = {"query": query_seconds, "similarity": similarity, "sampler": sampler}
        draws = [_draw(selection, j) for j in range(column.draws)]
        each = {step: self._watch.of_a_question(value) for step, value in seconds.items()}

        def of_each(shares: np.ndarray | None) -> list[float | None]:
            return [None if shares is None else float(shares[b, 0]) for b in self._places]

        return Chosen(
            draws,
            queries,
            each,
            looks,
            auc=[None if logits is None else self._auc(b, logits[b, 0]) for b in self._places],
            parsed=of_each(selection.parsed),
            named=of_each(selection.named),
            nameable=[self._nameable(b, selection) for b in self._places],
        )

    @property
    def _places(self) -> range:
        return range(len(self.questions))

    def _auc(self, b: int, scores: Float[np.ndarray, "T"]) -> float | None:
        """Computes how well scores tell the evidence of the question at a place of the batch."""
        shows = self._shows(b)
        if shows is None:
            return None
        return auc(np.where(self.batch["frame_mask"][b], scores, -np.inf), shows)

    def _shows(self, b: int) -> Bool[np.ndarray, "T"] | None:
        """Returns which candidates show what answers; None: the record has no evidence."""
        if not has_evidence(self.questions[b]):
            return None
        times, numbers = self.batch["timestamps"][b], self.batch["frame_index"][b]
        return evidence_frames(self.questions[b], times, numbers)

    def _nameable(self, b: int, selection: Selection) -> float | None:
        """Computes the share of the frames that show the answer and that it was asked about."""
        shows = self._shows(b)
        if shows is None or selection.asked is None:
            return None
        frames = int((selection.frames[b, 0, 0] >= 0).sum())
        return min(int((shows & selection.asked[b, 0]).sum()), frames) / max(frames, 1)

    def _queries(self, arm: Arm, weight: Float[np.ndarray, "B"]) -> tuple[Queries, float | None]:
        """Returns the queries of an arm, and the seconds that they took."""
        if arm.queries != "policy":
            return [[queries_of(arm.queries, question)] for question in self.questions], 0.0
        own = arm.own_previews
        if own not in self._written:
            mllm = next(iter(self.params.values()))["mllm"]

            def write() -> Queries:
                batch = self.batch if own else self._other_previews(self.batch, weight)
                return self.episodes.reason(
                    mllm, batch, 0, rollouts=1, temperature=0.0, weight=weight
                ).queries

            self._written[own] = self._watch(write)
        return self._written[own]

    def _looked_at(
        self,
        candidates: BatchCandidates,
        logits: Float[np.ndarray, "B I T"] | None,
        queries: Queries,
        read: bool,
    ) -> dict[int, Look]:
        """Collects what pictures show of a selection."""
        if not any(hosts.gather(bool(self._looks), "questions that are looked at")):
            return {}
        arrays = candidates.on_devices
        scores = fetch((arrays.similarity, arrays.row_mask)) if read else None
        looks = {}
        for b in self._looks:
            exists, rows = self.batch["frame_mask"][b], None
            if scores is not None:
                rows = _rounded(scores[0][b, 0][scores[1][b, 0]][:, exists])
            looks[b] = {
                "queries": list(queries[b][0]),
                "similarity": rows,
                "logits": None if logits is None else _rounded(logits[b, 0][exists]),
            }
        return looks

    def answer(
        self, column: Column, selection: Selection, weight: Float[np.ndarray, "B"]
    ) -> Answered:
        """Answers from the frames of one draw; sets `weight` to 0 where that cannot be done.

        What an earlier column was asked, in the same words and from the same frames, is not again.
        """
        rows = selection.frames[:, 0, 0]
        episodes = self.episodes.with_key_frames(rows.shape[-1])
        always = episodes.text.prompt.subtitles  # as in training
        arm = dataclasses.replace(column.arm, subtitles=always or column.arm.subtitles)
        seed = episodes.config.seed
        put = [
            asked(
                episodes.with_subtitles(question) if arm.subtitles else question,
                arm,
                seed,
                self.batch["timestamps"][b][np.sort(row[row >= 0])],
            )
            for b, (question, row) in enumerate(zip(self.questions, rows, strict=True))
        ]
        prompt, chat = episodes.text.prompt, episodes.text.chat.turns
        texts = [
            prompts.answer_prompt(prompt, q.question, q.options, chat, subtitles)
            for q, _, subtitles in put
        ]
        content = texts, *(None if x is None else x.tobytes() for x in selection[:3])
        if (before := self._asked_before(content)) is None:
            before = self._answer(episodes, selection, texts, put, weight)
            self._answers[f"{column.key} {len(self._answers)}"] = content, before
        weight[before.weight == 0] = 0.0
        return before._replace(asked=put)

    def _asked_before(self, content: Any) -> Answered | None:
        """Returns the replies to the same prompts, if all hosts have them of the same column."""
        found = [name for name, (other, _) in self._answers.items() if other == content]
        common = set.intersection(*map(set, hosts.gather(found, "prompts that were answered")))
        return self._answers[min(common)][1] if common else None

    def _answer(
        self,
        episodes: Episodes,
        selection: Selection,
        texts: Sequence[tuple[str, str]],
        put: list[Asked],
        weight: Float[np.ndarray, "B"],
    ) -> Answered:
        mllm = next(iter(self.params.values()))["mllm"]

        def answer() -> tuple[Any, Any]:
            shown = episodes.answer_prompts(self.batch, selection, weight, texts)
            return episodes.begin_answer(mllm, self.batch, shown, 0, temperature=0.0)(), shown

        (completed, (prompt_rows, _)), seconds = self._watch(answer)
        return Answered(
            texts=[row[0] for row in completed.texts],
            finished=[bool(row[0]) for row in completed.finished],
            prompt_tokens=[int(row[0]["segments"].sum()) + 1 for row in prompt_rows],
            asked=put,
            weight=weight.copy(),
            seconds=self._watch.of_a_question(seconds),
        )


def _draw(selection: Selection, j: int) -> Selection:
    """Returns one of the draws of a selection."""

    def of(x: np.ndarray | None) -> Any:
        return None if x is None else x[:, :, j : j + 1]

    return Selection(
        frames=of(selection.frames), tokens=of(selection.tokens), keep=of(selection.keep)
    )


def _rounded(values: Float[np.ndarray, "..."]) -> Any:
    """Returns numbers as JSON holds them: four digits, None where they are not finite."""
    finite: Bool[np.ndarray, ...] = np.isfinite(values)
    if finite.all():
        return np.round(values.astype(float), 4).tolist()
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [round(float(x), 4) if ok else None for x, ok in zip(values, finite, strict=True)]
