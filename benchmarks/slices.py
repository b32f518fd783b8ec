"""Plans every shipped config on its slice, and writes docs/slices.md from what is planned.

    python -m benchmarks.slices                     # plans what docs/plans/ does not hold
    python -m benchmarks.slices --only=joint_v4 --again
    python -m benchmarks.slices --price=3.22        # the table with a price a chip-hour, printed

A plan is one file of docs/plans/, written when it is whole: a stopped command goes on. Each takes
minutes to half an hour of CPU time. It needs the TPU compiler, and no TPU.
"""

import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from absl import app, flags

from msjoe_jax.config_files import load_config
from msjoe_jax.runtime.chips import CHIPS, GIB

ROOT = pathlib.Path(__file__).parents[1]
PLANS = ROOT / "docs" / "plans"
PAGE = ROOT / "docs" / "slices.md"
# Which slice each config names (its docstring says what it is sold as).
SLICES = {
    "joint_v4": "v4:2x2x4",
    "joint_k64": "v4:2x2x4",
    "joint_v5e": "v5e:4x8",
    "joint_v5p": "v5p:2x2x2",
    "joint_v6e": "v6e:4x4",
    "joint_v7x": "tpu7x:2x2x1",
    "lora_v5e8": "v5e:2x4",
    "pretrain_sampler_v4": "v4:2x2x2",
    "eval_v4": "v4:2x2x1",
}
# Of data that is real: frames of 16:9 video as predecode keeps them, and the tokens of an answer's
# prompt with so many of them (146 a frame, and a question).
FRAME = "448x252"
TOKENS = {32: 4850, 64: 9522}
HEAD = """\
# Slices: what fits, and what a run costs

Of shipped configs on their slices (one without a row has not been planned yet, and may not fit):
whether all its programs fit, its largest program, and what an update and a run take by the
compiler's count and one stated model (matrices at half the peak, memory and links at theirs,
nothing overlapped, replies to their longest: `msjoe plan` prints the rule). No TPU has run any of
it. *Full* is with prompts and frames as large as the config allows, *real* with frames of 16:9
video ({frame}, which makes answer prompts of {tokens} tokens at 32 frames). Hours hold all phases
whose number of questions the config knows, validations among them; difficulty and evaluation of
your data come on top. Made by `python -m benchmarks.slices`, which keeps the plans in
[plans/](plans); `--price=DOLLARS` adds what a run costs at your price of a chip-hour.
`joint_h100x8` has no row: nothing describes its GPUs.
"""
TAIL = """\

Published runs of others, measured, to hold it against (MFU derived from their step times where they
give none; of the cards' dense bfloat16 peaks):

| who | what | on | step | samples/s | MFU |
|---|---|---|---|---|---|
| EasyVideoR1, report §4.3 | Qwen3-VL-8B, GRPO, 32 videos × 8 answers, ≤ 256 frames, cached | 32 H200 | 132 s, rollout 54, update 54 | 1.9 | 6 %, its update 14 % |
| the same, frames not cached | | 32 H200 | 195 s, rollout 82, update 54 | 1.3 | 4 % |
| verl, issue 7203 | Qwen3.5-9B, GRPO on images | 8 H800 | 290 s, rollout 29, update 91 | | 2.3 to 2.7 %, by its log |
| EasyR1, issue 392 | Qwen2.5-VL-7B, GRPO, 8 images of 336², 8 answers | 8 A100-80 | | 0.08 | |
| MaxText | Llama-3.1-8B, text, pre-training: the ceiling of an update on TPU | 256 v6e | | | 45 % |

A sample is one answer that is trained on. Theirs have other lengths of prompts and replies: the MFU
is what compares.
"""  # noqa: E501
COLUMNS = (
    "config", "slice", "chips", "mesh", "verdict", "largest program: peak + alive, GiB",
    "spare, GiB", "s an update, full / real", "hours, full / real", "samples/s, full / real",
    "MFU, full / real",
)  # fmt: skip


def plan(name: str, effort: float) -> None:
    """Plans a config and keeps the result.

    Raises:
      SystemExit: the plan is refused.
    """
    topology = SLICES[name]
    real = [f"--tokens={TOKENS[load_config(name).frames.key]}", f"--frame_size={FRAME}"]
    command = [sys.executable, "-m", "msjoe_jax", "plan", f"--config={name}"]
    command += [f"--topology={topology}", f"--effort={effort}", "--json", *real]
    print(f"{name} on {topology} …", flush=True)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    last = (done.stdout.splitlines() or [""])[-1]
    if not last.startswith("{"):
        sys.exit(f"{name}: {done.stderr}")
    found = json.loads(last)
    mesh = load_config(name).mesh.to_dict()
    kept = {"config": name, "effort": effort, "mesh": mesh, **found}
    PLANS.mkdir(exist_ok=True)
    partial = PLANS / f"{name}.json.partial"
    partial.write_text(json.dumps(kept, indent=1) + "\n")
    partial.rename(PLANS / f"{name}.json")


def row(found: Mapping[str, Any], price: float = 0.0) -> list[str]:
    """Returns the cells of a plan: see COLUMNS; with a price, the cost of a run as well."""
    programs = found["programs"]
    largest = max(programs, key=lambda p: (p["peak_bytes"] or float("inf")) + p["alive_bytes"])
    peak, alive = largest["peak_bytes"], largest["alive_bytes"] / GIB
    hbm = found["hbm_bytes"] / GIB
    chips = found["chips"] // CHIPS[found["topology"].partition(":")[0]].devices
    held = f"{largest['name']}: " + (f"{peak / GIB:.1f} + {alive:.1f}" if peak else "does not fit")
    prices = [found["price"], *([found["price_of_data"]] if "price_of_data" in found else [])]
    updates = [list(one["updates"].values()) for one in prices]
    last = [of[-1] for of in updates if of]  # the joint training's, if there is one
    mesh = found["mesh"]
    sizes = " × ".join(str(mesh[axis]) for axis in ("data", "fsdp", "tensor"))
    quick = " (quick screen)" if found["effort"] < 0 else ""

    def both(values: list[str]) -> str:
        return " / ".join(values) or "–"

    cells = [
        f"`{found['config']}`",
        found["topology"],
        str(chips),
        sizes + (f", rollouts {mesh['rollout_tensor']}" if mesh["rollout_tensor"] else ""),
        ("fits" if found["fits"] else "DOES NOT FIT") + quick,
        held,
        f"{hbm - peak / GIB - alive:.1f}" if peak else "–",
        both([f"{one['seconds']:.0f}" for one in last]),
        both([f"{one['hours']:.1f}" for one in prices if one["hours"]]),
        both([f"{one['samples']:.1f}" for one in last]),
        both([f"{one['mfu']:.0%}" for one in last]),
    ]
    if price:
        cells.append(both([f"{one['hours'] * chips * price:,.0f}" for one in prices]))
    return cells


def note(found: Mapping[str, Any]) -> str:
    """Returns the line that a planned config's docstring has."""
    cells = dict(zip(COLUMNS, row(found), strict=True))
    words = f"Plan: {cells['verdict']}, {cells['spare, GiB']} GiB spare"
    if cells["s an update, full / real"] != "–":
        words += f"; {cells['s an update, full / real']} s an update, "
        words += f"{cells['hours, full / real']} h (full / real)"
    return words + "."


def table(price: float = 0.0) -> str:
    """Renders the plans that are kept; `price` is that of a chip-hour, 0: no such column."""
    names = [*COLUMNS, *(["cost of a run, full / real"] if price else [])]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for name in SLICES:
        file = PLANS / f"{name}.json"
        if file.exists():
            lines.append("| " + " | ".join(row(json.loads(file.read_text()), price)) + " |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Renders the page."""
    head = HEAD.format(frame=FRAME.replace("x", " × "), tokens=f"{TOKENS[32]:,}")
    return head + "\n" + table() + TAIL


def main() -> None:
    """Defines the flags and plans."""
    only = flags.DEFINE_list("only", [], "Configs; empty: all.")
    again = flags.DEFINE_bool("again", False, "Plan also what is planned already.")
    effort = flags.DEFINE_float("effort", 0.0, "-1: quick screens, which the table says.")
    price = flags.DEFINE_float("price", 0.0, "Of a chip-hour: prints the table with costs.")

    def start(_: Any) -> None:
        if price.value:
            print(table(price.value))
            return
        for name in only.value or SLICES:
            if name not in SLICES:
                sys.exit(f"error: --only={name}: the configs are {', '.join(SLICES)}")
            if again.value or not (PLANS / f"{name}.json").exists():
                plan(name, effort.value)
                PAGE.write_text(page())

    app.run(start)


if __name__ == "__main__":
    main()
