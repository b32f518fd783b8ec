"""Collects rollout batches: in overlapping parts, with what teaches nothing replaced."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int

from msjoe_jax.models.params import Params
from msjoe_jax.rl.batch import RolloutBatch
from msjoe_jax.rollout.collect import RollOut, Rollout, in_turn
from msjoe_jax.rollout.generate import Prompts
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.machine import Machine
from msjoe_jax.runtime.program import Program


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


def _of_one_length(batches: Sequence[RolloutBatch]) -> list[RolloutBatch]:
    out = list(batches)
    for name in ("queries", "answers"):
        prompts = _one_length([getattr(batch, name).prompts for batch in out])
        out = [
            batch._replace(**{name: getattr(batch, name)._replace(prompts=padded)})
            for batch, padded in zip(out, prompts, strict=True)
        ]
    return out


def interleave(batches: Sequence[RolloutBatch]) -> RolloutBatch:
    """Joins W parts of a batch, of which the w-th has rows w, w + W, …; nothing is moved."""

    def rows(*parts: Array) -> Array:
        return jnp.stack(parts, 1).reshape(-1, *parts[0].shape[1:])

    return jax.tree.map(rows, *_of_one_length(batches))


def replace_rows(
    machine: Machine,
    batch: RolloutBatch,
    extra: RolloutBatch,
    places: Int[Array | np.ndarray, "B"],
    sources: Int[Array | np.ndarray, "B"],
    count: Int[Array | np.ndarray, ""],
) -> RolloutBatch:
    """Replaces rows of a batch by rows of another, one after the other: of few, little is moved.

    Args:
      machine: where both lie.
      batch, extra: of B questions each.
      places: the rows that are replaced.
      sources: the row of `extra` for each.
      count: how many there are; later entries of both are ignored.
    """
    batch, extra = _of_one_length([batch, extra])
    axes = machine.by_rows.spec[0]
    split, whole = PartitionSpec(axes), PartitionSpec()

    def on_part(batch: Any, extra: Any, places: Array, sources: Array, count: Array) -> Any:
        me = jax.lax.axis_index(axes)

        def replace(i: Array, rows: Any) -> Any:
            def leaf(x: Array, y: Array) -> Array:
                n, kind = x.shape[0], jnp.int32 if x.dtype == bool else x.dtype
                own = jnp.where(sources[i] // n == me, y[sources[i] % n].astype(kind), 0)
                row = jax.lax.psum(own, axes).astype(x.dtype)
                at = jnp.where(places[i] // n == me, places[i] % n, n)  # n: nowhere here
                return x.at[at].set(row, mode="drop")

            return jax.tree.map(leaf, rows, extra)

        return jax.lax.fori_loop(0, count, replace, batch)

    apart: Callable = jax.shard_map(
        on_part,
        mesh=machine.mesh,
        in_specs=(split, split, whole, whole, whole),
        out_specs=split,
        check_vma=False,  # the loop carries what no collective has made alike
    )
    return apart(batch, extra, places, sources, count)


def join_programs(machine: Machine) -> tuple[Program, Program]:
    """Returns the programs that join a batch of its waves, and that replace rows of it."""
    return (
        Program("join", interleave, out_shardings=machine.by_rows),
        Program(
            "replace_rows",
            functools.partial(replace_rows, machine),
            out_shardings=machine.by_rows,
        ),
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
        self.config, self.machine = roll_out.config, roll_out.episodes.machine
        self._interleave, self._replace_rows = join_programs(self.machine)

    def batch(self, params: dict[str, Params], update: int) -> Rollout:
        """Rolls out one batch in waves, each with its share of the questions."""
        batch, waves = next(self.stream), self.config.waves
        parts = [jax.tree.map(lambda x, i=i: x[i::waves], batch) for i in range(waves)]
        rollouts = in_turn([self.roll_out.steps(params, part, update) for part in parts])
        held = self.machine.rows(self.config.questions)
        records = [
            record._replace(place=int(held[i + waves * j]))
            for i, rollout in enumerate(rollouts)
            for j, record in enumerate(rollout.records)
        ]
        arrays = [rollout.arrays for rollout in rollouts]
        return Rollout(
            arrays[0] if waves == 1 else self._interleave(arrays),
            sorted(records, key=lambda record: record.place),
            sum(rollout.query_tokens for rollout in rollouts),
            sum(rollout.answer_tokens for rollout in rollouts),
        )

    def collect(self, params: dict[str, Params], update: int) -> tuple[Rollout, int]:
        """Rolls out a batch; returns it, and how many further ones were drawn to refill it."""
        if self.stride:
            place = {"next_index": (update - 1) * self.stride}
            if self.stream.get_state() != place:  # setting it throws away what was read ahead
                self.stream.set_state(place)
        rollout, num_extra = self.batch(params, update), 0
        while num_extra < self.config.refill:
            useless = [place for place, (_, alike) in _questions(rollout).items() if alike]
            if not useless:
                break
            extra, num_extra = self.batch(params, update), num_extra + 1
            rollout = self._refilled(rollout, extra, useless)
        return rollout, num_extra

    def _refilled(self, rollout: Rollout, extra: Rollout, useless: Sequence[int]) -> Rollout:
        """Replaces the rows `useless` by questions of `extra`, as far as those are of use."""
        question_ids = {name for name, _ in _questions(rollout).values()}
        fresh = []
        for place, (name, alike) in _questions(extra).items():
            # A question that the batch has already would repeat its rollout, from equal keys.
            if not alike and name not in question_ids:
                question_ids.add(name)
                fresh.append(place)
        moved = dict(zip(fresh, useless, strict=False))  # source: place
        pairs = np.zeros((2, self.config.questions), np.int32)
        pairs[:, : len(moved)] = list(moved.values()), list(moved)
        arrays = self._replace_rows(rollout.arrays, extra.arrays, *pairs, np.int32(len(moved)))
        taken = set(moved.values())
        records = [record for record in rollout.records if record.place not in taken]
        records += [
            record._replace(place=moved[record.place])
            for record in extra.records
            if record.place in moved
        ]
        return Rollout(
            arrays,
            sorted(records, key=lambda record: record.place),
            rollout.query_tokens + extra.query_tokens,
            rollout.answer_tokens + extra.answer_tokens,
        )


def _questions(rollout: Rollout) -> dict[int, tuple[str, bool]]:
    """Returns the questions of a rollout on all hosts by place: the id, and whether it is useless.

    Useless is a question that was dropped, or whose answers were all right or all wrong; refill
    replaces it. It may still teach something (formats can differ): what teaches nothing is `silent`
    in rl/credit.py.
    """
    own = {
        record.place: (
            record.question.id,
            bool(record.weight == 0 or record.correct.min() == record.correct.max()),
        )
        for record in rollout.records
    }
    return hosts.merge(own, "the answers of a batch")
