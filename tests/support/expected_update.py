"""The expectation, over every outcome of a group, of the gradient that one update follows.

Every group of I query rollouts with J draws (and answers) each is listed with its probability; its
advantages and the sums over its rows are ours, in float64, and share nothing with the package. The
first update on a batch, before clipping, entropy and KL: the ratio is 1.

What the sums over a batch are divided by may depend on its number of tokens, so sums are kept by
the group's number of tokens; the tokens of other questions come in by their distribution.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tests.support.small_world import (
    REWARDS,
    Array,
    Parts,
    World,
    choice_scores,
    draw_probs,
    draw_scores,
    exact_gradients,
    set_of_draw,
    softmax,
)

STD_EPS = 1e-4
CHUNK = 1 << 17  # groups at a time


@dataclasses.dataclass(frozen=True)
class Setting:
    """An objective, by its names in the configuration, and the size of a group."""

    advantage: str = "nested"
    std: str = "none"
    sampler_advantage: str = "relative"
    credit: str = "routed"
    likelihood: str = "plackett_luce"
    query_rollouts: int = 2
    frame_draws: int = 1
    rewards: tuple[tuple[str, float], ...] = tuple(REWARDS.items())


ACCURACY_ALONE = (("accuracy", 1.0),)


# --- advantages -----------------------------------------------------------------------------------


def relative(rewards: Array, setting: Setting) -> tuple[Array, Array]:
    """Advantages [N, I] of query rollouts and [N, I, J] of draws, from rewards [N, I, J]."""
    _, num_queries, num_draws = rewards.shape
    count = num_queries * num_draws
    total = rewards.sum((1, 2), keepdims=True)
    if setting.advantage == "group":
        out = rewards - total / count
        if setting.std == "group":
            variance = (out**2).sum((1, 2), keepdims=True) / (count - 1)
            out = out / (np.sqrt(variance) + STD_EPS)
        return out.mean(2), out
    means = rewards.mean(2)
    of_query = means - (means.sum(1, keepdims=True) - means) / (num_queries - 1)
    baseline = (total - rewards) / (count - 1)
    if setting.advantage == "nested" and num_draws > 1:
        siblings = (rewards.sum(2, keepdims=True) - rewards) / (num_draws - 1)
        baseline = (baseline + siblings) / 2
    return of_query, rewards - baseline


def by_difficulty(correct: Array, pass_rate: float) -> Array:
    """1/c if right, −1/(1 − c) if wrong, c in [.1, .9]; 0 where there is nothing to learn."""
    c = min(max(pass_rate, 0.1), 0.9)
    right = 0.0 if pass_rate == 1 else 1 / c
    wrong = 0.0 if pass_rate in (0, 1) else -1 / (1 - c)
    return np.where(correct == 1, right, wrong)


# --- enumeration ----------------------------------------------------------------------------------


class Units(NamedTuple):
    """Every outcome of one query rollout with its draws: U of them."""

    prob: Array  # [U]
    query: Array  # [U]
    draw: Array  # [U, J]
    set: Array  # [U, J]
    answer: Array  # [U, J]


def units_of(world: World, likelihood: str, num_draws: int) -> Units:
    num_queries, _, num_answers = world.correct.shape
    probs = draw_probs(world, likelihood, world.frame_logits)
    places = np.indices((num_queries, *(probs.shape[1], num_answers) * num_draws))
    query, *rest = places.reshape(1 + 2 * num_draws, -1)
    draw, answer = np.stack(rest[0::2], 1), np.stack(rest[1::2], 1)
    of_set = set_of_draw(world, likelihood)[draw]
    chance = probs[query[:, None], draw] * softmax(world.answer_logits)[of_set, answer]
    return Units(softmax(world.query_logits)[query] * chance.prod(1), query, draw, of_set, answer)


class Sums(NamedTuple):
    """Σ over groups of probability · advantage, by outcome of a rollout and tokens of its group.

    M is one more than the largest number of tokens, J · (query tokens) + (answer tokens).
    """

    units: Units
    query: Array  # [U, M]
    sampler: Array  # [U, J, M]
    answer: Array  # [U, J, M]
    tokens: Array  # [M]: the distribution of the group's tokens


@functools.cache
def sums_of(world: World, setting: Setting) -> Sums:
    """Lists every group of a question."""
    size, num_draws = setting.query_rollouts, setting.frame_draws
    units = units_of(world, setting.likelihood, num_draws)
    paid = world.paid(setting.credit, dict(setting.rewards))
    place = units.query[:, None], units.set, units.answer
    pay = Parts(*(table[place] for table in paid))  # [U, J]
    correct = world.correct[place]
    count = num_draws * world.query_lengths[units.query]
    count = count + world.answer_lengths[units.answer].sum(1)
    num_units, bins = len(units.prob), size * count.max() + 1
    out = [np.zeros(num_units * bins) for _ in range(1 + 2 * num_draws)]
    tokens = np.zeros(bins)
    for start in range(0, num_units**size, CHUNK):
        number = np.arange(start, min(start + CHUNK, num_units**size))
        group = np.stack(np.unravel_index(number, (num_units,) * size), 1)  # [N, I]
        prob, total = units.prob[group].prod(1), count[group].sum(1)
        tokens += np.bincount(total, prob, bins)
        of_query, _ = relative(pay.query[group], setting)
        _, of_answer = relative(pay.answer[group], setting)
        match setting.sampler_advantage:
            case "relative":
                _, of_draw = relative(pay.sampler[group], setting)
            case "raw":
                of_draw = pay.sampler[group]
            case "difficulty":
                of_draw = by_difficulty(correct, world.pass_rate)[group]
            case "counterfactual":  # the further answer acts on nothing: its mean stands for it
                of_draw = correct[group] - world.uniform_rate
        rows = [of_query, *np.moveaxis(of_draw, 2, 0), *np.moveaxis(of_answer, 2, 0)]
        for i in range(size):
            where = group[:, i] * bins + total
            for sums, row in zip(out, rows, strict=True):
                sums += np.bincount(where, prob * row[:, i], num_units * bins)
    query, *rest = (x.reshape(num_units, bins) for x in out)
    of_draw, of_answer = np.stack(rest[:num_draws], 1), np.stack(rest[num_draws:], 1)
    return Sums(units, query, of_draw, of_answer, tokens)


def contract(
    world: World, setting: Setting, by_tokens: Array | float, query_row: Array, answer_row: Array
) -> Parts:
    """Multiplies sums by scores: query and answer rows times a weight of the group's tokens.

    Args:
      world, setting: of the sums.
      by_tokens: [M], or one for all.
      query_row: weight of a query reply's row, [Q].
      answer_row: weight of an answer's row, [A].

    Returns:
      Gradients; the sampler's is the sum over its rows, without a weight.
    """
    sums, units = sums_of(world, setting), sums_of(world, setting).units
    by_tokens = np.broadcast_to(by_tokens, sums.tokens.shape)
    query = (sums.query @ by_tokens * query_row[units.query]) @ choice_scores(world.query_logits)[
        units.query
    ]
    sampler, answer = np.zeros_like(world.frame_logits), np.zeros_like(world.answer_logits)
    rollout = np.broadcast_to(units.query[:, None], units.draw.shape)
    scores = draw_scores(world, setting.likelihood)[rollout, units.draw]
    np.add.at(sampler, rollout, sums.sampler.sum(-1)[..., None] * scores)
    scores = choice_scores(world.answer_logits)[units.set, units.answer]
    weight = sums.answer @ by_tokens * answer_row[units.answer]
    np.add.at(answer, units.set, weight[..., None] * scores)
    return Parts(query, sampler, answer)


def numerators(world: World, setting: Setting) -> Parts:
    """E[Σ over a part's rows of A ∇ log π], over the number of those rows."""
    ones = [np.ones(len(x)) for x in (world.query_lengths, world.answer_lengths)]
    query, sampler, answer = contract(world, setting, 1.0, *ones)
    rows = setting.query_rollouts * setting.frame_draws
    return Parts(query / setting.query_rollouts, sampler / rows, answer / rows)


def expected_updates(worlds: Sequence[World], setting: Setting, aggregation: str) -> list[Parts]:
    """The expected gradient of one update on a batch of questions, by question.

    Every question has parameters of its own. A query token weighs J, as many as the answers that
    it was written for; under sequence-mean queries and answers are two means.
    """
    size, num_draws = setting.query_rollouts, setting.frame_draws
    rows = len(worlds) * size * num_draws
    out = []
    for place, world in enumerate(worlds):
        query_row = np.full(len(world.query_lengths), float(num_draws))
        answer_row = np.ones(len(world.answer_lengths))
        by_tokens: Array | float = 1 / rows
        if aggregation == "token-mean":
            others = np.ones(1)
            for other in [*worlds[:place], *worlds[place + 1 :]]:
                others = np.convolve(others, sums_of(other, setting).tokens)
            own = np.arange(len(sums_of(world, setting).tokens))[:, None]
            count = np.maximum(own + np.arange(len(others)), 1)
            by_tokens = (others / count).sum(1)
        elif aggregation == "sequence-mean":
            query_row, answer_row = num_draws / world.query_lengths, 1 / world.answer_lengths
        else:
            by_tokens = 1 / (rows * sum(longest(worlds)))
        query, sampler, answer = contract(world, setting, by_tokens, query_row, answer_row)
        out.append(Parts(query, sampler / rows, answer))
    return out


def longest(worlds: Sequence[World]) -> tuple[int, int]:
    """The most tokens of a query reply, and of an answer."""
    return max(w.query_lengths.max() for w in worlds), max(w.answer_lengths.max() for w in worlds)


# --- what theory says -----------------------------------------------------------------------------


def truth(world: World, setting: Setting) -> Parts:
    """The exact gradients that the setting's advantages follow: each of its own pay.

    Difficulty and counterfactual advantages are made from the answer's correctness, whatever the
    credit.
    """
    paid = world.paid(setting.credit, dict(setting.rewards))
    if setting.sampler_advantage in ("difficulty", "counterfactual"):
        paid = paid._replace(sampler=world.values["accuracy"])
    return exact_gradients(world, setting.likelihood, paid)


def stated_factor(world: World, setting: Setting, part: str) -> float | None:
    """The factor of a part's expected numerator to its exact gradient; None: no such factor."""
    size, num_draws = setting.query_rollouts, setting.frame_draws
    if part == "sampler" and setting.likelihood == "marginal":
        return None
    if part == "sampler" and setting.sampler_advantage in ("raw", "counterfactual"):
        return 1.0
    if part == "sampler" and setting.sampler_advantage == "difficulty":
        c = min(max(world.pass_rate, 0.1), 0.9)
        return {0.0: 10.0, 1.0: 0.0}.get(world.pass_rate, 1 / (c * (1 - c)))
    if setting.advantage != "group":
        return 1.0
    if setting.std == "group":
        pay, prob = pay_of(world, setting, part)
        if num_draws > 1 or len(set(pay) - {0.0}) > 1:
            return None
        return std_weight(size, float(prob[pay > 0].sum()), pay.max()) / pay.max()
    count = size if part == "query" else size * num_draws
    return (count - 1) / count


def pay_of(world: World, setting: Setting, part: str) -> tuple[Array, Array]:
    """What a part is paid, of every outcome of a rollout with one draw; its probability."""
    units = units_of(world, setting.likelihood, 1)
    table = getattr(world.paid(setting.credit, dict(setting.rewards)), part)
    return table[units.query, units.set[:, 0], units.answer[:, 0]], units.prob


def std_weight(size: int, p: float, scale: float = 1.0) -> float:
    """w_G(p) = E[A | right] − E[A | wrong] of a group of G, each right with probability p.

    A right answer is paid `scale`, a wrong one nothing; A is divided by the group's std.
    """

    def advantage(own: int, others: int) -> float:
        right = own + others
        variance = scale**2 * right * (size - right) / (size * (size - 1))
        return scale * (own - right / size) / (math.sqrt(variance) + STD_EPS)

    chances = [math.comb(size - 1, m) * p**m * (1 - p) ** (size - 1 - m) for m in range(size)]
    return sum(c * (advantage(1, m) - advantage(0, m)) for m, c in enumerate(chances))


# --- comparison -----------------------------------------------------------------------------------


def flat(*arrays: Array) -> Array:
    return np.concatenate([x.ravel() for x in arrays])


def cosine(a: Array, b: Array) -> float:
    return float(a.ravel() @ b.ravel() / (np.linalg.norm(a) * np.linalg.norm(b)))


def factor(found: Array, exact: Array) -> float:
    """The scale of `exact` that comes nearest to what was found."""
    return float(found.ravel() @ exact.ravel() / (exact.ravel() @ exact.ravel()))
