"""Abstract inputs of compiled programs: shapes and types at a config's sizes, without values."""

from typing import Any

import jax
import jax.numpy as jnp

from msjoe_jax.draws.draw import Draw
from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts
from msjoe_jax.rollout.collect import RolloutConfig
from msjoe_jax.rollout.frames import FrameConfig, frames_per_unit, unit_slots
from msjoe_jax.rollout.generate import Prompts
from msjoe_jax.rollout.programs import Patches, frame_features
from msjoe_jax.rollout.system import System
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.text.prompts import PromptConfig


def _ints(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _floats(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _bools(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.bool_)


def abstract_rollouts(
    system: System,
    *,
    questions: int,
    prompts: int,
    samples: int,
    prompt_tokens: int,
    reply_tokens: int,
    units: int,
    patches: int,
    per_unit: int,
    encode_in_step: bool,
) -> TokenRollouts:
    """Returns the shapes of completions of B × G prompts, n of each, as the joint step takes them.

    Args:
      system: the models.
      questions: B.
      prompts: G.
      samples: n.
      prompt_tokens: S.
      reply_tokens: C.
      units: units encoded for each question.
      patches: patches of a frame.
      per_unit: frames that are encoded together.
      encode_in_step: whether the step gets patches in place of features.
    """
    B, G, n, C, S = questions, prompts, samples, reply_tokens, prompt_tokens
    patch = system.mllm_config.vision.patch
    fused = () if per_unit == 1 else (per_unit,)
    pixels: Any = jax.ShapeDtypeStruct((B, units, *fused, patches, patch, patch, 3), jnp.uint8)
    visual: Any = Patches(pixels, _ints(B, units, 2))
    if not encode_in_step:
        visual = jax.eval_shape(
            lambda params, patches: frame_features(system, system.mllm(params), patches),
            system.abstract["mllm"],
            visual,
        )
    rows, one_token = _ints(B, G, S), _ints(B, G)
    return TokenRollouts(
        prompts=Prompts(
            tokens=rows,
            feature_index=rows,
            positions=_ints(B, G, 3, S),
            segments=rows,
            first_token=one_token,
            start=one_token,
        ),
        visual=visual,
        tokens=_ints(B, G, n, C),
        mask=_bools(B, G, n, C),
        log_probs=_floats(B, G, n, C),
        finished=_bools(B, G, n),
    )


def abstract_batch(
    system: System,
    frames: FrameConfig,
    prompt: PromptConfig,
    rollout: RolloutConfig,
    *,
    encode_in_step: bool,
) -> RolloutBatch:
    """Returns the joint step's input as shapes (see `RolloutBatch`).

    Args:
      system: the models.
      frames: number and size of the frames.
      prompt: lengths of prompts and replies.
      rollout: numbers of questions and rollouts.
      encode_in_step: whether the step gets frames, because it trains the vision tower.
    """
    B, I, J = rollout.questions, rollout.query_rollouts, rollout.frame_draws
    T, K = frames.candidates, frames.key
    Q = prompt.max_queries * len(system.signals)
    per_unit = frames_per_unit(frames, system)
    network = SELECTORS[system.network].network
    embeddings = queries = None
    if network is not None and network.needs_embeddings:
        width = system.clip_config.embed_dim
        embeddings, queries = _floats(B, T, width), _floats(B, I, prompt.max_queries, width)

    def rollouts(**sizes: int) -> TokenRollouts:
        return abstract_rollouts(
            system, questions=B, per_unit=per_unit, encode_in_step=encode_in_step, **sizes
        )

    return RolloutBatch(
        queries=rollouts(
            prompts=1,
            samples=I,
            prompt_tokens=prompt.query_prompt_tokens,
            reply_tokens=prompt.query_tokens,
            units=max(1, -(-frames.preview // per_unit)),
            patches=frames.preview_patches,
        ),
        answers=rollouts(
            prompts=I * J,
            samples=1,
            prompt_tokens=prompt.answer_prompt_tokens,
            reply_tokens=prompt.answer_tokens,
            # The counterfactual's uniform frames are encoded with the others.
            units=unit_slots(frames, per_unit, I * J + rollout.counterfactual),
            patches=frames.key_patches,
        ),
        similarity=_floats(B, I, Q, T),
        query_mask=_bools(B, I, Q),
        frame_mask=_bools(B, T),
        draw=Draw(_ints(B, I, J, K), _bools(B, I, J, K)),
        measures={
            "correct": _floats(B, I, J),
            "answer_valid": _floats(B, I, J),
            "query_valid": _floats(B, I, 1),
            "parsed": _floats(B, I, 1),
        }
        | ({"counterfactual": _floats(B, 1, 1)} if rollout.counterfactual else {}),
        pass_rate=_floats(B),
        weight=_floats(B),
        importance=_floats(B),
        embeddings=embeddings,
        query_embeddings=queries,
        uniform=_floats(B) if rollout.uniform_share else None,
    )
