"""Finds the letter in a reply: our strict reading, and those by which published numbers were made.

An extractor maps a reply and the letters of the question's own options to the letter found, or to
"" where there is none. A benchmark's own scorer may find what is no option, a letter of its
constant set or `OTHER`: such a reply is wrong, but not unparsed. It may also find several letters,
of which any may be the right one (CG-Bench). Who compares numbers names the extractor: one model's
score moves by tens of points with it.
"""

import json
import re
from collections.abc import Callable, Sequence

from msjoe_jax.text.characters import LETTERS
from msjoe_jax.text.prompts import after_thought, parse_answer

Extractor = Callable[[str, str], str]
OTHER = "?"  # an answer that is no letter

# --- strict ---------------------------------------------------------------------------------------

_TAG = re.compile(r"(?i)<\s*/?\s*answer\b")
_LONE = re.compile(r"[\s*_`\"'(\[]*([A-Z])[\s*_`\"'.:)\]]*")


def tagged(text: str, letters: str) -> str:
    """Returns the letter of the reply's one answer tag, as training reads it, else ""."""
    parsed = parse_answer(text, num_options=len(letters), think=False, finished=True)
    return "" if parsed.answer is None else letters[parsed.answer]


def strict(text: str, letters: str) -> str:
    """Returns the letter of the one answer tag; without any tag, of a reply that is but a letter.

    Nothing is read of a thought, nor of a reply that ends within one.
    """
    said = after_thought(text)
    if _TAG.search(said):
        return tagged(text, letters)
    lone = _LONE.fullmatch(said)
    return lone[1] if lone and lone[1] in letters else ""


# --- by prefixes ----------------------------------------------------------------------------------

# Video-MME's scorer has eight prefixes in mind, of which two pairs are run together by missing
# commas: these four never match, so "Best option: (C)" is read as B, and "Answer: C" as A.
VIDEO_MME_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)
# LongVideoBench's has them all.
LONGVIDEOBENCH_PREFIXES = (
    *VIDEO_MME_PREFIXES[:4],
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)
# Video-MME-v2's has more.
VIDEO_MME_V2_PREFIXES = ("Final Answer:", *LONGVIDEOBENCH_PREFIXES, "Answer:", "Option:")


def by_prefixes(prefixes: Sequence[str], known: str = "") -> Extractor:
    """Makes the extractor that takes away prefixes and reads the first capital that is a letter.

    Args:
      prefixes: taken away wherever they stand, one after another.
      known: letters that the benchmark's scorer looks for beside the question's own: such a one is
        a wrong answer, not a missing one.
    """

    def extract(text: str, letters: str) -> str:
        for prefix in prefixes:
            text = text.replace(prefix, "")
        found = re.search(f"[{letters}{known}]", text)
        return found[0] if found else ""

    return extract


legacy = by_prefixes(VIDEO_MME_PREFIXES)
longvideobench = by_prefixes(LONGVIDEOBENCH_PREFIXES, "ABCDE")
video_mme_v2 = by_prefixes(VIDEO_MME_V2_PREFIXES, "ABCDEFGH")

# --- of single benchmarks -------------------------------------------------------------------------


def whole(text: str, letters: str) -> str:
    """Returns the reply if it is a letter and nothing else: LVBench's script compares with "=="."""
    return _one(text, letters)


def _one(text: str, letters: str) -> str:
    return text if len(text) == 1 and text in letters else ""


def polish_answer(text: str, letters: str) -> str:
    """Returns the letter that LVBench's own `polish_answer` makes of a reply.

    Of what stands before the first ")" it is the first character behind the first "(", or at the
    beginning: "(D) x" is D, "D. x" is D, "The answer" is T and so none.
    """
    said = text.strip().split(")")[0].strip()
    said = said.split("(")[1].strip() if "(" in said else said
    return _one(said[:1], letters)


def before_bracket(text: str, letters: str) -> str:
    """Returns what stands before the first ")", if that is a letter: the check of MLVU's own code.

    Its prompt ends in "Best option: (", so that the reply goes on "B) a dog"; "(B) a dog" is none.
    """
    return _one(text.strip().split(")")[0], letters)


def lower_case(text: str, letters: str) -> str:
    """Returns the first of a to e that stands alone in the reply's small letters: TSPO's reward.

    Letters beyond e it does not know: a reply without any of the five is right where the right
    answer is beyond them too.
    """
    found = re.search("(?<![a-z])[a-e](?![a-z])", text.lower())
    return found[0].upper() if found else letters[5:]


def _tag_content(text: str) -> str:
    tag = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return tag[1].strip() if tag else ""


def tag_or_whole(text: str, letters: str) -> str:
    """Returns the first answer tag's content, or the whole reply, if it is a letter: Video-R1's."""
    return _one((_tag_content(text) or text).strip(), letters)


# EasyVideoR1's looks for these one after another in the whole reply, in any case.
_STATED = tuple(
    re.compile(rf"(?i){words}([a-j])\b")
    for words in (
        r"(?:therefore|so|thus|hence|finally)[,\s]*(?:the\s+)?(?:final\s+|best\s+|correct\s+)?"
        r"answer\s+is[:\s]+",
        r"answer\s+is[:\s]+",
        r"答案[是为：:]\s*",
    )
)
_CHOSEN = re.compile(r"(?i)(?:choose|select|pick)\s+(?:option\s+)?([a-j])\b")
_BEGINS = re.compile(r"([A-J])(?:\s*[.。):]|\s|$)")  # what follows a thought
_LONE_LINE = re.compile(r"([A-J])\s*[.):。]?\s*")
_LINE_END = re.compile(r"\b([A-J])\s*[.)]?$")
_EASY = "ABCDEFGHIJ"


def easyvideor1(text: str, letters: str) -> str:
    """Returns the letter from A to J that EasyVideoR1's evaluation finds, whatever the options are.

    Of an answer tag of one letter; "(Therefore,) the final answer is: B", "答案是B"; the beginning
    of what follows the first thought; "I choose B"; the last of five lines that is or, if short,
    ends in a letter.
    """
    tag = _tag_content(text)
    if tag and len(tag) <= 2 and (said := tag.rstrip(".").upper()) in _EASY:
        return said if len(said) == 1 else OTHER
    found = next((match for way in _STATED if (match := way.search(text))), None)
    if found is None and (thought := re.search(r"(?i)</think>", text)):
        after = text[thought.end() :].strip()
        if len(after) == 1 and after.upper() in _EASY:
            return after.upper()
        found = _BEGINS.match(after)
    found = found or _CHOSEN.search(text)
    for line in () if found else reversed(text.strip().split("\n")[-5:]):
        line = line.strip()
        if len(line) == 1 and line.upper() in _EASY:
            return line.upper()
        found = _LONE_LINE.fullmatch(line) or (_LINE_END.search(line) if len(line) < 30 else None)
        if found:
            break
    letter = found[1].upper() if found else ""
    return letter if letter in _EASY else OTHER  # "İ" is an i of any case


def cg_bench(text: str, letters: str) -> str:
    """Returns what CG-Bench's script takes a reply for: of several letters any may be right.

    The `result` in a block of JSON, which its prompt asks for; else all lone letters from A to H.
    """
    _, begun, rest = text.partition("```json")
    block, ended, _ = rest.partition("```")
    if begun and ended and block.strip():
        block = re.sub(r"(?<=:\s)([A-Za-z_]\w*)", r'"\1"', block.strip())  # names without quotes
        try:
            said = json.loads(block)["result"]
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
        else:
            return said if isinstance(said, str) and len(said) == 1 and said in LETTERS else OTHER
    return "".join(re.findall(r"\b[A-H]\b", text))


# --- lmms-eval ------------------------------------------------------------------------------------

# Of the shared extractor of April 2026 (lmms-eval pull request 1274).
_PHRASES = tuple(
    f"{start}{noun}{end}"
    for start, noun, end in (
        *((start, "answer", " is") for start in ("", "the ", "correct ", "the correct ")),
        *((start, "answer", " is") for start in ("best ", "the best ", "my ")),
        *((start, "option", " is") for start in ("correct ", "the correct ")),
        *((start, "option", " is") for start in ("best ", "the best ")),
        *((start, "choice", " is") for start in ("", "the ", "correct ", "the correct ", "my ")),
        *(("i ", verb, "") for verb in ("choose", "select", "pick")),
        *(("", word, "") for word in ("옵션", "정답은", "답은", "답:")),
        *(("", word, "") for word in ("答案是", "答案为", "选", "答えは")),
    )
)  # fmt: skip
_AFTER_LETTER = ((".", 5), (":", 4), (")", 3), (" ", 2))


def lmms_eval(text: str, letters: str) -> str:
    """Returns the letter that lmms-eval's shared extractor finds (as of April 2026).

    Candidates have priorities: the text starts with a letter 10, ends with one 9, a letter after a
    phrase such as "the answer is" 7, "(B)" 6, "B." 5, "B:" 4, "B)" 3, "B " 2, and any letter 0
    where there is nothing else; of equal ones the later wins. So a text that begins with the
    article "A" is option A, a thought about "A man" outweighs the answer tag after it, and "The
    answer is B because D" is D.
    """
    text = text.strip()
    for sign in ",.!?;:'\"":
        text = text.strip(sign)
    bare, text = text.strip(), f" {text} "
    found: list[tuple[int, int, str]] = []  # priority, place, letter
    for letter in letters:
        found += [
            (rank, text.rfind(letter + sign), letter)
            for sign, rank in _AFTER_LETTER
            if letter + sign in text
        ]
        if f"({letter})" in text:
            found.append((6, text.rfind(f"({letter})"), letter))
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((10, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((9, len(text), letter))
    lower = text.lower()
    for phrase in _PHRASES:
        if (start := lower.find(phrase)) >= 0:
            places = ((text.find(letter, start + len(phrase)), letter) for letter in letters)
            found += [(7, place, letter) for place, letter in places if place >= 0]
    if not found:
        found = [(0, text.rfind(letter), letter) for letter in letters if letter in text]
    return max(found)[2] if found else ""


def lmms_eval_among(known: str) -> Extractor:
    """Makes lmms-eval's extractor where its task looks for fixed letters, not for the question's.

    A letter that is none of the question's own is a wrong answer.
    """
    return lambda text, letters: lmms_eval(text, known)


# Of lmms-eval 0.7.3's own for Video-MME-v2, in any case: the last line, or the beginning, is but a
# letter; the last letter after a phrase; the one letter in bold.
_LAST_LINE = re.compile(r"(?i)[ \t]*(?:\*\*[ \t]*)?([a-h])(?:[ \t]*\*\*)?[ \t]*[.)]?[ \t]*")
_FIRST = re.compile(r"(?i)[ \t]*(?:\*\*[ \t]*)?([a-h])(?:[ \t]*\*\*)?[ \t]*(?:[.)]|\r?\n|$)")
_AFTER_PHRASE = re.compile(
    r"(?i)(?:the answer|(?:answer|option):|\b(?:answer|option)(?:\s+(?:is|would\s+be)|\s*:))"
    r"[\s:*]*([a-h])\b"
)
_BOLD = re.compile(r"(?i)\*\*\s*([a-h])(?=\s*\*\*|[.)])")


def lmms_eval_v2(text: str, letters: str) -> str:
    """Returns the letter from A to H that lmms-eval 0.7.3 finds for Video-MME-v2."""
    text = text.strip()
    lone = _LAST_LINE.fullmatch(text.split("\n")[-1]) or _FIRST.match(text)
    if lone:
        return lone[1].upper()
    if said := _AFTER_PHRASE.findall(text):
        return str(said[-1]).upper()
    bold = {letter.upper() for letter in _BOLD.findall(text)}
    return bold.pop() if len(bold) == 1 else ""


def one_option_said(text: str, options: Sequence[str]) -> str:
    """Returns the letter of the only option whose text the reply holds, in any case; "" of none."""
    said = text.lower()
    found = [
        letter
        for letter, option in zip(LETTERS, options, strict=False)
        if option.strip(". \n").lower() in said
    ]
    return found[0] if len(found) == 1 else ""


def letters_of(num_options: int) -> str:
    """Returns the letters of a question with so many options."""
    return LETTERS[:num_options]
