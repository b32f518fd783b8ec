"""Warm-ups go on from checkpoints of the same inputs only; the tokenizer is that of the prompts."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import pytest

from msjoe_jax.data.questions import DataConfig, Question
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.frames import FrameConfig
from msjoe_jax.selectors import gens
from msjoe_jax.text.prompts import PromptConfig
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.world.phase import WarmUpConfig, WorldConfig, build, run_loop, texts_of_world
from msjoe_jax.world.second import SecondSpec
from msjoe_jax.world.spec import COLOURS, WorldSpec, question_text
from msjoe_jax.world.warmup_clip import Loop

FRAMES = FrameConfig()
INPUTS = {"records": "1", "tokenizer": "2", "settings": "3"}


def counting(steps, done):
    """A warm-up that counts its steps, and notes them in `done`."""

    def step(state, index):
        done.append(index)
        return {"params": state["params"] + 1}, {"loss": jnp.float32(0)}

    return Loop(lambda: {"params": jnp.int32(0)}, step, steps)


@pytest.mark.parametrize("name", INPUTS)
def test_a_warm_up_of_other_inputs_is_refused(tmp_path, name):
    done: list[int] = []
    for _ in range(2):
        assert run_loop(counting(3, done), tmp_path / "clip", "warm up", INPUTS) == 3
    assert done == [0, 1, 2]
    with pytest.raises(UserError, match=rf"clip holds a training from other {name} \(was \d, is 9"):
        run_loop(counting(3, done), tmp_path / "clip", "warm up", {**INPUTS, name: "9"})
    assert done == [0, 1, 2]


def test_the_worlds_tokenizer_knows_the_words_of_the_prompts(tmp_path, capsys):
    @dataclasses.dataclass(frozen=True)
    class Part:
        tokenizer: str = ""

    @dataclasses.dataclass(frozen=True)
    class Stub:
        prompt: PromptConfig
        data: Any
        extensions: Any
        frames: FrameConfig = FRAMES
        mllm: Part = Part()
        clip: Part = Part()

    def built(instruction, asks=False):
        prompt = PromptConfig(query_instruction=instruction)
        groups = {"world": WorldConfig(0, 1, 1, 1), "warm_up": WarmUpConfig(asks=asks)}
        return build(Stub(prompt, DataConfig(), groups), tmp_path).mllm.tokenizer

    file = built("find")
    first = Tokenizer(file)
    capsys.readouterr()
    assert built("find") == file and capsys.readouterr().out == ""
    built("search zebras")
    assert "tokenizer.json: made from other prompts; made again" in capsys.readouterr().out
    unknown = first.token_id("<unk>")
    assert first.encode("zebras") == [unknown] != Tokenizer(file).encode("zebras")
    text = gens.prompt_text(Question("", "", question_text([0, 1]), COLOURS, 0))
    assert unknown in Tokenizer(file).encode(text)
    assert unknown not in Tokenizer(built("find", asks=True)).encode(text)


# --- the versions ---------------------------------------------------------------------------------


def test_a_version_gives_its_own_spec():
    sizes = {"seed": 5, "num_train": 3, "num_validation": 2, "num_heldout": 1}
    assert WorldConfig(**sizes).spec() == WorldSpec(**sizes)
    assert WorldConfig(version=2, **sizes).spec() == SecondSpec(**sizes)
    changed = WorldConfig(
        version=2, plateaus=0, flickers=3, short_look_alikes=5, late_colour=False, two_events=0.5
    )
    spec = changed.spec()
    assert isinstance(spec, SecondSpec)
    assert (spec.plateaus, spec.flickers, spec.look_alikes) == (0, 3, 5)
    assert (spec.late_colour, spec.two_events, spec.three_events) == (False, 0.5, 0.3)


def test_what_cannot_be_of_a_version_is_said():
    assert [*WorldConfig(plateaus=0, two_events=0.45).slips()] == [
        "plateaus=0 needs config.world.version=2",
        "two_events=0.45 needs config.world.version=2",
    ]
    assert not [*WorldConfig().slips()] and not [*WorldConfig(version=2, plateaus=0).slips()]
    (line,) = WorldConfig(version=2, two_events=0.2, three_events=0.1).slips()
    assert "leave more than half of the questions for one event" in line


def test_the_words_of_three_events_are_the_second_worlds():
    """The first world's vocabulary, and with it its models, stays as it was."""
    prompt = PromptConfig()
    first, second = texts_of_world(prompt), texts_of_world(prompt, 2)
    assert question_text([0, 1, 2]) in second and question_text([0, 1, 2]) not in first
    assert [text for text in second if text != question_text([0, 1, 2])] == first
