"""A search ranks what a run would take, by a form that moves the way the compiler's numbers do."""

import dataclasses

import pytest

from configs import joint_v4
from msjoe_jax.config import read_config
from msjoe_jax.errors import UserError
from msjoe_jax.plan_search import Choice, guess, search, table
from msjoe_jax.rollout.system import make_system
from msjoe_jax.runtime.chips import GIB
from msjoe_jax.runtime.topology import Slice


@pytest.fixture(scope="module")
def given():
    config = joint_v4.get_config()
    config.phases = ("joint",)
    return config


def found(given, name="v4:2x2x4", chips=16, **options):
    guesses = search(given, Slice(name, [*range(chips)], 4), **options)
    return guesses, {guess.choice: guess for guess in guesses}


def test_joint_v4_on_sixteen_chips(given):
    guesses, by_choice = found(given, most=7)
    hbm = Slice("v4:2x2x4", [], 4).hbm
    meshes = {(c.fsdp, c.tensor) for c in by_choice}
    assert {(16, 1), (8, 2), (4, 4)} == meshes and all(f * t == 16 for f, t in meshes)
    own = by_choice[(8, 2, 4, 8704, 0)]
    # Compiled: answer and what is alive beside it take 26 GiB, and it fits.
    assert own.fits(hbm) and 20 * GIB < own.bytes < 30 * GIB
    assert own.config.objective.micro_batches == 4
    fit = [guess.fits(hbm) for guess in guesses]
    assert fit == sorted(fit, reverse=True)
    seconds = [guess.seconds for guess in guesses if guess.fits(hbm)]
    assert seconds == sorted(seconds)
    # Weights are gathered again for every micro-batch.
    assert by_choice[(8, 2, 1, 8704, 0)].seconds < own.seconds
    lines = list(table(guesses, hbm))
    assert len(lines) == 1 + len(guesses)
    assert lines[1].split()[:6] == ["1", "×", "16", "×", "1", "1"]


def test_shorter_prompts_and_adapters_take_less(given):
    config = read_config(given)
    system, slice_ = make_system(config.models), Slice("v4:2x2x4", [*range(16)], 4)

    def of(tokens, rank):
        mllm = dataclasses.replace(config.mllm, lora_rank=rank)
        changed = dataclasses.replace(config, mllm=mllm)
        return guess(Choice(8, 2, 4, tokens, rank), changed, system, slice_)

    whole, short = of(8704, 0), of(4850, 0)
    assert short.seconds < 0.8 * whole.seconds and short.bytes < whole.bytes
    adapted = of(8704, 16)
    assert adapted.seconds < whole.seconds and adapted.bytes < whole.bytes


def test_small_chips_hold_less(given):
    (one,), _ = found(given, "v5e:4x4", most=1)
    assert not one.fits(Slice("v5e:4x4", [], 4).hbm)


def test_without_a_training_or_a_choice_it_says_why(given):
    config = given.copy_and_resolve_references()
    config.phases = ("evaluate",)
    with pytest.raises(UserError, match="no training to search for"):
        found(config)
    config = given.copy_and_resolve_references()
    config.rollout.questions, config.rollout.waves = 7, 1
    with pytest.raises(UserError, match="does not divide into 16"):
        found(config)
