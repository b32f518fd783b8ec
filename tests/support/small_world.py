"""A world so small that every outcome of a rollout can be listed. Pure NumPy, float64.

One question: a query reply is drawn from a table of logits; the frame logits of that reply are a
row of a table, and K of T frames are drawn from them; the answer is drawn from the row of a table
that belongs to the set of frames. Every logit is a parameter of its own.

Nothing here is the package's: the exact gradients are those of the expected reward, written as a
sum over outcomes and differentiated by a complex step.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

QUERY_LENGTHS = (1, 2, 4)  # tokens; the reply at place n holds n + 1 queries
REWARDS = {"accuracy": 0.8, "format": 0.1, "info": 0.1}
COMPLEX_STEP = 1e-30

Array = np.ndarray


class Parts(NamedTuple):
    """Something of query tokens, of the draws and of answer tokens.

    A gradient is [Q], [Q, T] and [S, A]: of the logits of query replies, frames, answers to a set.
    """

    query: Array
    sampler: Array
    answer: Array


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """A question: Q query replies, T frames of which K are drawn, S sets of K, A answers to each.

    peaked: how many of a reply's queries are peaked. pass_rate: of the base model. uniform_rate:
    how often an answer to uniform frames is right.
    """

    query_logits: Array  # [Q]
    frame_logits: Array  # [Q, T]
    answer_logits: Array  # [S, A]
    key_frames: int
    correct: Array  # [Q, S, A], 0 or 1
    query_valid: Array  # [Q], 0 or 1
    answer_valid: Array  # [A], 0 or 1
    peaked: Array  # [Q]
    query_lengths: Array  # [Q]
    answer_lengths: Array  # [A]
    pass_rate: float = 0.3
    uniform_rate: float = 0.4

    @functools.cached_property
    def sets(self) -> list[tuple[int, ...]]:
        """The S sets of frames, in time order."""
        return list(itertools.combinations(range(self.frame_logits.shape[1]), self.key_frames))

    def draws(self, likelihood: str) -> list[tuple[int, ...]]:
        """Every draw: of `cb` the sets, of the others every order of each."""
        if likelihood == "cb":
            return self.sets
        return list(itertools.permutations(range(self.frame_logits.shape[1]), self.key_frames))

    @functools.cached_property
    def values(self) -> dict[str, Array]:
        """Every reward by its name in the configuration, [Q, S, A]."""
        shape = self.correct.shape
        info = self.peaked / np.arange(1, len(self.peaked) + 1)
        by_query = {"query_format": self.query_valid, "info": info}
        out = {k: np.broadcast_to(v[:, None, None], shape) for k, v in by_query.items()}
        out["accuracy"] = self.correct.astype(float)
        out["answer_format"] = np.broadcast_to(self.answer_valid, shape)
        out["format"] = out["query_format"] * out["answer_format"]
        return out

    def paid(self, credit: str, rewards: Mapping[str, float]) -> Parts:
        """What each part is paid, [Q, S, A]."""

        def total(weights: Mapping[str, float]) -> Array:
            return np.sum([w * self.values[name] for name, w in weights.items()], axis=0)

        if credit == "shared":
            return Parts(*(total(rewards),) * 3)
        own = {"accuracy": rewards["accuracy"], "answer_format": rewards.get("format", 0.0)}
        return Parts(total(rewards), self.values["accuracy"], total(own))


def make_world(
    seed: int,
    *,
    frames: int = 3,
    key_frames: int = 2,
    query_lengths: tuple[int, ...] = QUERY_LENGTHS,
    answer_lengths: tuple[int, ...] = (1, 4),
) -> World:
    """Makes a random question of these sizes, whose every set of frames can go right and wrong."""
    rng = np.random.default_rng(seed)
    num_queries, num_answers = len(query_lengths), len(answer_lengths)
    sets = len(list(itertools.combinations(range(frames), key_frames)))
    correct = rng.integers(0, 2, (num_queries, sets, num_answers))
    correct[..., 0] = 1 - correct[..., -1]
    return World(
        query_logits=rng.normal(size=num_queries),
        frame_logits=rng.normal(size=(num_queries, frames)),
        answer_logits=rng.normal(size=(sets, num_answers)),
        key_frames=key_frames,
        correct=correct,
        query_valid=(np.arange(num_queries) != rng.integers(num_queries)).astype(float),
        answer_valid=(np.arange(num_answers) != rng.integers(num_answers)).astype(float),
        peaked=rng.integers(0, np.arange(2, num_queries + 2)),
        query_lengths=np.array(query_lengths),
        answer_lengths=np.array(answer_lengths),
    )


# --- probabilities, of real or complex logits -----------------------------------------------------


def softmax(logits: Array) -> Array:
    weights = np.exp(logits)
    return weights / weights.sum(-1, keepdims=True)


def draw_probs(world: World, likelihood: str, frame_logits: Array) -> Array:
    """The law that draws are sampled from, [Q, D]: `marginal` samples as `plackett_luce`."""
    weights = np.exp(frame_logits)
    out = []
    for draw in world.draws(likelihood):
        p = np.ones_like(weights[:, 0])
        left = list(range(weights.shape[1]))
        for frame in draw:
            p = p * weights[:, frame]
            if likelihood != "cb":
                p = p / weights[:, left].sum(1)
                left.remove(frame)
        out.append(p)
    probs = np.stack(out, 1)
    return probs / probs.sum(1, keepdims=True) if likelihood == "cb" else probs


def set_of_draw(world: World, likelihood: str) -> Array:
    """The place of each draw's set, [D]."""
    return np.array([world.sets.index(tuple(sorted(d))) for d in world.draws(likelihood)])


def exact_gradients(world: World, likelihood: str, paid: Parts) -> Parts:
    """The partial gradient of each part's expected pay in its own logits, the others' fixed."""
    places = set_of_draw(world, likelihood)

    def expected(pay: Array, logits: Parts) -> complex:
        probs = draw_probs(world, likelihood, logits.sampler)
        of_set = np.stack([probs[:, places == s].sum(1) for s in range(len(world.sets))], 1)
        queries, answers = softmax(logits.query), softmax(logits.answer)
        return np.einsum("q,qs,sa,qsa->", queries, of_set, answers, pay)

    start = Parts(world.query_logits, world.frame_logits, world.answer_logits)
    out = []
    for name, pay in paid._asdict().items():
        gradient = np.zeros(getattr(start, name).shape)
        for place in np.ndindex(gradient.shape):
            moved = getattr(start, name).astype(complex)
            moved[place] += 1j * COMPLEX_STEP
            value = expected(pay, start._replace(**{name: moved}))
            gradient[place] = value.imag / COMPLEX_STEP
        out.append(gradient)
    return Parts(*out)


# --- scores: gradients of log-probabilities in the logits -----------------------------------------


def choice_scores(logits: Array) -> Array:
    """∇ log of every choice of a softmax over the last axis: [..., choice, logit]."""
    return np.eye(logits.shape[-1]) - softmax(logits)[..., None, :]


def draw_scores(world: World, likelihood: str) -> Array:
    """∇ of what the likelihood calls the log-probability of every draw, [Q, D, T]."""
    draws, (num_queries, frames) = world.draws(likelihood), world.frame_logits.shape
    out = np.zeros((num_queries, len(draws), frames))
    probs = draw_probs(world, likelihood, world.frame_logits)
    held = np.array([[frame in draw for frame in range(frames)] for draw in draws], float)
    for q, logits in enumerate(world.frame_logits):
        for d, draw in enumerate(draws):
            if likelihood == "cb":
                out[q, d] = held[d] - probs[q] @ held
                continue
            left = list(range(frames))
            for frame in draw:
                out[q, d, frame] += 1
                out[q, d, left] -= softmax(logits[left])
                if likelihood == "plackett_luce":
                    left.remove(frame)
    return out
