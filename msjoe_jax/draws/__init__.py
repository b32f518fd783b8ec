"""Laws of the draw of K of T frames, and `DRAWS`, in which a configuration finds them by name.

A law is a module with the three functions of `Law`; a new one is a file here and a line in `DRAWS`.
They are compared in docs/method.md#4-the-draw.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Key

from msjoe_jax.draws import conditional_bernoulli, marginal, marginal_mean, plackett_luce
from msjoe_jax.draws.draw import AnyArray, Draw


class Law(NamedTuple):
    """How K of T frames are drawn from their logits φ, and how likely a draw was.

    All three take leading batch axes and ignore masked logits. Where no more than k frames are
    valid the draw is forced: log-probability and entropy are 0, and so are their gradients.

    sample(key, logits, mask, k): min(k, number of valid frames) distinct valid frames.
    log_prob(logits, draw, mask): log-probability of a draw, in nats; its gradient is the score.
    entropy(logits, mask, k): entropy in nats, for the bonus; of the draw, or of what stands for it.
    """

    sample: Callable[
        [Key[Array, "..."], Float[AnyArray, "... T"], Bool[AnyArray, "... T"], int], Draw
    ]
    log_prob: Callable[
        [Float[AnyArray, "... T"], Draw, Bool[AnyArray, "... T"]], Float[Array, "..."]
    ]
    entropy: Callable[[Float[AnyArray, "... T"], Bool[AnyArray, "... T"], int], Float[Array, "..."]]


DRAWS: dict[str, Law] = {
    "plackett_luce": Law(plackett_luce.sample, plackett_luce.log_prob, plackett_luce.entropy),
    "cb": Law(
        conditional_bernoulli.sample, conditional_bernoulli.log_prob, conditional_bernoulli.entropy
    ),
    "marginal": Law(marginal.sample, marginal.log_prob, marginal.entropy),
    "marginal_mean": Law(marginal_mean.sample, marginal_mean.log_prob, marginal_mean.entropy),
}
