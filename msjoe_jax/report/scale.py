"""Scales of charts: numbers to places along an axis, in percent, and the ticks of the axis."""

import dataclasses
import math
from collections.abc import Iterable

STEPS = (1, 2, 2.5, 5, 10)
CLOCK_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds


@dataclasses.dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`; `log`: equal factors are equally far apart."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Returns where a value lies, in percent of the axis; beyond its ends: at the end."""
        low, high = self._inner(self.low), self._inner(self.high)
        inside = min(max(self._inner(value), low), high)
        return round(100 * (inside - low) / (high - low), 3)

    def ticks(self, most: int = 6) -> list[float]:
        """Returns round values inside the axis, about `most` at the most."""
        if self.log:
            first, last = math.ceil(math.log2(self.low) - 1e-9), math.floor(math.log2(self.high))
            step = max(1, math.ceil((last - first + 1) / most))
            return [2.0**power for power in range(first, last + 1, step)]
        width = _round_step((self.high - self.low) / most)
        first, last = math.ceil(self.low / width - 1e-9), math.floor(self.high / width + 1e-9)
        return [round(number * width, 10) for number in range(first, last + 1)]

    def _inner(self, value: float) -> float:
        return math.log2(max(value, self.low)) if self.log else value


def clock_ticks(scale: Scale, most: int = 6) -> list[float]:
    """Returns ticks of an axis of seconds that are round as minutes and hours, too."""
    length = scale.high - scale.low
    wide = 3600 * _round_step(length / most / 3600)  # of more than a day
    step = next((float(step) for step in CLOCK_STEPS if length / step <= most), wide)
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def scale_of(
    values: Iterable[float],
    *,
    log: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> Scale:
    """Returns the scale that holds values, with round ends.

    Args:
      values: numbers; those that are not finite are passed over.
      log: whether the axis is logarithmic; all values must then be above 0.
      low: an end that the axis has at least; None: the values decide.
      high: likewise.
    """
    finite = [value for value in values if math.isfinite(value)]
    finite += [end for end in (low, high) if end is not None]
    least, most = float(min(finite, default=0.0)), float(max(finite, default=1.0))
    if log:
        return Scale(least / 2**0.25, most * 2**0.25, True)
    if most - least < 1e-9 * max(1.0, abs(most)):
        margin = abs(least) / 2 or 0.5
        least, most = least - margin, most + margin
    step = _round_step((most - least) / 5)
    return Scale(math.floor(least / step + 1e-9) * step, math.ceil(most / step - 1e-9) * step)


def number_text(value: float) -> str:
    """Writes a number of a tick in few characters: 0.25, 12, 1,024, 2e-05."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):
        return f"{value:.3g}"
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def _round_step(least: float) -> float:
    """Returns the least of 1, 2, 2.5, 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in STEPS if step * power >= least * (1 - 1e-9))
