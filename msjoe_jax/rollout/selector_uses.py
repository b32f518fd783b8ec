"""Uses of the programs that a selector runs of its own, and how many frames it shows.

They are found by letting it choose once: for a question without words about a video of all
candidates, with an MLLM that says nothing. What it asks for then is as large as the config allows:
prompts at their longest, with as many frames as have room beside no text. A selector that makes
other calls after another reply, or more prompts where texts take room from frames, runs more.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from msjoe_jax.data.questions import Question
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.rollout.selector_prompts import BLOCKS_AT_ONCE, FRAMES_AT_ONCE, POOLING
from msjoe_jax.rollout.shapes import abstract_rollouts
from msjoe_jax.runtime.program import Program
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.base import Ask, Block
from msjoe_jax.text.prompts import PromptConfig

Tree = Any  # of `jax.ShapeDtypeStruct`
KNOWN = frozenset(SELECTORS)  # as they are shipped: a plug-in's come later
ON_DEVICES = ("topk", "topk_smooth")  # by a program of their own: see `EpisodeUses.selection`
OPTION_TOKENS = 256  # of a question's options, which no field bounds
MARKS = 2  # tokens around a frame


class Call(NamedTuple):
    """A call of the MLLM: G prompts a question, of frames of so many patches.

    program: a name of `Programs`; units: frames that are encoded for a question; choices: of the
    program; places: whether it takes places of tokens.
    """

    program: str
    prompts: int
    units: int
    patches: int
    choices: tuple[tuple[str, Any], ...] = ()
    places: bool = False


class Chosen(NamedTuple):
    """What a selector does for a budget of k frames.

    width: frames of a prompt at most; several_sizes: whether they may have sizes of their own;
    calls: of the MLLM, each kind once.
    """

    width: int
    several_sizes: bool
    calls: tuple[Call, ...] = ()


def choose_once(
    selector: str, k: int, programs: Programs, config: EpisodeConfig, prompt: PromptConfig
) -> Chosen:
    """Lets a selector of SELECTORS choose for a budget of k; of a plug-in nothing is known.

    Args:
      selector: its name.
      k: frames.
      programs: of the system.
      config: of the episodes.
      prompt: lengths of prompts and replies.
    """
    if SELECTORS[selector].network or selector in ON_DEVICES or selector not in KNOWN:
        return Chosen(k, False)
    most = config.frames.candidates
    few = min(most, 4 * k)
    for candidates in dict.fromkeys((few, most)):  # rules take long over many, and ask nothing
        asked: Any = _Asked(programs, config, prompt, candidates)
        selection = SELECTORS[selector].select(asked, k)
        width = selection.frames.shape[-1]
        found = Chosen(width, selection.tokens is not None, tuple(dict.fromkeys(asked.calls)))
        if not found.calls:
            break
    return found


def arguments_of(
    call: Call, programs: Programs, questions: int, tokens: int, mllm: Tree, seeds: Tree
) -> tuple[Program, tuple[Tree, ...]]:
    """Returns the program of a call, and its arguments for B questions, without shardings.

    Args:
      call: of `choose_once`.
      programs: of the system.
      questions: B.
      tokens: S, of a prompt.
      mllm: the parameters.
      seeds: of the questions.
    """
    shown = abstract_rollouts(
        programs.system,
        questions=questions,
        prompts=call.prompts,
        samples=1,
        prompt_tokens=tokens,
        reply_tokens=1,
        units=call.units,
        patches=call.patches,
        per_unit=1,
        encode_in_step=True,
    )
    arguments: tuple[Tree, ...] = (mllm, shown.prompts, shown.visual)
    if call.program == "neighbour_cosines":
        arguments = (mllm, shown.visual)
    if call.program == "complete":
        arguments = (*arguments, seeds)
    if call.places:
        arguments = (*arguments, jax.ShapeDtypeStruct((questions, OPTION_TOKENS), jnp.int32))
    return getattr(programs, call.program), arguments


class _Asked:
    """Stands for `Candidates`: notes what is asked of the MLLM, and answers as little as it can."""

    def __init__(
        self, programs: Programs, config: EpisodeConfig, prompt: PromptConfig, candidates: int
    ) -> None:
        self.calls: list[Call] = []
        system = programs.system
        self._prompt, self._T = prompt, candidates
        self._most = config.frames.key_patches
        self._merge = system.mllm_config.vision.merge**2
        rng, width = np.random.default_rng(0), system.clip_config.embed_dim
        question = Question("any", "any", "", ("", ""), 0, extra={"oracle_frames": [[0]]})
        self.questions, self.queries = [question], [[("",)]]
        self.frame_mask = np.ones((1, candidates), bool)
        self.frame_index = np.arange(candidates)[None]
        self.timestamps = np.arange(candidates, dtype=np.float32)[None]
        self.similarity = rng.normal(0.2, 0.03, (1, 1, 1, candidates)).astype(np.float32)
        self.query_mask = np.ones((1, 1, 1), bool)
        self.embeddings = rng.normal(size=(1, candidates, width)).astype(np.float32)
        self.num_draws, self.smooth, self.keys = 1, config.smooth, None
        self.filter = config.filter
        self.frame_tokens = self._most // self._merge
        self.layers = system.mllm_config.text.layers
        self.length = prompt.selector_prompt_tokens or prompt.answer_prompt_tokens

    def generator(self, *place: int) -> np.random.Generator:
        return np.random.default_rng(place)

    def room(self, texts: Sequence[str], label: str = "", tokens: int = 0) -> int:
        del texts  # without words
        each = self._patches(tokens) // self._merge + MARKS + len(label)
        most = self._prompt.numbered_frames if label else 0
        free = self.length // each
        return max(min(free, most or free), 1)

    def ask(self, prompts: Sequence[Sequence[Ask]]) -> list[list[str]]:
        (own,) = prompts
        most = max(1, *(len(ask.frames) for ask in own))
        self._note("complete", len(own), len(own) * most, max(ask.tokens for ask in own))
        return [[""] * len(own)]

    def option_attention(
        self, frames: Sequence[Sequence[int]], layer: int, tokens: int
    ) -> list[Float[np.ndarray, "X F"]]:
        wide = tokens * POOLING**2
        side = 1 if self._patches(wide) <= tokens * self._merge else POOLING
        choices = {"layer": layer, "side": side}
        self._note("option_attention", 1, len(frames[0]), wide, places=True, **choices)
        return [np.ones((1, len(frames[0])), np.float32)]

    def neighbour_cosines(self) -> list[Float[np.ndarray, "T P"]]:
        self._note("neighbour_cosines", 1, FRAMES_AT_ONCE, 0)
        return [np.ones((self._T, self.frame_tokens), np.float32)]

    def block_keys(self, blocks: Sequence[Sequence[Block]]) -> list[Float[np.ndarray, "G 2 C"]]:
        most = FRAMES_AT_ONCE // BLOCKS_AT_ONCE
        self._note("mean_keys_and_queries", BLOCKS_AT_ONCE, BLOCKS_AT_ONCE * most, 0)
        return [np.zeros((len(own), 2, 1), np.float32) for own in blocks]

    def question_queries(self) -> Float[np.ndarray, "B 2 C"]:
        self._note("mean_keys_and_queries", 1, 1, 0)
        return np.zeros((1, 2, 1), np.float32)

    def _patches(self, tokens: int) -> int:
        return min(self._most, tokens * self._merge) if tokens else self._most

    def _note(
        self,
        program: str,
        prompts: int,
        units: int,
        tokens: int,
        *,
        places: bool = False,
        **choices: Any,
    ) -> None:
        units, patches = min(units, self._T), self._patches(tokens)
        chosen = tuple(choices.items())
        self.calls.append(Call(program, prompts, units, patches, chosen, places))
