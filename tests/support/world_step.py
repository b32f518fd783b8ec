"""The expected update of a small world by the package's own joint step, on every group's batch.

The models are the world's tables: the log-probability of a token is that of the replies that go on
with it among those that begin alike, so that a reply's tokens add up to its row of the table.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from msjoe_jax.draws.draw import FLOOR, Draw
from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts
from msjoe_jax.rl.config import StepConfig
from msjoe_jax.rl.joint_step import make_joint_step
from msjoe_jax.rl.objective import ModelFns
from tests.support.expected_update import Setting, units_of
from tests.support.small_world import Array, Parts, World

CHUNK = 1 << 14  # groups at a time


def replies(lengths: Array) -> Array:
    """Tokens of every reply, −1 after its end: n ones, a zero, and then whatever fills it up."""
    assert all(length > n for n, length in enumerate(lengths))
    place, n = np.arange(max(lengths)), np.arange(len(lengths))[:, None]
    tokens = np.where(place < n, 1, np.where(place == n, 0, 2))
    return np.where(place < np.array(lengths)[:, None], tokens, -1)


def token_log_probs(logits: jax.Array, tokens: jax.Array, table: Array) -> jax.Array:
    """Log-probs [..., C] of tokens under logits [..., R] of replies; after the end anything."""
    same = tokens[..., None] == table.T  # [..., C, R]
    after = jnp.cumprod(same, -2, dtype=jnp.int32) == 1
    before = jnp.concatenate([jnp.ones_like(after[..., :1, :]), after[..., :-1, :]], -2)

    def log_mass(of: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(jnp.where(of, logits[..., None, :], FLOOR), -1)

    return log_mass(after) - log_mass(before)


def model_fns(world: World) -> ModelFns:
    """The tables of questions of this one's sizes as models."""
    queries, answers = replies(world.query_lengths), replies(world.answer_lengths)

    def query_stats(mllm, prompts, visual, tokens):
        out = token_log_probs(mllm["query"][:, None, None], tokens, queries)
        return out, jnp.zeros_like(out)

    def answer_stats(mllm, prompts, visual, tokens):
        logits = jnp.take_along_axis(mllm["answer"], prompts[..., None], 1)
        out = token_log_probs(logits[:, :, None], tokens, answers)
        return out, jnp.zeros_like(out)

    def frame_logits(sampler, inputs):
        reply = inputs.query_mask.sum(-1) - 1  # reply n holds n + 1 queries
        question = jnp.arange(len(reply)) // (len(reply) // len(sampler))
        return sampler[question, reply]

    return ModelFns(query_stats, answer_stats, frame_logits)


def batch_maker(
    worlds: Sequence[World], setting: Setting
) -> Callable[[jax.Array, jax.Array], RolloutBatch]:
    """Makes (outcome of each rollout [B, I], answer from uniform frames [B]) → batch."""
    size, num_draws = setting.query_rollouts, setting.frame_draws
    num = len(worlds)
    units = [units_of(world, setting.likelihood, num_draws) for world in worlds]

    def completions(lengths: Array, reply: jax.Array) -> TokenRollouts:
        tokens = jnp.asarray(replies(lengths))[reply]
        ended = tokens < 0
        tokens, nothing = jnp.where(ended, 0, tokens), jnp.zeros(tokens.shape)
        return TokenRollouts(None, None, tokens, ~ended, nothing, jnp.ones(reply.shape, bool))

    def make(group: jax.Array, uniform: jax.Array) -> RolloutBatch:
        def pick(name: str) -> jax.Array:
            columns = zip(units, group, strict=True)
            return jnp.stack([jnp.asarray(getattr(u, name))[g] for u, g in columns])

        def look_up(name: str, *place: jax.Array) -> jax.Array:
            table = jnp.stack([jnp.asarray(getattr(w, name), jnp.float32) for w in worlds])
            question = jnp.arange(num).reshape(num, *(1,) * (place[0].ndim - 1))
            return table[question, *place]

        query, draw, place, answer = (pick(name) for name in ("query", "draw", "set", "answer"))
        wide = query[..., None]
        frames = jnp.asarray(np.array(worlds[0].draws(setting.likelihood)))[draw]
        count = worlds[0].query_logits.size
        query_mask = jnp.arange(count) <= wide
        # max / min of a row is 100 where it is peaked and 1 elsewhere.
        peaked = jnp.arange(count) < look_up("peaked", query)[..., None]
        rows = (num, size, count, worlds[0].frame_logits.shape[1])
        similarity = jnp.full(rows, 0.5).at[..., 0].set(jnp.where(peaked, 0.005, 0.5))
        answers = completions(worlds[0].answer_lengths, answer.reshape(num, -1, 1))
        return RolloutBatch(
            queries=completions(worlds[0].query_lengths, query[:, None]),
            answers=answers._replace(prompts=place.reshape(num, -1)),
            similarity=similarity,
            query_mask=query_mask,
            frame_mask=jnp.ones((num, rows[-1]), bool),
            draw=Draw(frames, jnp.ones(frames.shape, bool)),
            measures={
                "correct": look_up("correct", jnp.broadcast_to(wide, place.shape), place, answer),
                "answer_valid": look_up("answer_valid", answer),
                "query_valid": look_up("query_valid", wide),
                "parsed": jnp.ones(wide.shape),
                "counterfactual": uniform.reshape(num, 1, 1),
            },
            pass_rate=jnp.array([w.pass_rate for w in worlds], jnp.float32),
            weight=jnp.ones(num),
            importance=jnp.ones(num),
        )

    return make


def groups_of(worlds: Sequence[World], setting: Setting) -> tuple[Array, Array, Array]:
    """Every batch: outcomes [N, B, I], answers from uniform frames [N, B], probabilities [N]."""
    groups, uniform, probs = [], [], []
    for world in worlds:
        prob = units_of(world, setting.likelihood, setting.frame_draws).prob
        group = np.array(list(np.ndindex((len(prob),) * setting.query_rollouts)))
        right = np.zeros(len(group))
        chance = prob[group].prod(1)
        if setting.sampler_advantage == "counterfactual":
            group, right = np.repeat(group, 2, 0), np.tile([0.0, 1.0], len(group))
            rate = world.uniform_rate
            chance = np.repeat(chance, 2) * np.where(right == 1, rate, 1 - rate)
        groups.append(group)
        uniform.append(right)
        probs.append(chance)
    place = np.indices([len(p) for p in probs]).reshape(len(worlds), -1)

    def of_all(values: list[Array]) -> Array:
        return np.stack([v[n] for v, n in zip(values, place, strict=True)], 1)

    return of_all(groups), of_all(uniform), of_all(probs).prod(1)


def step_updates(worlds: Sequence[World], setting: Setting, aggregation: str) -> list[Parts]:
    """The expected gradient by question: plain descent at rate 1, averaged over every batch."""
    config = StepConfig(
        rewards=dict(setting.rewards),
        credit=setting.credit,
        advantage=setting.advantage,
        advantage_std=setting.std,
        likelihood=setting.likelihood,
        sampler_advantage=setting.sampler_advantage,
        aggregation=aggregation,
        query_entropy=0.0,
        frame_entropy=0.0,
    )
    step = make_joint_step(config, model_fns(worlds[0]), optax.sgd(1.0), optax.sgd(1.0), "")
    make = batch_maker(worlds, setting)

    def stacked(name: str) -> jax.Array:
        return jnp.stack([jnp.asarray(getattr(w, name), jnp.float32) for w in worlds])

    mllm = {"query": stacked("query_logits"), "answer": stacked("answer_logits")}
    sampler = stacked("frame_logits")
    start = {"mllm": mllm, "sampler": sampler, "step": jnp.int32(0), "skipped": jnp.int32(0)}
    for name in ("mllm", "sampler"):
        start[f"{name}_opt"] = optax.sgd(1.0).init(start[name])

    def moves(group: jax.Array, uniform: jax.Array) -> tuple[jax.Array, ...]:
        after, _ = step(start, make(group, uniform))
        moved = jax.tree.map(jnp.subtract, (after["mllm"], after["sampler"]), (mllm, sampler))
        return moved[0]["query"], moved[1], moved[0]["answer"]

    program = jax.jit(jax.vmap(moves))
    group, uniform, prob = groups_of(worlds, setting)
    width = min(CHUNK, len(prob))
    totals = [np.zeros(x.shape) for x in (mllm["query"], sampler, mllm["answer"])]
    for n in range(0, len(prob), width):
        # The last chunk is filled up with groups of probability 0: one shape, one program.
        rows = np.minimum(np.arange(n, n + width), len(prob) - 1)
        weight = np.where(np.arange(n, n + width) < len(prob), prob[rows], 0.0)
        for total, part in zip(totals, program(group[rows], uniform[rows]), strict=True):
            total += np.tensordot(weight, np.asarray(part, np.float64), 1)
    return [Parts(*of_question) for of_question in zip(*totals, strict=True)]
