"""Lists of conversations about videos, as trainers of MLLMs take them; each turn is a question.

Reads `conversations` (from, value) and `messages` (role, content) with `videos` or `video`, as
LLaMA-Factory, LLaVA and ms-swift have them, and the rows of query and response. The options stand
in the user's text, and the right one in the reply. A video's id is the name of its file.
"""

import re
from collections.abc import Iterator
from typing import Any

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.tasks.base import Rule
from msjoe_jax.tasks.extractors import lmms_eval
from msjoe_jax.tasks.multiple_choice import SHARED, benchmark, rules
from msjoe_jax.tasks.reading import ABSENT, Form, Values, question_of, text_of, with_groups
from msjoe_jax.tasks.values import read_answer, read_list

LISTS = ("messages", "conversations", "conversation")
ASKS, REPLIES = ("user", "human"), ("assistant", "gpt", "bot", "model")
SINGLE = (("query", "response"), ("instruction", "output"), ("prompt", "response"))
VIDEOS = ("videos", "video", "video_path", "path")
GROUPS = ("type", "question_type", "task", "category", "data_source", "source")
# Where media stand in a text, and the name of a video between two of these tags.
_NAMED = re.compile(r"<video>\s*([^<>\n]+?)\s*</video>")
_MEDIA = re.compile(r"<\|?(?:video|image|vision_start|vision_end|video_pad|image_pad)\|?>")
_TAG = re.compile(r"(?is)<answer>\s*(.*?)\s*</answer>")
_THOUGHT = re.compile(r"(?is)^.*</think>")
_SAID = re.compile(r"(?is)^.*?\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*(?=\S)")


def expand(values: Values) -> Iterator[Values]:
    """Yields the row itself, or a row for each turn of several."""
    turns = _turns(values)
    if len(turns) < 2:
        yield values
        return
    rest = {name: value for name, value in values.items() if name not in LISTS}
    for number, (asked, reply) in enumerate(turns, 1):
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
        row = {**rest, "messages": messages, "first_turn": turns[0][0]}
        if name := text_of(values, "id"):
            row["id"] = f"{name}-{number}"
        yield row


def parse(values: Values) -> Question:
    """Makes the question of a row of one turn."""
    turns = _turns(values)
    if not turns:
        raise UserError(f"field {_field(values)!r} holds no question of a user")
    ((asked, reply),) = turns
    text, named = _text(asked), _NAMED.findall(_text(asked))
    first = values.get("first_turn", asked)
    videos = next((values[name] for name in VIDEOS if values.get(name, "") not in ("", [])), None)
    if videos is None:
        videos = named or _videos(first) or _NAMED.findall(_text(first))
    if not videos:
        raise UserError("field 'videos' (or 'video') is missing")
    row: dict[str, Any] = {"question": _MEDIA.sub("", _NAMED.sub("", text)).strip()}
    row["video"] = _paths(videos)
    if values.get("options", "") not in ("", []):
        row["options"] = values["options"]
    question = question_of(row, video=("video",))
    field = _field(values)
    right = _answer(_text(reply), question.options, dict(SINGLE).get(field, field))
    question = Question(**{**vars(question), "answer": right})
    kinds = (name for name in GROUPS if isinstance(values.get(name), str))
    return with_groups(question, values, *kinds)


def _answer(reply: str, options: tuple[str, ...], field: str) -> int | None:
    """Reads the right option from a reply; None of an empty one, as in a set for a server."""
    text = _THOUGHT.sub("", reply).strip()
    if tags := _TAG.findall(text):
        text = tags[-1]
    if text in ABSENT:
        return None
    try:
        return read_answer(text, options, field)
    except UserError:
        if said := _SAID.match(text):
            return read_answer(text[said.end() :].rstrip(" .*"), options, field)
        raise


def _field(values: Values) -> str:
    """Returns the name of the field that holds the turns."""
    names = (*LISTS, *(asked for asked, _ in SINGLE))
    return next((name for name in names if values.get(name, "") != ""), LISTS[0])


def _turns(values: Values) -> list[tuple[Any, Any]]:
    """Returns the turns of a row: what was asked, and the reply, "" where there is none."""
    field = _field(values)
    turns = read_list(values.get(field, ""))
    for asked, reply in SINGLE:
        if field == asked:
            more = text_of(values, "input") if asked == "instruction" else ""
            text = f"{values[asked]}\n{more}".strip() if more else values[asked]
            return [(text, values.get(reply, ""))]
    found: list[tuple[Any, Any]] = []
    for turn in turns if isinstance(turns, list) else []:
        if not isinstance(turn, dict):
            continue
        if "assistant" in turn and any(name in turn for name in ASKS):
            found.append((next(turn[name] for name in ASKS if name in turn), turn["assistant"]))
            continue
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if role in ASKS:
            found.append((content, ""))
        elif role in REPLIES and found and found[-1][1] == "":
            found[-1] = found[-1][0], content
    return found


def _text(content: Any) -> str:
    """Returns the words of a turn: itself, or the text parts of a list."""
    if isinstance(content, list):
        parts = [part.get("text", "") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str) and part)
    return content if isinstance(content, str) else ""


def _videos(content: Any) -> list[Any]:
    """Returns the videos among the parts of a turn."""
    parts = content if isinstance(content, list) else []
    names = ("video", "video_url", "path", "url")
    return [
        next((part[name] for name in names if part.get(name)), "")
        for part in parts
        if isinstance(part, dict) and part.get("type") in ("video", "video_url")
    ]


def _paths(videos: Any) -> Any:
    """Returns paths as they are, of objects that name them, without a scheme."""
    videos = read_list(videos)
    if isinstance(videos, list):
        return [_paths(video) for video in videos]
    if isinstance(videos, dict):
        return _paths(next((videos[n] for n in ("video", "path", "url") if n in videos), ""))
    return videos.removeprefix("file://") if isinstance(videos, str) else videos


RULE = Rule(SHARED, lmms_eval)
TASK = benchmark(Form(parse, ids=("id",), expand=expand, repeats=True), rules(RULE, RULE))
