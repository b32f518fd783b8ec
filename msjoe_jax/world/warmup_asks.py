"""What the tiny world's MLLM learns of selectors' own prompts: the formats of the replies.

A pretrained model follows such an instruction; the tiny one has to be shown that, or its rows of an
evaluation would be those of the selectors' fallbacks.
"""

from collections.abc import Sequence

import numpy as np

from msjoe_jax.data.questions import Question
from msjoe_jax.selectors import gens, provca
from msjoe_jax.selectors.replies import numbered
from msjoe_jax.world.spec import COLOURS, Plan, question_text

ASK_TOKENS = 168  # of the longest prompt: GenS's about two words, after eight frames
REPLY_TOKENS = 56  # of the longest reply: eight frames of alternating relevance
ASKED = 1.0  # weight of these replies' loss, of a reply of each kind
WINDOWS = 0.4  # share of videos shown by successive frames, as GenS's windows show them
SHOWS, STANDS = 5, 2  # relevance of a frame that shows the colour, and of the object without it


def _asked(words: Sequence[int]) -> Question:
    return Question("", "", question_text(words), COLOURS, 0)


def texts_of_asks(k: int) -> list[str]:
    """Returns every text of these prompts and replies, for the word-level vocabulary."""
    question = _asked([0, 1])
    prompts = (gens.prompt_text(question), provca.segment_text(question))
    labels = "".join(numbered(provca.SNIPPETS * provca.FRAMES))
    return [*prompts, provca.frames_text(question, k), labels, "{}"]


def choose_window(plan: Plan, count: int, size: int, rng: np.random.Generator) -> list[int] | None:
    """Chooses successive frames of a video, half the time around an event; or None, to be mixed.

    Args:
      plan: of the video.
      count: its frames.
      size: frames that are chosen.
      rng: decides.
    """
    if rng.random() >= WINDOWS:
        return None
    start = int(rng.integers(count - size + 1))
    if rng.random() < 0.5:
        event = plan.events[rng.integers(len(plan.events))]
        start = event.start + int(rng.integers(event.length)) - int(rng.integers(size))
    start = min(max(start, 0), count - size)
    return list(range(start, start + size))


def ask_and_reply(
    plan: Plan, frames: Sequence[int], k: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Returns two prompts about numbered frames of a video, and what they show as the replies.

    One asks for relevances, the other for a segment or for key frames.

    Args:
      plan: of the video.
      frames: those shown, in time order.
      k: key frames that are asked for.
      rng: decides which words are asked about.
    """
    words = rng.permutation(plan.words)[: 1 + int(rng.integers(2))].tolist()
    question, levels = _asked(words), relevance(plan, words, frames)
    second = (provca.segment_text(question), segment_reply(levels))
    if rng.random() < 0.5:
        second = (provca.frames_text(question, k), frames_reply(levels, k))
    return [(gens.prompt_text(question), scores_reply(levels)), second]


def relevance(plan: Plan, words: Sequence[int], frames: Sequence[int]) -> list[int]:
    """Returns how much each frame shows of what the words mean in this video, or 0."""
    targets = plan.targets(words)
    shows = {t for target in targets for t in target.visible_frames}
    stands = {t for x in targets for t in range(x.start, x.start + x.length)}
    return [SHOWS if t in shows else STANDS if t in stands else 0 for t in frames]


def scores_reply(levels: Sequence[int]) -> str:
    """Returns the JSON of relevances: runs of equal ones as ranges."""
    runs: list[list[int]] = []  # first, last, relevance
    for place, level in enumerate(levels):
        if runs and runs[-1][1:] == [place - 1, level]:
            runs[-1][1] = place
        elif level:
            runs.append([place, place, level])
    names = [(f"{a}-{b}" if b > a else f"{a}", level) for a, b, level in runs]
    return "{" + ", ".join(f'"{name}": {level}' for name, level in names) + "}"


def segment_reply(levels: Sequence[int]) -> str:
    """Returns the part from before the first relevant frame to after the last, or the whole."""
    places = [place for place, level in enumerate(levels) if level]
    if not places:
        return "<segment>whole</segment>"
    first, last = max(places[0] - 1, 0), min(places[-1] + 1, len(levels) - 1)
    return f"<segment>{first}-{last}</segment>"


def frames_reply(levels: Sequence[int], k: int) -> str:
    """Returns up to k frames that show the answer, or none."""
    places = [str(place) for place, level in enumerate(levels) if level == SHOWS][:k]
    return f"<frames>{', '.join(places) or 'none'}</frames>"
