"""The MLP has the U-Net's inputs, start and parameters, and no mixing over time."""

import numpy as np
import pytest
from flax import nnx

from msjoe_jax.models.params import abstract, count_params
from msjoe_jax.models.sampler import SamplerConfig
from msjoe_jax.selectors import SELECTORS
from tests.support.networks import (
    TOLERANCE,
    T,
    check_few_frames,
    check_padding,
    check_query_order,
    make_inputs,
    make_network,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "sizes",
    [SamplerConfig.tiny(), SamplerConfig(), SamplerConfig(64, 2, 9), SamplerConfig(128, 6, 3)],
    ids=["tiny", "full", "shallow", "narrow"],
)
def test_as_many_parameters_as_the_u_net(sizes):
    of = {}
    for name in ("msjoe", "mlp"):
        build = SELECTORS[name].network.build
        of[name] = count_params(abstract(lambda build=build: build(sizes, 8, nnx.Rngs(0)))[1])
    assert of["mlp"] == pytest.approx(of["msjoe"], rel=0.1)


def test_it_starts_as_the_u_net_does():
    inputs = make_inputs()
    logits = [call(params, inputs) for call, params in
              (make_network(name, moved=False) for name in ("msjoe", "mlp"))]  # fmt: skip
    np.testing.assert_allclose(*logits, atol=1e-5)


def test_frames_in_another_order_have_their_own_logits():
    call, params = make_network("mlp")
    inputs, order = make_inputs(), np.random.default_rng(1).permutation(T)
    want = np.asarray(call(params, inputs))
    moved = call(params, inputs._replace(similarity=inputs.similarity[..., order]))
    np.testing.assert_allclose(moved, want[:, order], atol=TOLERANCE)
    unet, params = make_network("msjoe")  # to which the order matters
    want = np.asarray(unet(params, inputs))
    moved = unet(params, inputs._replace(similarity=inputs.similarity[..., order]))
    assert np.abs(np.asarray(moved) - want[:, order]).max() > 0.01


def test_equal_scores_are_equal_logits():
    call, params = make_network("mlp")
    inputs = make_inputs()
    logits = np.asarray(call(params, inputs._replace(similarity=inputs.similarity * 0 + 0.3)))
    np.testing.assert_allclose(logits, logits[:, :1] + 0 * logits, atol=1e-5)


@pytest.mark.parametrize("check", [check_padding, check_few_frames, check_query_order])
def test_padding_few_frames_and_the_order_of_queries(check):
    check("mlp")
