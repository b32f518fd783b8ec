"""Values as benchmarks write them: options and answers, names of videos, times and spans."""

import ast
import functools
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from msjoe_jax.data.questions import is_span
from msjoe_jax.data.video import ENDINGS
from msjoe_jax.errors import UserError
from msjoe_jax.text.characters import LETTERS, visible

# How an option's letter is written before it: (A) A. A) A: and the full-width forms.
_LABEL = re.compile(r"\s*(?:[(\[（]\s*([A-Z])\s*[)\]）][.:]?|([A-Z])\s*[.:)．：、）])\s*")
_INITIAL = re.compile(r"[A-Z]\. ?[A-Z]")
# The same at the beginning of a line, by style, and in brackets within one.
_STARTS = (
    r"(?:^|\n)[ \t]*\({}\)[.:]?",
    r"(?:^|\n)[ \t]*{}\.",
    r"(?:^|\n)[ \t]*{}\)",
    r"(?:^|\n)[ \t]*{}:",
    r"(?:^|\n)[ \t]*（{}）",
    r"(?:^|\n)[ \t]*{}[．：、]",
    r"(?:^|\s)\({}\)",
)
# A line behind the options that asks for a form of the answer.
_INSTRUCTION = re.compile(
    r"\n\s*(?:please\b|(?:your )?answer\b|respond\b|select\b|choose\b|provide\b|give\b|output\b|"
    r"only give\b|reply\b|think\b|the best (?:answer|option)\b|best option\b).*",
    re.IGNORECASE | re.DOTALL,
)
_OPTIONS_WORD = re.compile(r"\s*(?:options|choices)\s*:?\s*$", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"^\s*(?:<(?:image|video)>\s*)+")
NO_ANSWERS = ("", "@", "-1", "None", "N/A", "null", "?")  # in place of one that is kept secret


# --- options --------------------------------------------------------------------------------------


def split_options(text: str) -> tuple[str, list[str]]:
    """Splits a text into its question and the options that follow it with a letter each.

    A line behind the options that asks for a form of the answer is left out.

    Returns:
      The question, and the options without their letters; none if there are not two at least.
    """
    for letters, style in itertools.product((LETTERS, LETTERS.lower()), _STARTS):
        for first in reversed(list(_start(style, letters[0]).finditer(text))):
            found = [first]
            for letter in letters[1:]:
                following = _start(style, letter).search(text, found[-1].end())
                if following is None:
                    break
                found.append(following)
            if len(found) > 1:
                ends = [match.start() for match in found[1:]] + [len(text)]
                options = [text[m.end() : end].strip() for m, end in zip(found, ends, strict=True)]
                options[-1] = _INSTRUCTION.sub("", options[-1])
                return _OPTIONS_WORD.sub("", text[: first.start()]).strip(), options
    return text.strip(), []


@functools.cache
def _start(style: str, letter: str) -> re.Pattern[str]:
    return re.compile(style.format(letter))


def in_order(options: Sequence[str]) -> list[str]:
    """Takes away the options' own letters, if each has one, and puts them in their order.

    Letters may come in any order ("C. x", "A. y", "B. z"): an answer C then is x. Initials of names
    are none: "C. S. Lewis" before "A. A. Milne" stays as it is.
    """
    labels = [_LABEL.match(option) for option in options]
    named = {
        m[1] or m[2]: option[m.end() :] for m, option in zip(labels, options, strict=True) if m
    }
    initials = list(named) != sorted(named) and any(map(_INITIAL.match, named.values()))
    whole = len(named) == len(options) > 1 and set(named) == set(LETTERS[: len(options)])
    if whole and not initials:
        return [named[letter].strip() for letter in sorted(named)]
    return [option.strip() for option in options]


def read_list(value: Any) -> Any:
    """Reads a list or an object that a table holds as text, in JSON or as Python prints it."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{", "("):
        for read in (json.loads, ast.literal_eval):
            try:
                return read(value)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                continue
    return value


def read_options(value: Any, field: str) -> list[str]:
    """Reads options: a list, an object by letter, or a text of lines with a letter each.

    Raises:
      UserError: it is none of these, or there are fewer than two or more than letters; names the
        field.
    """
    value = read_list(value)
    if isinstance(value, Mapping):
        value = [f"{letter}. {text}" for letter, text in value.items()]
    if isinstance(value, str):
        question, found = split_options(value)
        value = found if not question else []
    if not isinstance(value, list | tuple):
        raise UserError(f"field {field!r} holds no options")
    options = in_order([str(option) for option in value])
    if not 2 <= len(options) <= len(LETTERS):
        raise UserError(f"field {field!r} holds {len(options)} options; 2 to {len(LETTERS)} can be")
    if sum(bool(visible(option)) for option in options) < 2:
        raise UserError(f"field {field!r} holds fewer than two options that are not empty")
    return options


def read_answer(
    value: Any, options: Sequence[str], field: str, *, by_text: bool = False
) -> int | None:
    """Reads the right option: its letter, its text, `<answer>B</answer>`, or its index from 0.

    Of two options that are alike a text means the last, as in MLVU's own scorer.

    Args:
      value: what the file has.
      options: to choose from.
      field: its name.
      by_text: whether a letter that is also an option's text means that option.

    Returns:
      The option's index; None for a set whose answers are kept secret (nothing, "@", −1).

    Raises:
      UserError: it is no option; names the field.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value != -1:
        if 0 <= value < len(options):
            return value
        raise UserError(f"field {field!r} is {value}, not the index of one of {len(options)}")
    text = "" if value is None else str(value).strip()
    if tag := re.fullmatch(r"(?is)<answer>\s*(.*?)\s*</answer>", text):
        text = tag[1]
    for way in (_by_text, _by_letter) if by_text else (_by_letter, _by_text):
        if (index := way(text, options)) is not None:
            return index
    if text in NO_ANSWERS:
        return None
    letters = LETTERS[: len(options)]
    raise UserError(f"field {field!r} is {text[:60]!r}, not one of the options {letters}")


def _by_text(text: str, options: Sequence[str]) -> int | None:
    if not visible(text):
        return None
    same = [i for i, option in enumerate(options) if visible(text) == visible(option)]
    if not same:  # the only one but for small letters and a full stop
        same = [i for i, option in enumerate(options) if _loose(text) == _loose(option)]
        same = same if len(same) == 1 and _loose(text) else []
    return same[-1] if same else None


def _loose(text: str) -> str:
    """Returns what is seen of a text, in small letters and without a full stop."""
    return visible(text).casefold().rstrip(" .")


def _by_letter(text: str, options: Sequence[str]) -> int | None:
    letters = LETTERS[: len(options)]
    if len(text) == 1 and text.upper() in letters:
        return letters.index(text.upper())
    label = _LABEL.match(text)
    if label and (letter := label[1] or label[2]) in letters:
        rest, option = _loose(text[label.end() :]), _loose(options[letters.index(letter)])
        if not rest or rest == option:
            return letters.index(letter)
    return None


def read_question(text: str, options: Sequence[str]) -> str:
    """Returns a question's text without placeholders of media and without these options' lines."""
    text = _PLACEHOLDER.sub("", text)
    question, embedded = split_options(text)
    same = [visible(option) for option in embedded] == [visible(option) for option in options]
    return question if same and question else text.strip()


# --- videos and times -----------------------------------------------------------------------------


def video_id(name: str) -> str:
    """Returns the id of a video in a record folder: its file's name without folder and ending.

    `msjoe init` names the records of a folder of videos so; see commands/predecode.py.
    """
    path = PurePosixPath(name.strip().replace("\\", "/"))
    return path.stem if path.suffix.lower() in ENDINGS else path.name


def read_seconds(text: str) -> float:
    """Reads "12.5", "mm:ss" or "hh:mm:ss" as seconds.

    Raises:
      ValueError: it is none of these.
    """
    parts = [float(part) for part in text.strip().replace(",", ".").split(":")]
    if len(parts) > 3 or any(part < 0 or not math.isfinite(part) for part in parts):
        raise ValueError(text)
    return sum(part * 60**i for i, part in enumerate(reversed(parts)))


def read_spans(value: Any) -> tuple[tuple[float, float], ...] | None:
    """Reads spans of a video: "mm:ss-mm:ss", several of them, one time, or lists of two seconds.

    Returns:
      The spans in seconds; None if they cannot be read.
    """
    value = read_list(value)
    if isinstance(value, str):
        spans = []
        for part in re.split(r"[;,，；]|\band\b", value):
            times = re.split(r"\s*[-–—~]\s*", part.strip())
            try:
                seconds = [read_seconds(time) for time in times]
            except ValueError:
                return None
            spans.append((seconds[0], seconds[-1]))
            if len(times) > 2:
                return None
    elif isinstance(value, list | tuple):
        if len(value) == 2 and all(isinstance(v, int | float) for v in value):
            value = [value]
        if not all(isinstance(span, list | tuple) and len(span) == 2 for span in value):
            return None
        spans = [(span[0], span[1]) for span in value]
    else:
        return None
    if not all(is_span(*span) for span in spans):
        return None
    return tuple((float(start), float(end)) for start, end in spans)
