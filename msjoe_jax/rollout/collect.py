"""One rollout batch for the joint step: the four stages, in parts that overlap, refilled.

What a batch produced is kept twice: as the step's arrays, and as notes, one a question, for people
and for the log from which a draw can be replayed.
"""

import concurrent.futures
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from msjoe_jax.data.pipeline import uniform_indices
from msjoe_jax.data.questions import Question
from msjoe_jax.models.params import Params
from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts
from msjoe_jax.rollout.episode import AnswerStage, Batch, Episodes, QueryStage, fetch, time_ordered
from msjoe_jax.rollout.generate import Prompts
from msjoe_jax.text.prompts import QueryReply


class Note(NamedTuple):
    """One question's rollouts as people read them: I query rollouts, J frame draws of each."""

    question: Question
    replies: list[QueryReply]
    similarity: Float[np.ndarray, "I Q T"]
    logits: Float[np.ndarray, "I T"]
    draws: Int[np.ndarray, "I J K"]  # candidates in draw order, −1: none left
    frame_mask: Bool[np.ndarray, "T"]
    frame_index: Int[np.ndarray, "T"]
    timestamps: Float[np.ndarray, "T"]
    answers: list[str]
    correct: Float[np.ndarray, "I J"]
    weight: float


class Rollout(NamedTuple):
    """The joint step's input, a note for each of its questions, and the tokens that were drawn."""

    arrays: RolloutBatch
    notes: list[Note]
    query_tokens: int
    answer_tokens: int


def roll_out(
    config: ConfigDict,
    episodes: Episodes,
    params: dict[str, Params],
    batch: Batch,
    step: int,
    *,
    importance: Float[np.ndarray, "questions"],
    encode_in_step: bool = False,
) -> Rollout:
    """Runs the four stages on a batch, with I query rollouts × J frame draws a question.

    `importance`: of every question of the run; `encode_in_step`: the joint step gets frames, not
    their features, because it trains the tower.
    """
    r = config.rollout
    weight = batch["valid"].astype(np.float32)
    I, J = r.query_rollouts, r.frame_draws
    questions = episodes.batch_questions(batch)
    B = len(questions)
    queries = episodes.reason(
        params["mllm"], batch, step, rollouts=I, temperature=r.query_temperature, weight=weight
    )
    tokens, mask = queries.tokens, queries.mask
    if r.queries == "question":
        tokens, mask = episodes.query_tokens([[(q.question,)] * I for q in questions])
    selector = r.selector
    if selector == "sample" and config.objective.likelihood == "cb":
        selector = "sample_set"
    with episodes.clock("select"):
        selection = episodes.select(params, batch, tokens, mask, step, selector=selector, draws=J)
        chosen = fetch(selection)
    frames = time_ordered(chosen.draw)
    if r.counterfactual:
        frames = np.concatenate([frames, _uniform(batch["frame_mask"], frames.shape[-1])], 1)
    answers = episodes.answer(
        params["mllm"], batch, frames, step, temperature=r.answer_temperature, weight=weight
    )
    correct = answers.correct[:, : I * J].reshape(B, I, J)

    def per_reply(name: str) -> Float[np.ndarray, "B I"]:
        rows = [[float(getattr(reply, name)) for reply in row] for row in queries.replies]
        return np.array(rows, np.float32)

    measures = {
        "correct": correct,
        "answer_valid": answers.valid[:, : I * J].reshape(B, I, J),
        "query_valid": per_reply("valid")[..., None],
        "parsed": np.minimum(per_reply("num_parsed"), 1.0)[..., None],
    }
    if r.counterfactual:
        measures["counterfactual"] = answers.correct[:, I * J, None, None]
    host: dict[str, Any] = {
        "query_mask": mask,
        "frame_mask": batch["frame_mask"],
        "measures": measures,
        "pass_rate": np.array(
            [np.nan if q.difficulty is None else q.difficulty for q in questions], np.float32
        ),
        "weight": weight,
        "importance": importance[batch["index"]].astype(np.float32),
    }
    asked = _tokens(queries, encode_in_step)
    if r.queries == "question":  # the replies had no part in what followed
        asked = asked._replace(mask=jnp.zeros_like(asked.mask))
    arrays = RolloutBatch(
        queries=asked,
        answers=_first_sets(_tokens(answers, encode_in_step), I * J),
        similarity=selection.similarity,
        draw=selection.draw,
        **episodes.put(host),
    )
    draws = np.where(chosen.draw.valid, chosen.draw.indices, -1)
    notes = [
        Note(
            question,
            queries.replies[b],
            chosen.similarity[b],
            chosen.logits[b],
            draws[b],
            batch["frame_mask"][b],
            batch["frame_index"][b],
            batch["timestamps"][b],
            answers.texts[b][: I * J],
            correct[b],
            float(weight[b]),
        )
        for b, question in enumerate(questions)
    ]
    return Rollout(arrays, notes, queries.num_tokens, answers.num_tokens)


def _tokens(stage: QueryStage | AnswerStage, encode_in_step: bool) -> TokenRollouts:
    done = stage.completions
    return TokenRollouts(
        stage.prompts,
        stage.patches if encode_in_step else stage.features,
        done.tokens,
        done.mask,
        done.log_probs,
        done.finished,
    )


def _first_sets(rollouts: TokenRollouts, count: int) -> TokenRollouts:
    """Without the frame sets from `count` on; what they show stays among the visuals."""
    if rollouts.tokens.shape[1] == count:
        return rollouts
    cut = jax.tree.map(lambda x: x[:, :count], rollouts._replace(visual=None))
    return cut._replace(visual=rollouts.visual)


def _uniform(mask: Bool[np.ndarray, "B T"], k: int) -> Int[np.ndarray, "B 1 K"]:
    """The k evenly spaced candidates of every video, −1 where it has fewer."""
    out = np.full((len(mask), 1, k), -1, np.int32)
    for row, valid in zip(out, mask, strict=True):
        index = uniform_indices(k, int(valid.sum()))
        row[0, : len(index)] = index
    return out


# --- parts of batches -----------------------------------------------------------------------------


def _one_length(parts: Sequence[Prompts]) -> list[Prompts]:
    """Padded to the longest of them: `stack_rows` cuts every part to a length of its own."""
    length = max(part.tokens.shape[-1] for part in parts)

    def pad(x: Array, value: int = 0) -> Array:
        widths = [(0, 0)] * (x.ndim - 1) + [(0, length - x.shape[-1])]
        return jnp.pad(x, widths, constant_values=value)

    return [
        part._replace(
            tokens=pad(part.tokens),
            feature_index=pad(part.feature_index, -1),
            positions=pad(part.positions),
            segments=pad(part.segments),
        )
        for part in parts
    ]


@jax.jit
def _take(batches: Sequence[RolloutBatch], order: Int[Array, "B"]) -> RolloutBatch:
    def is_prompts(x: Any) -> bool:
        return isinstance(x, Prompts)

    def rows(*parts: Any) -> Any:
        if is_prompts(parts[0]):
            return jax.tree.map(rows, *_one_length(parts))
        return jnp.concatenate(parts)[order]

    return jax.tree.map(rows, *batches, is_leaf=is_prompts)


def join(rollouts: Sequence[Rollout], order: Sequence[int]) -> Rollout:
    """One rollout of the questions `order`, which counts through those of `rollouts`."""
    notes = [note for rollout in rollouts for note in rollout.notes]
    arrays = _take([r.arrays for r in rollouts], np.array(order, np.int32))
    return Rollout(
        arrays,
        [notes[i] for i in order],
        sum(r.query_tokens for r in rollouts),
        sum(r.answer_tokens for r in rollouts),
    )


class Collector:
    """Draws rollout batches: in `waves` that overlap, refilled where a question teaches nothing."""

    def __init__(
        self,
        config: ConfigDict,
        episodes: Episodes,
        stream: Iterator[Batch],
        importance: Float[np.ndarray, "questions"],
        encode_in_step: bool,
    ):
        self.config, self.episodes, self.stream = config, episodes, stream
        self._roll_out = functools.partial(
            roll_out, config, episodes, importance=importance, encode_in_step=encode_in_step
        )

    def batch(self, params: dict[str, Params], step: int) -> Rollout:
        """One batch in `config.rollout.waves` threads, each with its share of the questions."""
        batch, waves = next(self.stream), self.config.rollout.waves
        if waves == 1:
            return self._roll_out(params, batch, step)
        parts = [jax.tree.map(lambda x, i=i: x[i::waves], batch) for i in range(waves)]
        mesh = jax.sharding.get_mesh()  # a thread starts without

        def wave(part: Batch) -> Rollout:
            with jax.set_mesh(mesh):
                return self._roll_out(params, part, step)

        with concurrent.futures.ThreadPoolExecutor(waves) as pool:
            done = list(pool.map(wave, parts))
        each = len(batch["index"]) // waves
        return join(done, [i * each + j for j in range(each) for i in range(waves)])

    def collect(self, params: dict[str, Params], step: int) -> tuple[Rollout, int]:
        """A rollout batch, and how many further ones were drawn to refill it."""
        rollout, drawn = self.batch(params, step), 0
        while drawn < self.config.rollout.refill and (silent := _silent(rollout)):
            extra, drawn = self.batch(params, step), drawn + 1
            useless = set(_silent(extra))
            held = {note.question.id for note in rollout.notes}
            fresh = []
            for b, note in enumerate(extra.notes):
                # A question held already was drawn with the same keys: it came back as it is.
                if b not in useless and note.question.id not in held:
                    held.add(note.question.id)
                    fresh.append(b)
            order = list(range(len(rollout.notes)))
            for b, other in zip(silent, fresh, strict=False):
                order[b] = len(rollout.notes) + other
            rollout = join([rollout, extra], order)
        return rollout, drawn


def _silent(rollout: Rollout) -> list[int]:
    """Questions that were dropped, or whose answers were all right or all wrong."""
    return [
        b
        for b, note in enumerate(rollout.notes)
        if note.weight == 0 or note.correct.min() == note.correct.max()
    ]
