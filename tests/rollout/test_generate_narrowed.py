"""Drawing from a part of the distribution: top-k and top-p, as transformers narrows it."""

import jax
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from msjoe_jax.rollout.generate import Prompts, Sampling, narrowed
from tests.support import torch_stubs
from tests.support.generation import (
    BANNED,
    ENDS,
    FEATURES,
    PROMPTS,
    TOLERANCE,
    oracle_log_softmax,
    oracle_logits,
    sample,
)

pytestmark = pytest.mark.slow


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-60, 60), min_size=9, max_size=9, unique=True), st.data())
def test_narrowing_keeps_what_transformers_keeps(tenths, data):
    """Distinct logits: of equal ones we keep all, which transformers' top-p does not."""
    torch_stubs.declare_torchvision_ops()
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    top_k, top_p = data.draw(st.integers(0, 11)), data.draw(st.floats(0.05, 0.99))
    logits = np.array([tenths], np.float32) / 10
    left = torch.from_numpy(logits)
    if top_k:
        left = TopKLogitsWarper(top_k)(None, left)
    p = np.sort(left.double().softmax(-1).numpy()[0])
    assume(np.abs(np.cumsum(p) - (1 - top_p)).min() > 1e-5)  # else rounding decides
    want = np.isfinite(TopPLogitsWarper(top_p)(None, left).numpy())
    np.testing.assert_array_equal(np.asarray(narrowed(logits, top_k, top_p)) > -1e30, want)


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=5, max_size=5), st.integers(0, 6), st.floats(0, 1))
def test_narrowing_keeps_equals_together(values, top_k, top_p):
    logits = np.array([values], np.float32)
    kept = np.asarray(narrowed(logits, top_k, top_p)) > -1e30
    assert kept.any()
    assert (kept == (logits >= logits[kept].min())).all()


def test_narrowed_tokens_come_with_their_probabilities():
    """Chi-square of 4 000 first tokens under top-k and top-p, computed from the oracle's logits."""
    count, top_k, top_p = 4000, 12, 0.8
    one = Prompts(*(x[:1, :1] for x in PROMPTS))
    keys = jax.random.split(jax.random.key(6), (1, 1, count))
    how = Sampling(1, ENDS, BANNED, 3.0, top_k, top_p)
    done = sample(one, FEATURES[:1], keys, how)
    p = np.exp(oracle_log_softmax(oracle_logits(0, 0, [0]), 3.0))[0]
    order = np.argsort(-p)[:top_k]
    p_k = p[order] / p[order].sum()
    nucleus = order[: int((np.cumsum(p_k) < top_p).sum()) + 1]
    assert 2 < len(nucleus) < top_k
    p = p[nucleus] / p[nucleus].sum()
    tokens = np.asarray(done.tokens).ravel()
    assert set(tokens) <= set(nucleus)
    observed = np.array([(tokens == i).sum() for i in nucleus])
    assert stats.chisquare(observed, p * count).pvalue > 1e-3
    want = np.log([p[list(nucleus).index(t)] for t in tokens])
    np.testing.assert_allclose(np.asarray(done.log_probs).ravel(), want, atol=TOLERANCE)
