"""Rolls out batches for the joint step: episodes, graded.

The results of a batch exist twice: as the step's arrays, and as one record per question, for people
and for the log from which a draw can be replayed.
"""

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from msjoe_jax.data.questions import Question
from msjoe_jax.fields import option
from msjoe_jax.models.params import Params
from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts
from msjoe_jax.rollout.batches import Batch, full_weight, pass_rates, question_number
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.log import RolloutRecord
from msjoe_jax.rollout.results import Completed, Reasoned, Selected
from msjoe_jax.runtime.machine import fetch
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.base import Selection
from msjoe_jax.selectors.fixed import uniform_frames
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.base import Grade, Reply


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """One rollout batch of training: its sizes, temperatures and selector."""

    questions: int = option(32, "B: questions of a rollout batch.", low=1)
    query_rollouts: int = option(4, "I: replies of reason to each question.", low=1)
    frame_draws: int = option(2, "J: frame draws for each of those.", low=1)
    query_temperature: float = option(
        1.0, "Of reason's sampling; the loss scores the same distribution.", above=0, high=100
    )
    answer_temperature: float = option(
        1.0, "Of answer's sampling; the loss scores the same distribution.", above=0, high=100
    )
    selector: str = option(
        "msjoe",
        "Who chooses the frames in training, a name of SELECTORS; the fixed ones are control arms.",
        choices=SELECTORS,
    )
    updates: int = option(
        1,
        "Updates on each rollout batch; from the second on the ratio to the sampling policy is "
        "clipped.",
        low=1,
    )
    refill: int = option(
        0,
        "Rollout batches at most that are drawn to replace questions whose answers were all right "
        "or all wrong (DAPO's dynamic sampling); 0: none.",
        low=0,
    )
    counterfactual: bool = option(
        False,
        "One more answer a question, from uniform frames: logs (and with sampler_advantage="
        "counterfactual subtracts) what the chosen frames gain over them.",
    )
    uniform_share: float = option(
        0.0,
        "Share of questions that are answered from uniform frames instead of chosen ones: they "
        "keep the MLLM's reading alive, and teach neither queries nor sampler.",
        low=0,
        high=1,
    )
    waves: int = option(
        1, "Parts of a batch whose host work overlaps the others' device work.", low=1
    )
    queries: str = option(
        "policy",
        "What searches: the policy's queries, or the bare question.",
        choices=("policy", "question"),
    )

    def slips(self) -> Iterator[str]:
        """Yields what does not go together."""
        if self.questions % self.waves:
            yield f"waves={self.waves} does not divide config.rollout.questions={self.questions}"
        if self.refill and self.query_rollouts * self.frame_draws == 1:
            yield f"refill={self.refill}: one answer a question is always all right or all wrong"
        if self.selector in ("blind",):
            yield f"selector={self.selector} shows no frames: nothing to train on"


class Rollout(NamedTuple):
    """The joint step's input, a record of each of its questions, and the tokens that were drawn."""

    arrays: RolloutBatch
    records: list[RolloutRecord]
    query_tokens: int
    answer_tokens: int


# What `RollOut.steps` is: it yields when reason has begun on the device, when frames are chosen,
# when they are read, and when answer has begun; it returns the rollout.
Steps = Generator[None, None, Rollout]


def in_turn(waves: Sequence[Steps]) -> list[Rollout]:
    """Runs waves so that the host reads frames for one while the device works for another.

    One thread starts all programs, in an order that depends on nothing but the number of waves: on
    several hosts all start the same ones.
    """
    before: Steps | None = None
    for wave in waves:
        next(wave)  # reason begins
        if before is not None:
            next(before)  # frames are read
        next(wave)  # frames are chosen
        if before is not None:
            next(before)  # answer begins
        before = wave
    assert before is not None
    next(before)
    next(before)
    return [_result(wave) for wave in waves]


def _result(wave: Steps) -> Rollout:
    try:
        next(wave)
    except StopIteration as end:
        return end.value
    raise AssertionError("a wave has one step more than it should")


@dataclasses.dataclass(frozen=True)
class RollOut:
    """A function that rolls out a batch: I lists of queries × J selections per question.

    config: sizes of the batch; episodes: the steps; task: a name of TASKS, by which replies are
    graded; importance: of every question of the run, multiplies its advantages; encode_in_step: the
    joint step gets frames, not their features, because it trains the vision tower.
    """

    config: RolloutConfig
    episodes: Episodes
    task: str
    importance: Float[np.ndarray, "questions"]
    encode_in_step: bool = False

    def __call__(self, params: dict[str, Params], batch: Batch, update: int) -> Rollout:
        """Runs the steps of an episode on a batch."""
        (rollout,) = in_turn([self.steps(params, batch, update)])
        return rollout

    def steps(self, params: dict[str, Params], batch: Batch, update: int) -> Steps:
        """Runs the steps of an episode on a batch; see `in_turn`."""
        r, episodes = self.config, self.episodes
        weight = full_weight(batch)
        I, J = r.query_rollouts, r.frame_draws
        questions = episodes.batch_questions(batch)
        finish_reason = episodes.begin_reason(
            params["mllm"],
            batch,
            update,
            rollouts=I,
            temperature=r.query_temperature,
            weight=weight,
        )
        yield
        reasoned = finish_reason()
        queries: Any = reasoned.queries
        if r.queries == "question":
            queries = [[(q.question,)] * I for q in questions]
        with episodes.clock("select"):
            selected = episodes.select(
                params,
                batch,
                queries,
                update,
                selector=r.selector,
                draws=J,
                sample=True,
                weight=weight,
            )
            uniform = self._shown_uniform(batch, update)
            selected = _with_uniform_frames(selected, batch, uniform)
            similarity, draw = fetch((selected.similarity, selected.draw))
        yield
        shown = episodes.answer_prompts(
            batch, self._with_uniform(selected.selection, batch), weight
        )
        yield
        finish_answer = episodes.begin_answer(
            params["mllm"], batch, shown, update, temperature=r.answer_temperature
        )
        yield
        answered = finish_answer()
        grades = grade_replies(self.task, questions, answered, episodes.text.prompt.think)
        measures = self._measures(reasoned, grades)
        arrays = self._arrays(
            batch,
            reasoned=reasoned,
            selected=selected,
            answered=answered,
            measures=measures,
            weight=weight,
            uniform=uniform,
        )
        draws = np.where(draw.valid & ~uniform[:, None, None, None], draw.indices, -1)
        logits = fetch(selected.logits)
        records = [
            RolloutRecord(
                question=question,
                copy=int(batch["copy"][b]),
                replies=reasoned.replies[b],
                similarity=similarity[b],
                logits=logits[b],
                frames=selected.selection.frames[b],
                draws=draws[b],
                frame_mask=batch["frame_mask"][b],
                frame_index=batch["frame_index"][b],
                timestamps=batch["timestamps"][b],
                answers=answered.texts[b][: I * J],
                correct=measures["correct"][b],
                weight=float(weight[b]),
                uniform=bool(uniform[b]),
            )
            for b, question in enumerate(questions)
        ]
        return Rollout(arrays, records, reasoned.completed.num_tokens, answered.num_tokens)

    def _with_uniform(self, selection: Selection, batch: Batch) -> Selection:
        """Adds the set of uniform frames to the chosen sets, for the counterfactual answer."""
        if not self.config.counterfactual:
            return selection
        B, I, J, K = selection.frames.shape
        sets = selection.frames.reshape(B, I * J, K)
        uniform = uniform_frames(batch["frame_mask"], K)[:, None]
        more = Selection(frames=np.concatenate([sets, uniform], 1)[:, None])
        if selection.tokens is not None:
            full = np.full((B, 1, K), np.iinfo(np.int32).max)
            more = more._replace(
                tokens=np.concatenate([selection.tokens.reshape(B, I * J, K), full], 1)[:, None]
            )
        if selection.keep is not None:
            P = selection.keep.shape[-1]
            keep = selection.keep.reshape(B, I * J, K, P)
            everything = np.ones((B, 1, K, P), bool)
            more = more._replace(keep=np.concatenate([keep, everything], 1)[:, None])
        return more

    def _shown_uniform(self, batch: Batch, update: int) -> Bool[np.ndarray, "B"]:
        """Draws the questions that are shown uniform frames, each from seed, update and its id."""
        asked = zip(self.episodes.batch_questions(batch), batch["copy"], strict=True)
        numbers = [question_number(question.id, copy) for question, copy in asked]
        seeds = [(self.episodes.config.seed, update, number) for number in numbers]
        draws = [np.random.default_rng(seed).random() for seed in seeds]
        return np.array(draws) < self.config.uniform_share

    def _measures(
        self, reasoned: Reasoned, grades: Sequence[Sequence[Grade]]
    ) -> dict[str, Float[np.ndarray, "B ..."]]:
        """Collects the measures that rewards are made of (see rl/batch.py)."""
        I, J = self.config.query_rollouts, self.config.frame_draws
        B = len(grades)

        def of_grades(name: str) -> Float[np.ndarray, "B G"]:
            rows = [[float(getattr(grade, name)) for grade in row] for row in grades]
            return np.array(rows, np.float32)

        def of_replies(name: str) -> Float[np.ndarray, "B I 1"]:
            rows = [[float(getattr(reply, name)) for reply in row] for row in reasoned.replies]
            return np.array(rows, np.float32)[..., None]

        correct, valid = of_grades("score"), of_grades("valid")
        measures = {
            "correct": correct[:, : I * J].reshape(B, I, J),
            "answer_valid": valid[:, : I * J].reshape(B, I, J),
            "query_valid": of_replies("valid"),
            "parsed": np.minimum(of_replies("num_parsed"), 1.0),
        }
        if self.config.counterfactual:
            measures["counterfactual"] = correct[:, I * J].reshape(B, 1, 1)
        return measures

    def _arrays(
        self,
        batch: Batch,
        *,
        reasoned: Reasoned,
        selected: Selected,
        answered: Completed,
        measures: dict[str, Float[np.ndarray, "B ..."]],
        weight: Float[np.ndarray, "B"],
        uniform: Bool[np.ndarray, "B"],
    ) -> RolloutBatch:
        questions = self.episodes.batch_questions(batch)
        host: dict[str, Any] = {
            "frame_mask": batch["frame_mask"],
            "measures": measures,
            "pass_rate": pass_rates(questions).astype(np.float32),
            "weight": weight,
            "importance": self.importance[batch["index"]].astype(np.float32),
        }
        network = SELECTORS[self.episodes.system.network].network
        if network is not None and network.needs_embeddings:
            host["embeddings"] = batch["embeddings"]
        queries = _tokens(reasoned.completed, self.encode_in_step)
        if self.config.queries == "question":  # the replies had no part in what followed
            queries = queries._replace(mask=queries.mask & False)
        if self.config.uniform_share:
            host["uniform"] = uniform.astype(np.float32)
            chosen = self.episodes.put(~uniform[:, None, None, None])
            queries = queries._replace(mask=queries.mask & chosen)
        sets = self.config.query_rollouts * self.config.frame_draws
        return RolloutBatch(
            queries=queries,
            answers=_first_sets(_tokens(answered, self.encode_in_step), sets),
            similarity=selected.similarity,
            query_mask=selected.query_mask,
            query_embeddings=selected.query_embeddings,
            draw=self.episodes.put(selected.draw),
            **self.episodes.put(host),
        )


def grade_replies(
    task: str, questions: Sequence[Question], completed: Completed, think: bool
) -> list[list[Grade]]:
    """Grades every reply of a batch by a task of TASKS."""
    grade = TASKS[task].grade
    return [
        [
            grade(question, Reply(text, bool(finished), think))
            for text, finished in zip(texts, ends, strict=True)
        ]
        for question, texts, ends in zip(
            questions, completed.texts, completed.finished, strict=True
        )
    ]


def _with_uniform_frames(
    selected: Selected, batch: Batch, uniform: Bool[np.ndarray, "B"]
) -> Selected:
    """Shows uniform frames, whole and at full size, to the questions marked `uniform`."""
    if not uniform.any():
        return selected
    selection, at = selected.selection, uniform[:, None, None, None]
    frames = uniform_frames(batch["frame_mask"], selection.frames.shape[-1])[:, None, None]
    selection = selection._replace(frames=np.where(at, frames, selection.frames))
    if selection.tokens is not None:
        full = np.iinfo(np.int32).max
        selection = selection._replace(tokens=np.where(at, full, selection.tokens))
    if selection.keep is not None:
        selection = selection._replace(keep=selection.keep | at[..., None])
    return selected._replace(selection=selection)


def _tokens(completed: Completed, encode_in_step: bool) -> TokenRollouts:
    completions = completed.completions
    return TokenRollouts(
        prompts=completed.prompts,
        visual=completed.patches if encode_in_step else completed.features,
        tokens=completions.tokens,
        mask=completions.mask,
        log_probs=completions.log_probs,
        finished=completions.finished,
    )


def _first_sets(rollouts: TokenRollouts, count: int) -> TokenRollouts:
    """Drops the frame sets from `count` on; their frames stay among the visuals."""
    if rollouts.tokens.shape[1] == count:
        return rollouts
    selected = jax.tree.map(lambda x: x[:, :count], rollouts._replace(visual=None))
    return selected._replace(visual=rollouts.visual)
