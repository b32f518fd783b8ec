"""Parameters of the MLLM in the types and places that computing asks for, where nothing trains."""

import functools

import jax
from jaxtyping import Array

from msjoe_jax.models.lora import merge_lora
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.system import System, state_table
from msjoe_jax.runtime.machine import Machine
from msjoe_jax.runtime.mesh import are_matrices


def narrowed(system: System, mllm: Params) -> Params:
    """Casts matrices to the type of the computation, which casts them in any case.

    Args:
      system: whose MLLM it is.
      mllm: arrays, all or some of its leaves (None in place of others).
    """

    def leaf(x: Array, is_matrix: bool) -> Array:
        narrower = is_matrix and system.dtype.itemsize < x.dtype.itemsize
        return x.astype(system.dtype) if narrower else x

    return jax.tree.map(leaf, mllm, are_matrices(mllm, state_table(system)))


def for_computing(system: System) -> Params:
    """Returns the shapes of the MLLM's parameters where none of them trains."""
    return jax.eval_shape(functools.partial(narrowed, system), system.abstract["mllm"])


def served(system: System, machine: Machine, mllm: Params) -> Params:
    """Lays the MLLM inside a program as drawing replies reads it, adapters added.

    The language model is gathered once (see `Machine.served`): by FSDP alone every token would
    gather every layer. The tower has its own way.
    """
    merged = merge_lora(mllm, system.lora_scale)
    language = {"language": merged["language"]}
    gathered = machine.served(language, state_table(system), system.dtype)
    # Tied together, so that no compiler moves a gather of one leaf into the loop over tokens.
    return merged | jax.lax.optimization_barrier(gathered)
