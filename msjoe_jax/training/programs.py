"""The programs of a training, beside those of its episodes: begin, score, credit, update."""

import functools
from typing import Any

import jax

from msjoe_jax.models.lora import merge_lora
from msjoe_jax.models.params import Params
from msjoe_jax.rl.batch import RolloutBatch
from msjoe_jax.rl.credit import batch_advantages
from msjoe_jax.rollout.system import System, state_table
from msjoe_jax.runtime.machine import Machine
from msjoe_jax.runtime.program import Program
from msjoe_jax.training.config import TrainingRun
from msjoe_jax.training.state import (
    State,
    abstract_state,
    init_state,
    make_draw_scoring,
    make_scoring,
    make_step,
)


class TrainingPrograms:
    """The programs of a training.

    Args:
      run: the training.
      system: the models.
      machine: where they run.

    Attributes:
      state: shape, type and sharding of every leaf of the training state.
      start: of the parameters that it begins with.
      init: (parameters of the MLLM, of the sampler) → state.
      joint_step: (state, batch) → (state, metrics); the state's memory is used again.
      scoring: (parameters of the MLLM, batch) → log-probs of query and answer tokens.
      draw_scoring: (parameters of the sampler, batch) → log-probs of draws.
      credit: batch → advantages and rewards.
      merge: parameters of the MLLM with adapters → without.
    """

    def __init__(self, run: TrainingRun, system: System, machine: Machine):
        table = state_table(system)
        self.state: State = machine.laid(abstract_state(run, system), table)
        mllm = {name: tree for name, tree in self.state["mllm"].items() if name != "lora"}
        self.start = {"mllm": mllm, "sampler": self.state["sampler"]}
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        self.init = Program(
            "init",
            functools.partial(init_state, run, system),
            donate=(0, 1),
            out_shardings=shardings,
        )
        self.joint_step = Program(
            "joint_step",
            make_step(run, system),
            donate=(0,),
            out_shardings=(shardings, machine.whole),
            many_kernels=True,
        )
        by_rows = machine.by_rows
        self.scoring = Program("scoring", make_scoring(run, system), out_shardings=by_rows)
        self.draw_scoring = Program(
            "draw_scoring", make_draw_scoring(run, system), out_shardings=by_rows
        )
        self.credit = Program("credit", self._credit(run), out_shardings=machine.whole)
        self.merge = Program(
            "merge",
            functools.partial(merge_lora, scale=system.lora_scale),
            out_shardings=machine.places(system.abstract["mllm"], table),
        )

    @staticmethod
    def _credit(run: TrainingRun) -> Any:
        def credit(batch: RolloutBatch) -> Any:
            return batch_advantages(run.step, batch)[:2]

        return credit

    def merged(self, state: State) -> dict[str, Params]:
        """Returns the parameters of a state, with adapters merged into the MLLM's."""
        mllm = state["mllm"]
        return {
            "mllm": self.merge(mllm) if "lora" in mllm else mllm,
            "sampler": state["sampler"],
        }
