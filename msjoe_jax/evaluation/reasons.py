"""Why the questions of a batch cannot be asked, and under which arm."""

from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.columns import Column
from msjoe_jax.rollout.batches import Batch
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.runtime import hosts


class Reasons:
    """Collects what an evaluation of one batch reports to `Episodes.failures`, column by column.

    Args:
      episodes: that the batch is of.
      batch: of the pipeline.
    """

    def __init__(self, episodes: Episodes, batch: Batch):
        self._episodes, self._seen = episodes, len(episodes.failures)
        ids = [question.id for question in episodes.batch_questions(batch)]
        self._unreadable = {
            name: str(error) for name, error in zip(ids, batch["error"], strict=True) if error
        }
        self._by_question: dict[str, dict[str, str]] = {}  # question → error → arm

    def note(self, column: Column) -> int:
        """Notes what was reported since the last call; returns how many questions it concerns.

        Videos that cannot be read do not count: that is no arm's fault.
        """
        failures = self._episodes.failures[self._seen :]
        self._seen = len(self._episodes.failures)
        own = {
            failure["question"]: failure["error"]
            for failure in failures
            if self._unreadable.get(failure["question"]) != failure["error"]
        }
        for failure in failures:
            errors = self._by_question.setdefault(failure["question"], {})
            errors.setdefault(failure["error"], column.name)
        return len(own)

    def text(self, question: str, several: bool) -> str:
        """Returns why a question cannot be asked, "" if nothing was reported.

        Args:
          question: its id.
          several: whether there is more than one arm, so that theirs are named.
        """
        errors = self._by_question.get(question, {})
        named = (
            f"{error} (under {arm})"
            if several and self._unreadable.get(question) != error
            else error
            for error, arm in errors.items()
        )
        return "; ".join(sorted(named))


def refuse_unusable(column: Column, lost: int, asked: int, example: str) -> None:
    """Ends an evaluation at its first batch if an arm can ask none of its questions.

    Otherwise the questions that one arm loses are lost to all arms, and hours are for nothing.

    Args:
      column: the arm at its budget.
      lost: questions of this host's batch that were lost under it alone.
      asked: those that were asked until then.
      example: why one was lost.

    Raises:
      UserError: none of the batch's questions is left, and there were two at least.
    """
    all_lost, all_asked = hosts.total([lost, asked], "questions that an arm loses")
    if all_asked > 1 and all_lost >= all_asked:
        raise UserError(
            f"{column.name} at {column.budget} frames: none of the first {int(all_asked)} "
            f"questions can be asked ({example or 'as another host says'}); leave the arm out, or "
            "train with room for it: config.prompt.answer_prompt_tokens, for a selector's own "
            "prompts config.prompt.selector_prompt_tokens"
        )
