"""Times our models against transformers: same machine, same weights, same prompts, same run.

    python -m benchmarks.models                        # CPU, float32, a decoder of 150 M parameters
    python -m benchmarks.models --device=gpu           # the 7B shapes in bfloat16 on one card

Weights are random; each pair of models is first checked to compute the same. Times are medians of
`--repeats`, compilation and warm-ups left out. Decoding draws `--new` tokens for each of G answers
to one prompt, from the first one to the last: we decode against one prompt's cache, transformers
repeats the prompt G times, as TRL does. The last columns are the shares that both sides reach of
the limit measured in the same run (limits.py): decoding of the memory rate, in what must be read
once a step; the rest of the matrix rate, in FLOPs that the sizes need (causal attention at half, a
window's attention in the window alone, a prompt once).
"""

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx

from benchmarks.limits import (
    Limits,
    Work,
    add_flag,
    keep_to,
    measure_limits,
    ours,
    processor,
    theirs,
    timed_rounds,
)
from benchmarks.sizes import (
    SIZES,
    TOKENS,
    clip_flops,
    decode_bytes,
    decode_flops,
    hf_config,
    prefill_flops,
)
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.params import Params, abstract, count_params
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.flops import qwen_flops
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.rollout.generate import Prompts, Sampling, generate, prefill
from msjoe_jax.runtime.platform import use_huge_pages
from msjoe_jax.weights.clip import HUGGING_FACE
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.tables import from_hf
from tests.support.torch_stubs import declare_torchvision_ops

# Relative difference of outputs above which the two are not one model.
SAME = {"float32": 1e-3, "bfloat16": 5e-2}


# --- timing ---------------------------------------------------------------------------------------


class Bench:
    """A timer of both sides, which prints the rows of the table."""

    def __init__(self, device: str, repeats: int, limits: Limits):
        self.device, self.repeats, self.limits = device, repeats, limits

    def seconds(self, *calls: Callable[[], Any]) -> list[float]:
        """Measures the median time of each call."""
        return [float(x) for x in np.median(timed_rounds(calls, self.repeats), 0)]

    def row(self, what: str, amount: float, seconds: Sequence[float], *work: Work) -> None:
        """Prints a row.

        Args:
          what: its name.
          amount: of what is counted.
          seconds: of both sides.
          work: what must be done for it.
        """
        if min(seconds) <= 0:
            print(f"| {what} | lost in the noise: raise --new or --repeats | | | | |", flush=True)
            return
        print(format_row(what, amount, seconds, self.limits.seconds(*work)), flush=True)


class Ticks(transformers.StoppingCriteria):
    """A stopping criterion that never stops, but records when each token of each run was done."""

    def __init__(self, bench: Bench):
        self.bench = bench
        self.runs: list[list[float]] = []

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if self.bench.device == "cuda":
            torch.cuda.synchronize()
        self.runs[-1].append(time.perf_counter())
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)


def format_row(what: str, amount: float, seconds: Sequence[float], least: float) -> str:
    """Formats `amount` per second, its ratio, and the shares of the limit, of both sides.

    Args:
      what, amount, seconds: as of `Bench.row`.
      least: seconds at the limit.
    """
    rates = " | ".join(f"{amount / x:,.1f}" for x in seconds)
    shares = " | ".join(f"{least / x:.0%}" for x in seconds)
    return f"| {what} | {rates} | {seconds[1] / seconds[0]:.2f} | {shares} |"


def check_same(what: str, output: Any, expected: torch.Tensor, dtype: str) -> None:
    """Exits unless both outputs agree."""
    a, b = np.asarray(output, np.float32), expected.detach().float().cpu().numpy()
    error = float(np.abs(a.reshape(b.shape) - b).max() / np.abs(b).max())
    if not error < SAME[dtype]:
        sys.exit(f"error: {what}: outputs differ by {error:.1e} of the largest; not one model")


def arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Returns the weights by name, bfloat16 kept."""

    def array(x: torch.Tensor) -> np.ndarray:
        x = x.detach().cpu()
        if x.dtype == torch.bfloat16:
            return x.view(torch.int16).numpy().view(jnp.bfloat16)
        return x.numpy()

    return {name: array(x) for name, x in module.state_dict().items()}


# --- the models -----------------------------------------------------------------------------------


class Qwen:
    """Qwen2.5-VL on both sides, with the same random weights.

    Attributes:
      sizes: the model's sizes.
      reference: their model.
      params: our parameters.
    """

    def __init__(self, device: str, size: str, dtype: str):
        self.device, self.size, self.dtype = device, size, dtype
        published = transformers.Qwen2_5_VLConfig(**hf_config(size))
        self.sizes = QwenConfig.from_hf(published.to_dict())
        torch.set_default_dtype(getattr(torch, dtype))
        with torch.device(device):
            self.reference = transformers.Qwen2_5_VLForConditionalGeneration(published).eval()
        torch.set_default_dtype(torch.float32)
        definition, shapes = abstract(
            lambda: QwenVL(
                self.sizes,
                rngs=nnx.Rngs(0),
                dtype=jnp.dtype(dtype),
                param_dtype=jnp.dtype(dtype),
                attention="auto",
                chunk=512,
            )
        )
        self.params = jax.device_put(
            from_hf(arrays(self.reference), qwen_table(self.sizes), shapes)
        )
        self.model = functools.partial(nnx.merge, definition)

    def tokens(self) -> np.ndarray:
        """Makes a random prompt [1, L] of the size's length."""
        rng = np.random.default_rng(0)
        return rng.integers(5, self.sizes.text.vocab, (1, SIZES[self.size][2]))


def time_prefill(bench: Bench, qwen: Qwen) -> None:
    """Times the decoder over a prompt."""
    model, tokens = qwen.model, qwen.tokens()
    ids = torch.from_numpy(tokens).to(bench.device)
    hidden = jax.jit(
        lambda p, t: model(p).language.prefill(model(p).language.embed(t), *positions_of(t))[0]
    )(qwen.params, tokens)
    decoder = qwen.reference.model.language_model
    with torch.inference_mode():
        check_same("decoder", hidden, decoder(input_ids=ids).last_hidden_state, qwen.dtype)
    features = np.zeros((1, 1, qwen.sizes.text.width), qwen.dtype)
    length = tokens.shape[1]
    seconds = bench.seconds(
        ours(
            lambda p, x, f: prefill(model(p), x, f)[0], qwen.params, text_prompt(tokens), features
        ),
        theirs(lambda: decoder(input_ids=ids, use_cache=True), bench.device),
    )
    work = Work(prefill_flops(qwen.sizes.text, length))
    bench.row(f"prefill, tokens/s ({length} tokens)", length, seconds, work)


def time_decoding(bench: Bench, qwen: Qwen, group: int, new_tokens: int) -> None:
    """Times `group` answers of `new` tokens to one prompt."""
    tokens = qwen.tokens()
    keys = jax.random.split(jax.random.key(0), (1, 1, group))
    features = np.zeros((1, 1, qwen.sizes.text.width), qwen.dtype)
    repeated = torch.from_numpy(tokens).to(bench.device).repeat(group, 1)
    calls, ticks = [], Ticks(bench)
    for count in (1, new_tokens):
        sampling = Sampling(count, (), tuple(TOKENS.values()))

        def draw(p: Params, x: Prompts, f: Any, k: Any, sampling: Sampling = sampling) -> Any:
            return generate(qwen.model(p), x, f, k, sampling).tokens

        calls.append(ours(draw, qwen.params, text_prompt(tokens), features, keys))

    def draw_theirs() -> Any:
        ticks.runs.append([])
        return qwen.reference.generate(
            repeated,
            attention_mask=torch.ones_like(repeated),
            do_sample=True,
            top_k=0,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            pad_token_id=0,
            stopping_criteria=transformers.StoppingCriteriaList([ticks]),
        )

    calls.append(theirs(draw_theirs, bench.device))
    ours_1, ours_n, theirs_n = bench.seconds(*calls)
    # Not by subtraction: their prefill of G prompts varies by more than the decoding takes.
    theirs_decoding = float(np.median([run[-1] - run[0] for run in ticks.runs[1::2]]))
    c, length, steps = qwen.sizes.text, tokens.shape[1], new_tokens - 1
    itemsize = jnp.dtype(qwen.dtype).itemsize
    step = Work(
        group * decode_flops(c, length + new_tokens / 2),
        decode_bytes(c, length, group, new_tokens / 2, itemsize),
    )
    decoding = (ours_n - ours_1, theirs_decoding)
    bench.row(f"decode, tokens/s (G = {group})", group * steps, decoding, *[step] * steps)
    label = f"rollout, tokens/s (G = {group}, {new_tokens} tokens, prefill included)"
    work = (Work(prefill_flops(c, length)), *[step] * new_tokens)
    bench.row(label, group * new_tokens, (ours_n, theirs_n), *work)


def time_tower(bench: Bench, qwen: Qwen) -> None:
    """Times the vision tower over frames of random patches."""
    c, dtype, model = qwen.sizes, qwen.dtype, qwen.model
    frames, (height, width) = SIZES[qwen.size][3:5]
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(frames, height * width, c.vision.patch_dim)).astype(dtype)
    grid = np.full((frames, 2), (height, width), np.int32)
    flat = torch.from_numpy(patches.astype(np.float32)).to(bench.device, getattr(torch, dtype))
    flat = flat.reshape(-1, c.vision.patch_dim)
    thw = torch.tensor([(1, height, width)] * frames, device=bench.device)
    tower = qwen.reference.model.visual
    output = jax.jit(lambda p, x, g: model(p).vision(x, g))(qwen.params, patches, grid)
    with torch.inference_mode():
        check_same("vision tower", output, tower(flat, grid_thw=thw).pooler_output, dtype)
    seconds = bench.seconds(
        ours(lambda p, x, g: model(p).vision(x, g), qwen.params, patches, grid),
        theirs(lambda: tower(flat, grid_thw=thw), bench.device),
    )
    what = f"vision tower, patches/s ({frames} frames of {height} × {width})"
    work = Work(frames * sum(qwen_flops(c).frame(height * width)))
    bench.row(what, frames * height * width, seconds, work)


def text_prompt(tokens: np.ndarray) -> Prompts:
    """Makes the prompt [1, L] as `generate` takes it, with the last token apart."""
    prompt_tokens = tokens[:, None, :-1].astype(np.int32)
    positions, segments = positions_of(tokens[:, :-1])
    return Prompts(
        jnp.asarray(prompt_tokens),
        jnp.full(prompt_tokens.shape, -1, jnp.int32),
        jnp.asarray(positions)[:, None],
        jnp.asarray(segments)[:, None],
        jnp.asarray(tokens[:, -1:], jnp.int32),
        jnp.full((1, 1), tokens.shape[1] - 1, jnp.int32),
    )


def positions_of(tokens: Any) -> tuple[Any, Any]:
    """Returns positions [B, 3, L] and segments [B, L] of text."""
    B, L = tokens.shape
    return jnp.broadcast_to(jnp.arange(L), (B, 3, L)), jnp.ones((B, L), jnp.int32)


def time_clip(bench: Bench, size: str, dtype: str) -> None:
    """Times CLIP's image tower at the shapes of ViT-B/32."""
    with torch.device(bench.device):
        reference = transformers.CLIPModel(transformers.CLIPConfig()).eval()
    reference = reference.to(getattr(torch, dtype))
    c = CLIPConfig.published("vit-b-32")
    definition, shapes = abstract(
        lambda: CLIP(c, rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype), param_dtype=jnp.dtype(dtype))
    )
    params = jax.device_put(from_hf(arrays(reference), HUGGING_FACE, shapes))
    images = SIZES[size][-1]
    pixels = np.random.default_rng(0).normal(size=(images, 224, 224, 3)).astype(dtype)
    their_pixels = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2).contiguous()
    their_pixels = their_pixels.to(bench.device, getattr(torch, dtype))

    def embed(p: Params, x: Any) -> Any:
        return nnx.merge(definition, p).encode_image(x)

    with torch.inference_mode():
        expected = reference.get_image_features(their_pixels).pooler_output
    check_same("CLIP", jax.jit(embed)(params, pixels), expected, dtype)
    seconds = bench.seconds(
        ours(embed, params, pixels),
        theirs(lambda: reference.get_image_features(their_pixels), bench.device),
    )
    work = Work(images * clip_flops(c))
    bench.row(f"CLIP ViT-B/32, images/s ({images} at a time)", images, seconds, work)


def main() -> None:
    """Prints the table, row by row."""
    # Both frameworks share a card: JAX would otherwise take three quarters of it at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--size", choices=SIZES, help="default: small on a CPU, 7b on a GPU")
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 8], help="answers a prompt")
    parser.add_argument("--new", type=int, default=32, help="tokens of an answer, at least 2")
    parser.add_argument("--repeats", type=int, default=5)
    add_flag(parser)
    a = parser.parse_args()
    use_huge_pages()
    keep_to(a.isa)
    size = a.size or ("small" if a.device == "cpu" else "7b")
    if jax.default_backend() != a.device:
        sys.exit(f"error: --device={a.device}, but JAX runs on {jax.default_backend()}")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    declare_torchvision_ops()
    transformers.logging.set_verbosity_error()
    dtype = "float32" if a.device == "cpu" else "bfloat16"
    device = "cpu" if a.device == "cpu" else "cuda"
    side = 1024 if size == "tiny" else 0
    bench = Bench(device, a.repeats, measure_limits(device, dtype, side))
    qwen = Qwen(device, size, dtype)
    sizes = qwen.sizes
    shapes = abstract(lambda: QwenVL(sizes, rngs=nnx.Rngs(0)))[1]
    print(
        f"{processor(device)}; {dtype}, size {size} ({count_params(shapes) / 1e6:,.0f} M "
        f"parameters), median of {a.repeats}; {bench.limits}; jax {jax.__version__}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}\n"
    )
    print("| | msjoe_jax | transformers | ratio | our share | their share |")
    print("|---|---|---|---|---|---|", flush=True)
    time_prefill(bench, qwen)
    for group in a.groups:
        time_decoding(bench, qwen, group, a.new)
    time_tower(bench, qwen)
    del qwen  # the next models need the memory
    time_clip(bench, size, dtype)
    print(f"\nAfterwards: {measure_limits(device, dtype, side)}")


if __name__ == "__main__":
    main()
