"""GenS-like: the MLLM reads numbered frames and writes which of them matter, and how much.

After Generative Frame Sampler (Yao et al. 2025, arXiv 2503.09146, inference of its repository):
frames at 1 fps in windows of up to 256 that are asked about by themselves, greedy, a JSON object
from frames and ranges to relevances of 1 to 5. The wording and the resolution are ours; so is the
filling up, evenly over the video, which the paper leaves open. Its published weights are an MLLM of
their own; any other answers untrained.
"""

from collections.abc import Sequence

import numpy as np

from msjoe_jax.data.questions import Question
from msjoe_jax.selectors.base import Ask, Candidates, Selection
from msjoe_jax.selectors.replies import Span, fill_up, numbered, read_scores
from msjoe_jax.text.prompts import question_text

WINDOW = 256  # frames of a prompt at most (the paper's)
TOKENS = 16  # visual tokens of a frame at most (ours)
INSTRUCTION = (
    "Which of the frames above help to answer? Reply with JSON alone, from a frame or a range of "
    'frames to its relevance from 1 to 5, such as {"3": 2, "5-8": 5}.'
)


def prompt_text(question: Question) -> str:
    """Returns the text after the frames."""
    return f"Question: {question_text(question.question, question.options)}\n{INSTRUCTION}"


def select(candidates: Candidates, k: int) -> Selection:
    """Chooses the frames of the most relevant ranges; the rest of k evenly over the video."""
    texts = [prompt_text(question) for question in candidates.questions]
    size = min(WINDOW, candidates.room(texts, numbered(WINDOW)[-1], TOKENS))
    B, T = candidates.frame_mask.shape
    windows = range(0, T, size)
    counts = candidates.frame_mask.sum(-1)
    asks = []
    for text, count in zip(texts, counts, strict=True):
        shown = [tuple(range(start, min(start + size, int(count)))) for start in windows]
        asks.append([Ask(text, frames, numbered(len(frames)), TOKENS) for frames in shown])
    rows = np.full((B, k), -1, np.int32)
    scores = np.where(candidates.frame_mask, 0.0, -np.inf).astype(np.float32)
    parsed, named = np.zeros(B, np.float32), np.zeros(B, np.float32)
    for b, replies in enumerate(candidates.ask(asks)):
        read = [
            (ask.frames[0], read_scores(reply, len(ask.frames)))
            for ask, reply in zip(asks[b], replies, strict=True)
            if ask.frames
        ]
        spans = {
            (start + first, start + last): score
            for start, found in read
            for (first, last), score in (found or {}).items()
        }
        for (first, last), score in spans.items():
            span = scores[b, first : last + 1]
            np.maximum(span, score, out=span)
        chosen = best_spans(spans, k)
        frames = fill_up(chosen, range(int(counts[b])), k)
        rows[b, : len(frames)] = frames
        named[b] = len(chosen) / len(frames)
        parsed[b] = np.mean([found is not None for _, found in read])
    I = len(candidates.queries[0])
    shape = (B, I, candidates.num_draws, k)
    return Selection(
        frames=np.broadcast_to(rows[:, None, None], shape).copy(),
        logits=np.broadcast_to(scores[:, None], (B, I, T)),
        parsed=np.broadcast_to(parsed[:, None], (B, I)),
        named=np.broadcast_to(named[:, None], (B, I)),
        asked=np.broadcast_to(candidates.frame_mask[:, None], (B, I, T)),
    )


def best_spans(spans: dict[Span, float], k: int) -> Sequence[int]:
    """Returns up to k frames: those of the best range first, of equal ones of the earlier."""
    ordered = sorted(spans, key=lambda span: (-spans[span], span))
    frames = [t for first, last in ordered for t in range(first, last + 1)]
    return list(dict.fromkeys(frames))[:k]
