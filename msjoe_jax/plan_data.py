"""What a plan is told of the data, and the array sizes that a run on such data has."""

import dataclasses
import re
from typing import NamedTuple

from msjoe_jax.config import Config
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.frames import most_patches
from msjoe_jax.rollout.system import System


class Data(NamedTuple):
    """What is known of the data beside the config.

    questions, budgets: see `program_list`; tokens: of its answer prompts at most; frame: (height,
    width) of its frames in pixels.
    """

    questions: int = 0
    tokens: int = 0
    frame: tuple[int, int] | None = None
    budgets: tuple[int, ...] = ()


UNKNOWN = Data()


def fitted(config: Config, system: System, data: Data) -> tuple[Config, str]:
    """Returns the config with a run's array sizes on such data, and words for them.

    Prompts are computed at steps of `config.prompt.length_step`; arrays of frames have room for the
    patches that the largest frame takes.
    """
    frames, prompt, words = config.frames, config.prompt, ""
    if data.tokens:
        step = prompt.length_step or 1
        length = min(prompt.answer_prompt_tokens, -(-data.tokens // step) * step)
        words = f", answer prompts of {data.tokens} tokens"
        words += f" computed at {length}" * (length != data.tokens)
        prompt = dataclasses.replace(prompt, answer_prompt_tokens=length)
    if data.frame:
        words += ", frames of {1} × {0}".format(*data.frame)
        preview, key = (
            most_patches([data.frame], system, budget)
            for budget in (frames.preview_patches, frames.key_patches)
        )
        frames = dataclasses.replace(frames, preview_patches=preview, key_patches=key)
    return dataclasses.replace(config, frames=frames, prompt=prompt), words


def frame_of(text: str) -> tuple[int, int] | None:
    """Reads --frame_size, WIDTHxHEIGHT, as (height, width); None if it is empty.

    Raises:
      UserError: it is something else.
    """
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if text and not found:
        raise UserError(f"--frame_size={text} is not WIDTHxHEIGHT; give e.g. --frame_size=448x252")
    return (int(found[2]), int(found[1])) if found else None
