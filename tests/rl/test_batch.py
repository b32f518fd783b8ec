"""The rows that a selector's network reads of a batch."""

import numpy as np

from msjoe_jax.rl.batch import frame_inputs
from tests.support.step_oracle import B, I, Q, T, make_batch, same


def test_one_row_a_query_rollout():
    batch = make_batch()
    inputs = frame_inputs(batch)
    assert inputs.embeddings is None and inputs.queries is None
    for row, (b, i) in enumerate(np.ndindex(B, I)):
        same(inputs.similarity[row], batch.similarity[b, i])
        same(inputs.query_mask[row], batch.query_mask[b, i])
        same(inputs.frame_mask[row], batch.frame_mask[b])
    assert inputs.similarity.shape == (B * I, Q, T)


def test_embeddings_are_those_of_the_rows_question():
    embeddings = np.random.default_rng(0).normal(size=(B, T, 5)).astype(np.float32)
    queries = np.random.default_rng(1).normal(size=(B, I, Q, 5)).astype(np.float32)
    batch = make_batch()._replace(embeddings=embeddings, query_embeddings=queries)
    inputs = frame_inputs(batch)
    for row, (b, i) in enumerate(np.ndindex(B, I)):
        same(inputs.embeddings[row], embeddings[b])
        same(inputs.queries[row], queries[b, i])
