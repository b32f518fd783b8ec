"""The joint step's stub models and batches, and its objective in float64 loops."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from msjoe_jax.draws.draw import Draw
from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts
from msjoe_jax.rl.config import StepConfig
from msjoe_jax.rl.joint_step import make_joint_step, partition
from msjoe_jax.rl.objective import ModelFns

B, I, J, C, Q, T, K, D, V = 4, 3, 2, 5, 2, 6, 3, 3, 4
VALID_FRAMES = (6, 5, 3, 2)  # two questions have no choice of frames
# float32 sums of some hundred terms of size 1; a gradient is read off as a difference of
# parameters of size 1 (plain descent at rate 1).
TOLERANCE = 2e-6


# --- objectives of many options at once -----------------------------------------------------------

ROUTED = StepConfig(query_entropy=0.05, frame_entropy=0.1)
SHARED = StepConfig(
    credit="shared", advantage="group", aggregation="sequence-mean", frame_entropy=0.0
)
LATER = StepConfig(  # a second update on one batch, with a reference
    advantage="leave_one_out",
    sampler_advantage="counterfactual",
    likelihood="cb",
    aggregation="fixed-length",
    kl_coef=0.2,
    frame_kl_coef=0.3,
    overlong="mask",
    frame_entropy=0.1,
)

# --- stub models, small batch ---------------------------------------------------------------


def token_stats(mllm, prompts, visual, tokens):
    """Logits of position c: tanh(prompt + tower · visual + 0.3 c) @ head."""
    h = prompts["x"] + mllm["tower"]["scale"] * visual[:, None]
    h = jnp.tanh(h[:, :, None] + 0.3 * jnp.arange(C)[:, None])
    log_p = jax.nn.log_softmax(jnp.einsum("BGCD,DV->BGCV", h, mllm["head"]))
    entropy = -(jnp.exp(log_p) * log_p).sum(-1)
    wide = jnp.broadcast_to(log_p[:, :, None], (*tokens.shape, V))
    picked = jnp.take_along_axis(wide, tokens[..., None], -1)[..., 0]
    return picked, jnp.broadcast_to(entropy[:, :, None], tokens.shape)


def frame_logits(sampler, inputs):
    """φ = a · best + b · sum of squares over the rollout's queries."""
    similarity, query_mask, frame_mask, *_ = inputs
    both = query_mask[..., None] & frame_mask[:, None]
    best = jnp.where(both, similarity, -1.0).max(1)
    squares = (jnp.where(both, similarity, 0.0) ** 2).sum(1)
    return jnp.where(frame_mask, sampler["a"] * best + sampler["b"] * squares, -jnp.inf)


FNS = ModelFns(token_stats, token_stats, frame_logits)


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    f = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return {"head": f(D, V), "tower": {"scale": f(D)}}, {"a": f() * 3, "b": f() * 3}


def make_batch(seed=0):
    """Ragged, with NaN wherever a mask hides: log-probs after the end, unused similarities."""
    rng = np.random.default_rng(seed)

    def part(groups, samples):
        shape = (B, groups, samples, C)
        mask = np.arange(C) < rng.integers(1, C + 1, shape[:3])[..., None]
        return TokenRollouts(
            {"x": rng.normal(size=(B, groups, D)).astype(np.float32)},
            rng.normal(size=(B, D)).astype(np.float32),
            rng.integers(0, V, shape).astype(np.int32),
            mask,
            np.where(mask, rng.normal(size=shape), np.nan).astype(np.float32),
            rng.random(shape[:3]) < 0.7,
        )

    frame_mask = np.arange(T) < np.array(VALID_FRAMES)[:, None]
    query_mask = np.arange(Q) < rng.integers(1, Q + 1, (B, I))[..., None]
    similarity = rng.uniform(0.01, 0.9, (B, I, Q, T))
    shown = query_mask[..., None] & frame_mask[:, None, None]
    indices, valid = np.zeros((B, I, J, K), np.int32), np.zeros((B, I, J, K), bool)
    for b, i, j in np.ndindex(B, I, J):
        k = min(K, VALID_FRAMES[b])
        indices[b, i, j, :k], valid[b, i, j, :k] = rng.permutation(VALID_FRAMES[b])[:k], True
    bit = lambda *shape: rng.integers(0, 2, shape).astype(np.float32)  # noqa: E731
    return RolloutBatch(
        queries=part(1, I),
        answers=part(I * J, 1),
        similarity=np.where(shown, similarity, np.nan).astype(np.float32),
        query_mask=query_mask,
        frame_mask=frame_mask,
        draw=Draw(indices, valid),
        measures={
            "correct": bit(B, I, J),
            "answer_valid": bit(B, I, J),
            "query_valid": bit(B, I, 1),
            "parsed": bit(B, I, 1),
        },
        pass_rate=np.array([0.0, 0.3, 0.5, 0.95], np.float32),
        weight=np.ones(B, np.float32),
        importance=np.array([1, 0.5, 2, 1.5], np.float32),
    )


def poison(x, b):
    """Row b of a batch's array as bad as its type allows."""
    out = x.copy()
    if np.issubdtype(x.dtype, np.floating):
        out[b] = np.nan
    return out


def make_later_batch(seed=0):
    """With old and reference log-probs near those of the parameters, so that some ratios clip."""
    rng = np.random.default_rng(seed + 100)
    batch, (mllm, sampler) = make_batch(seed), make_params()

    def near(part, spread):
        log_p, _ = token_stats(mllm, part.prompts, part.visual, part.tokens)
        noisy = np.asarray(log_p) + rng.normal(size=part.tokens.shape) * spread
        return np.where(part.mask, noisy, np.nan).astype(np.float32)

    def more(part):
        return part._replace(old_log_probs=near(part, 0.3), ref_log_probs=near(part, 0.5))

    drawn = np.array(draw_log_probs(LATER.likelihood, batch, sampler))
    batch = batch._replace(
        queries=more(batch.queries),
        answers=more(batch.answers),
        old_draw_log_probs=(drawn + rng.normal(size=drawn.shape) * 0.3).astype(np.float32),
        ref_draw_log_probs=(drawn + rng.normal(size=drawn.shape) * 0.5).astype(np.float32),
    )
    return measured(batch, counterfactual=rng.integers(0, 2, (B, 1, 1)).astype(np.float32))


def measured(batch, **measures):
    """The batch with some of its measures replaced."""
    return batch._replace(measures=batch.measures | measures)


STEPS: dict[Any, tuple] = {}


def step_of(config, optimizer="descent", trainable="", fns=FNS):
    """(jitted step, optimizer maker), compiled once for each config."""
    name = repr((config, optimizer, trainable, fns))
    if name not in STEPS:
        STEPS[name] = make_step_of(config, optimizer, trainable, fns)
    return STEPS[name]


def make_step_of(config, optimizer, trainable, models):
    make = {
        "descent": lambda: optax.sgd(1.0),
        "adam": lambda: optax.adam(0.1),
        "decay": lambda: optax.adamw(0.1, weight_decay=0.5),
    }[optimizer]
    fns = (make_joint_step(config, models, make(), make(), trainable), make)
    return jax.jit(fns[0]), make


def run(config, batch, optimizer="descent", trainable="", state=None, fns=FNS):
    """(state before, state after, metrics) of one update."""
    step, make = step_of(config, optimizer, trainable, fns)
    if state is None:
        mllm, sampler = make_params()
        state = {
            "mllm": mllm,
            "sampler": sampler,
            "mllm_opt": make().init(partition(mllm, trainable)[0]),
            "sampler_opt": make().init(sampler),
            "step": jnp.int32(0),
            "skipped": jnp.int32(0),
        }
    after, metrics = step(state, batch)
    return state, jax.tree.map(np.asarray, after), {k: float(v) for k, v in metrics.items()}


def gradients(config, batch, fns=FNS):
    """Gradients of both models, read off plain descent at rate 1."""
    before, after, metrics = run(config, batch, fns=fns)
    move = lambda name: jax.tree.map(lambda a, b: a - b, before[name], after[name])  # noqa: E731
    return {"mllm": move("mllm"), "sampler": move("sampler")}, metrics


# --- the oracle: float64, one question and token at a time ------------------------------------


def oracle_advantages(config, batch):
    """({part: [B, I] or [B, I, J]}, total reward [B, I, J], info [B, I])."""
    info, parsed = np.zeros((B, I)), batch.measures["parsed"]
    for b, i in np.ndindex(B, I):
        rows = [batch.similarity[b, i, q, : VALID_FRAMES[b]] for q in range(Q)]
        rows = [row.astype(float) for q, row in enumerate(rows) if batch.query_mask[b, i, q]]
        if config.info_kind == "ratio":
            peaked = [max(row.max(), 1e-3) / max(row.min(), 1e-3) for row in rows]
        else:
            peaked = [(row.max() - row.mean()) / row.std() for row in rows]
        info[b, i] = np.mean([p > config.info_threshold for p in peaked]) * parsed[b, i, 0]
    wa, wf, wi = (config.rewards.get(name, 0.0) for name in ("accuracy", "format", "info"))
    correct, valid = batch.measures["correct"], batch.measures["answer_valid"]
    total, own = np.zeros((B, I, J)), np.zeros((B, I, J))
    for b, i, j in np.ndindex(B, I, J):
        right, answer_ok = correct[b, i, j], valid[b, i, j]
        both = batch.measures["query_valid"][b, i, 0] * answer_ok
        total[b, i, j] = wa * right + wf * both + wi * info[b, i]
        own[b, i, j] = wa * right + wf * answer_ok
    ask = total.copy()
    if config.overlong == "penalty":
        for b, i, j in np.ndindex(B, I, J):

            def cost(part, g, s, b=b):
                free = C - config.overlong_buffer
                over = (part.mask[b, g, s].sum() - free) / config.overlong_buffer
                return config.overlong_penalty * min(max(over, 0), 1)

            long_query, long_answer = cost(batch.queries, 0, i), cost(batch.answers, i * J + j, 0)
            total[b, i, j] -= long_query + long_answer
            ask[b, i, j] -= long_query
            own[b, i, j] -= long_answer
    routed = config.credit == "routed"
    paid = {
        "query": ask if routed else total,
        "answer": own if routed else total,
        "draw": correct.astype(float) if routed else total,
    }
    out = {}
    for part, reward in paid.items():
        advantage = np.zeros((B, I, J))
        for b in range(B):
            r = reward[b]
            for i, j in np.ndindex(I, J):
                others = [r[x] for x in np.ndindex(I, J) if x != (i, j)]
                if config.advantage == "group":
                    spread = r.std(ddof=1) + 1e-4 if config.advantage_std == "group" else 1.0
                    advantage[b, i, j] = (r[i, j] - r.mean()) / spread
                elif part == "query":
                    rest = np.mean([r[x].mean() for x in range(I) if x != i])
                    advantage[b, i, j] = r[i].mean() - rest
                elif config.advantage == "leave_one_out":
                    advantage[b, i, j] = r[i, j] - np.mean(others)
                else:
                    siblings = np.mean([r[i, x] for x in range(J) if x != j])
                    advantage[b, i, j] = r[i, j] - (siblings + np.mean(others)) / 2
        out[part] = advantage.mean(-1) if part == "query" else advantage
    if config.sampler_advantage == "raw":
        out["draw"] = paid["draw"]
    if config.sampler_advantage == "difficulty":
        for b, i, j in np.ndindex(B, I, J):
            c, right = float(batch.pass_rate[b]), correct[b, i, j]
            c = min(max(c, 0.1), 0.9)
            value = 1 / c if right else -1 / (1 - c)
            out["draw"][b, i, j] = 0.0 if batch.pass_rate[b] == 0 and not right else value
    if config.sampler_advantage == "counterfactual":
        out["draw"] = correct - batch.measures["counterfactual"].astype(float)
    for part, advantage in out.items():
        shape = (B,) + (1,) * (advantage.ndim - 1)
        out[part] = advantage * batch.importance.reshape(shape)
    return out, total, info


def logits_of(batch, sampler, b, i):
    rows = [
        batch.similarity[b, i, q, : VALID_FRAMES[b]] for q in range(Q) if batch.query_mask[b, i, q]
    ]
    s = np.array(rows, float)
    return sampler["a"] * s.max(0) + sampler["b"] * (s**2).sum(0)


def log_of_sets(phi):
    """Log-probability of each set of K frames, by enumeration, before the common constant."""
    return np.array([phi[list(c)].sum() for c in itertools.combinations(range(len(phi)), K)])


def draw_log_probs(likelihood, batch, sampler):
    """Of every draw, [B, I, J]; 0 where there was no choice."""
    out = np.zeros((B, I, J))
    for b, i, j in np.ndindex(B, I, J):
        if VALID_FRAMES[b] <= K or batch.weight[b] == 0:
            continue
        phi, chosen = logits_of(batch, sampler, b, i), batch.draw.indices[b, i, j]
        if likelihood == "cb":
            out[b, i, j] = phi[chosen].sum() - np.log(np.exp(log_of_sets(phi)).sum())
            continue
        left = list(range(VALID_FRAMES[b]))
        for f in chosen:
            out[b, i, j] += phi[f] - np.log(np.exp(phi[left]).sum())
            if likelihood == "plackett_luce":
                left.remove(f)
    return out


def oracle_losses(config, batch, advantages, now, start):
    """(MLLM loss, sampler loss) at parameters `now` that differ from those that sampled."""
    (mllm, sampler), (mllm_0, sampler_0) = now, start
    asked = [b for b in range(B) if batch.weight[b] > 0]
    silent = [
        config.mask_silent and not any(advantages[part][b].any() for part in advantages)
        for b in range(B)
    ]

    def log_softmax(p, part, b, g, c):
        h = part.prompts["x"][b, g].astype(float) + p["tower"]["scale"] * part.visual[b]
        z = np.tanh(h + 0.3 * c) @ p["head"]
        return z - np.log(np.exp(z).sum())

    mllm_loss, entropies, token_count = 0.0, [], 0
    for name, part in (("query", batch.queries), ("answer", batch.answers)):
        means, flat = [], []
        for b in asked:
            for g, s in np.ndindex(part.tokens.shape[1:3]):
                if config.overlong == "mask" and not part.finished[b, g, s]:
                    continue
                a = advantages[name][b].reshape(-1)[max(g, s)]
                terms, log_ratios, kls = [], [], []
                for c in range(int(part.mask[b, g, s].sum())):
                    token = part.tokens[b, g, s, c]
                    now = log_softmax(mllm, part, b, g, c)
                    old = log_softmax(mllm_0, part, b, g, c)[token]
                    if part.old_log_probs is not None:
                        old = float(part.old_log_probs[b, g, s, c])
                    log_ratios.append(now[token] - old)
                    if config.kl_coef and not silent[b]:
                        u = float(part.ref_log_probs[b, g, s, c]) - now[token]
                        value = {"k1": -u, "k2": u * u / 2, "k3": math.exp(u) - u - 1}
                        kls.append(value[config.kl_kind])
                    if name == "query":
                        entropies.append(-(np.exp(now) * now).sum() * (not silent[b]))
                if config.ratio == "sequence":
                    log_ratios = [np.mean(log_ratios)] * len(log_ratios)
                for c, rho in enumerate(np.exp(log_ratios)):
                    low, high = 1 - config.clip_low, 1 + config.clip_high
                    terms.append(-min(rho * a, min(max(rho, low), high) * a))
                    if kls:
                        terms[-1] += config.kl_coef * kls[c]
                means.append(np.mean(terms))
                flat += terms * (J if name == "query" else 1)
        token_count += len(flat)
        mllm_loss += {
            "token-mean": sum(flat),
            "sequence-mean": np.mean(means),
            "fixed-length": sum(flat) / (len(means) * (J if name == "query" else 1) * 2 * C),
        }[config.aggregation]
    if config.aggregation == "token-mean":
        mllm_loss /= token_count
    mllm_loss -= config.query_entropy * np.mean(entropies)

    log_ps = draw_log_probs(config.likelihood, batch, sampler)
    old_ps = draw_log_probs(config.likelihood, batch, sampler_0)
    if batch.old_draw_log_probs is not None:
        old_ps = batch.old_draw_log_probs
    terms, frame_entropies = [], []
    for b in asked:
        choice = VALID_FRAMES[b] > K
        for i in range(I):
            phi = logits_of(batch, sampler, b, i)
            p = np.exp(phi) / np.exp(phi).sum()
            if config.likelihood == "cb" and choice:
                p = np.exp(log_of_sets(phi)) / np.exp(log_of_sets(phi)).sum()
            frame_entropies.append(-(p * np.log(p)).sum() * choice * (not silent[b]))
            for j in range(J):
                a, rho = advantages["draw"][b, i, j], np.exp(log_ps[b, i, j] - old_ps[b, i, j])
                low, high = 1 - config.frame_clip_low, 1 + config.frame_clip_high
                term = -min(rho * a, min(max(rho, low), high) * a)
                if config.frame_kl_coef and not silent[b]:
                    u = float(batch.ref_draw_log_probs[b, i, j]) - log_ps[b, i, j]
                    value = {"k1": -u, "k2": u * u / 2, "k3": math.exp(u) - u - 1}
                    term += config.frame_kl_coef * value[config.kl_kind]
                terms.append(term * choice)
    sampler_loss = np.mean(terms) - config.frame_entropy * np.mean(frame_entropies)
    return mllm_loss, sampler_loss


def oracle_gradients(config, batch):
    """Central differences of the oracle in every parameter; their error is about 1e-9."""
    advantages, *_ = oracle_advantages(config, batch)
    mllm, sampler = jax.tree.map(lambda x: np.asarray(x, np.float64), make_params())
    flat, treedef = jax.tree.flatten((mllm, sampler))

    def value(leaf, index, eps):
        moved = [x.copy() for x in flat]
        moved[leaf][index] += eps
        return oracle_losses(
            config, batch, advantages, jax.tree.unflatten(treedef, moved), (mllm, sampler)
        )

    grads = [np.zeros_like(x) for x in flat]
    for leaf, x in enumerate(flat):
        for index in np.ndindex(x.shape):
            up, down = value(leaf, index, 1e-5), value(leaf, index, -1e-5)
            grads[leaf][index] = (sum(up) - sum(down)) / 2e-5
    grads = dict(zip(("mllm", "sampler"), jax.tree.unflatten(treedef, grads), strict=True))
    return grads, oracle_losses(config, batch, advantages, (mllm, sampler), (mllm, sampler))


def close(actual, expected, tolerance=TOLERANCE):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance),
        actual,
        expected,
    )


def same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
