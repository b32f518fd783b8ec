"""The price of a run: seconds of its programs (runtime/chips.py) times how often they run."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from msjoe_jax.config import TRAININGS, Config
from msjoe_jax.program_flops import minimum_flops
from msjoe_jax.rollout.system import System
from msjoe_jax.runtime.chips import Cost
from msjoe_jax.runtime.program import Use
from msjoe_jax.runtime.topology import Slice

HOUR = 3600
ONE_DEVICE = {"predecode"}  # phases whose programs run on one device


class Priced(NamedTuple):
    """A use, what it costs each device (None: it does not compile), and FLOPs a device at least."""

    use: Use
    cost: Cost | None
    minimum: float


class Update(NamedTuple):
    """An update of a training.

    seconds: of it; parts: of its programs, by name; samples: answers that it trains on (of the
    training on evidence, questions), a second;
    mfu: FLOPs at least over those that the slice could do in that time.
    """

    seconds: float
    parts: dict[str, float]
    samples: float
    mfu: float


class Price(NamedTuple):
    """A run.

    updates: by training; seconds: of its phases; unknown: programs that run as often as the data
    has it, which are not in it; missing: those without a price.
    """

    updates: dict[str, Update]
    seconds: dict[str, float]
    unknown: list[str]
    missing: list[str]

    @property
    def hours(self) -> float:
        """Hours of all phases."""
        return sum(self.seconds.values()) / HOUR


def minimum_of(use: Use, config: Config, system: System, devices: int) -> float:
    """Returns the FLOPs that a use needs at least of each device."""
    run = config.training_run(use.phase) if use.phase in TRAININGS else None
    return minimum_flops(use, system, run) / (1 if use.phase in ONE_DEVICE else devices)


def price_run(priced: Sequence[Priced], config: Config, slice_: Slice) -> Price:
    """Adds up the programs of a run."""
    seconds: dict[str, float] = {}
    for use, cost, _ in priced:
        if cost is not None and use.times is not None:
            spent = seconds.get(use.phase, 0.0) + cost.seconds * use.times
            seconds[use.phase] = spent
    names = dict.fromkeys(use.phase for use, _, _ in priced if use.per_update)
    return Price(
        updates={name: _update(priced, name, _samples(config, name), slice_) for name in names},
        seconds=seconds,
        unknown=list(dict.fromkeys(use.phase for use, _, _ in priced if use.times is None)),
        missing=[use.name for use, cost, _ in priced if cost is None],
    )


def _samples(config: Config, training: str) -> int:
    """Returns on how many answers an update trains; of evidence, on how many questions."""
    if training not in TRAININGS:
        return config.evidence.questions
    rollout = config.training_run(training).rollout
    return rollout.questions * rollout.query_rollouts * rollout.frame_draws


def _update(priced: Sequence[Priced], training: str, samples: int, slice_: Slice) -> Update:
    own = [p for p in priced if p.use.phase == training and p.use.per_update]
    parts: dict[str, float] = {}
    minimum = 0.0
    for use, cost, least in own:
        minimum += least * use.per_update
        if cost is not None:
            name = use.name.partition(": ")[2]
            parts[name] = parts.get(name, 0.0) + cost.seconds * use.per_update
    seconds = sum(parts.values())
    if not seconds:
        return Update(0.0, parts, 0.0, 0.0)
    mfu = minimum / (seconds * slice_.chip.device_peak)
    return Update(seconds, parts, samples / seconds, mfu)


def describe_price(price: Price, words: str = "") -> list[str]:
    """Returns lines about a price, `words` (at which length) in each head."""
    lines = []
    for name, update in price.updates.items():
        dear = sorted(update.parts.items(), key=lambda part: -part[1])[:4]
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in dear if seconds >= 0.05)
        lines.append(
            f"{name}{words}: {update.seconds:.1f} s an update ({parts}), {update.samples:.2f} "
            f"samples/s, MFU {update.mfu:.1%}"
        )
    phases = ", ".join(
        f"{phase} {seconds / HOUR:.2f}" for phase, seconds in price.seconds.items() if seconds > 1
    )
    lines.append(f"the run{words}: {price.hours:.1f} hours" + (f" ({phases})" if phases else ""))
    if price.unknown:
        lines.append(f"not in it, as the data decides how often: {', '.join(price.unknown)}")
    if price.missing:
        lines.append(f"not in it, as they have no price: {', '.join(price.missing)}")
    return lines


def price_as_json(price: Price) -> dict[str, Any]:
    """Returns a price as plain values."""
    return {
        "updates": {name: update._asdict() for name, update in price.updates.items()},
        "seconds": price.seconds,
        "hours": price.hours,
        "unknown": price.unknown,
        "missing": price.missing,
    }
