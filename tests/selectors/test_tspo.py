"""TSPO's agent against a torch module written from its description, and its own properties."""

import numpy as np
import pytest
import torch

from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.tspo import TAU, nearest_anchor
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
from tests.support.tspo_oracle import Selector, state_of

pytestmark = pytest.mark.slow


def test_parity_with_torch():
    call, params = make_network("tspo")
    module = Selector(E)
    module.load_state_dict(state_of(params))
    inputs = make_inputs()
    inputs.query_mask[:, 1] = False
    logits = np.asarray(call(params, inputs))
    for row in range(R):
        frames, text = (torch.from_numpy(x) for x in (inputs.embeddings[row], inputs.queries[row]))
        with torch.no_grad():
            want = module(frames, text[:1]).numpy()
        np.testing.assert_allclose(TAU * logits[row], want, atol=1e-5)


def test_a_frame_sees_six_before_and_five_after():
    call, params = make_network("tspo")
    inputs = make_inputs(rows=1)
    base = np.asarray(call(params, inputs))[0]
    changed = inputs.embeddings.copy()
    changed[0, 10] *= -1.0
    moved = np.asarray(call(params, inputs._replace(embeddings=changed)))[0] - base
    assert np.flatnonzero(moved).tolist() == list(range(10 - 5, 10 + 7))


def test_equal_frames_differ_by_their_place_alone():
    """The own cosine is equal; what the context adds depends on t / T."""
    call, params = make_network("tspo")
    inputs = make_inputs()
    alike = np.broadcast_to(inputs.embeddings[:, :1], inputs.embeddings.shape)
    silent = {**params, "mlp_out": {k: 0 * x for k, x in params["mlp_out"].items()}}
    logits = np.asarray(call(silent, inputs._replace(embeddings=alike)))
    np.testing.assert_allclose(logits, np.broadcast_to(logits[:, :1], (R, T)), atol=1e-4)
    assert np.ptp(np.asarray(call(params, inputs._replace(embeddings=alike)))[0]) > 1e-3


@pytest.mark.parametrize("check", [check_padding, check_few_frames, check_query_order])
def test_padding_few_frames_and_the_order_of_queries(check):
    check("tspo")


def test_bins_lie_around_evenly_spaced_moments():
    assert nearest_anchor(9, 3).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]  # anchors 0, 4, 8
    assert nearest_anchor(5, 1).tolist() == [0] * 5
    for frames in range(2, 40):
        for k in range(1, frames):
            assert set(nearest_anchor(frames, k)) == set(range(k))


def test_both_names_have_one_network_and_search_for_the_question():
    whole, bins = SELECTORS["tspo"], SELECTORS["tspo_bins"]
    assert whole.network is bins.network and whole.network.needs_embeddings
    assert whole.queries == bins.queries == "question"
