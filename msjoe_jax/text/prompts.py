"""Writes the prompts of reason and answer, and parses the replies: text in, text out.

Replies are data: they are matched against patterns here and never evaluated.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

from msjoe_jax.fields import option
from msjoe_jax.text.characters import LETTERS, visible, without_letters

SUBTITLES = "Subtitles of the frames above:"
OPTION = "{letter}. {text}"


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """What the MLLM is asked, and how long prompts and replies may be.

    Lengths are in tokens: a longer prompt drops its question (counted), a longer reply is cut off
    and invalid.
    """

    system: str = option("You are a helpful assistant.", "The system turn; empty: none.")
    query_instruction: str = option(
        "The frames above are a sparse preview of a long video. To answer the question, other "
        "frames will be searched by text. Write up to {max_queries} short descriptions of what "
        "such a frame would show, each inside <query> </query>, and nothing else.",
        "Asks for queries; {max_queries} stands for the number of them.",
    )
    answer_instruction: str = option(
        "Answer from the frames above with the letter of the one right option inside "
        "<answer> </answer>, and nothing else.",
        "Asks for the answer.",
    )
    answer_lead: str = option("", "Stands before the question where the answer is asked for.")
    answer_option: str = option(OPTION, "How an option is written there.")
    think_instruction: str = option(
        "Reason first, inside <think> </think>.", "Added to both where `think` is on."
    )
    think: bool = option(False, "Replies begin with <think>…</think>.")
    subtitles: bool = option(
        False,
        "The prompt of answer holds the subtitles that overlap half a second around its frames, of "
        "the question or of its video's record.",
    )
    max_queries: int = option(4, "Queries a reply may hold.", low=1, high=64)
    length_step: int = option(
        0,
        "The prompts of a batch are computed at the next multiple of so many tokens that holds the "
        "longest of them, at the limits below at most; a program compiles once for each length "
        "that occurs; 0: always at the limits.",
        low=0,
    )
    query_prompt_tokens: int = option(1024, "Longest prompt of reason.", low=2)
    answer_prompt_tokens: int = option(8704, "Longest prompt of answer.", low=2)
    selector_prompt_tokens: int = option(
        0, "Longest prompt of a selector's own; 0: as answer_prompt_tokens.", low=0
    )
    numbered_frames: int = option(
        0, "Frames that a selector numbers in one prompt at most; 0: as many as have room.", low=0
    )
    query_tokens: int = option(256, "Longest reply of reason.", low=1)
    answer_tokens: int = option(64, "Longest reply of answer.", low=1)
    selector_tokens: int = option(
        0, "Longest reply to a selector's own prompt; 0: as query_tokens.", low=0
    )

    def slips(self) -> Iterator[str]:
        """Yields what cannot be."""
        for part in ("{letter}", "{text}"):
            if self.answer_option.count(part) != 1:
                yield f"answer_option={self.answer_option} must hold {part} once"


@dataclasses.dataclass(frozen=True)
class QueryReply:
    """A parsed reply of reason.

    queries: those to search for (the question itself if there is none); num_parsed: queries of the
    reply; valid: whether it has the required format.
    """

    queries: tuple[str, ...]
    num_parsed: int
    valid: bool


@dataclasses.dataclass(frozen=True)
class AnswerReply:
    """A parsed reply of answer: the option's index or None, and whether the format is right."""

    answer: int | None
    valid: bool


def plain(text: str) -> str:
    """Breaks the spelling of special tokens in user text, so that it cannot forge a turn.

    All begin with "<|", which the tokenizers' normal forms (NFC, lower case) make of nothing else.
    """
    return text.replace("<|", "< |").strip()


def one_line(text: str) -> str:
    """Returns `plain` of a text, and a space for white space that holds a line break or a tab."""
    lines = plain(text).replace("\t", "\n").splitlines()
    return " ".join(line for line in map(str.strip, lines) if line)


def question_text(question: str, options: Sequence[str], form: str = OPTION) -> str:
    """Renders the question and each option, in its `form`, as one line: none can forge another."""
    texts = without_letters([one_line(option) for option in options])
    lines = [
        form.replace("{letter}", LETTERS[i]).replace("{text}", text) for i, text in enumerate(texts)
    ]
    return "\n".join([one_line(question), *lines])


def turns(system: str, body: str) -> tuple[str, str]:
    """Renders the chat: (text before the frames, text after them); an empty `system` has no turn.

    Both stand as they are given: user text must have been through `plain`.
    """
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return head + "<|im_start|>user\n", body + "<|im_end|>\n<|im_start|>assistant\n"


def query_prompt(
    style: PromptConfig,
    question: str,
    options: Sequence[str],
    max_queries: int,
    chat: Callable[[str, str], tuple[str, str]] = turns,
) -> tuple[str, str]:
    """Writes the prompt of reason as (text before the frames, text after them).

    Args:
      style: the wording.
      question, options: the question's.
      max_queries: that are asked for.
      chat: the chat format, see `turns`.
    """
    instruction = style.query_instruction.replace("{max_queries}", str(max_queries))
    parts = [question_text(question, options), instruction]
    if style.think:
        parts.append(style.think_instruction)
    return chat(style.system, "\n".join(part for part in parts if part))


def answer_prompt(
    style: PromptConfig,
    question: str,
    options: Sequence[str],
    chat: Callable[[str, str], tuple[str, str]] = turns,
    subtitles: Sequence[str] = (),
) -> tuple[str, str]:
    """Writes the prompt of answer as (text before the frames, text after them).

    Args:
      style: the wording.
      question, options: the question's.
      chat: the chat format, see `turns`.
      subtitles: of the moments that the frames show; none: they are not mentioned.
    """
    asked = question_text(question, options, style.answer_option)
    parts = [style.answer_lead, asked, style.answer_instruction]
    if subtitles:
        parts.insert(0, "\n".join([SUBTITLES, *map(one_line, subtitles)]))
    if style.think:
        parts.append(style.think_instruction)
    return chat(style.system, "\n".join(part for part in parts if part))


_THINK_TAG = re.compile(r"(?i)<\s*(?:(/)\s*)?think\s*>")
_THOUGHT = re.compile(r"\s*<think>(.*)</think>", re.DOTALL)
_QUERY = re.compile(r"<query>([^<>]*)</query>")
_QUERIES = re.compile(r"(?:\s*<query>[^<>]*</query>)+\s*")
_ANSWER = re.compile(r"<answer>([^<>]*)</answer>")
_ANSWER_TAG = re.compile(r"(?i)<\s*answer\b")  # however it is spelled, and whether it ends
_ONE_ANSWER = re.compile(r"\s*<answer>[^<>]*</answer>\s*")


def _split_thought(text: str) -> tuple[str, str]:
    """Splits a reply after its last `</think>` into what was thought and what is read.

    Nothing is read of a reply that ends inside a thought. The tags count in any case and with
    spaces inside, need no partner and do not nest.
    """
    tags = list(_THINK_TAG.finditer(text))
    if not tags:
        return "", text
    end = tags[-1].end() if tags[-1][1] else len(text)
    return text[:end], text[end:]


def after_thought(text: str) -> str:
    """Returns what is read of a reply: what follows its last `</think>`."""
    return _split_thought(text)[1]


def ends_in_thought(text: str) -> bool:
    """Says whether a reply ends within a thought, of which nothing is read."""
    tags = list(_THINK_TAG.finditer(text))
    return bool(tags) and not tags[-1][1]


def _thought_fits(thought: str, think: bool) -> bool:
    """Says whether there is exactly one thought, or none where none is asked for."""
    if not think:
        return not thought
    inside = _THOUGHT.fullmatch(thought)
    return inside is not None and not _THINK_TAG.search(inside[1])


def parse_queries(
    text: str, question: str, *, max_queries: int, think: bool, finished: bool
) -> QueryReply:
    """Reads a reply of reason.

    Only what follows the thought is read. It is valid if it ended, and is exactly the optional
    thought followed by one to `max_queries` visible queries. The queries themselves are read
    leniently, as `visible` shows them, repeats dropped, in order; when there is none the question
    is the one query (docs/method.md#2-an-episode).

    Args:
      text: the reply.
      question: the question's text.
      max_queries: most queries of a valid reply.
      think: whether the reply is to begin with a thought.
      finished: whether it ended before the limit of its length.
    """
    thought, said = _split_thought(text)
    matches = [visible(query) for query in _QUERY.findall(said)]
    queries = tuple(dict.fromkeys(filter(None, matches)))[:max_queries]
    exact = _thought_fits(thought, think) and _QUERIES.fullmatch(said) is not None
    valid = finished and exact and all(matches) and len(matches) <= max_queries
    return QueryReply(queries or (one_line(question),), len(queries), valid)


def parse_answer(text: str, *, num_options: int, think: bool, finished: bool) -> AnswerReply:
    """Reads a reply of answer: one valid letter in exactly one answer tag, else no answer.

    Only what follows the thought is read. The letter is a capital of A to Z with nothing but white
    space around it; a second answer tag, in whatever spelling, leaves no answer.
    """
    thought, said = _split_thought(text)
    found = _ANSWER.findall(said) if len(_ANSWER_TAG.findall(said)) == 1 else []
    letter = found[0].strip() if found else ""
    is_option = len(letter) == 1 and letter in LETTERS[:num_options]
    exact = _thought_fits(thought, think) and _ONE_ANSWER.fullmatch(said) is not None
    return AnswerReply(
        LETTERS.index(letter) if is_option else None, finished and is_option and exact
    )
