"""What steps give back: queries of replies, and the draw and logits that a selection stands for."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.draws.draw import Draw
from msjoe_jax.rollout.frames import FrameConfig
from msjoe_jax.rollout.results import EpisodeConfig, Reasoned, Selected
from msjoe_jax.selectors.base import Selection, in_time_order
from msjoe_jax.selectors.filtered import FilterConfig
from msjoe_jax.text.prompts import QueryReply

B, I, J, K, Q, T = 2, 3, 2, 4, 2, 7
MASK = np.arange(T) < np.array([[7], [3]])


def selected(selection):
    rows = jnp.zeros((B, I, Q, T))
    return Selected(rows, jnp.ones((B, I, Q), bool), MASK, selection)


def test_queries_are_those_of_the_replies():
    replies = [[QueryReply((f"{b}{i}", "cup"), 2, True) for i in range(I)] for b in range(B)]
    queries = Reasoned(None, replies).queries
    assert queries == [[(f"{b}{i}", "cup") for i in range(I)] for b in range(B)]


def test_a_selectors_own_draw_and_logits_are_kept():
    draw = Draw(jnp.ones((B, I, J, K), int), jnp.ones((B, I, J, K), bool))
    logits = jnp.zeros((B, I, T))
    made = selected(Selection(np.ones((B, I, J, K), int), draw=draw, logits=logits))
    assert made.draw is draw and made.logits is logits


@given(st.integers(0, 2**31 - 1))
def test_chosen_frames_stand_for_a_draw(seed):
    """In time order it gives the frames back; absent ones are picks that are not valid, index 0."""
    rng = np.random.default_rng(seed)
    frames = np.sort(rng.integers(0, T, (B, I, J, K)), -1)
    count = rng.integers(0, K + 1, (B, I, J, 1))
    frames = np.where(np.arange(K) < count, frames, -1)
    draw = selected(Selection(frames)).draw
    np.testing.assert_array_equal(draw.valid, frames >= 0)
    np.testing.assert_array_equal(np.asarray(draw.indices)[frames < 0], 0)
    np.testing.assert_array_equal(in_time_order(draw), frames)


def test_without_logits_all_frames_are_alike():
    logits = selected(Selection(np.zeros((B, I, J, K), int))).logits
    assert logits.shape == (B, I, T) and logits.dtype == np.float32
    assert (logits[0] == 0).all()
    assert (logits[1, :, :3] == 0).all() and np.isneginf(logits[1, :, 3:]).all()


def test_an_episode_has_defaults_that_are_the_configs():
    config = EpisodeConfig(FrameConfig())
    assert (config.law, config.signals, config.smooth, config.filter, config.seed) == (
        "plackett_luce",
        ("clip",),
        5,
        FilterConfig(),
        0,
    )
