"""Chooses and orders the training questions, and computes their importance weights."""

import collections
import dataclasses
import types
import zlib
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from msjoe_jax.data.questions import Question
from msjoe_jax.data.train_sets import set_of
from msjoe_jax.errors import UserError
from msjoe_jax.rl.advantages import chance_corrected, difficulty_weight, smoothed_pass_rate
from msjoe_jax.rollout.batches import pass_rates
from msjoe_jax.training.config import DifficultyConfig, TrainingConfig
from msjoe_jax.training.curriculum import curriculum_order
from msjoe_jax.training.epochs import epoch_order
from msjoe_jax.training.mixture import mixed_places


def uses_rates(training: TrainingConfig) -> bool:
    """Says whether a training goes by the questions' pass rates."""
    absolute = training.sampler_advantage == "difficulty"
    return bool(absolute or training.curriculum.width or training.difficulty_weight)


def usable_questions(
    training: TrainingConfig, name: str, questions: Sequence[Question]
) -> list[Question]:
    """Returns the questions to train on: those with a pass rate if the training uses it.

    With difficulty-aware advantages those with a pass rate of 1 are left out too
    (docs/method.md#9-difficulty).

    Raises:
      UserError: no question is left.
    """
    usable = list(questions)
    absolute = training.sampler_advantage == "difficulty"
    if uses_rates(training):
        usable = [q for q in usable if q.difficulty is not None]
        if not usable:
            raise UserError(
                f"config.data.train_questions: config.{name} goes by the questions' difficulty, "
                "and none has one: run the phase difficulty"
            )
    if absolute and not (usable := [q for q in usable if q.difficulty != 1.0]):
        raise UserError("config.data.train_questions: no question has a pass rate below 1")
    return usable


def training_questions(
    training: TrainingConfig,
    name: str,
    difficulty: DifficultyConfig,
    questions: Sequence[Question],
) -> list[Question]:
    """Returns the questions to train on, with adjusted pass rates.

    Measured rates decide what is left out: a smoothed rate near 1 would stay, with advantages of
    −10 for a question that the base model always gets right.

    Args:
      training: says whether it goes by the rates.
      name: the training's, for messages.
      difficulty: how rates are adjusted.
      questions: with the rates as measured.

    Raises:
      UserError: no question is left.
    """
    kept = {question.id for question in usable_questions(training, name, questions)}
    return [q for q in with_adjusted_rates(difficulty, questions) if q.id in kept]


def importance_weights(
    training: TrainingConfig, questions: Sequence[Question]
) -> Float[np.ndarray, "n"]:
    """Computes what each question's advantages are multiplied by, 1 on average over questions."""
    exponent = training.difficulty_weight
    if not exponent:
        return np.ones(len(questions))
    weights = np.asarray(difficulty_weight(jnp.asarray(pass_rates(questions)), exponent))
    return weights / weights.mean()


def question_order(
    training: TrainingConfig,
    questions: Sequence[Question],
    *,
    batch_size: int,
    refill: int,
    seed: int,
    weights: Mapping[str, float] = types.MappingProxyType({}),
) -> Int[np.ndarray, "n"]:
    """Returns the order of the questions, long enough for every batch: a curriculum, or shuffles.

    It has 1 + `refill` batches for each update. Those of a curriculum belong to it, used or not.

    Args:
      training: its curriculum and its number of steps.
      questions: all questions of the training.
      batch_size: questions of a batch.
      refill: most further batches that an update may draw.
      seed: of the order.
      weights: of several sets that are mixed, by name; see data/train_sets.py.

    Raises:
      UserError: a set has no questions, or fewer than a curriculum draws.
    """
    count = training.steps * (1 + refill) * batch_size
    if not weights:
        sizes = np.full(training.steps * (1 + refill), batch_size)
        return _order_of_one(training, questions, sizes, (seed,), 1 + refill)
    places = mixed_places(list(weights.values()), count)
    names = np.array([set_of(question) for question in questions])
    order = np.empty(count, np.int64)
    for number, name in enumerate(weights):
        own, held = np.flatnonzero(names == name), places == number
        if not len(own):
            raise UserError(f"config.data.train_sets.{name}: none of its questions can be used")
        sizes = held.reshape(-1, batch_size).sum(1)
        asked = [questions[i] for i in own.tolist()]
        try:  # by its name: another set beside it changes no order
            drawn = _order_of_one(
                training, asked, sizes, (seed, zlib.crc32(name.encode())), 1 + refill
            )
        except UserError as error:
            raise UserError(f"config.data.train_sets.{name}: {error}") from None
        order[held] = own[drawn]
    return order


def _order_of_one(
    training: TrainingConfig,
    questions: Sequence[Question],
    sizes: Int[np.ndarray, "batches"],
    seed: tuple[int, ...],
    per_update: int,
) -> Int[np.ndarray, "n"]:
    """Orders the questions of one set, of which each batch takes so many.

    Args:
      training: its curriculum.
      questions: of the set.
      sizes: how many of them each batch takes.
      seed: of the order.
      per_update: batches of each update.
    """
    c = training.curriculum
    if not c.width:
        return epoch_order(len(questions), sizes, seed)
    return curriculum_order(
        pass_rates(questions),
        sizes,
        seed,
        per_update=per_update,
        start=c.start,
        end=c.end,
        width=c.width,
    )


def describe_mixture(
    questions: Sequence[Question], order: Int[np.ndarray, "n"], weights: Mapping[str, float]
) -> list[str]:
    """Says of every set how many questions it has, its share, and how often each may come."""
    names, total = [set_of(question) for question in questions], sum(weights.values())
    drawn = collections.Counter(names[i] for i in order.tolist())
    lines = []
    for name, weight in weights.items():
        number = names.count(name)
        lines.append(
            f"set {name}: {weight / total:.1%} of the questions of each batch, from {number:,}; "
            f"{drawn[name] / number:.2f} epochs in all batches"
        )
    return lines


def with_adjusted_rates(config: DifficultyConfig, questions: Sequence[Question]) -> list[Question]:
    """Returns the questions with pass rates smoothed and corrected for chance, as configured.

    A measured rate is a share of few samples: `smoothing` draws it towards the mean of all. A
    guesser among M options is right once in M: the correction makes that a rate of 0
    (docs/method.md#9-difficulty).
    """
    rates = [q.difficulty for q in questions if q.difficulty is not None]
    if not rates or not (config.smoothing or config.chance_corrected):
        return list(questions)
    mean = float(np.mean(rates))

    def adjusted(question: Question) -> Question:
        if question.difficulty is None:
            return question
        num_right = question.difficulty * config.samples
        rate = smoothed_pass_rate(jnp.float32(num_right), config.samples, mean, config.smoothing)
        if config.chance_corrected:
            rate = chance_corrected(rate, len(question.options))
        return dataclasses.replace(question, difficulty=float(rate))

    return [adjusted(question) for question in questions]
