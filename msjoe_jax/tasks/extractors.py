"""Finds the letter in a reply: our strict reading, and those by which published numbers were made.

An extractor maps a reply and the letters of the question's own options to one of these letters, or
to "" where it finds none. Who compares numbers names the extractor: one model's score moves by tens
of points with it.
"""

import re
from collections.abc import Callable, Sequence

from msjoe_jax.text.characters import LETTERS
from msjoe_jax.text.prompts import after_thought, parse_answer

Extractor = Callable[[str, str], str]

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
      known: letters that the benchmark's scorer looks for beside the question's own: if such a one
        comes first the reply is one of no option.
    """

    def extract(text: str, letters: str) -> str:
        for prefix in prefixes:
            text = text.replace(prefix, "")
        found = re.search(f"[{letters}{known}]", text)
        return found[0] if found and found[0] in letters else ""

    return extract


legacy = by_prefixes(VIDEO_MME_PREFIXES)
longvideobench = by_prefixes(LONGVIDEOBENCH_PREFIXES, "ABCDE")
video_mme_v2 = by_prefixes(VIDEO_MME_V2_PREFIXES, "ABCDEFGH")

# --- by brackets ----------------------------------------------------------------------------------


def before_bracket(text: str, letters: str) -> str:
    """Returns what stands before the first ")", if that is a letter: the check of MLVU's own code.

    Its prompt ends in "Best option: (", so that the reply goes on "B) a dog".
    """
    said = text.split(")")[0] if ")" in text else text
    said = said.strip().removeprefix("(").strip()
    return said if len(said) == 1 and said in letters else ""


# --- lower case -----------------------------------------------------------------------------------


def lower_case(text: str, letters: str) -> str:
    """Returns the first letter that stands alone in the reply's small letters: TSPO's reward."""
    found = re.search(f"(?<![a-z])[{letters.lower()}](?![a-z])", text.lower())
    return found[0].upper() if found else ""


def tag_or_whole(text: str, letters: str) -> str:
    """Returns the answer tag's content, or the whole reply, if it is a letter: Video-R1's rule."""
    tags = re.findall(r"(?is)<answer>(.*?)</answer>", text)
    said = (tags[-1] if tags else text).strip()
    return said if len(said) == 1 and said in letters else ""


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

    A letter that is none of the question's own is no option.
    """

    def extract(text: str, letters: str) -> str:
        found = lmms_eval(text, known)
        return found if found in letters else ""

    return extract


def letters_of(num_options: int) -> str:
    """Returns the letters of a question with so many options."""
    return LETTERS[:num_options]
