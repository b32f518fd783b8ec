"""FLOPs of a compiled program's instructions: matrix multiplications, and attention kernels.

TPU programs turn products into convolutions, some with dilations that only batch: those count the
positions where a window meets an element, not those where it meets the zeros between.
"""

import math
import re

import numpy as np

from msjoe_jax.runtime.hlo import Array, Computation, Instruction

# Multiplications of [queries, keys] by a head's width in each kernel of splash attention
# (jax/experimental/pallas/ops/tpu/splash_attention): scores and values; scores, their gradient and
# the queries'; scores, both gradients and the values'.
SPLASH = {"fwd": 2, "dq": 3, "dkv": 4}
KERNEL = "tpu_custom_call"


def product_flops(computation: Computation, instruction: Instruction) -> float:
    """Returns the FLOPs of a `dot` or a `convolution`, 2 for each multiplication; else 0."""
    if instruction.opcode == "dot":
        left = computation.operand(instruction, 0).results[0]
        axes = re.findall(r"\d+", instruction.attribute("lhs_contracting_dims"))
        inner = math.prod(left.dims[int(a)] for a in axes)
        return 2.0 * instruction.results[0].size * inner
    if instruction.opcode == "convolution":
        return _convolution(computation, instruction)
    return 0.0


def _convolution(computation: Computation, instruction: Instruction) -> float:
    left, kernel = (computation.operand(instruction, i).results[0] for i in (0, 1))
    labels = re.split("_|->", instruction.attribute("dim_labels"))
    sizes = [
        dict(zip(names, array.dims, strict=True))
        for names, array in zip(labels, (left, kernel, instruction.results[0]), strict=True)
    ]
    groups = int(instruction.attribute("batch_group_count") or 1)
    window = dict(
        part.partition("=")[::2] for part in instruction.attribute("window").strip("{}").split()
    )
    meetings = 1
    for i, name in enumerate(sorted(n for n in labels[0] if n.isdigit())):

        def of(key: str, otherwise: str, i: int = i) -> str:
            return window[key].split("x")[i] if key in window else otherwise

        low = int(of("pad", "0_0").partition("_")[0])
        meetings *= _meetings(
            sizes[0][name],
            sizes[1][name],
            sizes[2][name],
            int(of("stride", "1")),
            low,
            int(of("lhs_dilate", "1")),
            int(of("rhs_dilate", "1")),
        )
    return 2.0 * (sizes[0]["b"] // groups) * sizes[1]["i"] * sizes[1]["o"] * meetings


def _meetings(
    length: int, window: int, out: int, stride: int, pad: int, dilate: int, spread: int
) -> int:
    """Counts (output, place in the window) where an element of the input lies."""
    if window == 1 and dilate == 1 and not pad:
        return out
    places = np.arange(out)[:, None] * stride + np.arange(window)[None] * spread - pad
    inside = (places >= 0) & (places <= (length - 1) * dilate)
    return int((inside & (places % dilate == 0)).sum())


def kernel_flops(computation: Computation, instruction: Instruction) -> float | None:
    """Returns the FLOPs of an attention kernel, by formula; None: a kernel that is not known.

    A causal kernel counts the blocks on and below the diagonal; it is known by the operand that
    numbers its queries. Segments do not count: their blocks are computed.
    """
    found = re.match(r"splash_m[hq]a_(fwd|dq|dkv)", instruction.name)
    if not found:
        return None
    operands = [computation.instructions[name].results[0] for name in instruction.operands]
    q, k = [x for x in operands if _is_float(x) and len(x.dims) > 2][:2]
    heads, L, H = math.prod(q.dims[:-2]), q.dims[-2], q.dims[-1]
    share = 1.0
    if sum(x.dtype == "s32" for x in operands) % 2:
        names = {"fwd": "block_q", "dq": "block_q_dq", "dkv": "block_q_dkv"}
        block = re.search(rf'{names[found[1]]}\\?": (\d+)', instruction.rest)
        share = (L + (int(block[1]) if block else 0)) / (2 * L)
    return SPLASH[found[1]] * 2 * heads * L * k.dims[-2] * H * share


def _is_float(array: Array) -> bool:
    return array.dtype.startswith(("f", "bf"))
