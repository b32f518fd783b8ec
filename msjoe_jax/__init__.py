"""Joint reinforcement learning of a multimodal LLM and a key-frame sampler for long videos."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msjoe_jax.rollout.answerer import Answerer


def load(folder: Any) -> "Answerer":
    """Loads a trained model, to answer questions about videos: `load(folder).answer(…)`.

    Args:
      folder: a model folder, such as `WORKDIR/final` of a run.

    Raises:
      UserError: there is no such folder, or it lacks one of the three models.
    """
    from msjoe_jax.rollout.answerer import Answerer

    return Answerer(folder)
