"""What the tiny world's MLLM is taught in words: which are asked, searched for and described."""

from collections.abc import Sequence

import numpy as np

from msjoe_jax.text.prompts import LETTERS
from msjoe_jax.world.spec import COLOURS, KINDS, SETTINGS, WORDS, Plan, kind_of
from msjoe_jax.world.warmup_clip import names_of

DESCRIBED = 4  # facts in a description, beside what each of the video's words means
QUERY_MIX = (0.40, 0.30, 0.15, 0.15)  # demonstrated queries: the word, its sense here, other senses


def asked_words(words: Sequence[int], easy: float, rng: np.random.Generator) -> list[list[int]]:
    """Chooses the words of a video's answer prompts: about one, about two, about all.

    Args:
      words: of the video, in random order.
      easy: the share of easy prompts: each of the others then has a word less, or even more often.
      rng: decides which.
    """
    own = list(words)
    two = own[:2] if rng.random() > 1.5 * easy else own[1:2]
    most = own
    if len(own) > 2 and rng.random() < easy:
        most = own[1:]
    return [own[:1], two, most]


def searched_words(words: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Chooses the words that a demonstrated reply searches for: any number of the first ones."""
    return list(words)[: 1 + int(len(words) * (1 - rng.random()))]


def demonstrate(word: int, setting: int, rng: np.random.Generator) -> str:
    """Draws a query for a word: plausible, not calibrated."""
    other_senses = [KINDS[kind_of(word, s)] for s in range(len(SETTINGS)) if s != setting]
    names = [WORDS[word], KINDS[kind_of(word, setting)], *other_senses]
    return names[rng.choice(len(names), p=QUERY_MIX)]


def facts(plan: Plan, frames: Sequence[int], rng: np.random.Generator) -> list[str]:
    """Writes facts of a video in random order, of which the last token each is learnt.

    Objects and words stand with their colour or its letter; words with what they mean here,
    written as a query. A pretrained model knows what its words mean; what it lacks is the
    habit of looking for it, and the demonstrations keep that from it (QUERY_MIX).

    Args:
      plan: of the video.
      frames: that are shown.
      rng: decides which facts, and their order.
    """
    found = []
    for event in plan.events:
        if not set(frames) & set(event.visible_frames):
            continue
        for name in names_of(event.kind):
            if name in KINDS or event in plan.targets(plan.words):
                colour = COLOURS[event.colour], f"<answer> {LETTERS[event.colour]}"
                found.append(f"{name} {rng.choice(colour)}")
    meanings = [f"{WORDS[w]} <query> {KINDS[kind_of(w, plan.setting)]}" for w in plan.words]
    selected = rng.permutation(found)[:DESCRIBED].tolist() + meanings
    return [str(fact) for fact in rng.permutation(selected)]
