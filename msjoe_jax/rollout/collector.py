"""Collects rollout batches: in overlapping parts, with what teaches nothing replaced."""

import concurrent.futures
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from msjoe_jax.models.params import Params
from msjoe_jax.rl.batch import RolloutBatch
from msjoe_jax.rollout.batches import Batch
from msjoe_jax.rollout.collect import RollOut, Rollout
from msjoe_jax.rollout.generate import Prompts


def _one_length(parts: Sequence[Prompts]) -> list[Prompts]:
    """Pads to the longest of them, since `stack_rows` cuts every part to a length of its own."""
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
    """Joins rollouts to one of the questions `order`, indices into all of theirs in a row."""
    records = [record for rollout in rollouts for record in rollout.records]
    arrays = _take([r.arrays for r in rollouts], np.array(order, np.int32))
    return Rollout(
        arrays,
        [records[i] for i in order],
        sum(r.query_tokens for r in rollouts),
        sum(r.answer_tokens for r in rollouts),
    )


class Collector:
    """A collector of rollout batches, in overlapping waves and with answers all alike replaced.

    Args:
      roll_out: makes a rollout of a batch.
      stream: yields batches.
      stride: batches of the stream that belong to each update, used or not; None: an update takes
        as many as it needs, and the next goes on from there.
    """

    def __init__(self, roll_out: RollOut, stream: Any, stride: int | None = None):
        self.roll_out, self.stream, self.stride = roll_out, stream, stride
        self.config = roll_out.config

    def batch(self, params: dict[str, Params], update: int) -> Rollout:
        """Rolls out one batch in `waves` threads, each with its share of the questions."""
        batch, waves = next(self.stream), self.config.waves
        if waves == 1:
            return self.roll_out(params, batch, update)
        parts = [jax.tree.map(lambda x, i=i: x[i::waves], batch) for i in range(waves)]
        mesh = jax.sharding.get_mesh()  # a new thread has none

        def wave(part: Batch) -> Rollout:
            with jax.set_mesh(mesh):
                return self.roll_out(params, part, update)

        with concurrent.futures.ThreadPoolExecutor(waves) as pool:
            rollouts = list(pool.map(wave, parts))
        per_wave = len(batch["index"]) // waves
        return join(rollouts, [i * per_wave + j for j in range(per_wave) for i in range(waves)])

    def collect(self, params: dict[str, Params], update: int) -> tuple[Rollout, int]:
        """Rolls out a batch; returns it, and how many further ones were drawn to refill it."""
        if self.stride:
            place = {"next_index": (update - 1) * self.stride}
            if self.stream.get_state() != place:  # setting it throws away what was read ahead
                self.stream.set_state(place)
        rollout, num_extra = self.batch(params, update), 0
        while num_extra < self.config.refill and (useless := answers_alike(rollout)):
            extra, num_extra = self.batch(params, update), num_extra + 1
            skipped = set(answers_alike(extra))
            question_ids = {record.question.id for record in rollout.records}
            fresh = []
            for b, record in enumerate(extra.records):
                # A question that the batch has already would repeat its rollout, from equal keys.
                if b not in skipped and record.question.id not in question_ids:
                    question_ids.add(record.question.id)
                    fresh.append(b)
            order = list(range(len(rollout.records)))
            for b, replacement in zip(useless, fresh, strict=False):
                order[b] = len(rollout.records) + replacement
            rollout = join([rollout, extra], order)
        return rollout, num_extra


def answers_alike(rollout: Rollout) -> list[int]:
    """Returns the questions that were dropped, or whose answers were all right or all wrong.

    Refill replaces them. They may still teach something (formats can differ): what teaches nothing
    is `silent` in rl/credit.py.
    """
    return [
        b
        for b, record in enumerate(rollout.records)
        if record.weight == 0 or record.correct.min() == record.correct.max()
    ]
