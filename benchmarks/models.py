"""Times our models against transformers: same machine, same weights, same prompts, same run.

    python -m benchmarks.models                        # CPU, float32, a decoder of 150 M parameters
    python -m benchmarks.models --device=gpu           # the 7B shapes in bfloat16 on one card

Weights are random; each pair of models is first checked to compute the same. Times are medians of
`--repeats`, compilation and a warm-up left out. Decoding draws `--new` tokens for each of G answers
to one prompt, from the first one to the last: we decode against one prompt's cache, transformers
repeats the prompt G times, as TRL does. On a GPU the table also says which share of the card's
measured matrix rate the prefill reaches, and of its measured memory bandwidth the decoding.
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

from benchmarks.sizes import SIZES, TOKENS, decode_bytes, hf_config, prefill_flops
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.params import Params, abstract, count_params
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig, TextConfig
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.rollout.generate import Prompts, Sampling, generate, prefill
from msjoe_jax.weights.clip import HUGGING_FACE
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.tables import from_hf
from tests.support.torch_stubs import declare_torchvision_ops

# Relative difference of outputs above which the two are not one model.
SAME = {"float32": 1e-3, "bfloat16": 5e-2}


# --- timing ---------------------------------------------------------------------------------------


def median_seconds(calls: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Measures the median time of each call, in turns, so that a slow machine slows all of them.

    A call must not return before its result is ready. The first round warms up.
    """
    rounds: list[list[float]] = []
    for _ in range(1 + repeats):
        rounds.append([])
        for call in calls:
            began = time.perf_counter()
            call()
            rounds[-1].append(time.perf_counter() - began)
    return [float(x) for x in np.median(rounds[1:], 0)]


class Bench:
    """A timer of calls of both sides, which collects the rows of the table."""

    def __init__(self, device: str, repeats: int):
        self.device, self.repeats = device, repeats
        self.rows: list[tuple[str, float, float]] = []

    def ours(self, f: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        """Compiles a function for these arrays on the device, and returns a call of it."""
        arguments = jax.device_put(arguments)
        compiled = jax.jit(f).lower(*arguments).compile()
        return lambda: jax.block_until_ready(compiled(*arguments))

    def theirs(self, f: Callable[[], Any]) -> Callable[[], Any]:
        """Returns a call of torch, without gradients."""

        def run() -> None:
            with torch.inference_mode():
                f()
            if self.device == "cuda":
                torch.cuda.synchronize()

        return run

    def seconds(self, *calls: Callable[[], Any]) -> list[float]:
        """Measures the median time of each call."""
        return median_seconds(calls, self.repeats)

    def row(self, what: str, amount: float, ours: float, theirs: float) -> None:
        """Adds `amount` per second on both sides, and shows it at once."""
        if min(ours, theirs) <= 0:
            print(f"| {what} | lost in the noise: raise --new or --repeats | | |", flush=True)
            return
        self.rows.append((what, amount / ours, amount / theirs))
        print(format_row(self.rows[-1]), flush=True)


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


def format_row(row: tuple[str, float, float]) -> str:
    """Formats a row of the table."""
    what, ours, theirs = row
    return f"| {what} | {ours:,.1f} | {theirs:,.1f} | {ours / theirs:.2f} |"


def check_same(what: str, ours: Any, theirs: torch.Tensor, dtype: str) -> None:
    """Exits unless both outputs agree."""
    a, b = np.asarray(ours, np.float32), theirs.detach().float().cpu().numpy()
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
    bench.row(
        f"prefill, tokens/s ({length} tokens)",
        length,
        *bench.seconds(
            bench.ours(
                lambda p, x, f: prefill(model(p), x, f)[0],
                qwen.params,
                text_prompt(tokens),
                features,
            ),
            bench.theirs(lambda: decoder(input_ids=ids, use_cache=True)),
        ),
    )


def time_decoding(bench: Bench, qwen: Qwen, group: int, new_tokens: int) -> None:
    """Times `group` answers of `new` tokens to one prompt."""
    tokens = qwen.tokens()
    keys = jax.random.split(jax.random.key(0), (1, 1, group))
    features = np.zeros((1, 1, qwen.sizes.text.width), qwen.dtype)
    repeated = torch.from_numpy(tokens).to(bench.device).repeat(group, 1)
    calls, ticks = [], Ticks(bench)
    for count in (1, new_tokens):
        sampling = Sampling(count, (), tuple(TOKENS.values()))

        def ours(p: Params, x: Prompts, f: Any, k: Any, sampling: Sampling = sampling) -> Any:
            return generate(qwen.model(p), x, f, k, sampling).tokens

        calls.append(bench.ours(ours, qwen.params, text_prompt(tokens), features, keys))

    def theirs() -> Any:
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

    ours_1, ours_n, theirs_n = bench.seconds(*calls, bench.theirs(theirs))
    # Not by subtraction: their prefill of G prompts varies by more than the decoding takes.
    theirs_decoding = float(np.median([run[-1] - run[0] for run in ticks.runs[1:]]))
    decoded = group * (new_tokens - 1)
    bench.row(f"decode, tokens/s (G = {group})", decoded, ours_n - ours_1, theirs_decoding)
    label = f"rollout, tokens/s (G = {group}, {new_tokens} tokens, prefill included)"
    bench.row(label, group * new_tokens, ours_n, theirs_n)


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
    bench.row(
        f"vision tower, patches/s ({frames} frames of {height} × {width})",
        frames * height * width,
        *bench.seconds(
            bench.ours(lambda p, x, g: model(p).vision(x, g), qwen.params, patches, grid),
            bench.theirs(lambda: tower(flat, grid_thw=thw)),
        ),
    )


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
    bench.row(
        f"CLIP ViT-B/32, images/s ({images} at a time)",
        images,
        *bench.seconds(
            bench.ours(embed, params, pixels),
            bench.theirs(lambda: reference.get_image_features(their_pixels)),
        ),
    )


# --- a card's own limits --------------------------------------------------------------------------


def matmul_rate(bench: Bench, n: int = 8192) -> float:
    """Measures the FLOP/s of a bfloat16 matrix product."""
    x = jnp.ones((n, n), jnp.bfloat16)
    return 2.0 * n**3 / bench.seconds(bench.ours(lambda a, b: a @ b, x, x))[0]


def memory_bandwidth(bench: Bench, n: int = 2**30) -> float:
    """Measures the bytes/s, reading and writing, of a pass over 2 GiB."""
    x = jnp.ones((n,), jnp.bfloat16)
    return 2 * 2.0 * n / bench.seconds(bench.ours(lambda a: a + 1, x))[0]


def shares_of_the_card(bench: Bench, c: TextConfig, length: int, new_tokens: int) -> list[str]:
    """Formats the rows measured so far as shares of the card's measured limits."""
    rate, bandwidth = matmul_rate(bench), memory_bandwidth(bench)
    lines = [f"matrix product {rate / 1e12:.0f} TFLOP/s, memory {bandwidth / 1e12:.2f} TB/s"]
    for what, ours, _ in bench.rows:
        if what.startswith("prefill"):
            share = ours / length * prefill_flops(c, length) / rate
            lines.append(f"{what}: {share:.1%} of the matrix rate")
        if what.startswith("decode"):
            group = int(what.split("G = ")[1].rstrip(")"))
            bytes_read = decode_bytes(c, length, group, new_tokens / 2, itemsize=2)
            lines.append(f"{what}: {ours / group * bytes_read / bandwidth:.1%} of the bandwidth")
    return lines


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
    a = parser.parse_args()
    size = a.size or ("small" if a.device == "cpu" else "7b")
    if jax.default_backend() != a.device:
        sys.exit(f"error: --device={a.device}, but JAX runs on {jax.default_backend()}")
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    declare_torchvision_ops()
    transformers.logging.set_verbosity_error()
    dtype = "float32" if a.device == "cpu" else "bfloat16"
    bench = Bench("cpu" if a.device == "cpu" else "cuda", a.repeats)
    print(
        f"{jax.devices()[0].device_kind}, {threads} threads, {dtype}, size {size}, "
        f"median of {a.repeats}; jax {jax.__version__}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}\n"
    )
    print("| | msjoe_jax | transformers | ratio |\n|---|---|---|---|")
    qwen = Qwen(bench.device, size, dtype)
    time_prefill(bench, qwen)
    for group in a.groups:
        time_decoding(bench, qwen, group, a.new)
    time_tower(bench, qwen)
    c = qwen.sizes
    del qwen  # the next models need the memory
    time_clip(bench, size, dtype)
    shapes = abstract(lambda: QwenVL(c, rngs=nnx.Rngs(0)))[1]
    print(f"\n{count_params(shapes) / 1e6:,.0f} M parameters")
    if a.device == "gpu":
        print("\n".join(shares_of_the_card(bench, c.text, SIZES[size][2], a.new)))


if __name__ == "__main__":
    main()
