"""What selectors ask of the MLLM by themselves (what a run calls: see test_program_list)."""

import dataclasses

import jax
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.rollout.selector_uses import Call, arguments_of, choose_once
from msjoe_jax.rollout.system import make_system
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.base import Selector
from tests.support.tiny import full_size


@pytest.fixture(scope="module")
def full():
    """T = 3,600 candidates, prompts of 8,704 tokens, a decoder of 28 layers."""
    config = read_config(full_size())
    return config, Programs(make_system(config.models))


def chosen(full, name, k=32, **fields):
    config, programs = full
    prompt = dataclasses.replace(config.prompt, **fields)
    return choose_once(name, k, programs, config.episode, prompt)


@pytest.mark.parametrize(
    ("name", "width", "several_sizes"),
    [
        ("uniform", 32, False),
        ("topk", 32, False),
        ("msjoe", 32, False),
        ("oracle", 32, False),
        ("bolt", 32, False),
        ("topk_two_sizes", 32, True),
        ("qframe", 176, True),  # 16 whole, 32 of a quarter, 128 of a sixteenth of the tokens
    ],
)
def test_how_many_frames_are_shown(full, name, width, several_sizes):
    assert chosen(full, name) == (width, several_sizes, ())


def test_selectors_that_ask(full):
    # A window of 256 frames of 16 visual tokens: 3,600 candidates are 15 of them.
    (call,) = chosen(full, "gens_like").calls
    assert call == Call("complete", 15, 3600, 64)
    (call,) = chosen(full, "gens_like", numbered_frames=100).calls
    assert (call.prompts, call.units) == (36, 3600)
    assert chosen(full, "provca_like").calls == (
        Call("complete", 1, 16, 64),
        Call("complete", 1, 32, 64),
    )
    # 8,704 tokens hold 483 frames of 16 and two marks; at 25 they would be 322.
    (call,) = chosen(full, "dafs").calls
    assert call == Call("option_attention", 1, 483, 256, (("layer", 18), ("side", 2)), True)
    cacheflow = chosen(full, "cacheflow_like")
    assert cacheflow.width == 4 * 32
    assert cacheflow.calls == (
        Call("neighbour_cosines", 1, 64, 1024),
        Call("mean_keys_and_queries", 8, 64, 1024),
        Call("mean_keys_and_queries", 1, 1, 1024),
    )


def test_of_a_plug_in_nothing_is_known(full, monkeypatch):
    monkeypatch.setitem(SELECTORS, "theirs", Selector(lambda *_: pytest.fail("it was called")))
    assert chosen(full, "theirs", 8) == (8, False, ())


def test_arguments(full):
    _, programs = full
    seeds = jax.ShapeDtypeStruct((4,), "uint32")
    call = Call("complete", 15, 3600, 64)
    program, (mllm, prompts, patches, last) = arguments_of(call, programs, 4, 640, "mllm", seeds)
    assert program is programs.complete and mllm == "mllm" and last is seeds
    assert prompts.tokens.shape == (4, 15, 640)
    assert patches.pixels.shape == (4, 3600, 64, 14, 14, 3)
    call = Call("neighbour_cosines", 1, 64, 1024)
    program, (_, patches) = arguments_of(call, programs, 4, 640, "mllm", seeds)
    assert program is programs.neighbour_cosines and patches.grid.shape == (4, 64, 2)
    call = Call("option_attention", 1, 9, 256, places=True)
    _, (_, prompts, _, places) = arguments_of(call, programs, 4, 640, "mllm", seeds)
    assert prompts.tokens.shape == (4, 1, 640) and places.shape == (4, 256)
