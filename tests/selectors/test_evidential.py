"""The evidential network against its formulas in float64, and where it may look."""

import numpy as np
import pytest

from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.evidential import HEADS, WINDOW, equal_parts
from tests.support.networks import (
    E,
    R,
    T,
    check_few_frames,
    check_padding,
    check_query_order,
    make_inputs,
    make_network,
)

pytestmark = pytest.mark.slow


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_hand(params, frames, text):
    """The score of each frame [T], from CLIP's embeddings [T, E] and the question's [E]."""

    def linear(name, x):
        bias = params[name].get("bias", np.zeros(E))
        return x @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(bias, np.float64)

    v, q = unit(frames.astype(np.float64)) * E**0.5, unit(text.astype(np.float64)) * E**0.5
    query, key, value = (linear(f"back_{n}", v) for n in ("query", "key", "value"))
    back, d = np.zeros_like(v), E // HEADS
    for t in range(len(v)):
        window = slice(max(0, t - WINDOW + 1), t + 1)
        for head in range(HEADS):
            own = slice(head * d, (head + 1) * d)
            scores = key[window, own] @ query[t, own] / d**0.5
            shares = np.exp(scores) / np.exp(scores).sum()
            back[t, own] = shares @ value[window, own]
    h = v + linear("back_out", back)
    u = h * sigmoid(linear("gate_frame", h) + linear("gate_text", q))
    total = np.zeros(len(v))
    of_frame, of_text = (np.asarray(params[n], np.float64) for n in ("of_frame", "of_text"))
    for k, scale in enumerate(np.exp(np.asarray(params["log_scale"], np.float64))):
        total += unit(u @ of_frame[k]) @ unit(q @ of_text[k]) * scale
    share = sigmoid(float(params["balance_bias"]))
    return share * unit(v) @ unit(q) + (1 - share) * total / len(of_frame)


def test_it_is_the_papers_formula():
    call, params = make_network("evidential")
    inputs = make_inputs()
    inputs.query_mask[:, 1] = False
    logits = np.asarray(call(params, inputs))
    for row in range(R):
        want = by_hand(params, inputs.embeddings[row], inputs.queries[row, 0])
        np.testing.assert_allclose(logits[row], want, atol=2e-5)


def test_a_frame_looks_back_at_its_window_alone():
    call, params = make_network("evidential")
    inputs = make_inputs(rows=1)
    base = np.asarray(call(params, inputs))[0]
    changed = inputs.embeddings.copy()
    changed[0, 4] += 1.0
    moved = np.abs(np.asarray(call(params, inputs._replace(embeddings=changed)))[0] - base)
    assert (moved[4 : 4 + WINDOW] > 1e-6).all()
    assert (moved[:4] == 0).all() and (moved[4 + WINDOW :] < 1e-6).all()


def test_equal_frames_are_equal_logits():
    """Whatever attention adds of equal frames is equal."""
    call, params = make_network("evidential")
    inputs = make_inputs()
    alike = np.broadcast_to(inputs.embeddings[:, :1], inputs.embeddings.shape)
    logits = np.asarray(call(params, inputs._replace(embeddings=alike)))
    np.testing.assert_allclose(logits, np.broadcast_to(logits[:, :1], (R, T)), atol=1e-5)


@pytest.mark.parametrize("check", [check_padding, check_few_frames, check_query_order])
def test_padding_few_frames_and_the_order_of_queries(check):
    check("evidential")


def test_equal_parts_differ_by_one_frame_at_most():
    for frames, k in ((10, 3), (96, 6), (7, 6)):
        sizes = np.bincount(equal_parts(frames, k), minlength=k)
        assert sizes.sum() == frames and np.ptp(sizes) <= 1
        assert (np.diff(equal_parts(frames, k)) >= 0).all()


def test_both_names_have_one_network_and_search_for_the_question():
    whole, bins = SELECTORS["evidential"], SELECTORS["evidential_bins"]
    assert whole.network is bins.network and whole.network.needs_embeddings
    assert whole.queries == bins.queries == "question"
