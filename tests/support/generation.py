"""A small model with loud weights, ragged prompts, and a decoder in NumPy to compare with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from msjoe_jax.models.params import abstract
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig, VisionConfig
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.rollout.generate import Prompts, Sampling, completion_log_probs, generate

VOCAB, D, LAYERS, N, M, H = 40, 32, 2, 4, 2, 8
BANNED, ENDS, TEMPERATURE = (2, 3), (5, 6, 7, 8, 9, 10), 0.7
SAMPLING = Sampling(6, ENDS, BANNED, TEMPERATURE)
B, G, S, n, C, U = 2, 2, 9, 3, 6, 5
TEXT = TextConfig(VOCAB, D, LAYERS, N, M, 48, (1, 1, 2), rope_theta=100.0)
VISION = VisionConfig(1, 8, 2, 8, D, (0,))
# float32 through two layers, logits of size 3: rounding is some 1e-6 a log-prob, and between two
# ways to compute it up to 1.05e-5, by the CPU.
TOLERANCE = 3e-5


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


@functools.partial(jax.jit, static_argnames="sampling")
def sample(prompts, features, keys, sampling=SAMPLING):
    return generate(nnx.merge(GRAPHDEF, PARAMS), prompts, features, keys, sampling)


@jax.jit
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
