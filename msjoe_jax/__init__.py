"""Joint reinforcement learning of a multimodal LLM and a key-frame sampler for long videos."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msjoe_jax.rollout.answerer import Answerer
    from msjoe_jax.runtime.machine import Machine


def load(folder: Any, machine: "Machine | None" = None) -> "Answerer":
    """Loads a trained model, to answer questions about videos: `load(folder).answer(…)`.

    Args:
      folder: a model folder, such as `WORKDIR/final` of a run.
      machine: where it runs (`runtime.machine.make_machine`); None: this process's devices.

    Raises:
      UserError: there is no such folder, or it lacks one of the three models.
    """
    from msjoe_jax.rollout.answerer import Answerer

    return Answerer(folder, machine)
