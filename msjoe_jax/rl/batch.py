"""What the joint step learns from: one batch of rollouts, as arrays.

Dimensions: B questions, I query rollouts of each, J frame draws of each of those; Q queries and T
candidate frames; K frames drawn; G prompts of a question, n completions of each, C tokens.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.draws.draw import AnyArray, Draw

Tree = Any


class TokenRollouts(NamedTuple):
    """Sampled completions and what is needed to score them again.

    prompts, visual: opaque here; they go to the model's scoring function.
    mask: True at sampled tokens, the end of the reply included.
    log_probs: as the rollout reported them.
    finished: False where the reply was cut off.
    old_log_probs: at the parameters that sampled; needed from the second update on a batch on.
    ref_log_probs: of the reference; needed for a KL term.
    """

    prompts: Tree
    visual: Tree
    tokens: Int[AnyArray, "B G n C"]
    mask: Bool[AnyArray, "B G n C"]
    log_probs: Float[AnyArray, "B G n C"]
    finished: Bool[AnyArray, "B G n"]
    old_log_probs: Float[AnyArray, "B G n C"] | None = None
    ref_log_probs: Float[AnyArray, "B G n C"] | None = None


class RolloutBatch(NamedTuple):
    """One rollout batch.

    queries: tokens [B, 1, I, C]; answers: tokens [B, I·J, 1, C].
    similarity, query_mask, frame_mask: the scores of the candidate frames, and which are real.
    draw: the frames drawn, indices and valid [B, I, J, K] in draw order.
    measures: what was observed of each rollout, by name, from which rewards are made. Of size 1 in
      the axes along which a value does not vary: [B, I, J] of an answer, [B, I, 1] of a query
      rollout, [B, 1, 1] of a question. The rollout fills in
        correct [B, I, J]: whether the answer was right;
        answer_valid [B, I, J], query_valid [B, I, 1]: whether the reply had the form asked for;
        parsed [B, I, 1]: 0 where the question stood in for missing queries;
        counterfactual [B, 1, 1], if measured: whether the answer from uniform frames was right.
    pass_rate: of the base model on the question.
    weight: 0 drops a question, whose other numbers may then be anything.
    importance: multiplies a question's advantages.
    embeddings, query_embeddings: of the candidate frames and of the queries, where the selector's
      network reads them.
    uniform: 1 where a question was shown uniform frames in place of drawn ones: its answers teach
      the MLLM to read, nothing teaches queries and sampler; None: nowhere.
    old_draw_log_probs: of the draws, at the parameters that drew; needed from the second update on
      a batch on.
    ref_draw_log_probs: of the draws, at the reference; needed for a KL term.
    """

    queries: TokenRollouts
    answers: TokenRollouts
    similarity: Float[AnyArray, "B I Q T"]
    query_mask: Bool[AnyArray, "B I Q"]
    frame_mask: Bool[AnyArray, "B T"]
    draw: Draw
    measures: dict[str, Float[AnyArray, "B #I #J"]]
    pass_rate: Float[AnyArray, "B"]
    weight: Float[AnyArray, "B"]
    importance: Float[AnyArray, "B"]
    embeddings: Float[AnyArray, "B T E"] | None = None
    query_embeddings: Float[AnyArray, "B I q E"] | None = None
    uniform: Float[AnyArray, "B"] | None = None
    old_draw_log_probs: Float[AnyArray, "B I J"] | None = None
    ref_draw_log_probs: Float[AnyArray, "B I J"] | None = None


def drawn(batch: RolloutBatch) -> Float[AnyArray, "B"]:
    """Returns 1 for questions whose frames were chosen, 0 for those shown uniform ones."""
    return jnp.ones_like(batch.weight) if batch.uniform is None else 1.0 - batch.uniform


class FrameInputs(NamedTuple):
    """What a selector's network reads to score T frames, one row a query rollout.

    similarity: of queries and frames, 0 where either is masked; embeddings, queries: CLIP's, of the
    frames and of the queries, not normalised, if the network reads them. S has a row a signal of
    each query: the first q of query_mask are of the queries.
    """

    similarity: Float[Array, "R Q T"]
    query_mask: Bool[Array, "R Q"]
    frame_mask: Bool[Array, "R T"]
    embeddings: Float[Array, "R T E"] | None = None
    queries: Float[Array, "R q E"] | None = None


def frame_inputs(batch: RolloutBatch) -> FrameInputs:
    """Returns the selector's inputs of a batch, its B·I query rollouts as rows."""
    return input_rows(
        batch.similarity,
        batch.query_mask,
        batch.frame_mask,
        batch.embeddings,
        batch.query_embeddings,
    )


def input_rows(
    similarity: Float[AnyArray, "B I Q T"],
    query_mask: Bool[AnyArray, "B I Q"],
    frame_mask: Bool[AnyArray, "B T"],
    embeddings: Float[AnyArray, "B T E"] | None = None,
    queries: Float[AnyArray, "B I q E"] | None = None,
) -> FrameInputs:
    """Returns a selector's inputs with a question's I lists of queries as rows.

    Args:
      similarity, query_mask: of every list.
      frame_mask: of the questions' frames.
      embeddings, queries: CLIP's, of frames and queries; None: the network reads none.
    """
    B, I = similarity.shape[:2]

    def of_lists(x: AnyArray) -> Array:
        return jnp.asarray(x).reshape(B * I, *x.shape[2:])

    def of_questions(x: AnyArray) -> Array:
        return of_lists(jnp.broadcast_to(x[:, None], (B, I, *x.shape[1:])))

    return FrameInputs(
        of_lists(similarity),
        of_lists(query_mask),
        of_questions(frame_mask),
        None if embeddings is None else of_questions(embeddings),
        None if queries is None else of_lists(queries),
    )
