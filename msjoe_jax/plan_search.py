"""Ranks meshes, micro-batches, LoRA ranks and lengths of a config on a slice by a closed form.

The form is rough: it knows the matrices, what a chip must hold, the gathers of weights and the
reductions of tensor parallelism. It only chooses what is worth compiling (`msjoe plan --search`).
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from msjoe_jax.config import TRAININGS, Config, read_config
from msjoe_jax.config_check import check
from msjoe_jax.errors import UserError
from msjoe_jax.rl.joint_step import partition
from msjoe_jax.rollout.frames import unit_slots
from msjoe_jax.rollout.system import System, make_system, state_table
from msjoe_jax.runtime.chips import GIB, LINKS, MATRIX_SHARE
from msjoe_jax.runtime.mesh import MESH_AXES, AxisRules, param_shardings
from msjoe_jax.runtime.topology import SPARE, Slice
from msjoe_jax.training.config import TrainingRun
from msjoe_jax.training.state import with_adapters

NARROW = 2  # bytes of what computes
WIDE = 4  # bytes of moments, and of gradients that are added up


class Choice(NamedTuple):
    """What a search varies.

    data is 1. tokens: of answer prompts; rank: of LoRA, 0: none.
    """

    fsdp: int
    tensor: int
    micro_batches: int
    tokens: int
    rank: int

    def words(self) -> str:
        """Says it in a row."""
        mesh = f"1 × {self.fsdp} × {self.tensor}"
        return f"{mesh:>12} {self.micro_batches:>6} {self.tokens:>7} {self.rank:>5}"


class Guess(NamedTuple):
    """A choice, its config, bytes that a chip holds at most, and seconds of an update."""

    choice: Choice
    config: Config
    bytes: float
    seconds: float

    def fits(self, hbm: int) -> bool:
        """Says whether it may fit a chip."""
        return self.bytes <= (1 - SPARE) * hbm


def search(
    given: ConfigDict,
    slice_: Slice,
    tokens: Sequence[int] = (),
    ranks: Sequence[int] = (),
    most: int = 12,
) -> list[Guess]:
    """Returns the best choices that a run would not refuse: what may fit first, then by seconds.

    Args:
      given: the config as it is given.
      slice_: where it runs.
      tokens: lengths of answer prompts; empty: the config's.
      ranks: of LoRA; empty: the config's.
      most: how many.

    Raises:
      UserError: no training in the config, or no choice that a run takes.
    """
    system = functools.cache(make_system)
    devices, slips = len(slice_.chips), list[str]()
    guesses = []
    for choice in _choices(given, devices, tokens, ranks):
        config = read_config(_changed(given, choice))
        guesses.append(guess(choice, config, system(config.models), slice_))
    found: list[Guess] = []
    for one in sorted(guesses, key=lambda g: (not g.fits(slice_.hbm), g.seconds, g.bytes)):
        if len(found) == most:
            break
        try:  # a check takes a second
            check(_changed(given, one.choice), devices, files=False)
            _check_mesh(one.choice, system(one.config.models))
            found.append(one)
        except UserError as error:
            slips.extend(error.lines)
    if not found:
        questions = given.rollout.questions
        slips = slips or [f"config.rollout.questions={questions}: no mesh of {devices} divides it"]
        raise UserError(*dict.fromkeys(slips))
    return found


def _choices(
    given: ConfigDict, devices: int, tokens: Sequence[int], ranks: Sequence[int]
) -> Iterator[Choice]:
    questions = given.rollout.questions
    for tensor in (t for t in (1, 2, 4, 8, 16) if devices % t == 0):
        fsdp = devices // tensor
        for micro in (m for m in range(1, questions + 1) if questions % (m * fsdp) == 0):
            for length in tokens or (given.prompt.answer_prompt_tokens,):
                for rank in ranks or (given.mllm.lora_rank,):
                    yield Choice(fsdp, tensor, micro, length, rank)


def _check_mesh(choice: Choice, system: System) -> None:
    """Checks that the mesh divides the parameters as a run lays them.

    Raises:
      UserError: it does not.
    """
    mesh: Any = jax.sharding.AbstractMesh((1, choice.fsdp, choice.tensor), MESH_AXES)
    param_shardings(system.abstract, state_table(system), mesh, AxisRules())


def _changed(given: ConfigDict, choice: Choice) -> ConfigDict:
    config = ConfigDict(given.to_dict(), type_safe=False)
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = 1, choice.fsdp, choice.tensor
    if given.mesh.rollout_tensor <= choice.tensor:  # which splits the layers as far
        config.mesh.rollout_tensor = 0
    config.objective.micro_batches = choice.micro_batches
    config.prompt.answer_prompt_tokens, config.mllm.lora_rank = choice.tokens, choice.rank
    return config


def guess(choice: Choice, config: Config, system: System, slice_: Slice) -> Guess:
    """Estimates a choice for the last training of the config.

    Raises:
      UserError: it has none.
    """
    names = [name for name in TRAININGS if name in config.phases]
    if not names:
        raise UserError(f"config.phases={config.phases}: no training to search for")
    run = config.training_run(names[-1])
    form = _Form(choice, config, run, system, slice_)
    return Guess(choice, config, form.bytes(), form.seconds())


class _Form:
    """The closed form of a choice. Sizes are of a device, but for those of the models."""

    def __init__(
        self, choice: Choice, config: Config, run: TrainingRun, system: System, slice_: Slice
    ) -> None:
        self.choice, self.config, self.run, self.system = choice, config, run, system
        self.chip, self.devices = slice_.chip, len(slice_.chips)
        self.flops = system.family.flops(system.mllm_config)
        self.text: Any = system.mllm_config.text
        mllm = system.abstract["mllm"]
        self.layers = _numbers(mllm["language"]["layers"])
        self.weights = _numbers(mllm)
        self.trained = 0
        if run.training.train_mllm:
            full = jax.eval_shape(lambda params: with_adapters(run, params), mllm)
            self.trained = _numbers(partition(full, run.trainable)[0])
        rollout = run.rollout
        self.sets = rollout.query_rollouts * rollout.frame_draws
        self.questions = rollout.questions / choice.fsdp  # of a row of the mesh

    # --- memory -----------------------------------------------------------------------------------

    def bytes(self) -> float:
        """Returns what the larger of the joint step and the answers holds, state included."""
        own = jax.numpy.dtype(self.config.mllm.param_dtype).itemsize
        state = (self.weights * own + 2 * WIDE * self.trained) / self.devices
        if self.choice.rank:  # the merged copy of the decoder
            state += self.layers * own / self.devices
        return state + max(self._step_bytes(), self._answer_bytes())

    def _step_bytes(self) -> float:
        if not self.trained:
            return 0.0
        mllm, micro = self.config.mllm, self.choice.micro_batches
        rows = self.questions / micro * (1 if mllm.prompts_one_by_one else self.sets)
        gradients = WIDE * self.trained / self.devices * (2 if micro > 1 else 1)
        features = self.questions * self._features() * self.text.width * NARROW
        kept = self.text.layers if mllm.remat else 8 * self.text.layers
        return gradients + features + rows * self._activations(kept) + self._gathered_layer()

    def _answer_bytes(self) -> float:
        rows = self.questions / self.run.rollout.waves * self.sets
        at_once = rows / self.sets if self.config.mllm.prompts_one_by_one else rows
        text = self.text
        cache = 2 * text.layers * text.kv_heads * text.head_dim * NARROW * self.choice.tokens
        parallel = min(self.choice.tensor, text.kv_heads)
        features = self.questions * self._features() * text.width * NARROW
        head = text.vocab * text.width * NARROW / self.choice.tensor
        working = at_once * self._activations(0) + rows * self.choice.tokens * NARROW * text.width
        return rows * cache / parallel + working + features + head + self._served()

    def _serving(self) -> int:
        """Returns the devices among which a layer is split while replies are drawn."""
        return self.config.mesh.rollout_tensor or self.choice.tensor

    def _served(self) -> float:
        """Returns the weights that a device holds while replies are drawn."""
        return self.layers * NARROW / self._serving()

    def _features(self) -> int:
        frames, merge = self.config.frames, self.system.mllm_config.vision.merge
        return unit_slots(frames, 1, self.sets) * frames.key_patches // merge**2

    def _activations(self, kept: int) -> float:
        """Returns what a prompt holds: inputs of `kept` layers, and one layer at work."""
        wide = 3 * self.text.mlp_width / self.choice.tensor + 6 * self.text.width
        return self.choice.tokens * NARROW * (kept * self.text.width + wide)

    def _gathered_layer(self) -> float:
        return 2 * self.layers / self.text.layers * NARROW / self.choice.tensor

    # --- time -------------------------------------------------------------------------------------

    def seconds(self) -> float:
        """Returns the seconds of an update, by the model of runtime/chips.py."""
        peak = MATRIX_SHARE * self.chip.device_peak
        link = LINKS * self.chip.link / self.chip.devices
        return self._flops() / peak + self._wire() / link + self._decoded() / self.chip.hbm

    def _flops(self) -> float:
        """Counts a device's FLOPs: rollout, then forward passes again and backward."""
        config, rollout, flops = self.config, self.run.rollout, self.flops
        tower = sum(flops.frame(config.frames.key_patches))
        tower *= rollout.questions * unit_slots(config.frames, 1, self.sets)
        passes = self._passes()
        if not self.trained:
            return (self._forward() + tower) / self.devices
        backward = 1 if self.choice.rank else 2
        # Heads that tensor parallelism does not divide are padded.
        heads = self.text.heads
        padding = -(-heads // self.choice.tensor) * self.choice.tensor / heads
        return padding * (self._forward() * (1 + passes + backward) + tower) / self.devices

    def _passes(self) -> int:
        """Counts forward passes of the joint step, those of rematerialisation among them."""
        return 1 + self.config.mllm.remat

    def _forward(self) -> float:
        """Counts a forward pass of all prompts and replies, on all devices."""
        flops, prompt, rollout = self.flops, self.config.prompt, self.run.rollout
        answer = [*flops.prompt(self.choice.tokens)]
        answer += flops.completion(self.choice.tokens, prompt.answer_tokens)
        query = [*flops.prompt(prompt.query_prompt_tokens)]
        reply = sum(flops.completion(prompt.query_prompt_tokens, prompt.query_tokens))
        questions = rollout.questions
        each = self.sets * sum(answer) + sum(query) + rollout.query_rollouts * reply
        return questions * each

    def _wire(self) -> float:
        """Counts bytes on the wire: gathers of weights, gradients, sums of tensor parallelism."""
        fsdp, tensor, micro = self.choice.fsdp, self.choice.tensor, self.choice.micro_batches
        weights = self.layers * NARROW / tensor * (fsdp - 1) / fsdp
        rollout = self.run.rollout
        # Once for queries and once for answers of a wave: see `Machine.served`.
        total = 2 * rollout.waves * self._served() * (1 - self._serving() / self.devices)
        rows = self.questions * (self.sets + 1) * self.choice.tokens * self.text.width * NARROW
        sums = 2 * self.text.layers * rows * 2 * (tensor - 1) / tensor
        total += sums
        if self.trained:
            prompts = micro * ((self.sets if self.config.mllm.prompts_one_by_one else 1) + 1)
            passes = self._passes() + 1
            # What trains is scattered as it was gathered.
            total += weights * prompts * passes
            total += self.trained * NARROW / tensor * (fsdp - 1) / fsdp * prompts
            total += sums * passes
        return total

    def _decoded(self) -> float:
        """Counts bytes that decoding reads: the weights of a device's share, once a token."""
        prompt, waves = self.config.prompt, self.run.rollout.waves
        weights = (self.layers + self.text.vocab * self.text.width) * NARROW / self._serving()
        return weights * waves * (prompt.query_tokens + prompt.answer_tokens) * self.chip.devices


def _numbers(tree: Any) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def table(guesses: Sequence[Guess], hbm: int) -> Iterator[str]:
    """Yields the lines of a table."""
    yield f"{'mesh':>12} {'micro':>6} {'tokens':>7} {'rank':>5} {'GiB':>7} {'s/update':>9}"
    for one in guesses:
        verdict = "" if one.fits(hbm) else "  does not fit"
        yield f"{one.choice.words()} {one.bytes / GIB:7.1f} {one.seconds:9.1f}{verdict}"
