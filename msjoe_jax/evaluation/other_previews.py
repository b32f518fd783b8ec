"""Shows reason another video's previews: what queries are worth that have not seen their video."""

import itertools
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float

from msjoe_jax.data.questions import Question
from msjoe_jax.rollout.batches import Batch
from msjoe_jax.rollout.episode import Episodes

# `duration` too: in video mode it spaces the previews in time.
MOVED = ("preview", "preview_mask", "preview_times", "duration")


class OtherPreviews:
    """A source of batches whose questions see the previews of another video.

    A question's is the next one among all questions, whatever the batch, that is of another video
    whose previews can be read.
    """

    def __init__(self, episodes: Episodes) -> None:
        self._episodes = episodes
        self._unreadable: set[str] = set()  # videos

    def __call__(self, batch: Batch, weight: Float[np.ndarray, "B"]) -> Batch:
        """Returns the batch with other previews; a question for which there are none is dropped.

        Args:
          batch: of the pipeline.
          weight: set to 0 for what is dropped; what is dropped already needs no previews.
        """
        episodes, questions = self._episodes, self._episodes.questions
        while True:
            own = [int(index) for index in batch["index"]]
            found = [
                self._next(i) if counts else None for i, counts in zip(own, weight, strict=True)
            ]
            places = np.array([i if p is None else p for i, p in zip(own, found, strict=True)])
            rows = np.arange(len(places))  # a host by itself
            other = next(iter(episodes.batches(len(places), order=places, rows=rows)))
            damaged = {
                questions[p].video
                for b, p in enumerate(found)
                if p is not None and other["error"][b] != ""
            }
            if not damaged:
                break
            self._unreadable |= damaged
        for b in np.flatnonzero(weight > 0):
            if found[b] is None:
                episodes.drop(
                    batch, weight, int(b), "previews unreadable: those of every other video"
                )
        return {**batch, **{name: other[name] for name in MOVED}}

    def _next(self, index: int) -> int | None:
        """Returns the next question of another video that can be read, or None."""
        return next_of_another_video(self._episodes.questions, index, self._unreadable)


def next_of_another_video(
    questions: Sequence[Question], index: int, unreadable: Collection[str] = ()
) -> int | None:
    """Returns the place of the next question of another video that can be read, or None.

    Args:
      questions: all questions.
      index: the place of the one whose next is asked for.
      unreadable: videos that cannot be read.
    """
    useless = {questions[index].video, *unreadable}
    later = itertools.chain(range(index + 1, len(questions)), range(index))
    return next((place for place in later if questions[place].video not in useless), None)
