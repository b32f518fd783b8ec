"""Makes a rollout batch of random text and frames, as our programs and as transformers take it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import transformers

from benchmarks.limits import Work
from benchmarks.sizes import TOKENS, decode_bytes, decode_flops, hf_config, prefill_flops
from msjoe_jax.draws.draw import Draw
from msjoe_jax.families import FAMILIES
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.flops import qwen_flops
from msjoe_jax.models.qwen2_5_vl.images import patches_to_inputs
from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts
from msjoe_jax.rollout.assemble import Assembler, Frame, stack_rows
from msjoe_jax.rollout.generate import Prompts
from msjoe_jax.rollout.programs import Patches

HEAD = 4  # tokens of text before the frames
QWEN = FAMILIES["qwen2_5_vl"]


class Shape(NamedTuple):
    """Sizes of a batch: B questions × I query rollouts × J frame draws.

    Frames are `grid` patches (height, width); the J · I sets of `keys` frames are drawn from
    `candidates` of a question. `text`: tokens of a prompt beside its frames.
    """

    questions: int
    queries: int
    draws: int
    previews: int
    preview_grid: tuple[int, int]
    keys: int
    key_grid: tuple[int, int]
    candidates: int
    text: int
    query_tokens: int
    answer_tokens: int


SHAPES = {
    "tiny": Shape(2, 2, 2, 2, (4, 4), 3, (4, 8), 5, 12, 6, 4),
    "mini": Shape(2, 4, 2, 4, (4, 4), 8, (8, 8), 32, 64, 32, 16),
    # 8,704 tokens of an answer's prompt, 1,024 of a query's: configs/joint_v4.py, fewer questions.
    "7b": Shape(2, 4, 2, 16, (8, 16), 32, (32, 32), 128, 448, 128, 64),
}


def hf_sizes(size: str) -> transformers.Qwen2_5_VLConfig:
    """Returns the config of transformers; mini has 23 M parameters and the 7B's head width."""
    config = hf_config("small" if size == "mini" else size)
    if size == "mini":
        text, vision = config["text_config"], config["vision_config"]
        text.update(hidden_size=512, num_hidden_layers=4, intermediate_size=2048, vocab_size=8192)
        text.update(num_attention_heads=4, num_key_value_heads=2)
        vision.update(depth=2, hidden_size=160, num_heads=2, intermediate_size=428)
        vision.update(out_hidden_size=512, fullatt_block_indexes=[1])
    return transformers.Qwen2_5_VLConfig(**config)


class Part(NamedTuple):
    """One step's prompts of the batch, G of each of B questions, with n completions of each.

    patches: pixels [B, U, P, p, p, 3] of a question's distinct frames; frame_index [B, G, F]: those
    that each prompt shows; tokens, mask [B, G, n, C]: of completions to train on.
    """

    prompts: Prompts
    patches: Patches
    frame_index: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray

    @property
    def samples(self) -> int:
        """The number of completions of each prompt."""
        return self.tokens.shape[2]


class Numbers:
    """A tokenizer of numbers: "3 4 5"."""

    def encode(self, text: str) -> list[int]:
        """Returns the numbers."""
        return [int(word) for word in text.split()]


def make_part(
    c: QwenConfig,
    rng: np.random.Generator,
    frame_index: np.ndarray,
    distinct: int,
    grid: tuple[int, int],
    text: int,
    samples: int,
    max_tokens: int,
) -> Part:
    """Makes prompts of random text around frames, and completions of random tokens.

    Args:
      c: the MLLM's sizes.
      rng: draws text, pixels and tokens.
      frame_index: the frames [B, G, F] of each prompt, among its question's.
      distinct: frames of a question.
      grid: patches (height, width) of a frame.
      text: tokens of a prompt beside its frames.
      samples: completions of each prompt.
      max_tokens: tokens of a completion at most.
    """
    B, G, F = frame_index.shape
    P, p = grid[0] * grid[1], c.vision.patch
    M = P // c.vision.merge**2
    assembler = Assembler(Numbers(), QWEN, c)  # type: ignore[arg-type]

    def random_text(count: int) -> str:
        return " ".join(map(str, rng.integers(5, c.text.vocab, count)))

    rows = []
    for b in range(B):
        around = random_text(HEAD), random_text(text - HEAD)
        rows.append(
            [
                assembler.row(around, [Frame(int(u) * M, grid) for u in s], text - 1 + F * (M + 2))
                for s in frame_index[b]
            ]
        )
    shape = (B, G, samples, max_tokens)
    return Part(
        stack_rows(rows),
        Patches(
            rng.integers(0, 256, (B, distinct, P, p, p, 3), np.uint8),
            np.full((B, distinct, 2), grid, np.int32),
        ),
        frame_index,
        rng.integers(5, c.text.vocab, shape).astype(np.int32),
        np.arange(max_tokens) < rng.integers(max_tokens // 2, max_tokens + 1, shape[:3])[..., None],
    )


def make_parts(c: QwenConfig, s: Shape) -> tuple[Part, Part]:
    """Makes reason (one prompt a question, I completions) and answer (I · J prompts, one each)."""
    rng = np.random.default_rng(0)
    B, G = s.questions, s.queries * s.draws
    previews = np.broadcast_to(np.arange(s.previews), (B, 1, s.previews))
    key_frames = np.array(
        [[np.sort(rng.permutation(s.candidates)[: s.keys]) for _ in range(G)] for _ in range(B)]
    )
    return (
        make_part(c, rng, previews, s.previews, s.preview_grid, s.text, s.queries, s.query_tokens),
        make_part(c, rng, key_frames, s.candidates, s.key_grid, s.text, 1, s.answer_tokens),
    )


def rewards(s: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes `correct` [B, I, J], and format rewards of queries [B, I] and answers [B, I, J]."""
    bit = np.random.default_rng(1).integers
    B, I, J = s.questions, s.queries, s.draws
    correct, queries, answers = (
        bit(0, 2, n).astype(np.float32) for n in ((B, I, J), (B, I), (B, I, J))
    )
    return correct, queries, answers


def our_batch(s: Shape, parts: tuple[Part, Part], features: tuple[Any, Any]) -> RolloutBatch:
    """Makes the joint step's input, with log-probs of 0, so that it reports the mean log-prob."""
    B, I, J = s.questions, s.queries, s.draws
    correct, query_valid, answer_valid = rewards(s)
    ones = np.ones(B, np.float32)

    def rollouts(part: Part, visual: Any) -> TokenRollouts:
        zeros = np.zeros(part.tokens.shape, np.float32)
        finished = np.ones(part.tokens.shape[:3], np.float32)
        return TokenRollouts(part.prompts, visual, part.tokens, part.mask, zeros, finished)

    queries, answers = map(rollouts, parts, features)
    picks = parts[1].frame_index.reshape(B, I, J, -1).astype(np.int32)
    return RolloutBatch(
        queries,
        answers,
        similarity=np.zeros((B, I, 1, s.candidates), np.float32),
        query_mask=np.ones((B, I, 1), bool),
        frame_mask=np.ones((B, s.candidates), bool),
        draw=Draw(picks, np.ones(picks.shape, bool)),
        measures={
            "correct": correct,
            "answer_valid": answer_valid,
            "query_valid": query_valid[..., None],
            "parsed": np.ones((B, I, 1), np.float32),
        },
        pass_rate=ones / 2,
        weight=ones,
        importance=ones,
    )


def their_inputs(c: QwenConfig, part: Part, questions: slice) -> dict[str, np.ndarray]:
    """Repeats every prompt once a completion, with the pixels of its own frames."""
    n = part.samples
    x = part.prompts
    ids = np.concatenate([x.tokens, x.first_token[..., None]], -1)[questions]
    ids = np.repeat(ids.reshape(-1, ids.shape[-1]), n, 0)
    frame_index, patches = part.frame_index[questions], part.patches.pixels[questions]
    flat = np.asarray(
        patches_to_inputs(jnp.asarray(patches), c.vision.temporal_patch)
    )  # [B, U, P, C]

    def of_prompts(frames: np.ndarray) -> np.ndarray:
        selected = frames[np.arange(len(frame_index))[:, None, None], frame_index]  # [B, G, F, …]
        return np.repeat(selected.reshape(-1, *selected.shape[2:]), n, 0)

    pixels = of_prompts(flat).reshape(-1, flat.shape[-1])
    grids = of_prompts(np.asarray(part.patches.grid[questions])).reshape(-1, 2)
    return {
        "input_ids": ids.astype(np.int64),
        "attention_mask": np.ones_like(ids, np.int64),
        "mm_token_type_ids": (ids == TOKENS["image_token_id"]).astype(np.int32),
        "pixel_values": pixels,
        "image_grid_thw": np.pad(grids, ((0, 0), (1, 0)), constant_values=1).astype(np.int64),
    }


def useful_flops(c: QwenConfig, s: Shape, parts: tuple[Part, Part]) -> float:
    """Counts the FLOPs of one decoder forward, each distinct prompt and completion once."""
    total = 0.0
    for part in parts:
        prompt, (B, G, n, new) = part.prompts.tokens.shape[-1], part.tokens.shape
        start, end = prefill_flops(c.text, prompt), prefill_flops(c.text, prompt + new)
        head = 2.0 * new * c.text.vocab * c.text.width
        total += B * G * (start + n * (end - start + head))
    return total


def rollout_work(c: QwenConfig, part: Part, itemsize: int) -> list[Work]:
    """Counts what drawing the completions needs: frames and prompts once, then every step.

    Args:
      c: the MLLM's sizes.
      part: the step's prompts and the shape of its completions.
      itemsize: bytes of a number.
    """
    prompt, (B, G, n, new) = part.prompts.tokens.shape[-1], part.tokens.shape
    B, frames, patches = part.patches.pixels.shape[:3]
    tower = B * frames * sum(qwen_flops(c).frame(patches))
    step = Work(
        B * G * n * decode_flops(c.text, prompt + new / 2),
        decode_bytes(c.text, B * G * prompt, B * G * n, new / 2, itemsize),
    )
    return [Work(tower), Work(B * G * prefill_flops(c.text, prompt)), *[step] * new]
