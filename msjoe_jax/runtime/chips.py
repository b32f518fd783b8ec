"""TPU chips by generation, and the one model by which plans turn counts into seconds.

An instruction takes as long as its matrices at half the peak or its bytes at HBM's rate, whichever
is longer. A collective takes its bytes on the wire at the rate of two links, a ring in both
directions. Nothing overlaps, and the host's work is not in it. Nothing is measured.
"""

import dataclasses
from typing import Any

from msjoe_jax.runtime.hlo_cost import Tally

GIB = 2**30
MATRIX_SHARE = 0.5  # of the peak that matrix multiplications reach
LINKS = 2  # that a chip's ring uses, one in each direction


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip as JAX's devices see it.

    hbm_gib: usable memory of a device, as the compiler reports it; peak: bfloat16 FLOP/s, hbm:
    bytes/s, link: bytes/s of a link each way, all of a whole chip; devices: of a chip.
    """

    hbm_gib: float
    peak: float
    hbm: float
    link: float
    devices: int = 1

    @property
    def hbm_bytes(self) -> int:
        """Usable bytes of a device."""
        return int(self.hbm_gib * GIB)

    @property
    def device_peak(self) -> float:
        """bfloat16 FLOP/s of a device."""
        return self.peak / self.devices


# Peak and HBM: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e, /tpu7x. Links: those pages'
# bandwidth of a chip in both directions together, over its links (4 in a 2-D torus, 6 in a 3-D
# one) and over 2; v4: its all-reduce rate, 1.1 PB/s of 4,096 chips, over 6 links.
CHIPS = {
    "v4": Chip(30.75, 275e12, 1200e9, 45e9),
    "v5e": Chip(15.75, 197e12, 819e9, 50e9),
    "v5p": Chip(95.74, 459e12, 2765e9, 100e9),
    "v6e": Chip(31.25, 918e12, 1638e9, 100e9),
    "tpu7x": Chip(94.75, 2307e12, 7380e9, 100e9, devices=2),
}


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a program costs each device.

    flops: of matrices; bytes: in HBM; exchanged: bytes by kind of collective; seconds: by the model
    above; exchange_seconds: those of collectives; unknown: kernels whose FLOPs, and loops whose
    passes, could not be read and are not in it.
    """

    flops: float
    bytes: float
    exchanged: dict[str, float]
    seconds: float
    exchange_seconds: float
    unknown: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Cost":
        """Makes one of plain values, as `dataclasses.asdict` gives them."""
        return cls(**{**values, "unknown": tuple(values["unknown"])})


def cost_of(tally: Tally, chip: Chip) -> Cost:
    """Prices what a program does on a chip."""
    rate, hbm = MATRIX_SHARE * chip.device_peak, chip.hbm / chip.devices
    work = sum(w.times * max(w.flops / rate, w.bytes / hbm) for w in tally.work)
    exchanged: dict[str, float] = {}
    wire = 0.0
    for exchange in tally.exchanges:
        if exchange.group > 1:
            size = exchange.bytes * exchange.times
            exchanged[exchange.kind] = exchanged.get(exchange.kind, 0.0) + size
            wire += exchange.wire * exchange.times
    exchange_seconds = wire / (LINKS * chip.link / chip.devices)
    return Cost(
        flops=tally.flops,
        bytes=tally.bytes,
        exchanged=exchanged,
        seconds=work + exchange_seconds,
        exchange_seconds=exchange_seconds,
        unknown=tuple(dict.fromkeys(tally.kernels + tally.endless)),
    )
