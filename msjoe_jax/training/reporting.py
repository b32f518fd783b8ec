"""Reports a training: metrics, warnings, dropped questions, pictures and texts of a rollout."""

import collections
import dataclasses
from typing import Any

import numpy as np
from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.report.figures import figure_to_image, keyframe_figure
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.log import RolloutRecord
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.files import read_json_lines
from msjoe_jax.runtime.machine import fetch
from msjoe_jax.runtime.metrics import JsonLines, MetricWriter
from msjoe_jax.training.config import TrainingRun

# Beyond this spread of the logits a single draw's score by the paper's formula points away from the
# exact one (docs/method.md#4-the-draw).
MARGINAL_LOGIT_STD = 2.0
# A run goes on after a batch whose questions were all dropped, but not after so many in a row.
DROPPED_BATCHES = 3


@dataclasses.dataclass
class MetricReporter:
    """A writer of updates' metrics, which stops a run whose gradients are no longer finite.

    run: the training; writer: of metrics; bar: the display of progress; start, skipped: the last
    update of the checkpoint that is resumed, and its updates with gradients that were not finite;
    finite: whether the gradients of the last update were.
    """

    run: TrainingRun
    writer: MetricWriter
    bar: Any
    start: int = 0
    skipped: float = 0
    finite: bool = True
    moved: bool = False  # since the start
    warned: bool = False

    def __call__(self, update: int, metrics: dict[str, Any]) -> None:
        """Writes an update's metrics, which may still be on the device.

        Raises:
          UserError: more updates were skipped than the config allows.
        """
        run, values = self.run, {k: float(v) for k, v in fetch(metrics).items()}
        before, self.skipped = self.skipped, values.get("skipped_updates", 0)
        self.finite = self.skipped == before
        self.moved |= self.finite
        if self.skipped > run.optimizer.max_skipped:
            checkpoint = (
                f"; if they are lower already, remove {run.name}/checkpoints/{self.start}"
                if self.start and not self.moved
                else ""
            )
            raise UserError(
                f"{run.name} update {update}: {int(self.skipped)} updates had a gradient that is "
                "not finite; lower the learning rates (config.optimizer.mllm_lr, sampler_lr) and "
                f"resume{checkpoint}"
            )
        marginal = run.objective.likelihood == "marginal" and run.training.train_sampler
        if marginal and not self.warned and values["sampler/logit_std"] > MARGINAL_LOGIT_STD:
            self.warned = True
            self.bar.write(
                f"{run.name} update {update}: the logits' std is above {MARGINAL_LOGIT_STD}, where "
                "config.objective.likelihood=marginal misleads; use plackett_luce"
            )
        if update % run.loop.log_every == 0:
            self.writer.scalars(update, values)
            right, valid = values["rewards/accuracy"], values["rewards/answer_format"]
            self.bar.metrics(reward=values["reward"], right=right, valid=valid)


class DroppedQuestions:
    """A log of the questions that a training drops, and why: `dropped.jsonl`, and lines for people.

    count: how many were dropped up to now, by the runs before a resume too.
    """

    def __init__(self, name: str, folder: epath.Path, start: int, bar: Any) -> None:
        """Opens the log.

        Args:
          name: of the training.
          folder: the training's.
          start: the last update that is done; rows of later ones are dropped from the log.
          bar: the display of progress.
        """
        self._name, self._bar = name, bar
        self._log = JsonLines(folder / "dropped.jsonl", start + 1)
        file = folder / "dropped.jsonl"
        rows = hosts.on_first(lambda: [row for _, row in read_json_lines(file)], str(file))
        self.count = len(rows)
        self._seen = {(row["id"], _kind(row["error"])) for row in rows}
        self._usable = start > 0  # a batch of the run has had a question that was not dropped
        self._in_a_row = 0  # batches without one

    def __call__(self, update: int, failures: list[dict[str, str]], usable: bool) -> None:
        """Logs the failures of an update on all hosts, and names the new ones; empties the list.

        Args:
          update: its number.
          failures: of this host.
          usable: whether a question of this host was not dropped.

        Raises:
          UserError: the update has no question left, and neither had all before it, or the last
            few.
        """
        own = [failures.copy(), usable]
        told = hosts.gather(own, f"dropped questions of update {update}")
        failures.clear()
        everywhere = [failure for dropped, _ in told for failure in dropped]
        last = everywhere[-1]["error"] if everywhere else ""
        for failure in everywhere:
            question, error = failure["question"], failure["error"]
            row = {"step": update, "id": question, "video": failure["video"], "error": error}
            self._log.write(row)
            if (question, _kind(error)) not in self._seen:
                self._seen.add((question, _kind(error)))
                self._bar.write(
                    f"{self._name} update {update}: question {question} of video "
                    f"{failure['video']} dropped: {error}"
                )
        if everywhere:
            self._log.flush()
        self.count += len(everywhere)
        if any(usable for _, usable in told):
            self._usable, self._in_a_row = True, 0
        elif last:
            self._in_a_row += 1
            if not self._usable or self._in_a_row == DROPPED_BATCHES:
                raise UserError(
                    f"{self._name}, update {update}: every question of the batch was dropped, the "
                    f"last because: {last}"
                )

    def close(self) -> None:
        """Closes the log; says how many questions were dropped, and why."""
        self._log.close()
        if self._seen:
            kinds = collections.Counter(kind for _, kind in self._seen)
            reasons = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
            number = len({question for question, _ in self._seen})
            questions = "1 question" if number == 1 else f"{number} questions"
            self._bar.write(f"{self._name}: {questions} dropped: {reasons} (dropped.jsonl)")

    def __enter__(self) -> "DroppedQuestions":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _kind(error: str) -> str:
    """Returns what kind of reason an error states: "prompt too long" of one with numbers."""
    return error.partition(":")[0]


def show_rollout(
    writer: MetricWriter, update: int, episodes: Episodes, records: list[RolloutRecord]
) -> None:
    """Writes a question's first rollout as text, and its key frames with the logits over time.

    The question is the first that was not dropped; nothing is written if all were.
    """
    record = next((r for r in records if r.weight > 0), None)
    if record is None:
        return
    question, reply = record.question, record.replies[0]
    key_indices = record.frames[0, 0][record.frames[0, 0] >= 0]
    times, mask = record.timestamps, record.frame_mask
    text = "\n".join(
        [
            f"question  {question.question}",
            f"options   {' | '.join(question.options)}   (right: {question.letter})",
            f"queries   {' | '.join(reply.queries)}   (form {'ok' if reply.valid else 'broken'})",
            f"frames    {', '.join(f'{times[i]:.0f} s' for i in key_indices)}",
            f"answer    {record.answers[0]}",
        ]
    )
    writer.texts(update, {"rollout": text})
    try:
        numbers = [int(record.frame_index[i]) for i in key_indices]
        images = episodes.reader.frames(question.video, numbers)
    except Exception:  # unlikely, as the rollout could read them; no picture is worth ending a run
        return
    figure = keyframe_figure(
        times[mask],
        record.logits[0][mask],
        record.similarity[0, : len(reply.queries)][:, mask],
        list(reply.queries),
        list(images),
        np.asarray(key_indices),
    )
    writer.images(update, {"key_frames": figure_to_image(figure)})
