"""ProVCA-like: the MLLM names a segment, similarities its snippets, the MLLM their key frames.

A reconstruction of Progressive Video Condensation (arXiv 2604.02891), of which only the outline is
public: its wording, thresholds and numbers here are ours. Two calls of the MLLM, three where the
segment is widened; a call is several prompts where its frames do not fit into one.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from msjoe_jax.data.questions import Question
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.machine import fetch
from msjoe_jax.selectors.base import Ask, Candidates, Selection
from msjoe_jax.selectors.replies import Span, numbered, read_frames, read_segment
from msjoe_jax.text.prompts import question_text

PREVIEWS = 16  # frames among which the segment is named
SNIPPETS, FRAMES = 8, 4  # snippets that are kept, and frames that are shown of each
SHORTEST = 4.0  # seconds of a snippet
TOKENS = 16  # visual tokens of a frame at most
SEGMENT = (
    "Which part of the video answers the question? Reply <segment>2-5</segment> with the first and "
    "the last frame of that part, or <segment>whole</segment>."
)
KEY_FRAMES = (
    "Which frames show the answer? Reply <frames>1, 5</frames> with at most {k} of them, or "
    "<frames>none</frames> if none does."
)


def segment_text(question: Question) -> str:
    """Returns the text that asks for the segment."""
    return f"Question: {question_text(question.question, question.options)}\n{SEGMENT}"


def frames_text(question: Question, k: int) -> str:
    """Returns the text that asks for up to k key frames."""
    asked = KEY_FRAMES.replace("{k}", str(k))
    return f"Question: {question_text(question.question, question.options)}\n{asked}"


@dataclasses.dataclass
class _Search:
    """Where one list of queries stands: its segment, frames shown and named, replies so far."""

    segment: Span
    shown: set[int] = dataclasses.field(default_factory=set)
    named: list[int] | None = None
    replies: list[bool] = dataclasses.field(default_factory=list)


def select(candidates: Candidates, k: int) -> Selection:
    """Chooses the frames that the MLLM names, filled up by similarity.

    Where it says that no frame of the segment answers, the segment grows once by its own length on
    both sides.
    """
    counts = candidates.frame_mask.sum(-1)
    I = len(candidates.queries[0])
    searches = [
        [_Search(segment, replies=[read]) for _ in range(I)]
        for segment, read in _segments(candidates, counts)
    ]
    similarity, mask, embeddings = fetch(
        (candidates.similarity, candidates.query_mask, candidates.embeddings)
    )
    best = np.where(mask[..., None], similarity, -np.inf).max(2)
    best = np.where(np.isfinite(best), best, 0.0)  # of a list without queries: time decides
    _name_frames(candidates, searches, best, embeddings, k, again=False)
    widened = False
    for row, count in zip(searches, counts, strict=True):
        for search in row:
            first, last = search.segment
            whole = (0, int(count) - 1)
            if search.named == [] and search.segment != whole:
                grown = last - first + 1
                search.segment = max(first - grown, 0), min(last + grown, whole[1])
                search.named, widened = None, True
    if any(hosts.gather(widened, "who widens a segment")):
        _name_frames(candidates, searches, best, embeddings, k, again=True)
    B = len(searches)
    frames = np.full((B, I, candidates.num_draws, k), -1, np.int32)
    named = np.zeros((B, I), np.float32)
    asked = np.zeros(best.shape, bool)
    for b, i in np.ndindex(B, I):
        chosen = _filled(searches[b][i], best[b, i, : counts[b]], k)
        frames[b, i, :, : len(chosen)] = chosen
        named[b, i] = len((searches[b][i].named or [])[:k]) / len(chosen)
        asked[b, i, sorted(searches[b][i].shown)] = True
    parsed = [[np.mean(search.replies) for search in row] for row in searches]
    return Selection(
        frames=frames,
        logits=np.where(candidates.frame_mask[:, None], best, -np.inf).astype(np.float32),
        parsed=np.array(parsed, np.float32),
        named=named,
        asked=asked,
    )


def _segments(candidates: Candidates, counts: np.ndarray) -> list[tuple[Span, bool]]:
    """Asks for each question's segment: candidate indices, and whether the reply could be read."""
    texts = [segment_text(question) for question in candidates.questions]
    number = min(PREVIEWS, candidates.room(texts, numbered(PREVIEWS)[-1], TOKENS))
    shown = [_even(range(int(count)), number) for count in counts]
    asks = [
        [Ask(text, tuple(frames), numbered(len(frames)), TOKENS)]
        for text, frames in zip(texts, shown, strict=True)
    ]
    out = []
    for (reply,), frames, count in zip(candidates.ask(asks), shown, counts, strict=True):
        span = read_segment(reply, len(frames))
        first, last = span or (0, len(frames) - 1)
        # A preview stands for the frames up to its neighbours; the outer ones for the ends.
        start = 0 if first == 0 else frames[first - 1]
        end = int(count) - 1 if last == len(frames) - 1 else frames[last + 1]
        out.append(((start, end), span is not None))
    return out


def _name_frames(
    candidates: Candidates,
    searches: Sequence[Sequence[_Search]],
    best: Float[np.ndarray, "B I T"],
    embeddings: Float[np.ndarray, "B T E"],
    k: int,
    *,
    again: bool,
) -> None:
    """Asks for the key frames of every search, again only of those whose segment has grown.

    Snippets that do not fit into one prompt are shown in several.
    """
    texts = [frames_text(question, k) for question in candidates.questions]
    room = min(SNIPPETS * FRAMES, candidates.room(texts, numbered(SNIPPETS * FRAMES)[-1], TOKENS))
    asks: list[list[Ask]] = []
    for b, row in enumerate(searches):
        asks.append([])
        for i, search in enumerate(row):
            frames: list[int] = []
            if not again or search.named is None:
                parts = snippets(embeddings[b], candidates.timestamps[b], *search.segment)
                frames = shown_frames(parts, best[b, i])
            for start in range(0, SNIPPETS * FRAMES, room):
                shown = tuple(frames[start : start + room])
                asks[-1].append(Ask(texts[b], shown, numbered(len(shown)), TOKENS))
    for row, own, replies in zip(searches, asks, candidates.ask(asks), strict=True):
        prompts = len(own) // len(row)
        for n, (ask, reply) in enumerate(zip(own, replies, strict=True)):
            if ask.frames:
                search, read = row[n // prompts], read_frames(reply, len(ask.frames))
                search.replies.append(read is not None)
                search.shown |= set(ask.frames)
                if read is not None:
                    search.named = [*(search.named or []), *(ask.frames[m] for m in read)]


def snippets(
    embeddings: Float[np.ndarray, "T E"], times: Float[np.ndarray, "T"], first: int, last: int
) -> list[Span]:
    """Cuts a segment where neighbouring frames differ: local minima of their cosine.

    A minimum counts if it lies more than a standard deviation below the segment's mean, and both
    sides of it are SHORTEST or longer.
    """
    rows = embeddings[first : last + 1].astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    cosines = (rows[:-1] * rows[1:]).sum(-1)
    padded = np.concatenate([[np.inf], cosines, [np.inf]])
    lowest = np.minimum(padded[:-2], padded[2:])
    limit = cosines.mean() - cosines.std() if len(cosines) else 0.0
    out, start = [], first
    for place in np.flatnonzero((cosines < limit) & (cosines <= lowest)):
        t = first + int(place) + 1
        if min(times[t] - times[start], times[last] - times[t]) >= SHORTEST:
            out.append((start, t - 1))
            start = t
    return [*out, (start, last)]


def shown_frames(parts: Sequence[Span], score: Float[np.ndarray, "T"]) -> list[int]:
    """Returns frames of the best snippets, evenly spaced in each and in time order.

    Args:
      parts: the snippets.
      score: of every frame.
    """
    kept = sorted(parts, key=lambda part: -score[part[0] : part[1] + 1].max())[:SNIPPETS]
    return sorted(t for first, last in kept for t in _even(range(first, last + 1), FRAMES))


def _even(frames: range, number: int) -> list[int]:
    """Returns the middles of equal parts."""
    n = min(number, len(frames))
    return [frames[int((i + 0.5) * len(frames) / n)] for i in range(n)]


def _filled(search: _Search, score: Float[np.ndarray, "n"], k: int) -> list[int]:
    """Returns the frames named, of more than k the most similar, and the best others.

    Others of the segment come before those outside.
    """
    named = sorted(search.named or [], key=lambda t: -score[t])[:k]
    first, last = search.segment
    places = np.arange(len(score))
    outside = (places < first) | (places > last)
    order = np.lexsort((places, -score, outside)).tolist()
    others = [t for t in order if t not in set(named)]
    return sorted([*named, *others[: k - len(named)]])
