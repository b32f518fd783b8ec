"""Shows reason another video's previews: what queries are worth that have not seen their video."""

import numpy as np

from msjoe_jax.errors import UserError
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

    def __call__(self, batch: Batch) -> Batch:
        """Returns the batch with other previews.

        Raises:
          UserError: no other video's previews can be read.
        """
        questions = self._episodes.questions
        while True:
            places = np.array([self._next(int(index)) for index in batch["index"]])
            other = next(iter(self._episodes.batches(len(places), order=places)))
            damaged = {questions[places[b]].video for b in np.flatnonzero(other["error"] != "")}
            if not damaged:
                return {**batch, **{name: other[name] for name in MOVED}}
            self._unreadable |= damaged

    def _next(self, index: int) -> int:
        questions = self._episodes.questions
        useless = {questions[index].video, *self._unreadable}
        for place in (*range(index + 1, len(questions)), *range(index)):
            if questions[place].video not in useless:
                return place
        raise UserError(
            f"previews of another video: there is none beside question {questions[index].id}'s "
            "that can be read"
        )
