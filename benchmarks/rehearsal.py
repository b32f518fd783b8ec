"""Rehearses a whole run at real widths: from published weights to a model that transformers loads.

    python -m benchmarks.rehearsal --workdir=runs/rehearsal        (make rehearsal)

Qwen2.5-VL-3B's and CLIP ViT-L/14's widths, vocabularies and tokenizers, two layers of each tower,
bfloat16, random weights, real videos: convert, predecode, supervision on the formats, export,
convert, difficulty, pretrain, joint (20 updates on 2 processes × 2 devices), kill -9 of a host,
resume, evaluate, export, transformers. Every step is a process of its own; a step that has ended is
not done again. Prints each step's wall time and the largest memory of all its processes together,
and checks what a run must show. MSJOE_MATERIAL names the folder with the tokenizer and the videos.
"""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import app, flags

from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.qwen2_5_vl.config import SPECIAL_TOKENS, QwenConfig
from tests.support.material import MATERIAL

ROOT = pathlib.Path(__file__).parents[1]
VIDEOS = ("kitchen.mp4", "monkey.mp4", "flipping_a_pancake.mkv", "skateboarding_dog.mp4")
BROKEN = "audio_only_opus.mp4"  # is to be named in failures.jsonl, and to end nothing
LAYERS = 2  # of every tower
PRETRAIN, UPDATES, SAVE_EVERY, STRIKE_AFTER = 2, 20, 6, 8
HOSTS, DEVICES = 2, 2
LIMIT_GIB, SPARE_GIB = 24.0, 1.0  # all processes together; what a machine must have left
POLL = 0.5  # seconds between two looks at the memory
TOLERANCE = 0.05  # of logits in bfloat16, as a share of their largest

FIELDS: dict[str, object] = {
    "mllm.size": "",
    "mllm.dtype": "bfloat16",
    "clip.size": "",
    "frames.candidates": 64,
    "frames.preview": 2,
    "frames.key": 4,
    "frames.preview_patches": 16,
    "frames.key_patches": 16,
    "prompt.system": "",
    "prompt.query_instruction": "Search:",
    "prompt.answer_instruction": "Answer:",
    "prompt.max_queries": 2,
    "prompt.query_prompt_tokens": 48,
    "prompt.answer_prompt_tokens": 60,
    "prompt.query_tokens": 10,
    "prompt.answer_tokens": 8,
    "rollout.questions": 4,
    "rollout.query_rollouts": 2,
    "rollout.frame_draws": 2,
    "rollout.refill": 1,  # four answers are all right or all wrong too often
    "difficulty.samples": 4,
    "pretrain.steps": PRETRAIN,
    "joint.steps": UPDATES,
    "checkpoint_every": SAVE_EVERY,
    "keep_checkpoints": 1,
    "media_every": 1000,
    "validate_every": 0,
    "evaluate.batch": 8,
    "mesh.data": 1,
    "mesh.fsdp": HOSTS * DEVICES // 2,
    "mesh.tensor": 2,  # so a device gathers half the table of the vocabulary
    "objective.micro_batches": 1,
    "rollout.waves": 1,
}


def sizes() -> tuple[QwenConfig, CLIPConfig]:
    """Returns the widths of Qwen2.5-VL-3B and of CLIP ViT-L/14, with two layers in every tower."""
    ids = {field: i for field, (_, i) in SPECIAL_TOKENS.items()}
    mllm = QwenConfig.published("qwen2.5-vl-3b", ids)
    vision = dataclasses.replace(mllm.vision, depth=LAYERS, full_attention_layers=(LAYERS - 1,))
    mllm = dataclasses.replace(
        mllm, text=dataclasses.replace(mllm.text, layers=LAYERS), vision=vision
    )
    clip = CLIPConfig.published("vit-l-14")
    return mllm, dataclasses.replace(clip, vision_layers=LAYERS, text_layers=LAYERS)


# --- a step's processes ---------------------------------------------------------------------------


class Ended(NamedTuple):
    """How a step ended: exit status, wall seconds, largest memory of all its processes in GiB."""

    status: int
    seconds: float
    peak_gib: float


def resident_gib(root: int) -> float:
    """Returns the resident memory of a process and all below it, in GiB; shared pages count twice.

    What ends while it is looked at counts nothing.
    """
    parents, pages = {}, {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                pages[int(entry.name)] = int((entry / "statm").read_text().split()[1])
            except (OSError, IndexError):
                continue
            parents[int(entry.name)] = int(stat[1])
    total = 0
    for process in pages:
        above: int | None = process
        while above is not None and above != root:
            above = parents.get(above)
        total += pages[process] if above == root else 0
    return total * os.sysconf("SC_PAGE_SIZE") / 2**30


def available_gib() -> float:
    """Returns the memory that the machine has left, in GiB."""
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    found = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(found.split()[1]) / 2**20


def watched(
    command: Sequence[str], log: pathlib.Path, look: Callable[[], None] = lambda: None
) -> Ended:
    """Runs a command to its end, its words in a log, and looks at its memory meanwhile.

    Args:
      command: the command; it and all below it are one process group.
      log: the file; what it holds stays.
      look: called at every look.

    Raises:
      SystemExit: the machine has less than SPARE_GIB left; the command was ended.
    """
    began, peak = time.perf_counter(), 0.0
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    with log.open("a") as words:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=words, stderr=words, start_new_session=True
        )
        try:
            while process.poll() is None:
                peak = max(peak, resident_gib(process.pid))
                if available_gib() < SPARE_GIB:
                    sys.exit(f"error: less than {SPARE_GIB} GiB of memory are left; see {log}")
                look()
                time.sleep(POLL)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return Ended(process.returncode, time.perf_counter() - began, peak)


def strike(run: pathlib.Path) -> Callable[[], None]:
    """Returns what kills the second host's process once the joint training has logged an update.

    A start before this one, which something else ended, has left its rows and heartbeats.
    """
    struck: list[int] = []
    rows, beat = run / "joint" / "metrics.jsonl", run / "heartbeat" / "1.json"
    began = time.time() - 1  # the clock of files is coarse

    def look() -> None:
        if struck or not (rows.exists() and min(map(os.path.getmtime, (rows, beat))) > began):
            return
        if len(rows_of(rows)) >= STRIKE_AFTER:
            struck.append(json.loads(beat.read_text())["pid"])
            os.kill(struck[0], signal.SIGKILL)

    return look


def rows_of(file: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of a file of JSON lines that are whole; none where it is not there."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if "\n" in line]


# --- the steps ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Step:
    """A command of the rehearsal.

    Attributes:
      command: what runs.
      status: with which it is to end.
      look: called while it runs.
      check: raises AssertionError if what it left is wrong, and returns what to say of it.
    """

    command: Sequence[str]
    status: int = 0
    look: Callable[[], None] = lambda: None
    check: Callable[[], str] = lambda: ""


def steps_of(work: pathlib.Path) -> dict[str, Step]:
    """Returns the steps by name, in their order."""
    run = work / "run"

    def msjoe(name: str, **words: object) -> Step:
        given = [f"--{key}={value}" for key, value in words.items()]
        return Step([sys.executable, "-m", "msjoe_jax", name, *given])

    def own(name: str) -> Step:
        words = [f"--workdir={work}", f"--part={name}"]
        return Step([sys.executable, "-m", "benchmarks.rehearsal_parts", *words])

    def convert(source: str, out: str) -> Step:
        return msjoe("convert", source=work / source, out=work / out)

    predecode = msjoe(
        "predecode",
        manifest=work / "videos.jsonl",
        out=work / "records",
        clip=work / "models" / "clip",
    )
    launch = [sys.executable, "-m", "msjoe_jax", "launch"]
    launch += [f"--processes={HOSTS}", f"--devices={DEVICES}", "--", *training_flags(work, run)]
    return {
        "make": own("make"),
        "convert the MLLM": convert("hf/qwen", "models/random"),
        "convert CLIP": convert("hf/clip", "models/clip"),
        "predecode": dataclasses.replace(predecode, check=lambda: check_records(work)),
        "supervise": own("supervise"),
        "export the policy": msjoe(
            "export", checkpoint=work / "supervised", out=work / "hf/policy", dtype="bfloat16"
        ),
        "convert the policy": convert("hf/policy", "models/policy"),
        "train, kill -9": Step(
            launch, status=1, look=strike(run), check=lambda: check_struck(work, run)
        ),
        "resume, evaluate": Step(launch, check=lambda: check_run(run)),
        "export": msjoe(
            "export", checkpoint=run / "final", out=work / "hf/final", dtype="bfloat16"
        ),
        "transformers": own("compare"),
    }


def training_flags(work: pathlib.Path, run: pathlib.Path) -> list[str]:
    """Returns the flags of the training."""
    fields = {
        **FIELDS,
        "mllm.checkpoint": work / "models" / "policy",
        "clip.checkpoint": work / "models" / "clip",
        **{f"data.{split}_records": work / "records" for split in ("train", "heldout")},
        **{f"data.{split}_questions": work / f"{split}.jsonl" for split in ("train", "heldout")},
        "data.shared_videos": True,
    }
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["--config=joint_v4", f"--workdir={run}", *given]


# --- the checks -----------------------------------------------------------------------------------


def check_records(work: pathlib.Path) -> str:
    """Checks that every video but the broken one was decoded, and that the broken one is named."""
    failed = rows_of(work / "records" / "failures.jsonl")
    assert [row["id"] for row in failed] == [BROKEN], failed
    return f"{len(VIDEOS)} videos; {failed[0]['id']}: {failed[0]['reason']}"


def check_struck(work: pathlib.Path, run: pathlib.Path) -> str:
    """Checks that the run ended because host 1 was killed, before its end."""
    words = (work / "train, kill -9.log").read_text()
    assert "host 1 of 2 was killed by signal 9" in words
    done = len(rows_of(run / "joint" / "metrics.jsonl"))
    assert STRIKE_AFTER <= done < UPDATES, done
    return f"host 1 was killed after update {done} of {UPDATES}"


def check_run(run: pathlib.Path) -> str:
    """Checks that every update was made once, moved both models and compared unequal rewards."""
    rows = rows_of(run / "joint" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, UPDATES + 1)), [r["step"] for r in rows]
    said = []
    for name in ("grad_norm/mllm", "grad_norm/sampler"):
        values = [row[name] for row in rows]
        assert min(values) > 0, (name, values)
        said.append(f"{name} {min(values):.2g} to {max(values):.2g}")
    silent = [row["frac_reward_zero_std"] for row in rows]
    assert max(silent) < 0.5, silent
    said.append(f"frac_reward_zero_std at most {max(silent):.2f}")
    arms = json.loads((run / "eval.json").read_text())["arms"]
    assert arms, "no arm was evaluated"
    return "; ".join([*said, f"arms {', '.join(arms)}"])


# --- all ------------------------------------------------------------------------------------------


def rehearse(work: pathlib.Path) -> None:
    """Does the steps that have not been done, and prints the table.

    Raises:
      SystemExit: a step failed, whose log is named, or all took more memory than LIMIT_GIB.
    """
    work = work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    record = work / "steps.jsonl"
    for name, step in steps_of(work).items():
        if name in {row["step"] for row in rows_of(record)}:
            continue
        print(f"{name} …", flush=True)
        log = work / f"{name}.log"
        ended = watched(step.command, log, step.look)
        if ended.status != step.status:
            sys.exit(f"error: {name} ended with status {ended.status}; see {log}")
        row = {"step": name, "seconds": ended.seconds, "peak_gib": ended.peak_gib}
        row["checked"] = step.check()
        with record.open("a") as file:
            file.write(json.dumps(row) + "\n")
    rows = rows_of(record)
    print(table_of(rows))
    peak = max(row["peak_gib"] for row in rows)
    if peak > LIMIT_GIB:
        sys.exit(f"error: {peak:.1f} GiB at most, more than {LIMIT_GIB}")


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Renders the steps as a table: wall seconds, GiB of all processes, what was checked."""
    lines = ["| step | s | GiB | checked |", "|---|---|---|---|"]
    lines += [
        f"| {r['step']} | {r['seconds']:.0f} | {r['peak_gib']:.1f} | {r['checked']} |" for r in rows
    ]
    total, peak = sum(r["seconds"] for r in rows), max(r["peak_gib"] for r in rows)
    return "\n".join([*lines, f"| all | {total:.0f} | {peak:.1f} | |"])


def main() -> None:
    """Defines the flags and rehearses."""
    workdir = flags.DEFINE_string("workdir", "runs/rehearsal", "Where all of it goes: 25 GB.")

    def start(_: Sequence[str]) -> None:
        if not MATERIAL.is_dir():
            sys.exit(f"error: no {MATERIAL}: MSJOE_MATERIAL names the folder of real files")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: ended by SIGTERM"))
        rehearse(pathlib.Path(workdir.value))

    app.run(start)


if __name__ == "__main__":
    main()
