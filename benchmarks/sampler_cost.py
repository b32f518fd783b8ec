"""Measures time and memory of similarity, sampler and top-k at full size, by number of candidates.

    python -m benchmarks.sampler_cost --out=sampler_cost.jsonl     # T = 256 … 8,192
    python -m benchmarks.sampler_cost --candidates=256,512 --rules=

One question with 4 queries and random embeddings of CLIP ViT-L/14's width, the U-Net of the default
sizes, on whatever device JAX has; rules without weights run on the host (selector_costs.py). A line
for each is printed, and written as JSON, as soon as it is measured; at the end how time and memory
grow: the exponent of T, fitted over the larger half of T, which is 1 for what is linear.
"""

import json
import math
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

from benchmarks.selector_costs import EMBEDDING, RULES, measure
from msjoe_jax.models.sampler import SamplerConfig
from msjoe_jax.rl.batch import FrameInputs
from msjoe_jax.rollout.programs import choose_frames
from msjoe_jax.runtime.program import Program
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.fixed import best_frames
from msjoe_jax.signals.clip import cosine

QUERIES = 4


class Part(NamedTuple):
    """A program of the selection with its arguments for one question."""

    program: Program
    arguments: tuple[Any, ...]
    choices: dict[str, Any]


def parts(candidates: int, key: int, sizes: SamplerConfig) -> dict[str, Part]:
    """Makes what a question runs on the device, by step.

    Args:
      candidates: T.
      key: K.
      sizes: of the U-Net.
    """
    rng = np.random.default_rng(candidates)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    network = SELECTORS["msjoe"].network
    assert network is not None
    graph, params = nnx.split(network.build(sizes, EMBEDDING, nnx.Rngs(0)))
    logits_of = network.logits

    def sampler(params: Any, inputs: FrameInputs) -> jax.Array:
        return logits_of(nnx.merge(graph, params), inputs)

    inputs = FrameInputs(
        similarity=jnp.asarray(normal(1, QUERIES, candidates)),
        query_mask=jnp.ones((1, QUERIES), bool),
        frame_mask=jnp.ones((1, candidates), bool),
    )
    whole = np.ones((1, candidates), bool)
    rows = normal(1, 1, QUERIES, candidates), np.ones((1, 1, QUERIES), bool), whole
    choices = {"law": "plackett_luce", "draws": 1, "k": key}
    choose = Program("choose_frames", choose_frames, ("law", "draws", "k"))
    texts, frames = normal(1, 1, QUERIES, EMBEDDING), normal(1, candidates, EMBEDDING)
    return {
        "similarity": Part(cosine, (texts, frames), {}),
        "sampler": Part(Program("sampler", sampler), (params, inputs), {}),
        "draw": Part(choose, (normal(1, 1, candidates), whole, None), choices),
        "topk": Part(best_frames, rows, {"width": 1, "draws": 1, "k": key}),
    }


def cost(part: Part, repeats: int) -> tuple[float, float]:
    """Measures a program: milliseconds, the fastest run, and MiB beside arguments, as compiled."""
    arguments = jax.device_put(part.arguments)
    memory = part.program.lower(*arguments, **part.choices).compile().memory_analysis()
    beside = memory.temp_size_in_bytes + memory.output_size_in_bytes

    def run() -> None:
        jax.block_until_ready(part.program(*arguments, **part.choices))

    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds), beside / 2**20


def rows(
    candidates: Sequence[int], key: int, sizes: SamplerConfig, rules: Sequence[str], repeats: int
) -> Iterator[dict[str, Any]]:
    """Yields a row for each T and step, then for each T and rule.

    Args:
      candidates: values of T.
      key: K.
      sizes: of the U-Net.
      rules: names of SELECTORS that run on the host.
      repeats: of each measurement.
    """
    for number in candidates:
        for name, part in parts(number, key, sizes).items():
            ms, mib = cost(part, repeats)
            yield {"name": name, "candidates": number, "ms": ms, "mib": mib, "where": "device"}
    for name in rules:
        for number in candidates:
            ms, mib = measure(SELECTORS[name], number, key, repeats)
            yield {"name": name, "candidates": number, "ms": ms, "mib": mib, "where": "host"}


def exponents(found: Sequence[dict[str, Any]], field: str) -> dict[str, float]:
    """Fits by name the exponent with which a field grows in T, over the larger half of T."""
    names = dict.fromkeys(row["name"] for row in found)
    out = {}
    for name in names:
        own = sorted((row["candidates"], row[field]) for row in found if row["name"] == name)
        own = [point for point in own[len(own) // 2 - (len(own) < 4) :] if point[1] > 0]
        if len(own) > 1:
            x, y = (
                np.array([math.log(value) for value in column]) for column in zip(*own, strict=True)
            )
            out[name] = float(np.polyfit(x, y, 1)[0])
    return out


def main() -> None:
    """Defines the flags and runs."""
    candidates = flags.DEFINE_list(
        "candidates", ["256", "512", "1024", "2048", "4096", "8192"], "Values of T."
    )
    rules = flags.DEFINE_list("rules", list(RULES), "Selectors that run on the host.")
    key = flags.DEFINE_integer("key", 32, "K.", lower_bound=1)
    repeats = flags.DEFINE_integer("repeats", 5, "Of each measurement.", lower_bound=1)
    out = flags.DEFINE_string("out", "", "File of the rows; empty: none.")

    def run(_: Sequence[str]) -> None:
        asked = [int(number) for number in candidates.value]
        print(f"{jax.devices()[0].device_kind}, K = {key.value}")
        if out.value:
            pathlib.Path(out.value).write_text("")
        found = []
        for row in rows(asked, key.value, SamplerConfig(), rules.value, repeats.value):
            found.append(row)
            name, number = row["name"], row["candidates"]
            print(f"{name:16} T = {number:6,} {row['ms']:10.2f} ms {row['mib']:8.1f} MiB")
            if out.value:
                with pathlib.Path(out.value).open("a") as file:
                    file.write(json.dumps(row) + "\n")
        times, memory = exponents(found, "ms"), exponents(found, "mib")
        for name, power in times.items():
            print(f"{name:16} time ~ T^{power:.2f}, memory ~ T^{memory.get(name, 0.0):.2f}")

    app.run(run)


if __name__ == "__main__":
    main()
