"""The command `generate`: token for token what transformers generates, and its handling of input."""

import functools

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from test_qwen_parity import IMAGE, VIDEO, reference
from torch_weights import arrays

from msjoe_jax import generate as command
from msjoe_jax.models.functional import abstract
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.images import fused_patches_to_inputs
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.rollout.generate import Prompts, Sampling, generate
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.tables import from_hf

TOKENS = 64
ENDS = (8,)


class Words:
    """A tokenizer of numbers: "3 4 5"."""

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]


@functools.cache
def models():
    module = reference(tie=False)
    config = QwenConfig.from_hf(module.config.to_dict())
    definition, shapes = abstract(lambda: QwenVL(config, rngs=nnx.Rngs(0), chunk=16))
    return module, config, definition, from_hf(arrays(module), qwen_table(False), shapes)


def frames(count: int, height: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(height)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]


def picture(config: QwenConfig, height: int, width: int) -> command.Visual:
    return command.visual(
        frames(1, height, width), config, fps=None, min_pixels=64, max_pixels=40 * 16
    )


def clip(config: QwenConfig, count: int) -> command.Visual:
    """Two frames a second make a temporal position a second: no more of them than columns."""
    return command.visual(frames(count, 16, 40), config, fps=4.0, min_pixels=64, max_pixels=40 * 16)


def conversations(config: QwenConfig) -> dict[str, tuple[tuple[str, str], list[command.Visual]]]:
    return {
        "text": (("11 12 13", "14 15"), []),
        "image": (("9", "21 22 23"), [picture(config, 24, 24)]),
        "images": (("3 4", "30 31"), [picture(config, 8, 30), picture(config, 37, 16)]),
        "video": (("5 6", "41 42 43 44"), [clip(config, 5)]),
        "mixed": (("2", "17 18"), [picture(config, 16, 16), clip(config, 4)]),
    }


def reference_inputs(config: QwenConfig, rows: list[command.Inputs]) -> dict[str, torch.Tensor]:
    """Left-padded rows as transformers takes them."""
    ids = [np.append(r.prompts.tokens, r.prompts.first_token) for r in rows]
    longest = max(map(len, ids))
    left = [longest - len(row) for row in ids]
    tokens = np.stack([np.pad(row, (n, 0)) for row, n in zip(ids, left, strict=True)])
    valid = np.stack([np.arange(longest) >= n for n in left])
    inputs = {
        "input_ids": torch.from_numpy(tokens).long(),
        "attention_mask": torch.from_numpy(valid).long(),
        "mm_token_type_ids": torch.from_numpy((tokens == IMAGE) + 2 * (tokens == VIDEO)).int(),
    }
    return inputs


def add_visuals(inputs: dict[str, torch.Tensor], visuals: list[command.Visual]) -> None:
    for name, grid_name, kind in (
        ("pixel_values", "image_grid_thw", [v for v in visuals if v.seconds is None]),
        ("pixel_values_videos", "video_grid_thw", [v for v in visuals if v.seconds is not None]),
    ):
        if not kind:
            continue
        flat = [np.asarray(fused_patches_to_inputs(v.patches.swapaxes(1, 2))) for v in kind]
        inputs[name] = torch.from_numpy(np.concatenate([x.reshape(-1, x.shape[-1]) for x in flat]))
        inputs[grid_name] = torch.tensor([(len(v.patches), *v.grid) for v in kind])
        if name == "pixel_values_videos":
            inputs["second_per_grid_ts"] = torch.tensor([v.seconds for v in kind])


def reference_tokens(module, inputs: dict[str, torch.Tensor], ends: tuple[int, ...]):
    """Greedy replies, each up to its end token."""
    out = module.generate(
        **inputs,
        max_new_tokens=TOKENS,
        do_sample=False,
        eos_token_id=list(ends) or None,
        pad_token_id=0,
        suppress_tokens=[IMAGE, VIDEO],
    )
    replies = out[:, inputs["input_ids"].shape[1] :].tolist()
    lengths = [next((i + 1 for i, t in enumerate(r) if t in ends), len(r)) for r in replies]
    return [reply[:length] for reply, length in zip(replies, lengths, strict=True)]


def greedy(ends: tuple[int, ...]) -> Sampling:
    return Sampling(TOKENS, ends, (IMAGE, VIDEO), 0.0)


@pytest.mark.parametrize("name", ["text", "image", "images", "video", "mixed"])
def test_greedy_is_transformers_greedy(name):
    module, config, definition, params = models()
    text, visuals = conversations(config)[name]
    inputs = command.assemble(Words(), config, text, visuals)
    theirs = reference_inputs(config, [inputs])
    add_visuals(theirs, visuals)
    want = reference_tokens(module, theirs, ())[0]
    program = jax.jit(functools.partial(command.complete, definition), static_argnames="sampling")
    with jax.default_matmul_precision("highest"):
        done = program(params, inputs, np.int32(0), sampling=greedy(()))
    ours = np.asarray(done.tokens[0, 0, 0])[np.asarray(done.mask[0, 0, 0])].tolist()
    assert ours == want and len(want) == TOKENS


def test_a_batch_of_unequal_prompts():
    """Ours padded on the right, theirs on the left; images in some rows only."""
    module, config, definition, params = models()
    chosen = [conversations(config)[name] for name in ("text", "image", "images")]
    rows = [command.assemble(Words(), config, *conversation) for conversation in chosen]
    theirs = reference_inputs(config, rows)
    add_visuals(theirs, [v for _, visuals in chosen for v in visuals])
    want = reference_tokens(module, theirs, ENDS)
    lengths = [len(reply) for reply in want]
    assert min(lengths) < TOKENS == max(lengths)  # both kinds are seen

    longest = max(r.prompts.tokens.shape[-1] for r in rows)

    def wide(x, fill=0):
        return np.pad(
            x, [(0, 0)] * (x.ndim - 1) + [(0, longest - x.shape[-1])], constant_values=fill
        )

    def widened(p: Prompts) -> Prompts:
        return p._replace(
            tokens=wide(p.tokens),
            feature_index=wide(p.feature_index, -1),
            positions=wide(p.positions),
            segments=wide(p.segments),
        )

    prompts = jax.tree.map(lambda *x: np.concatenate(x), *(widened(r.prompts) for r in rows))

    @jax.jit
    def run(params, prompts, visuals):
        model = nnx.merge(definition, params)
        features = [
            model.vision(fused_patches_to_inputs(patches.swapaxes(1, 2)), grid).reshape(-1, 32)
            for patches, grid in visuals
        ]
        most = max(len(f) for f in features)
        features = jax.numpy.stack(
            [jax.numpy.pad(f, ((0, most - len(f)), (0, 0))) for f in features]
        )
        keys = jax.random.split(jax.random.key(0), (len(visuals), 1, 1))
        return generate(model, prompts, features, keys, greedy(ENDS))

    with jax.default_matmul_precision("highest"):
        done = run(params, prompts, [(r.patches, r.grid) for r in rows])
    flat = (np.asarray(x).reshape(len(rows), -1) for x in (done.tokens, done.mask))
    ours = [tokens[mask].tolist() for tokens, mask in zip(*flat, strict=True)]
    assert ours == want
