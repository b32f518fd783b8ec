"""Finds the videos that are trained on and judged by, which makes a score worthless."""

import os
from collections.abc import Iterable, Sequence

from etils import epath

from msjoe_jax.data.questions import Question
from msjoe_jax.data.segments import whole_id
from msjoe_jax.errors import UserError


def shared_videos(trained: Iterable[Question], judged: Iterable[Question]) -> list[str]:
    """Returns the ids of judged videos that are trained on, in order.

    Two videos are the same if their files' hashes are; by their ids where one has no hash. Segments
    of one video are that video.
    """
    known = {whole_id(question.video): question.content for question in trained}
    contents = {content for content in known.values() if content}
    found = (
        q.video
        for q in judged
        if (q.content and q.content in contents)
        or ((whole := whole_id(q.video)) in known and not (q.content and known[whole]))
    )
    return sorted(set(found))


def check_apart(
    trained: Sequence[Question], judged: Sequence[Question], file: epath.PathLike
) -> None:
    """Checks that no video of the questions to judge by, which are of `file`, is trained on.

    Raises:
      UserError: some are; counts them and names one.
    """
    if shared := shared_videos(trained, judged):
        total = len({question.video for question in judged})
        raise UserError(
            f"{os.fspath(file)}: {len(shared)} of its {total} videos are trained on too, such as "
            f"{shared[0]!r}; take them out, or allow it with config.data.shared_videos=True"
        )
