"""Measures time and memory of the selectors without weights, by number of candidates.

    python -m benchmarks.selector_costs                    # every rule, T = 256 … 8,192
    python -m benchmarks.selector_costs --selectors=mdp3,gmm_eva --candidates=512,1024 --key=64

One question with random scores and embeddings at one candidate a second, on the host, as an
evaluation runs the rules; similarities are there already. Times are those of the processor, of all
threads, which other work on the machine changes little. Memory is the most that NumPy and Python
hold beside the inputs. The first line names the processor and the machine's load.
"""

import os
import platform
import time
import tracemalloc
import types
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.base import Selector

EMBEDDING = 768  # of CLIP ViT-L/14
RULES = (
    "uniform_left",
    "uniform_ends",
    "random",
    "bin_max",
    "gumbel_topk",
    "topk_two_sizes",
    "qframe",
    "bolt",
    "bolt_paper",
    "aks",
    "aks_lvb",
    "focus",
    "mdp3",
    "gmm_eva",
)


def question(candidates: int) -> types.SimpleNamespace:
    """Makes one question's candidates, whose scores are as far apart as CLIP's cosines."""
    rng = np.random.default_rng(candidates)
    return types.SimpleNamespace(
        similarity=rng.normal(0.2, 0.03, (1, 1, 1, candidates)).astype(np.float32),
        query_mask=np.ones((1, 1, 1), bool),
        frame_mask=np.ones((1, candidates), bool),
        timestamps=np.arange(candidates, dtype=np.float32)[None],
        embeddings=rng.normal(size=(1, candidates, EMBEDDING)).astype(np.float32),
        num_draws=1,
        frame_tokens=256,
        generator=lambda *place: np.random.default_rng(place),
    )


def measure(selector: Selector, candidates: int, key: int, repeats: int) -> tuple[float, float]:
    """Measures one rule.

    Returns:
      Milliseconds of the processor, the fastest of the repeats, and MiB at most.
    """
    asked = question(candidates)
    tracemalloc.start()
    selector.select(asked, key)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        selector.select(asked, key)
        seconds.append(time.process_time() - start)
    return 1e3 * min(seconds), memory / 2**20


def table(names: Sequence[str], candidates: Sequence[int], key: int, repeats: int) -> str:
    """Makes the table, a row a rule.

    Args:
      names: of SELECTORS.
      candidates: values of T.
      key: K.
      repeats: of each measurement.
    """
    rows = [["ms (MiB) a question", *(f"T = {T:,}" for T in candidates)]]
    rows.append(["---"] * len(rows[0]))
    for name in names:
        costs = [measure(SELECTORS[name], T, key, repeats) for T in candidates]
        rows.append([f"`{name}`", *(f"{ms:.1f} ({mib:.1f})" for ms, mib in costs)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Defines the flags and runs."""
    selectors = flags.DEFINE_list("selectors", list(RULES), "Names of SELECTORS.")
    candidates = flags.DEFINE_list("candidates", ["256", "1024", "4096", "8192"], "Values of T.")
    key = flags.DEFINE_integer("key", 32, "K.", lower_bound=1)
    repeats = flags.DEFINE_integer("repeats", 3, "Of each measurement.", lower_bound=1)

    def run(_: Sequence[str]) -> None:
        load = os.getloadavg()[0]
        print(f"{platform.processor() or platform.machine()}, load {load:.1f}, K = {key.value}")
        print(table(selectors.value, list(map(int, candidates.value)), key.value, repeats.value))

    app.run(run)


if __name__ == "__main__":
    main()
