"""FLOPs that a use of a program needs at least, on all devices together.

Those of the MLLM come from its sizes (models/flops.py), whatever the program does: prompts and
frames at their compiled lengths, one forward pass, and one backward pass of what trains. Those of
CLIP and the sampler are counted in the traced functions, which compute nothing twice.
"""

import functools
import math
from typing import Any

import jax

from msjoe_jax.models.flops import Flops
from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts, frame_inputs
from msjoe_jax.rl.joint_step import partition
from msjoe_jax.rollout.programs import Patches
from msjoe_jax.rollout.system import System
from msjoe_jax.runtime.jaxpr_flops import traced_flops
from msjoe_jax.runtime.program import Use
from msjoe_jax.training.config import TrainingRun

Pair = tuple[float, float]  # FLOPs of matrices and of attention


def minimum_flops(use: Use, system: System, run: TrainingRun | None) -> float:
    """Returns the FLOPs that a use needs at least.

    Args:
      use: of the program list.
      system: the models.
      run: the training of its phase, if it is one.
    """
    flops = system.family.flops(system.mllm_config)
    arguments = use.arguments
    if use.program.name == "complete":
        _, prompts, patches, _ = arguments
        length = use.choices["sampling"].max_tokens
        replies = _replies(flops, prompts.tokens.shape, use.choices["samples"], length)
        return sum(replies) + sum(_frames(flops, patches))
    if use.program.name in ("scoring", "joint_step"):
        batch = arguments[1]
        if use.program.name == "scoring":
            return sum(_scored(flops, batch)) + sum(_encoded(flops, batch))
        assert run is not None, f"{use.name} is of no training"
        return _update(flops, system, run, *arguments)
    return traced_flops(functools.partial(use.program.function, **use.choices), *arguments)


def _update(
    flops: Flops, system: System, run: TrainingRun, state: dict[str, Any], batch: RolloutBatch
) -> float:
    """Counts the joint step: forward, and backward to activations and to what trains."""
    total = 0.0
    if run.training.train_mllm:
        for half, parts in (("language", _scored), ("vision", _encoded)):
            matrices, attention = parts(flops, batch)
            share = _trained_share(state["mllm"], half, run.trainable)
            total += (2 + share) * matrices + 3 * attention
    if run.training.train_sampler:
        total += 3 * traced_flops(
            lambda params, batch: system.frame_logits(params, frame_inputs(batch)),
            state["sampler"],
            batch,
        )
    return total


def _trained_share(mllm: Any, half: str, trainable: str) -> float:
    """Returns how much of a half of the MLLM trains, by numbers of parameters."""
    moving, _ = partition({half: mllm[half]}, trainable)

    def size(tree: Any) -> int:
        return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))

    return size(moving) / size(mllm[half])


def _scored(flops: Flops, batch: RolloutBatch) -> Pair:
    """Counts a forward pass of all completions of a batch."""
    return _sum(_scored_part(flops, part) for part in (batch.queries, batch.answers))


def _scored_part(flops: Flops, part: TokenRollouts) -> Pair:
    samples, length = part.tokens.shape[2:]
    return _replies(flops, part.prompts.tokens.shape, samples, length)


def _encoded(flops: Flops, batch: RolloutBatch) -> Pair:
    """Counts a forward pass of the frames that a batch holds as patches."""
    parts = (batch.queries.visual, batch.answers.visual)
    return _sum(_frames(flops, visual) for visual in parts if isinstance(visual, Patches))


def _replies(flops: Flops, prompts: tuple[int, ...], samples: int, length: int) -> Pair:
    """Counts prompts [B, G, S] and `samples` completions of each."""
    B, G, S = prompts
    completion = flops.completion(S, length)
    return _sum([flops.prompt(S), *[completion] * samples], B * G)


def _frames(flops: Flops, patches: Patches) -> Pair:
    shape = patches.pixels.shape
    return _sum([flops.frame(shape[-4])], shape[0] * shape[1])


def _sum(pairs: Any, times: int = 1) -> Pair:
    matrices = attention = 0.0
    for pair in pairs:
        matrices += pair[0]
        attention += pair[1]
    return matrices * times, attention * times
