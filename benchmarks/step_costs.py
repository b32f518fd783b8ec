"""Prices each step of a question at full size by the planner: its share at so many candidates.

    python -m benchmarks.step_costs --effort=-1 --cache=plans       # eval_v4, T = 256 … 8,192
    python -m benchmarks.step_costs --plan=docs/plans/joint_v4.json # a plan that is kept: its T

Compiles the programs of an evaluation with the method's own network for a described slice, as
`msjoe plan` does, and divides each batch's seconds (runtime/chips.py: a model, nothing measured) by
its questions. Candidates are embedded once a video, however many questions it has, and stand
beside. Prints the table of docs/selectors.md.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import app, flags
from ml_collections import ConfigDict

from msjoe_jax.commands.plan import Options, Planned, plan, plan_uses
from msjoe_jax.config_check import check
from msjoe_jax.config_files import load_config
from msjoe_jax.data.embed import FRAMES_AT_ONCE
from msjoe_jax.rollout.system import make_system
from msjoe_jax.runtime.topology import Fit, Slice, describe_slice

PHASE = "evaluate"
# The steps of the paper's table of latencies, and the programs of each.
STEPS = {
    "query": ("reason",),
    "similarity": ("embed_queries", "cosine", "masked"),
    "sampler": ("frame_logits", "choose_frames"),
    "answer": ("answer",),
}
EMBEDDING = "embed_frames"


class Part(NamedTuple):
    """What a program of a batch costs each chip; bytes are those in HBM."""

    name: str
    seconds: float
    flops: float
    bytes: float


class Row(NamedTuple):
    """What a question costs the slice, by step.

    candidates: T; seconds, tflop, gigabytes (in HBM): of each step; embedding: seconds that one
    device takes to embed T frames, once a video.
    """

    candidates: int
    seconds: dict[str, float]
    tflop: dict[str, float]
    gigabytes: dict[str, float]
    embedding: float

    def share(self, *steps: str) -> float:
        """Returns the share of a question's seconds."""
        return sum(self.seconds[step] for step in steps) / sum(self.seconds.values())


def config_of(name: str, candidates: int) -> ConfigDict:
    """Returns a shipped config that evaluates the method's network among so many candidates."""
    config = load_config(name)
    config.phases = (PHASE,)
    config.evaluate.arms = (config.sampler.network,)
    config.frames.candidates = candidates
    return config


def part_of(planned: Planned) -> Part:
    """Returns what a program costs.

    Raises:
      SystemExit: it does not fit, and has no price.
    """
    cost, use = planned.fit.cost, planned.use
    if cost is None:
        raise SystemExit(f"error: {use.name} does not fit: {planned.fit.refusal}")
    return Part(use.step or use.program.name, cost.seconds, cost.flops, cost.bytes)


def kept_parts(plan_: Mapping[str, Any]) -> list[Part]:
    """Returns the parts of a plan as `msjoe plan --json` has it."""
    phases = (f"{PHASE}: ", "predecode: ")
    return [
        Part(one["name"].partition(": ")[2], one["seconds"], one["flops"], one["hbm_traffic_bytes"])
        for one in plan_["programs"]
        if one["name"].startswith(phases)
    ]


def row_of(parts: Sequence[Part], candidates: int, questions: int, chips: int) -> Row:
    """Adds up the programs of a batch.

    Args:
      parts: the programs.
      candidates: T.
      questions: of the batch.
      chips: of the slice, over which FLOPs and bytes are added.

    Raises:
      SystemExit: a program belongs to no step.
    """
    step_of = {program: step for step, programs in STEPS.items() for program in programs}
    seconds, tflop, gigabytes = (dict.fromkeys(STEPS, 0.0) for _ in range(3))
    embedding = 0.0
    for part in parts:
        if part.name == EMBEDDING:
            embedding = part.seconds * candidates / FRAMES_AT_ONCE
            continue
        if part.name not in step_of:
            raise SystemExit(f"error: {part.name} is of no step")
        step = step_of[part.name]
        seconds[step] += part.seconds / questions
        tflop[step] += part.flops * chips / questions / 1e12
        gigabytes[step] += part.bytes * chips / questions / 1e9
    return Row(candidates, seconds, tflop, gigabytes, embedding)


def rows(name: str, options: Options, candidates: Sequence[int]) -> Iterator[Row]:
    """Yields a row for each number of candidates.

    Args:
      name: of a shipped config.
      options: of compiling; the slice among them.
      candidates: values of T.
    """
    slice_ = options.slice_
    assert slice_ is not None
    known: dict[Any, Fit] = {}  # queries and answers are the same for every T
    for number in candidates:
        config = check(config_of(name, number), len(slice_.chips), files=False)
        uses = plan_uses(config, make_system(config.models), slice_)
        parts = [part_of(one) for one in plan(uses, options, known)]
        yield row_of(parts, number, config.evaluate.batch, len(slice_.chips))


def table(found: Sequence[Row]) -> str:
    """Makes the table: milliseconds of the slice a question, and shares."""
    head = ["ms a question (TFLOP; GB)", *(f"T = {row.candidates:,}" for row in found)]
    lines = [head, ["---"] * len(head)]
    for step in STEPS:
        cells = [
            f"{1e3 * row.seconds[step]:.3g} ({row.tflop[step]:.3g}; {row.gigabytes[step]:.3g})"
            for row in found
        ]
        lines.append([step, *cells])
    shares = [f"{row.share('similarity', 'sampler'):.2%}" for row in found]
    lines.append(["**similarity and sampler, of all**", *shares])
    lines.append(["sampler, of all", *(f"{row.share('sampler'):.3%}" for row in found)])
    seconds = [f"{row.embedding:.1f} s" for row in found]
    lines.append(["beside: embedding the candidates, once a video, one chip", *seconds])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def kept_table(file: pathlib.Path) -> str:
    """Makes the table of a kept plan: see benchmarks/slices.py."""
    found = json.loads(file.read_text())
    config = load_config(found["config"])
    candidates, batch = config.frames.candidates, config.evaluate.batch
    row = row_of(kept_parts(found), candidates, batch, found["chips"])
    return f"{found['config']} on {found['topology']}\n{table([row])}"


def described(name: str, slice_: Slice, effort: float, questions: int) -> str:
    """Returns the conditions of the table."""
    words = f"{name} on {slice_.name}, {len(slice_.chips)} chips, {questions} questions a batch"
    quick = ", a quick screen" if effort < 0 else ""
    return f"{words}, jax {jax.__version__}{quick}: by model, nothing measured"


def main() -> None:
    """Defines the flags and runs."""
    name = flags.DEFINE_string("config", "eval_v4", "A shipped config.")
    topology = flags.DEFINE_string("topology", "v4:2x2x1", "The slice.")
    candidates = flags.DEFINE_list(
        "candidates", ["256", "512", "1024", "2048", "4096", "8192"], "Values of T."
    )
    effort = flags.DEFINE_float("effort", 0.0, "-1: a quick screen.")
    kept = flags.DEFINE_string("plan", "", "File of benchmarks.slices, in place of compiling.")
    cache = flags.DEFINE_string("cache", "", "Folder for what compiling finds; empty: none.")

    def run(_: Sequence[str]) -> None:
        if kept.value:
            print(kept_table(pathlib.Path(kept.value)))
            return
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_compilation_cache", False)
        slice_ = describe_slice(topology.value)
        folder = pathlib.Path(cache.value) if cache.value else None
        options = Options(effort.value, slice_, folder)
        batch = load_config(name.value).evaluate.batch
        print(described(name.value, slice_, effort.value, batch), flush=True)
        print(table(list(rows(name.value, options, list(map(int, candidates.value))))))

    app.run(run)


if __name__ == "__main__":
    main()
