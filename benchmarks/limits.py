"""What a machine gives at most, measured beside a benchmark: its matrix rate and its memory rate.

A limit is the best of XLA's and torch's, and of several tries: rows are medians, so a share errs
low. `keep_to` starts a benchmark anew without AVX-512 on either side. XLA's own kernels obey a
flag; YNNPACK, which multiplies matrices for it, obeys none and is left out, so that oneDNN
multiplies instead (a processor without AVX-512 runs YNNPACK's kernels of AVX2).

    python -m benchmarks.limits                # all rates, of the processor
    python -m benchmarks.limits --isa=avx2
"""

import argparse
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

AVX2 = {
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2 --xla_cpu_experimental_ynn_fusion_type=",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


class Work(NamedTuple):
    """A part of a program: what it must compute and what it must read, at the same time."""

    flops: float = 0.0
    bytes_read: float = 0.0


class Limits(NamedTuple):
    """FLOP/s of a matrix product and bytes/s of a pass over memory, and who reached them."""

    matrix: float
    memory: float
    matrix_by: str
    memory_by: str

    def seconds(self, *parts: Work) -> float:
        """Computes how long parts take at least, one after the other."""
        return sum(max(p.flops / self.matrix, p.bytes_read / self.memory) for p in parts)

    def __str__(self) -> str:
        return (
            f"matrix product {self.matrix / 1e9:,.0f} GFLOP/s ({self.matrix_by}), "
            f"memory {self.memory / 1e9:,.1f} GB/s ({self.memory_by})"
        )


def timed_rounds(calls: Sequence[Callable[[], Any]], repeats: int) -> np.ndarray:
    """Measures seconds [repeats, calls] in turns, so that a slow machine slows all of them.

    A call must not return before its result is ready. At its turn it runs twice, and the second run
    counts: the first one pays for memory that the host took back while another call ran (half a
    second a GB where it does).
    """
    rounds: list[list[float]] = []
    for _ in range(repeats):
        rounds.append([])
        for call in calls:
            call()
            began = time.perf_counter()
            call()
            rounds[-1].append(time.perf_counter() - began)
    return np.array(rounds)


def ours(f: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """Compiles a function for these arrays on JAX's device, and returns a call of it."""
    arguments = jax.device_put(arguments)
    compiled = jax.jit(f).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def theirs(f: Callable[[], Any], device: str) -> Callable[[], Any]:
    """Returns a call of torch, without gradients."""

    def run() -> None:
        with torch.inference_mode():
            f()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


class Rates(NamedTuple):
    """All that was tried: FLOP/s of the product and bytes/s of the pass, by who does it."""

    matrix: dict[str, float]
    memory: dict[str, float]


def measure_rates(device: str, dtype: str, size: int = 0, repeats: int = 9) -> Rates:
    """Measures a square product in `dtype`, and reading an array much larger than the caches.

    Args:
      device: torch's name of JAX's device.
      dtype: of the numbers.
      size: of a side of the product; memory is read of 32 such matrices. 0: 2,048 on a CPU, where
        a side of 4,096 is slower, and 8,192 on a card.
      repeats: tries of each, of which the best counts.
    """
    n = size or (2048 if device == "cpu" else 8192)
    x, large = jnp.ones((n, n), dtype), jnp.ones((32 * n, n), dtype)
    y, their_large = (
        torch.ones(z.shape, dtype=getattr(torch, dtype), device=device) for z in (x, large)
    )
    vector = jnp.ones((n,), dtype)
    matrix = {
        "XLA": ours(jnp.matmul, x, x),
        "torch": theirs(lambda: y @ y, device),
    }
    memory = {
        "XLA's sum": ours(jnp.sum, large),
        "XLA's matrix × vector": ours(jnp.matmul, large, vector),
        "torch's sum": theirs(lambda: their_large.sum(), device),
    }

    def rates(calls: dict[str, Callable[[], Any]], work: float) -> dict[str, float]:
        seconds = timed_rounds(list(calls.values()), repeats).min(0)
        return {name: work / float(s) for name, s in zip(calls, seconds, strict=True)}

    return Rates(rates(matrix, 2.0 * n**3), rates(memory, large.nbytes))


def measure_limits(device: str, dtype: str, size: int = 0, repeats: int = 9) -> Limits:
    """Measures the best of the rates of `measure_rates`.

    Args:
      device, dtype, size, repeats: see there.
    """
    rates = measure_rates(device, dtype, size, repeats)
    matrix_by, memory_by = (max(of, key=of.__getitem__) for of in rates)
    return Limits(rates.matrix[matrix_by], rates.memory[memory_by], matrix_by, memory_by)


# --- the processor --------------------------------------------------------------------------------


def processor(device: str) -> str:
    """Names the processor, the widest instructions that torch finds in use, and threads; or a card.

    Args:
      device: torch's name of JAX's device.
    """
    if device != "cpu":
        return jax.devices()[0].device_kind
    file = pathlib.Path("/proc/cpuinfo")
    lines = file.read_text().split("\n\n")[0].splitlines() if file.exists() else []
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    threads = len(os.sched_getaffinity(0))
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {threads} threads"


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that `keep_to` takes."""
    parser.add_argument(
        "--isa", choices=("avx2",), help="instructions not to go beyond; default: all there are"
    )


def keep_to(isa: str | None) -> None:
    """Starts this program anew, so that neither side uses wider instructions than these.

    Args:
      isa: "avx2", or None, where nothing happens.
    """
    if not isa or all(value in os.environ.get(name, "") for name, value in AVX2.items()):
        return
    flags = f"{os.environ.get('XLA_FLAGS', '')} {AVX2['XLA_FLAGS']}".strip()
    sys.stdout.flush()
    os.execve(sys.executable, sys.orig_argv, os.environ | AVX2 | {"XLA_FLAGS": flags})


def main() -> None:
    """Prints every rate of this processor in float32."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_flag(parser)
    keep_to(parser.parse_args().isa)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rates = measure_rates("cpu", "float32")
    print(f"{processor('cpu')}; jax {jax.__version__}, torch {torch.__version__}")
    for name, rate in rates.matrix.items():
        print(f"product of 2,048², {name}: {rate / 1e9:,.0f} GFLOP/s")
    for name, rate in rates.memory.items():
        print(f"512 MiB, {name}: {rate / 1e9:,.1f} GB/s")


if __name__ == "__main__":
    main()
