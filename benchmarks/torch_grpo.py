"""The joint step's MLLM half in PyTorch: our own code, after TRL's GRPOTrainer.

Prompts and their pixels are repeated once per completion, for generation and for the loss; the
logits of all completion tokens exist at once, over the whole vocabulary, in float32; the vision
tower is frozen but runs again in the loss. What TRL does too: SDPA attention, a key-value cache,
logits of completion tokens only, one forward per micro-batch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.joint_batch import Part, Shape, rewards, their_inputs
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig

Inputs = Mapping[str, torch.Tensor]


def make_model(
    sizes: transformers.Qwen2_5_VLConfig, device: str, dtype: str, large: bool
) -> torch.nn.Module:
    """Makes the model with random weights on the device; the tower is frozen."""
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device(device):
        model = transformers.Qwen2_5_VLForConditionalGeneration(sizes)
    torch.set_default_dtype(torch.float32)
    model.model.visual.requires_grad_(False)
    if large:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    return model


def on_device(inputs: dict[str, np.ndarray], device: str, dtype: str) -> dict[str, torch.Tensor]:
    """Copies arrays to the device, pixels in the model's type."""
    out = {name: torch.from_numpy(np.array(x)).to(device) for name, x in inputs.items()}
    return {**out, "pixel_values": out["pixel_values"].to(getattr(torch, dtype))}


def completions(
    model: Any,
    inputs: Inputs,
    max_tokens: int,
    banned: tuple[int, ...],
) -> torch.Tensor:
    """Samples `new` tokens [R, new] for every row."""
    with torch.inference_mode():
        out = model.generate(
            **inputs,
            do_sample=True,
            top_k=0,
            suppress_tokens=list(banned),
            min_new_tokens=max_tokens,
            max_new_tokens=max_tokens,
            pad_token_id=0,
        )
    return out[:, inputs["input_ids"].shape[1] :]


def log_probs(
    model: torch.nn.Module,
    inputs: Inputs,
    tokens: torch.Tensor,
    banned: tuple[int, ...],
) -> torch.Tensor:
    """Computes log-probs of completion tokens [R, C], among all but the banned ids."""
    ids = torch.cat([inputs["input_ids"], tokens], 1)
    kinds = inputs["mm_token_type_ids"]
    out = model(
        **{k: v for k, v in inputs.items() if k.startswith(("pixel", "image"))},
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=torch.cat([kinds, torch.zeros_like(tokens, dtype=kinds.dtype)], 1),
        logits_to_keep=tokens.shape[1] + 1,
        use_cache=False,
    )
    logits = out.logits[:, :-1].float()
    logits[..., list(banned)] = -1e30
    token_logits = logits.gather(-1, tokens[..., None])[..., 0]
    return token_logits - torch.logsumexp(logits, -1)


def advantages(
    correct: np.ndarray, query_valid: np.ndarray, answer_valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes GRPO's advantages of 0.8 · correct + 0.1 · valid format, per question.

    Returns:
      [B, I] (the mean of its draws) for query tokens, [B, I · J] for answer tokens.
    """
    reward = 0.8 * correct + 0.1 * query_valid[..., None] * answer_valid
    flat = reward.reshape(len(reward), -1)
    centred = flat - flat.mean(1, keepdims=True)
    flat = centred / (flat.std(1, ddof=1, keepdims=True) + 1e-4)
    return flat.reshape(reward.shape).mean(-1), flat


def backward(
    model: torch.nn.Module,
    pieces: list[tuple[Inputs, torch.Tensor, torch.Tensor, torch.Tensor, int]],
    total: float,
    banned: tuple[int, ...],
) -> tuple[float, float]:
    """Adds gradients of the clipped loss, mean over the tokens of the batch's rollouts.

    On policy, so that the ratio is 1.

    Args:
      model: its gradients are added to.
      pieces: (inputs, tokens [R, C], mask [R, C], advantages [R], copies) of every micro-batch and
        step; a query reply counts for each of the rollouts that share it.
      total: tokens of the batch's rollouts.
      banned: ids that are never sampled.

    Returns:
      The loss and the mean negative log-prob of the sampled tokens.
    """
    loss, surprise, sampled = 0.0, 0.0, 0.0
    for inputs, tokens, mask, advantage, copies in pieces:
        log_p = log_probs(model, inputs, tokens, banned)
        ratio = torch.exp(log_p - log_p.detach())
        clipped = ratio.clamp(0.8, 1.28)
        a = advantage[:, None]
        part = -(torch.minimum(ratio * a, clipped * a) * mask).sum() * copies / total
        part.backward()
        loss += part.item()
        surprise -= (log_p.detach() * mask).sum().item()
        sampled += mask.sum().item()
    return loss, surprise / sampled


def make_pieces(
    c: QwenConfig, s: Shape, parts: tuple[Part, Part], micro: int, device: str, dtype: str
) -> tuple[list[tuple], float]:
    """Makes what `backward` takes.

    Args:
      c: the MLLM's sizes.
      s: the batch's sizes.
      parts: reason and answer of the batch.
      micro: number of micro-batches.
      device, dtype: of the model.

    Returns:
      The pieces, and the number of tokens of the rollouts.
    """
    pieces = []
    copies = s.draws, 1
    each = s.questions // micro
    for start in range(0, s.questions, each):
        questions = slice(start, start + each)
        for part, advantage, shared in zip(parts, advantages(*rewards(s)), copies, strict=True):
            rows = [
                torch.from_numpy(x[questions].reshape(-1, x.shape[-1]).copy()).to(device)
                for x in (part.tokens.astype(np.int64), part.mask.astype(np.float32))
            ]
            row_advantages = (
                torch.from_numpy(advantage[questions].reshape(-1).copy()).float().to(device)
            )
            inputs = on_device(their_inputs(c, part, questions), device, dtype)
            pieces.append((inputs, *rows, row_advantages, shared))
    total = sum(part.mask.sum() * shared for part, shared in zip(parts, copies, strict=True))
    return pieces, float(total)
