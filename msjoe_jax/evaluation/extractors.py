"""How the letter is read out of a reply, by several rules side by side."""

import re
from collections.abc import Callable

from msjoe_jax.text.prompts import LETTERS, parse_answer

TAGGED = re.compile(r"(?i)<\s*answer\b")  # whether a reply has an answer tag, however it is spelt


def strict(text: str, letters: str) -> str:
    """Returns the one letter in the one answer tag, "" if there is none (see `parse_answer`)."""
    parsed = parse_answer(text, num_options=len(letters), think=False, finished=True)
    return "" if parsed.answer is None else letters[parsed.answer]


# From a reply and the letters of the question's options to one of these, or "". The first is what
# our own replies are graded by.
EXTRACTORS: dict[str, Callable[[str, str], str]] = {"strict": strict}


def extracted(text: str, num_options: int) -> dict[str, str]:
    """Returns the letter by every extractor, "" where it finds none."""
    return {name: extract(text, LETTERS[:num_options]) for name, extract in EXTRACTORS.items()}
