"""Array sizes that a run has on data of given prompts and frames."""

import dataclasses

import pytest

from msjoe_jax.config import read_config
from msjoe_jax.errors import UserError
from msjoe_jax.plan_data import UNKNOWN, Data, fitted, frame_of
from msjoe_jax.rollout.system import make_system
from tests.support.tiny import full_size


@pytest.fixture(scope="module")
def config():
    return read_config(full_size())


@pytest.fixture(scope="module")
def system(config):
    return make_system(config.models)


def test_nothing_known_changes_nothing(config, system):
    assert fitted(config, system, UNKNOWN) == (config, "")
    assert fitted(config, system, Data(questions=7)) == (config, "")


@pytest.mark.parametrize(
    ("step", "tokens", "length"),
    [(0, 4850, 4850), (256, 4850, 4864), (256, 4864, 4864), (256, 8600, 8704), (256, 9000, 8704)],
)
def test_prompts_are_computed_at_a_step(config, system, step, tokens, length):
    stepped = dataclasses.replace(config.prompt, length_step=step)
    given = dataclasses.replace(config, prompt=stepped)
    found, words = fitted(given, system, Data(tokens=tokens))
    assert found.prompt.answer_prompt_tokens == length
    assert found.prompt.query_prompt_tokens == config.prompt.query_prompt_tokens
    assert words.endswith(f" computed at {length}") == (length != tokens)


def test_frames_take_the_patches_of_their_shape(config, system):
    """448 × 252 is 16 × 9 visual tokens of 28 pixels: 576 patches of the 1,024 of a square."""
    found, words = fitted(config, system, Data(frame=(252, 448)))
    assert found.frames.key_patches == 576 and found.frames.preview_patches <= 128
    assert words == ", frames of 448 × 252"
    square, _ = fitted(config, system, Data(frame=(448, 448)))
    assert square.frames.key_patches == config.frames.key_patches == 1024


def test_the_flag():
    assert frame_of("") is None and frame_of("448x252") == (252, 448)
    for text in ("448", "448x", "0x4", "448X252", "448x252x3", "-4x4"):
        with pytest.raises(UserError, match=f"--frame_size={text} is not WIDTHxHEIGHT"):
            frame_of(text)
