"""Random arguments of programs, made on the devices from shapes: valid, and of nobody's data.

`msjoe doctor` runs the programs of a config with them. Prompts are full, every frame and every mask
is used, answers are right and wrong in turns, so that nothing is cheaper than in the fullest batch;
numbers are small, so that a healthy machine makes nothing that is not finite of them.
"""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from msjoe_jax.draws.draw import Draw
from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts
from msjoe_jax.rollout.generate import Prompts
from msjoe_jax.rollout.programs import Patches, Seeds
from msjoe_jax.rollout.system import System
from msjoe_jax.runtime.program import Program

Tree = Any  # of `jax.ShapeDtypeStruct` with shardings, or of `Values`
# Kinds of values. PLACE: the index along the last axis; SHOWN: the same, from the first frame of a
# prompt on, −1 before it and from `high` on; TURNS: 0 and 1 in turns; PAIR: low and high.
NORMAL, WHOLE, CONSTANT, PAIR = "normal", "whole", "constant", "pair"
PLACE, SHOWN, TURNS = "place", "shown", "turns"
SCALE = 0.02  # of normal values, as of fresh weights
TEXT = 8  # tokens of a prompt before its first frame


@dataclasses.dataclass(frozen=True)
class Values:
    """How an array is filled. low: a constant, or the least whole number; high: the next to last.

    A key array gets keys, whatever its kind.
    """

    kind: str
    low: float = 0
    high: float = 0


def filled(
    seed: Array | np.ndarray, *, values: Values, shape: tuple[int, ...], dtype: Any
) -> Array:
    """Makes an array, inside a compiled program.

    Args:
      seed: of what is random.
      values: of which kind.
      shape, dtype: of the array; with a dtype of keys those are made.
    """
    key = jax.random.key(seed)
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.split(key, shape)
    last = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1) if shape else jnp.int32(0)
    if values.kind == NORMAL:
        return (SCALE * jax.random.normal(key, shape)).astype(dtype)
    if values.kind == WHOLE:
        return jax.random.randint(key, shape, int(values.low), int(values.high)).astype(dtype)
    if values.kind == PLACE:
        return last.astype(dtype)
    if values.kind == SHOWN:
        row = last - TEXT
        return jnp.where((row >= 0) & (row < values.high), row, -1).astype(dtype)
    if values.kind == PAIR:
        return jnp.where(last == 0, values.low, values.high).astype(dtype)
    if values.kind == TURNS:
        turn = jnp.zeros(shape, jnp.int32)
        for axis in range(len(shape)):
            turn += jax.lax.broadcasted_iota(jnp.int32, shape, axis)
        return (turn % 2).astype(dtype)
    return jnp.full(shape, values.low, dtype)


def grid_of(patches: int, merge: int) -> tuple[int, int]:
    """Returns height and width of the fullest, then squarest, picture of at most so many patches.

    Args:
      patches: of a frame.
      merge: both sides are multiples of it.
    """
    heights = range(merge, patches // merge + 1, merge)
    grids = [(h, patches // h // merge * merge) for h in heights]
    return max(grids, key=lambda grid: (grid[0] * grid[1], -abs(grid[0] - grid[1])))


class RandomArguments:
    """A maker of arguments for the programs of a system.

    Args:
      system: the models, which say what is a token.
    """

    def __init__(self, system: System) -> None:
        sizes = system.mllm_config
        self._merge = sizes.vision.merge
        self._vocab = sizes.vocab
        ends = sorted({-1, *system.banned_ids(), sizes.vocab})
        low, high = max(itertools.pairwise(ends), key=lambda pair: pair[1] - pair[0])
        self._token = _of(WHOLE, low + 1, high)  # no placeholder of a frame is among them
        self._programs: dict[Any, Program] = {}
        self._seed = 0

    def values(self, tree: Tree, features: int = 0) -> Any:
        """Returns `Values` for every leaf of a tree of shapes.

        Args:
          tree: arguments, or a part of them.
          features: rows of a question's features that its prompts may show.
        """
        if isinstance(tree, RolloutBatch):
            return self._batch(tree)
        if isinstance(tree, TokenRollouts):
            return self._rollouts(tree)
        if isinstance(tree, Prompts):
            return Prompts(
                tokens=self._token,
                feature_index=_of(SHOWN, high=features),
                positions=_of(PLACE),
                segments=_of(CONSTANT, 1),
                first_token=self._token,
                start=_of(CONSTANT, tree.tokens.shape[-1]),
            )
        if isinstance(tree, Patches):
            grid = grid_of(tree.pixels.shape[-4], self._merge)
            return Patches(_of(WHOLE, 0, 256), _of(PAIR, *grid))
        if isinstance(tree, Seeds):
            return Seeds(*(_of(CONSTANT, 1), _of(CONSTANT, 1), _of(PLACE)))
        if isinstance(tree, Draw):
            return Draw(_of(PLACE), _of(CONSTANT, 1))
        if isinstance(tree, list | tuple):
            shown = sum(self._features(part) for part in tree if isinstance(part, Patches))
            return type(tree)(self.values(part, shown) for part in tree)
        return jax.tree.map(_plain, tree)

    def _rollouts(self, tree: TokenRollouts) -> TokenRollouts:
        """Returns the values of completions: full replies, all tokens equally likely."""
        patches = isinstance(tree.visual, Patches)
        features = self._features(tree.visual) if patches else tree.visual.shape[1]
        likely = _of(CONSTANT, -math.log(self._vocab))
        return TokenRollouts(
            prompts=self.values(tree.prompts, features),
            visual=self.values(tree.visual),
            tokens=self._token,
            mask=_of(CONSTANT, 1),
            log_probs=likely,
            finished=_of(CONSTANT, 1),
            old_log_probs=_if_there(tree.old_log_probs, likely),
            ref_log_probs=_if_there(tree.ref_log_probs, likely),
        )

    def _batch(self, tree: RolloutBatch) -> RolloutBatch:
        one, some = _of(CONSTANT, 1), _of(NORMAL)
        by_turns = ("correct", "counterfactual")
        return RolloutBatch(
            queries=self._rollouts(tree.queries),
            answers=self._rollouts(tree.answers),
            similarity=some,
            query_mask=one,
            frame_mask=one,
            draw=self.values(tree.draw),
            measures={name: _of(TURNS) if name in by_turns else one for name in tree.measures},
            pass_rate=_of(CONSTANT, 0.5),
            weight=one,
            importance=one,
            embeddings=_if_there(tree.embeddings, some),
            query_embeddings=_if_there(tree.query_embeddings, some),
            uniform=_if_there(tree.uniform, _of(CONSTANT, 0)),
            old_draw_log_probs=_if_there(tree.old_draw_log_probs, _of(CONSTANT, -1)),
            ref_draw_log_probs=_if_there(tree.ref_draw_log_probs, _of(CONSTANT, -1)),
        )

    def make(self, leaf: Any, values: Values) -> jax.Array:
        """Makes the array of a shape, where its sharding says.

        Args:
          leaf: its shape, type and sharding.
          values: of which kind.
        """
        if leaf.sharding not in self._programs:
            self._programs[leaf.sharding] = Program(
                "random_argument",
                filled,
                ("values", "shape", "dtype"),
                out_shardings=leaf.sharding,
            )
        self._seed += 1
        program = self._programs[leaf.sharding]
        return program(np.uint32(self._seed), values=values, shape=leaf.shape, dtype=leaf.dtype)

    def _features(self, patches: Patches) -> int:
        """Counts the features of a question's frames."""
        return patches.pixels.shape[1] * (patches.pixels.shape[-4] // self._merge**2)


def _if_there(tree: Tree, values: Values) -> Any:
    """Returns the values, or None in place of an array that a batch does without."""
    return None if tree is None else values


def _plain(leaf: Any) -> Values:
    """Returns the values of an array that has no other meaning: valid as an index, if whole."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return _of(NORMAL)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return _of(NORMAL)
    if leaf.dtype == jnp.bool_:
        return _of(CONSTANT, 1)
    return _of(CONSTANT, 0 if leaf.shape else 1)  # places in an array; a count


def _of(kind: str, low: float = 0, high: float = 0) -> Any:
    """Makes `Values` in the place of an array."""
    return Values(kind, low, high)
