"""Sampling and scoring completions: one distribution, whatever shares, pads or surrounds them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from msjoe_jax.models.params import abstract
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig
from msjoe_jax.models.qwen2_5_vl.language import LanguageModel
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.rollout.generate import (
    Prompts,
    Sampling,
    completion_log_probs,
    generate,
    narrowed,
)
from tests.support import torch_stubs

pytestmark = pytest.mark.slow

VOCAB, D, LAYERS, N, M, H = 40, 32, 2, 4, 2, 8
BANNED, ENDS, TEMPERATURE = (2, 3), (5, 6, 7, 8, 9, 10), 0.7
SAMPLING = Sampling(6, ENDS, BANNED, TEMPERATURE)
B, G, S, n, C, U = 2, 2, 9, 3, 6, 5
TEXT = TextConfig(VOCAB, D, LAYERS, N, M, 48, (1, 1, 2), rope_theta=100.0)
VISION = VisionConfig(1, 8, 2, 8, D, (0,))
# float32 through two layers, logits of size 3: rounding is about 1e-6 a log-prob.
TOLERANCE = 1e-5


def make_model():
    """(definition, parameters) with every weight random and large, biases and scales included.

    The heads of the banned ids are opposite and huge: unbanned, one of them would always win.
    """
    config = QwenConfig(TEXT, VISION, *BANNED, 0, 1)
    # Four queries at a time: prompts of S tokens take the chunked path.
    graphdef, params = abstract(lambda: QwenVL(config, rngs=nnx.Rngs(0), chunk=4))
    rng = np.random.default_rng(0)

    def leaf(path, x):
        name = jax.tree_util.keystr(path)
        scale = 0.3 if "layers" in name else 0.4 if "head" in name else 1.0
        value = rng.normal(size=x.shape) * scale + ("scale" in name)
        return jnp.asarray(value, jnp.float32)

    params = jax.tree_util.tree_map_with_path(leaf, params)
    loud = 50 * params["language"]["head"][0]
    params["language"]["head"] = (
        params["language"]["head"].at[jnp.array(BANNED)].set(jnp.stack([loud, -loud]))
    )
    return graphdef, params


GRAPHDEF, PARAMS = make_model()
KEYS = jax.vmap(lambda k: jax.random.split(k, (G, n)))(jax.random.split(jax.random.key(1), B))


def make_prompts(pad=0):
    """B × G ragged prompts, padded to S + pad, in which some tokens are frame features."""
    rng = np.random.default_rng(3)
    lengths = np.array([[9, 4], [7, 1]])
    tokens = rng.integers(11, VOCAB, (B, G, S))
    index = np.where(rng.random((B, G, S)) < 0.4, rng.integers(0, U - 2, (B, G, S)), -1)
    positions = np.cumsum(rng.integers(0, 3, (B, G, 3, S)), -1)
    real = np.arange(S) < lengths[..., None]
    wide = lambda x, fill=0: np.pad(  # noqa: E731
        x, [(0, 0)] * (x.ndim - 1) + [(0, pad)], constant_values=fill
    )
    prompts = Prompts(
        wide(np.where(real, tokens, 0)),
        wide(np.where(real, index, -1), -1),
        wide(np.where(real[:, :, None], positions, 0)),
        wide(real.astype(int)),
        rng.integers(11, VOCAB, (B, G)),
        lengths + 3,
    )
    features = rng.normal(size=(B, U, D)).astype(np.float32)
    return Prompts(*(x.astype(np.int32) for x in prompts)), features


PROMPTS, FEATURES = make_prompts()


# A fraction of the compile time, which is nearly all the time of this file.
FAST = {"xla_backend_optimization_level": "0"}


@functools.partial(jax.jit, static_argnames="sampling", compiler_options=FAST)
def sample(prompts, features, keys, sampling=SAMPLING):
    return generate(nnx.merge(GRAPHDEF, PARAMS), prompts, features, keys, sampling)


@functools.partial(jax.jit, compiler_options=FAST)
def score_and_gradient(prompts, features, tokens, mask):
    """((log-probs, entropies), gradients in parameters and features) under TEMPERATURE."""

    def loss(language, features):
        model = nnx.merge(GRAPHDEF, PARAMS | {"language": language})
        log_p, entropy = completion_log_probs(
            model, prompts, features, tokens, banned_ids=BANNED, temperature=TEMPERATURE, chunk=9
        )
        return jnp.where(mask, log_p + 0.3 * entropy, 0).sum(), (log_p, entropy)

    grads, out = jax.grad(loss, (0, 1), has_aux=True)(PARAMS["language"], features)
    return out, grads


@functools.cache
def sampled():
    return jax.tree.map(np.asarray, sample(PROMPTS, FEATURES, KEYS))


@functools.cache
def scored():
    done = sampled()
    out = score_and_gradient(PROMPTS, FEATURES, done.tokens, done.mask)
    return jax.tree.map(np.asarray, out)


# --- a decoder in float64 NumPy: no cache, no chunks, one row at a time -------------------------


def oracle_logits(b, g, completion):
    """Logits [C, V] that predict each token of a completion, from the whole text so far."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), PARAMS["language"])
    real = PROMPTS.segments[b, g] > 0
    index = PROMPTS.feature_index[b, g][real]
    x = p["embedding"][PROMPTS.tokens[b, g][real]]
    x[index >= 0] = FEATURES[b][index[index >= 0]]
    more = [int(PROMPTS.first_token[b, g]), *completion[:-1]]
    x = np.concatenate([x, p["embedding"][more]])
    tail = PROMPTS.start[b, g] + np.arange(len(more))
    places = np.concatenate([PROMPTS.positions[b, g][:, real], np.stack([tail] * 3)], 1)  # [3, L]
    L = len(x)

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + TEXT.norm_eps) * scale

    def rotate(x):  # [L, heads, H], frequency f on the axis 0, 1, 2, 2
        out = np.empty_like(x)
        for f, axis in enumerate((0, 1, 2, 2)):
            angle = (places[axis] * TEXT.rope_theta ** (-f / (H // 2)))[:, None]
            a, b = x[..., f], x[..., f + H // 2]
            out[..., f] = a * np.cos(angle) - b * np.sin(angle)
            out[..., f + H // 2] = b * np.cos(angle) + a * np.sin(angle)
        return out

    for y in range(LAYERS):
        w = jax.tree.map(lambda leaf, y=y: leaf[y], p["layers"])
        h = norm(x, w["input_norm"]["scale"])
        q = rotate(np.einsum("ld,dnh->lnh", h, w["q"]) + w["q_bias"])
        k = rotate(np.einsum("ld,dnh->lnh", h, w["k"]) + w["k_bias"])
        v = np.einsum("ld,dnh->lnh", h, w["v"]) + w["v_bias"]
        out = np.zeros_like(q)
        for i in range(L):
            for head in range(N):
                own = head // (N // M)
                s = k[: i + 1, own] @ q[i, head] / np.sqrt(H)
                e = np.exp(s - s.max())
                out[i, head] = e / e.sum() @ v[: i + 1, own]
        x = x + np.einsum("lnh,nhd->ld", out, w["o"])
        h = norm(x, w["post_norm"]["scale"])
        gate = h @ w["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["up"])) @ w["down"]
    return norm(x, p["norm"]["scale"])[L - len(more) :] @ p["head"].T


def oracle_log_softmax(logits, temperature):
    allowed = np.delete(np.arange(VOCAB), BANNED)
    out = np.full(logits.shape, -np.inf)
    z = logits[:, allowed] / temperature
    z = z - z.max(-1, keepdims=True)
    out[:, allowed] = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return out


def rows(done):
    """(b, g, j, length) of every completion."""
    for b, g, j in np.ndindex(done.tokens.shape[:3]):
        yield b, g, j, int(done.mask[b, g, j].sum())


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
        @functools.partial(jax.jit, compiler_options=FAST)
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
