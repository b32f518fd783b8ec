"""Times the rollout and the joint update against PyTorch: same shapes, same machine.

    python -m benchmarks.joint_step                # CPU, float32, 23 M parameters
    python -m benchmarks.joint_step --device=gpu   # the 7B in bfloat16 on one card

Per question I query completions to one prompt and I · J answers, each to its own frames (random
text, random weights). Both sides first score one batch on a tiny model: the loss, the mean
log-prob and every gradient must agree. Then each runs in a process of its own, for its peak
memory: the rollout of reason and answer, and the update (GRPO over query and answer tokens,
gradients, clipping, AdamW on the decoder; the sampler is left out). We encode a question's distinct
frames once, prefill a prompt once, and keep the features for the update; PyTorch (torch_grpo.py)
repeats prompts and pixels, as TRL does. Moments are of the weights' type. Medians; compilation and
one warm-up are left out. Beside each time stands the share of the limit measured in the same run
(limits.py): the matrix rate, and where a decoding step has less to compute than to read the memory
rate. The floating-point operations that count are those of distinct prompts, frames and
completions, three forwards of the decoder an update, whatever a side repeats or computes again.
"""

import argparse
import dataclasses
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import transformers
from flax import nnx

from benchmarks.joint_batch import (
    QWEN,
    SHAPES,
    Shape,
    hf_sizes,
    make_parts,
    our_batch,
    rollout_work,
    their_inputs,
    useful_flops,
)
from benchmarks.limits import Limits, Work, add_flag, keep_to, measure_limits, processor
from benchmarks.models import arrays
from benchmarks.sizes import TOKENS
from benchmarks.torch_grpo import backward, completions, make_model, make_pieces, on_device
from msjoe_jax.models.params import Params, abstract, split_module
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.rl.config import StepConfig
from msjoe_jax.rl.joint_step import make_joint_step, partition
from msjoe_jax.rl.objective import ModelFns
from msjoe_jax.rollout.generate import Prompts, Sampling, generate
from msjoe_jax.rollout.programs import Patches, frame_features, token_stats_fn
from msjoe_jax.rollout.system import System
from msjoe_jax.runtime.platform import use_huge_pages
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.tables import from_hf
from tests.support.torch_stubs import declare_torchvision_ops

BANNED = tuple(TOKENS.values())
TRAINED = "^language/"
LEARNING_RATE, DECAY, CLIP = 1e-6, 0.01, 1.0
# Tolerance, relative to a gradient's largest entry: float32 sums in different orders.
SAME = 1e-4
RATE = 1024.0
GIB = 2**30
OBJECTIVE = StepConfig(
    train_sampler=False,
    credit="shared",
    advantage="group",
    rewards={"accuracy": 0.8, "format": 0.1, "info": 0.0},
)


# --- ours -----------------------------------------------------------------------------------------


class Ours:
    """Our programs for one size. `large`: remat, and a question's prompts scored one by one."""

    def __init__(self, c: QwenConfig, dtype: str, large: bool, parts: int):
        t = jnp.dtype(dtype)

        def make() -> QwenVL:
            return QwenVL(
                c, rngs=nnx.Rngs(0), dtype=t, param_dtype=t, remat=large, attention="auto"
            )

        self.definition, self.shapes = abstract(make)
        self.init = jax.jit(lambda: split_module(make())[1])
        # The attributes of a System that the programs below read.
        self.system = cast(
            System,
            types.SimpleNamespace(
                family=QWEN, mllm_config=c, mllm=self.model, banned_ids=lambda: BANNED
            ),
        )
        stats = token_stats_fn(self.system, 1.0, chunk=4096)
        self.fns = ModelFns(stats, stats, lambda *_: jnp.zeros(()), one_by_one=large)
        self.parts = parts

    def model(self, params: Params) -> Any:
        """Builds the MLLM."""
        return nnx.merge(self.definition, params)

    def rollout(
        self, shape: tuple[int, ...], params: Params, prompts: Prompts, patches: Patches, key: Any
    ) -> tuple[Any, Any]:
        """Draws completions, and returns the frames' features too.

        Args:
          shape: [B, G, n, C] of the completions.
          params: of the MLLM.
          prompts: of the step.
          patches: of its frames.
          key: random key.
        """
        model = self.model(params)
        features = frame_features(self.system, model, patches)
        sampling = Sampling(shape[-1], (), BANNED)
        keys = jax.random.split(key, shape[:-1])
        return generate(model, prompts, features, keys, sampling).tokens, features

    def step(self, optimizer: optax.GradientTransformation) -> Callable:
        """Makes the joint step, not yet jitted."""
        config = dataclasses.replace(OBJECTIVE, micro_batches=self.parts)
        return make_joint_step(config, self.fns, optimizer, optimizer, TRAINED)

    def state(self, params: Params, optimizer: optax.GradientTransformation) -> dict[str, Any]:
        """Makes the training state."""
        moving, _ = partition(params, TRAINED)
        counts = {name: jnp.zeros((), jnp.int32) for name in ("step", "skipped")}
        moments = optimizer.init(moving)
        empty: dict[str, Any] = {"sampler": {}, "sampler_opt": {}}
        return {**empty, "mllm": params, "mllm_opt": moments, **counts}


def time_ours(c: QwenConfig, s: Shape, a: argparse.Namespace) -> dict[str, float]:
    """Measures median seconds of reason, answer and the update, and peak memory."""
    ours, parts = Ours(c, a.dtype, a.large, a.parts), make_parts(c, s)
    params = ours.init()
    key, out, features = jax.random.key(0), {}, []
    for name, part in zip(("reason", "answer"), parts, strict=True):
        program = jax.jit(functools.partial(ours.rollout, part.tokens.shape))
        inputs = jax.device_put((part.prompts, part.patches))
        call = lambda p=program, i=inputs: jax.block_until_ready(p(params, *i, key))  # noqa: E731
        features.append(call()[1])
        out[name] = median(call, a.repeats)
    optimizer = optax.chain(
        optax.clip_by_global_norm(CLIP), optax.adamw(LEARNING_RATE, weight_decay=DECAY)
    )
    state = ours.state(params, optimizer)
    batch = jax.device_put(our_batch(s, parts, (features[0], features[1])))
    step = jax.jit(ours.step(optimizer), donate_argnums=0)

    def update() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    update()
    out["update"] = median(update, a.repeats)
    if a.device == "gpu":
        out["peak"] = jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    return out


# --- theirs ---------------------------------------------------------------------------------------


def time_theirs(c: QwenConfig, s: Shape, a: argparse.Namespace) -> dict[str, float]:
    """Measures the same as `time_ours` in PyTorch."""
    device = "cuda" if a.device == "gpu" else "cpu"
    sync = torch.cuda.synchronize if a.device == "gpu" else lambda: None
    model, parts = make_model(hf_sizes(a.size), device, a.dtype, a.large), make_parts(c, s)
    out = {}
    for name, part in zip(("reason", "answer"), parts, strict=True):
        inputs = on_device(their_inputs(c, part, slice(None)), device, a.dtype)
        model.eval()

        def call(inputs: dict = inputs, new: int = part.tokens.shape[-1]) -> None:
            completions(model, inputs, new, BANNED)
            sync()

        call()
        out[name] = median(call, a.repeats)
        del inputs
    model.train(a.large)
    pieces, total = make_pieces(c, s, parts, a.parts, device, a.dtype)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=DECAY)

    def update() -> None:
        backward(model, pieces, total, BANNED)
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        sync()

    update()
    out["update"] = median(update, a.repeats)
    if a.device == "gpu":
        out["peak"] = torch.cuda.max_memory_allocated()
    return out


# --- both -----------------------------------------------------------------------------------------


def median(call: Callable[[], Any], repeats: int) -> float:
    """Measures the median seconds of a call that has been warmed up."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def check(micro: int) -> dict[str, float]:
    """Compares loss, mean log-prob and gradients of both on one tiny model and batch, in float32.

    Exits if they differ: a gradient by more than SAME of its largest entry.
    """
    s, sizes = SHAPES["tiny"], hf_sizes("tiny")
    c = QwenConfig.from_hf(sizes.to_dict())
    parts = make_parts(c, s)
    model = make_model(sizes, "cpu", "float32", large=False)
    ours = Ours(c, "float32", False, micro)
    table = qwen_table(c)
    params = from_hf(arrays(model), table, ours.shapes)
    pieces, total = make_pieces(c, s, parts, micro, "cpu", "float32")
    loss, surprise = backward(model, pieces, total, BANNED)
    gradients = {
        name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
        for name, p in model.named_parameters()
    }
    theirs, _ = partition(from_hf(gradients, table, ours.shapes), TRAINED)
    with jax.default_matmul_precision("highest"):
        encode = jax.jit(lambda p, x: frame_features(ours.system, ours.model(p), x))
        features = [encode(params, part.patches) for part in parts]
        # RATE is so large that rounding the weights does not distort the gradient read from them.
        plain = optax.sgd(RATE)
        state = ours.state(jax.device_put(params), plain)
        batch = our_batch(s, parts, (features[0], features[1]))
        moved, metrics = jax.jit(ours.step(plain))(state, batch)
    before, after = (partition(p, TRAINED)[0] for p in (params, moved["mllm"]))
    worst = 0.0
    for old, new, expected in zip(*map(jax.tree.leaves, (before, after, theirs)), strict=True):
        gradient = (np.asarray(old, np.float64) - np.asarray(new, np.float64)) / RATE
        worst = max(worst, float(np.abs(gradient - expected).max() / np.abs(expected).max()))
    out = {
        "loss": loss,
        "our_loss": float(metrics["loss/mllm"]),
        "surprise": surprise,
        "our_surprise": float(metrics["sampling/sampling_logp_difference/mean"]),
        "gradient": worst,
    }
    agrees = all(abs(out[f"our_{k}"] - out[k]) < 1e-5 for k in ("loss", "surprise"))
    if not agrees or not worst < SAME:
        sys.exit(f"error: the two updates differ: {out}")
    return out


def child(part: str, a: argparse.Namespace) -> Any:
    """Runs one part in a process of its own, and exits if that fails."""
    env = dict(os.environ)
    if part in ("check", "theirs"):
        env["JAX_PLATFORMS"] = "cpu"
    names = ("device", "size", "questions", "parts", "repeats")
    command = [sys.executable, "-m", "benchmarks.joint_step", f"--only={part}"]
    command += [f"--{name}={getattr(a, name)}" for name in names]
    process = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        sys.exit(f"error: {part} failed with status {process.returncode}")
    return json.loads(process.stdout.splitlines()[-1])


def main() -> None:
    """Prints the check and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--size", choices=tuple(SHAPES), help="default: mini on a CPU, 7b on a GPU")
    parser.add_argument("--questions", type=int, help="in a batch; default: as the size says")
    parser.add_argument("--parts", type=int, help="micro-batches; default: 1 on a CPU, else B")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only", choices=("check", "limits", "ours", "theirs"), help=argparse.SUPPRESS
    )
    add_flag(parser)
    a = parser.parse_args()
    use_huge_pages()
    keep_to(a.isa)
    a.size = a.size or ("mini" if a.device == "cpu" else "7b")
    s = SHAPES[a.size]
    s = s._replace(questions=a.questions or s.questions)
    a.questions, a.parts = s.questions, a.parts or (1 if a.device == "cpu" else s.questions)
    a.large, a.dtype = a.size == "7b", "float32" if a.device == "cpu" else "bfloat16"
    if s.questions % a.parts:
        sys.exit(f"error: --parts={a.parts} does not divide {s.questions} questions")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    declare_torchvision_ops()
    transformers.logging.set_verbosity_error()
    c = QwenConfig.from_hf(hf_sizes(a.size).to_dict())
    if a.only:
        print(json.dumps(part_of(a.only, c, s, a)))
        return
    same = child("check", a)
    print(
        f"Both compute one update (tiny model, float32): loss {same['our_loss']:.7f} and "
        f"{same['loss']:.7f}, mean −log p {same['our_surprise']:.6f} and {same['surprise']:.6f}, "
        f"gradients apart by {same['gradient']:.1e} of their largest entry at most.\n"
    )
    print(format_table(c, s, a, child("limits", a), child("ours", a), child("theirs", a)))


def part_of(name: str, c: QwenConfig, s: Shape, a: argparse.Namespace) -> Any:
    """Runs a child process's part; `peak` is by how many bytes its memory grew."""
    if name == "check":
        return check(micro=2)
    if name == "limits":
        device = "cuda" if a.device == "gpu" else "cpu"
        return {"name": processor(device), "limits": measure_limits(device, a.dtype)}
    if name == "ours" and jax.default_backend() != a.device:
        sys.exit(f"error: --device={a.device}, but JAX runs on {jax.default_backend()}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = (time_ours if name == "ours" else time_theirs)(c, s, a)
    grown = 1024.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return {"peak": grown, **out}


def format_table(
    c: QwenConfig,
    s: Shape,
    a: argparse.Namespace,
    machine: dict[str, Any],
    ours: dict[str, float],
    theirs: dict[str, float],
) -> str:
    """Formats tokens a second, seconds and memory, their ratios, and shares of the limit.

    Args:
      c: the MLLM's sizes.
      s: the batch's.
      a: the flags.
      machine: its name and limits.
      ours, theirs: what `time_ours` and `time_theirs` measured.
    """
    parts, limits = make_parts(c, s), Limits(*machine["limits"])
    length = [part.prompts.tokens.shape[-1] + 1 for part in parts]
    lines = [
        f"{machine['name']}; {a.dtype}, size {a.size}; {s.questions} questions × {s.queries} "
        f"queries × {s.draws} draws, prompts of {length[0]} and {length[1]} tokens, {a.parts} "
        f"micro-batches, median of {a.repeats}; {limits}; jax {jax.__version__}, torch "
        f"{torch.__version__}, transformers {transformers.__version__}\n",
        "| | msjoe_jax | PyTorch | better by | our share | their share |",
        "|---|---|---|---|---|---|",
    ]

    def add(what: str, x: str, y: str, ratio: float, shares: str) -> None:
        lines.append(f"| {what} | {x} | {y} | {ratio:.2f} × | {shares} |")

    work = {
        "reason": rollout_work(c, parts[0], jnp.dtype(a.dtype).itemsize),
        "answer": rollout_work(c, parts[1], jnp.dtype(a.dtype).itemsize),
        "update": [Work(3.0 * useful_flops(c, s, parts))],
    }
    for name, phases in work.items():
        x, y = ours[name], theirs[name]
        shares = " | ".join(f"{limits.seconds(*phases) / z:.0%}" for z in (x, y))
        if name == "update":
            add("update, s", f"{x:.3f}", f"{y:.3f}", y / x, shares)
            continue
        count = parts[name == "answer"].tokens.size
        what = f"rollout, {name}: completion tokens/s ({count} tokens)"
        add(what, f"{count / x:,.1f}", f"{count / y:,.1f}", y / x, shares)
    x, y = ours["peak"], theirs["peak"]
    add("peak memory, GiB", f"{x / GIB:.2f}", f"{y / GIB:.2f}", y / x, "|")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
