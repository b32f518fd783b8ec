"""Reads the MLLM's replies to selectors' own prompts about numbered frames.

Replies are data: they are matched against patterns here and never evaluated. A reader returns None
for a reply that says nothing it understands, such as a refusal.
"""

import re
from collections.abc import Sequence

Span = tuple[int, int]  # first and last of numbered frames

_NUMBER = r"([0-9]{1,9})"
_DASH = r"(?:-|–|—|\bto\b)"
_SPAN = rf"(?i)(?:frames?)?\s*\[?\s*{_NUMBER}\s*\]?(?:\s*{_DASH}\s*\[?\s*{_NUMBER}\s*\]?)?"
_KEY = re.compile(_SPAN)
_IN_LIST = re.compile(rf"(?<![0-9.\-–—]){_NUMBER}(?![0-9.])(?:\s*{_DASH}\s*{_NUMBER}(?![0-9.]))?")
# "KEY": SCORE with quotes of any kind, or none around a number.
_ENTRY = re.compile(
    r"""(?:["'“”‘’]([^"'“”‘’{}]{1,40})["'“”‘’]|(?<=[{,\s])([0-9][0-9\s–—-]*))"""
    r"""\s*:\s*["'“”‘’]?\s*([0-9]{1,3}(?:\.[0-9]+)?)"""
)


def numbered(count: int) -> tuple[str, ...]:
    """Returns what stands before each of `count` frames, as GenS shows them: [0] and so on."""
    return tuple(f"\n[{i}]" if i else "[0]" for i in range(count))


def read_scores(text: str, count: int) -> dict[Span, float] | None:
    """Reads relevances of frames and ranges from what was asked for as JSON.

    Of a key that occurs twice the largest counts; ranges are cut at the last frame, what lies
    beyond is left out, as is a relevance of 0. Fences, trailing commas, text around the object and
    a missing end do no harm. `{}` says that no frame is relevant.

    Args:
      text: the reply.
      count: frames that were shown.

    Returns:
      Spans and their relevance, 5 at most; None: there is no object, or nothing in it fits.
    """
    _, brace, body = text.partition("{")
    if not brace:
        return None
    scores: dict[Span, float] = {}
    understood = re.match(r"\s*\}", body) is not None
    for quoted, bare, value in _ENTRY.findall(brace + body):
        key = _KEY.fullmatch((quoted or bare).strip())
        span = key and _clipped(key[1], key[2], count)
        if span:
            understood = True
            if float(value) > 0:
                scores[span] = max(scores.get(span, 0.0), min(float(value), 5.0))
    return scores if understood else None


def read_segment(text: str, count: int) -> Span | None:
    """Reads `<segment>a-b</segment>`, `<segment>a</segment>` or `<segment>whole</segment>`.

    Args:
      text: the reply.
      count: frames that were shown; a range is cut at the last.
    """
    body, _ = _tagged(text, "segment")
    if body is None:
        return None
    if body.lower() == "whole":
        return 0, count - 1
    span = _KEY.fullmatch(body)
    return _clipped(span[1], span[2], count) if span else None


def read_frames(text: str, count: int) -> list[int] | None:
    """Reads `<frames>a, b-c</frames>`: each frame once, in the order of the reply.

    `none` gives an empty list; numbers beyond the last frame are left out. Without its end the last
    number may be cut off, and is not read.

    Args:
      text: the reply.
      count: frames that were shown.
    """
    body, ended = _tagged(text, "frames")
    if body is None:
        return None
    if body.lower() == "none":
        return []
    found = _IN_LIST.findall(body)
    spans = [_clipped(first, last, count) for first, last in (found if ended else found[:-1])]
    frames = [i for span in spans if span for i in range(span[0], span[1] + 1)]
    return list(dict.fromkeys(frames)) or None


def _tagged(text: str, name: str) -> tuple[str | None, bool]:
    """Returns what stands in the first such tag, and whether the tag ends."""
    found = re.search(rf"(?is)<\s*{name}\s*>(.*?)(<\s*/\s*{name}\s*>|$)", text)
    return (found[1].strip(), bool(found[2])) if found else (None, False)


def _clipped(first: str, last: str | None, count: int) -> Span | None:
    low, high = sorted((int(first), int(last or first)))
    return (low, min(high, count - 1)) if low < count else None


def fill_up(chosen: Sequence[int], others: Sequence[int], k: int) -> list[int]:
    """Adds evenly spaced ones of the others to those chosen, up to k, and sorts them."""
    rest = [t for t in others if t not in set(chosen)]
    missing = min(k - len(chosen), len(rest))
    return sorted([*chosen, *(rest[int((i + 0.5) * len(rest) / missing)] for i in range(missing))])
