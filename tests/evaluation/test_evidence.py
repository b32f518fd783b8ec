"""The AUC for evidence frames, against all pairs by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.data.questions import Question
from msjoe_jax.evaluation.evidence import evidence_auc, evidence_of


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=20))
def test_it_is_the_share_of_pairs_in_the_right_order(frames):
    scores, shows = np.array([s for s, _ in frames], float), np.array([e for _, e in frames])
    got = evidence_auc([scores], [shows])
    pairs = [(a > b) + (a == b) / 2 for a in scores[shows] for b in scores[~shows]]
    assert got.questions == bool(pairs)
    np.testing.assert_allclose(got.auc, np.mean(pairs) if pairs else np.nan, rtol=1e-12)


def test_questions_count_alike_and_masked_frames_do_not():
    scores = [np.array([2.0, 1.0, -np.inf]), np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0])]
    shows = [np.array([True, False, True]), np.array([True] + [False] * 3), np.array([True])]
    got = evidence_auc(scores, shows)
    assert got == (0.5, 2)
    assert str(got) == "AUC for evidence frames 0.500 (2 questions): does not work here"


def test_what_is_printed():
    right = np.array([1.0, 0.0]), np.array([True, False])
    assert str(evidence_auc([right[0]], [right[1]])) == (
        "AUC for evidence frames 1.000 (1 questions)"
    )
    nothing = evidence_auc([right[0]], [np.zeros(2, bool)])
    assert str(nothing) == "AUC for evidence frames: no question has evidence"
    # .6 itself does not work, what is above does.
    scores, shows = np.arange(11.0), np.zeros(11, bool)
    shows[6] = True
    assert "does not work" in str(evidence_auc([scores], [shows]))
    assert "does not work" not in str(evidence_auc([scores], [np.roll(shows, 1)]))


def test_evidence_is_what_the_record_names():
    question = Question("q", "v", "?", ("a", "b"), 0, extra={"oracle_frames": [[4], [8, 9]]})
    assert evidence_of(question, [0, 4, 8, 12]).tolist() == [False, True, True, False]
    assert not evidence_of(Question("q", "v", "?", ("a", "b"), 0), [0, 4]).any()
