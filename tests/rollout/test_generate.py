"""Sampling and scoring completions: one distribution, whatever shares, pads or surrounds them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from msjoe_jax.models.params import abstract
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.language import LanguageModel
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.rollout.generate import Prompts, Sampling
from tests.support.generation import (
    BANNED,
    ENDS,
    FEATURES,
    KEYS,
    LAYERS,
    PROMPTS,
    TEMPERATURE,
    TEXT,
    TOLERANCE,
    VISION,
    VOCAB,
    B,
    C,
    D,
    G,
    H,
    M,
    S,
    U,
    make_prompts,
    n,
    oracle_log_softmax,
    oracle_logits,
    rows,
    sample,
    sampled,
    score_and_gradient,
    scored,
)

pytestmark = pytest.mark.slow


# --- sampling and scoring agree -----------------------------------------------------------------


def test_decoding_and_scoring_report_the_oracles_log_probs():
    done, ((log_p, entropy), _) = sampled(), scored()
    np.testing.assert_allclose(log_p[done.mask], done.log_probs[done.mask], atol=TOLERANCE)
    for b, g, j, length in rows(done):
        tokens = done.tokens[b, g, j, :length]
        want = oracle_log_softmax(oracle_logits(b, g, tokens), TEMPERATURE)
        picked = want[np.arange(length), tokens]
        np.testing.assert_allclose(done.log_probs[b, g, j, :length], picked, atol=TOLERANCE)
        p = np.exp(want)
        want_entropy = -(p * np.where(p > 0, want, 0)).sum(-1)
        np.testing.assert_allclose(entropy[b, g, j, :length], want_entropy, atol=TOLERANCE)


def test_greedy_is_the_argmax_of_full_forwards():
    done = jax.tree.map(np.asarray, sample(PROMPTS, FEATURES, KEYS[:, :, :1], GREEDY))
    for b, g, _, length in rows(done):
        tokens = done.tokens[b, g, 0, :length]
        want = oracle_log_softmax(oracle_logits(b, g, tokens), 1.0)
        np.testing.assert_array_equal(tokens, want.argmax(-1))
        np.testing.assert_allclose(done.log_probs[b, g, 0, :length], want.max(-1), atol=TOLERANCE)


GREEDY = Sampling(C, ENDS, BANNED, 0.0)


def test_sharing_a_prompt_equals_repeating_it_with_more_padding():
    again = Prompts(*(np.repeat(x, n, 1) for x in make_prompts(pad=4)[0]))
    out = sample(again, FEATURES, KEYS.reshape(B, G * n, 1))
    done = sampled()
    np.testing.assert_array_equal(out.tokens.reshape(done.tokens.shape), done.tokens)
    np.testing.assert_array_equal(out.mask.reshape(done.mask.shape), done.mask)
    got = np.asarray(out.log_probs).reshape(done.log_probs.shape)
    np.testing.assert_allclose(got, done.log_probs, atol=TOLERANCE)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_unused_features_and_padding_change_nothing(poison):
    """Forward and gradient, with padded tokens that even point at the poisoned features."""
    done, (before, grads) = sampled(), scored()
    used = np.zeros((B, U), bool)
    for b, g, i in np.ndindex(B, G, S):
        if PROMPTS.feature_index[b, g, i] >= 0:
            used[b, PROMPTS.feature_index[b, g, i]] = True
    assert used.any() and not used.all(1).any()
    features = np.where(used[..., None], FEATURES, poison).astype(np.float32)
    pad = PROMPTS.segments == 0
    prompts = PROMPTS._replace(
        tokens=np.where(pad, 17, PROMPTS.tokens),
        feature_index=np.where(pad, U - 1, PROMPTS.feature_index),
        positions=np.where(pad[:, :, None], 10**6, PROMPTS.positions),
    )
    # What follows the end of a completion is padding too.
    tokens = np.where(done.mask, done.tokens, 23)
    after, (d_params, d_features) = score_and_gradient(prompts, features, tokens, done.mask)
    for new, old in zip(after, before, strict=True):
        np.testing.assert_array_equal(np.asarray(new)[done.mask], old[done.mask])
    jax.tree.map(np.testing.assert_array_equal, d_params, grads[0])
    np.testing.assert_array_equal(d_features, grads[1])
    assert not np.asarray(d_features)[~used].any() and np.asarray(d_features)[used].all()
    out = sample(prompts, features, KEYS)
    np.testing.assert_array_equal(out.tokens, done.tokens)
    np.testing.assert_array_equal(out.log_probs, done.log_probs)


def test_a_completion_depends_on_its_own_key_only():
    done, order = sampled(), np.array([2, 0, 1])
    out = sample(PROMPTS, FEATURES, KEYS[:, :, order])
    np.testing.assert_array_equal(out.tokens, done.tokens[:, :, order])
    np.testing.assert_allclose(out.log_probs, done.log_probs[:, :, order], atol=TOLERANCE)
    turned = sample(Prompts(*(x[::-1] for x in PROMPTS)), FEATURES[::-1], KEYS[::-1])
    np.testing.assert_array_equal(turned.tokens, done.tokens[::-1])
    others = jax.random.split(jax.random.key(9), (B, G, n)).at[0, 1, 2].set(KEYS[0, 1, 2])
    out = sample(PROMPTS, FEATURES, others)
    np.testing.assert_array_equal(out.tokens[0, 1, 2], done.tokens[0, 1, 2])
    assert (np.asarray(out.tokens) != done.tokens).any()


# --- ends, bans, frequencies --------------------------------------------------------------------


def test_the_end_token_counts_once_and_nothing_follows():
    done = sampled()
    for b, g, j, length in rows(done):
        tokens, ended = done.tokens[b, g, j], np.isin(done.tokens[b, g, j], ENDS)
        first = int(ended.argmax()) + 1 if ended.any() else C
        assert length == first and done.finished[b, g, j] == ended.any()
        np.testing.assert_array_equal(done.mask[b, g, j], np.arange(C) < first)
        assert not tokens[first:].any() and not done.log_probs[b, g, j, first:].any()
    lengths = done.mask.sum(-1)
    assert lengths.min() < C and not done.finished.all()  # both kinds were seen


@pytest.mark.parametrize("ends", [ENDS, (0, *ENDS)], ids=["plain", "padding_ends"])
def test_completions_of_every_length_end(ends):
    """The end token has a log-prob at each place, as the padding id too; what follows is 0."""
    sampling, examples, zeros = Sampling(C, ends, BANNED, TEMPERATURE), {}, set()
    for seed in (1, 2):
        keys = jax.random.split(jax.random.key(seed), (B, G, n))
        done = jax.tree.map(np.asarray, sample(PROMPTS, FEATURES, keys, sampling))
        (log_p, _), _ = score_and_gradient(PROMPTS, FEATURES, done.tokens, done.mask)
        np.testing.assert_allclose(log_p * done.mask, done.log_probs, atol=TOLERANCE)
        for b, g, j, length in rows(done):
            tokens, log_probs = done.tokens[b, g, j], done.log_probs[b, g, j]
            np.testing.assert_array_equal(done.mask[b, g, j], np.arange(C) < length)
            assert not np.isin(tokens[: length - 1], ends).any()
            assert np.isin(tokens[length - 1], ends) == done.finished[b, g, j]
            assert done.finished[b, g, j] or length == C
            assert (log_probs[:length] < 0).all() and not tokens[length:].any()
            if done.finished[b, g, j]:
                examples[length] = b, g, tokens[:length], log_probs[:length]
                zeros |= {length} if tokens[length - 1] == 0 else set()
    assert set(examples) == set(range(1, C + 1))
    assert len(zeros) == 3 if 0 in ends else not zeros
    for b, g, tokens, log_probs in examples.values():
        want = oracle_log_softmax(oracle_logits(b, g, tokens), TEMPERATURE)
        picked = want[np.arange(len(tokens)), tokens]
        np.testing.assert_allclose(log_probs, picked, atol=TOLERANCE)


def test_a_group_shares_its_prompts_cache():
    """Compiled memory, of which a copied cache would take 7 more for 8 completions."""
    length, shape = 2048, jax.ShapeDtypeStruct
    prompt_cache = 2 * LAYERS * length * M * H * 4

    def temporaries(count):
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (1, 1, count)))
        row, one = shape((1, 1, length), jnp.int32), shape((1, 1), jnp.int32)
        places = shape((1, 1, 3, length), jnp.int32)
        prompts = Prompts(row, row, places, row, one, one)
        features = shape((1, U, D), jnp.float32)
        compiled = sample.lower(prompts, features, keys, Sampling(8, ENDS, BANNED, 1.0)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    one = temporaries(1)
    assert one > prompt_cache  # it is counted
    assert temporaries(8) - one < 0.5 * prompt_cache  # measured: 0.03


def test_logits_of_the_whole_vocabulary_never_exist():
    """Compiled memory of scoring with its gradient, against [B, L, V] floats: 134 MB here."""
    vocab, length, group = 32768, 64, 16
    text = dataclasses.replace(TEXT, vocab=vocab)
    config = QwenConfig(text, VISION, *BANNED, 0, 1)
    graphdef, shapes = abstract(lambda: QwenVL(config, rngs=nnx.Rngs(0), remat=True))

    def temporaries(chunk):
        @jax.jit
        def gradient(params, h, targets):
            def loss(params, h):
                language = nnx.merge(graphdef, params).language
                banned = jnp.zeros(vocab, bool)
                return language.log_probs(h, targets, banned=banned, chunk=chunk)[0].sum()

            return jax.grad(loss, (0, 1))(params, h)

        h = jax.ShapeDtypeStruct((1, group, length, D), jnp.float32)
        targets = jax.ShapeDtypeStruct((1, group, length), jnp.int32)
        return gradient.lower(shapes, h, targets).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * group * length * vocab
    assert temporaries(vocab) > logits  # it is counted
    assert temporaries(vocab // 64) < logits / 4


def test_decoding_stops_when_all_have_ended(monkeypatch):
    steps, plain = [], LanguageModel.decode_step

    def counted(self, *args):
        jax.debug.callback(lambda: steps.append(1))
        return plain(self, *args)

    monkeypatch.setattr(LanguageModel, "decode_step", counted)
    long = Sampling(64, tuple(range(4, 22)), BANNED, 1.0)
    out = sample(PROMPTS, FEATURES, KEYS, long)
    jax.effects_barrier()
    assert out.finished.all() and len(steps) == out.mask.sum(-1).max() < 64


def test_banned_ids_have_no_probability():
    done = sampled()
    assert not np.isin(done.tokens, BANNED).any()
    tokens, mask = done.tokens.copy(), np.ones_like(done.mask)
    total = np.zeros((B, G, n))
    for token in range(VOCAB):  # of the first position, under any choice there
        tokens[..., 0] = token
        (log_p, _), grads = score_and_gradient(PROMPTS, FEATURES, tokens, mask)
        p = np.exp(np.asarray(log_p)[..., 0], dtype=np.float64)
        assert (p == 0).all() if token in BANNED else (p > 0).any()
        total += p
    np.testing.assert_allclose(total, 1, atol=TOLERANCE)
    assert not np.asarray(grads[0]["head"])[list(BANNED)].any()


def test_tokens_come_with_their_probabilities():
    """Chi-square of 4 000 first tokens against the oracle's softmax at TEMPERATURE."""
    count = 4000
    one = Prompts(*(x[:1, :1] for x in PROMPTS))
    keys = jax.random.split(jax.random.key(5), (1, 1, count))
    tokens = sample(one, FEATURES[:1], keys, Sampling(1, ENDS, BANNED, TEMPERATURE)).tokens
    seen = np.bincount(np.asarray(tokens).ravel(), minlength=VOCAB)
    p = np.exp(oracle_log_softmax(oracle_logits(0, 0, [0]), TEMPERATURE))[0]
    common = p * count >= 5
    assert common.sum() >= 5
    observed = np.append(seen[common], seen[~common].sum())
    expected = np.append(p[common], p[~common].sum()) * count
    # Fixed keys: the outcome is fixed too; a wrong temperature gives p below 1e-100.
    assert stats.chisquare(observed, expected * count / expected.sum()).pvalue > 1e-3
