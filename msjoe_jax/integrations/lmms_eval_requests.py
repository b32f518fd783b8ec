"""Reads lmms-eval's requests: one text with question and options, and one video."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from msjoe_jax.errors import UserError
from msjoe_jax.text.characters import LETTERS

_OPTION = re.compile(r"\s*(?:\(([A-Z])\)|([A-Z])[.):])\s*(\S.*)")


class Asked(NamedTuple):
    """What a request asks.

    video: the file; question: its text; options: their texts without letters, none if the text has
    no options; rest: lines of the text that are neither, such as an instruction.
    """

    video: str
    question: str
    options: tuple[str, ...]
    rest: tuple[str, ...]


def read_request(messages: Iterable[Mapping[str, Any]], record: Mapping[str, Any]) -> Asked:
    """Reads a request's messages.

    Args:
      messages: as lmms-eval's tasks make them: turns with a list of contents, each of a type.
      record: the row of the data set. If its field `question` stands in the text, this is the
        question; otherwise all that stands before the options is.

    Raises:
      UserError: there is not exactly one video, or it is no file's path.
    """
    contents = [content for turn in messages for content in turn["content"]]
    media = [c for c in contents if c["type"] != "text"]
    if len(media) != 1 or media[0]["type"] != "video" or not isinstance(media[0]["url"], str):
        kinds = ", ".join(
            c["type"] if isinstance(c["url"], str) else f"{c['type']} of {type(c['url']).__name__}"
            for c in media
        )
        raise UserError(
            f"a request must show one video by its path, and this one shows {kinds or 'nothing'}; "
            "take a task whose doc_to_visual returns [path]"
        )
    text = "\n".join(c["text"] for c in contents if c["type"] == "text")
    return Asked(media[0]["url"], *split_text(text, record.get("question")))


def split_text(text: str, stated: Any = None) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Splits a prompt into the question, the options' texts and the other lines.

    The options are the last run of lines that begin with A, B, C, … in order, as `A.`, `A)`, `A:`
    or `(A)`, one line each; without two of them the text has no options and is all question.

    Args:
      text: the prompt.
      stated: the question, if the record states one; it counts if it stands in the text.
    """
    lines = text.splitlines()
    first, options = _last_options(lines)
    if not options:
        return text.strip(), (), ()
    head, after = "\n".join(lines[:first]).strip(), lines[first + len(options) :]
    question, before = head, ""
    if isinstance(stated, str):
        own = split_text(stated)[0]  # a record's question may hold the options too
        if own and own in head:
            question, before = own, head.replace(own, "\n", 1)
    rest = (line.strip() for line in (*before.splitlines(), *after))
    return question, options, tuple(line for line in rest if line)


def _last_options(lines: list[str]) -> tuple[int, tuple[str, ...]]:
    """Returns the place of the last run of two options or more, and their texts."""
    for first in range(len(lines) - 1, -1, -1):
        options: list[str] = []
        for line, letter in zip(lines[first:], LETTERS, strict=False):
            match = _OPTION.fullmatch(line)
            if not match or (match[1] or match[2]) != letter:
                break
            options.append(match[3].strip())
        if len(options) > 1:
            return first, tuple(options)
    return 0, ()
