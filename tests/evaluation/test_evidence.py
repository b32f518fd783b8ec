"""The AUC for evidence frames, against all pairs by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.evaluation.evidence import auc


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=20))
def test_it_is_the_share_of_pairs_in_the_right_order(frames):
    scores, shows = np.array([s for s, _ in frames], float), np.array([e for _, e in frames])
    pairs = [(a > b) + (a == b) / 2 for a in scores[shows] for b in scores[~shows]]
    assert auc(scores, shows) == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_masked_frames_do_not_count():
    shows = np.array([True, False, True])
    assert auc(np.array([2.0, 1.0, -np.inf]), shows) == 1.0
    assert auc(np.array([np.nan, 1.0, -np.inf]), shows) is None
