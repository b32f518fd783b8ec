"""Reports a training: rows of metrics, warnings, pictures and texts of a rollout."""

import dataclasses
from typing import Any

import numpy as np

from msjoe_jax.errors import UserError
from msjoe_jax.report.figures import figure_to_image, keyframe_figure
from msjoe_jax.rollout.episode import Episodes, fetch
from msjoe_jax.rollout.log import RolloutRecord
from msjoe_jax.runtime.metrics import MetricWriter
from msjoe_jax.training.config import TrainingRun

# Beyond this spread of the logits a single draw's score by the paper's formula points away from the
# exact one (docs/method.md#4-the-draw).
MARGINAL_LOGIT_STD = 2.0


@dataclasses.dataclass
class MetricReporter:
    """A writer of updates' metrics, which stops a run whose gradients are no longer finite.

    run: the training; writer: of metrics; bar: the display of progress.
    """

    run: TrainingRun
    writer: MetricWriter
    bar: Any
    warned: bool = False

    def __call__(self, update: int, metrics: dict[str, Any]) -> None:
        """Writes an update's metrics, which may still be on the device.

        Raises:
          UserError: more updates were skipped than the config allows.
        """
        run, values = self.run, {k: float(v) for k, v in fetch(metrics).items()}
        if values.get("skipped_updates", 0) > run.optimizer.max_skipped:
            raise UserError(
                f"{run.name} update {update}: {int(values['skipped_updates'])} updates had a "
                "gradient that is not finite; lower the learning rates"
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
            self.bar.metrics(reward=values["reward"], right=values["rewards/accuracy"])


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
