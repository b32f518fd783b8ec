"""The phase difficulty: pass rates of the base model, which alone answers, from uniform frames."""

import dataclasses
import functools
from collections.abc import Sequence

from etils import epath

from msjoe_jax.config import Config
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.models.params import Params
from msjoe_jax.phase_inputs import data_inputs, settings_of
from msjoe_jax.phase_models import Models, Weights
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.runtime.digest import digest, digest_of_file
from msjoe_jax.runtime.kept_rows import KeptRows, Row
from msjoe_jax.training.difficulty import RATES, Asking, fill_rates, measure_difficulty


class Difficulty:
    """Measures pass rates; what is measured already, from the same inputs, is kept.

    Args:
      config: of the run.
      models: its models.
      base: the weights, of which the MLLM's are loaded if rates are missing.
      questions: to be asked.
      reader: of their videos.
    """

    def __init__(
        self,
        config: Config,
        models: Models,
        base: Weights,
        questions: Sequence[Question],
        reader: RecordReader,
    ):
        # Neither previews nor embeddings are looked at.
        frames = dataclasses.replace(config.frames, preview=0)
        episode = dataclasses.replace(config.episode, frames=frames)
        self._episodes = Episodes(episode, models.programs, models.text, reader, questions)
        self._models, self._base = models, base
        self.asking = Asking(
            frames=config.frames.key,
            samples=config.difficulty.samples,
            temperature=config.rollout.answer_temperature,
            task=config.data.task,
            batch=self._episodes.machine.padded(config.evaluate.batch),
        )
        settings = settings_of(config, "mllm", "frames", "prompt", "difficulty")
        self._inputs = {
            "mllm weights": base.names["mllm"],
            "mllm tokenizer": digest_of_file(models.text.tokenizer.file),
            **data_inputs(questions, reader),
            "settings": digest(
                settings, config.rollout.answer_temperature, config.data.task, config.seed
            ),
        }

    def questions(self, file: epath.Path) -> list[Question]:
        """Returns the questions with their rates, and writes them to `file`."""
        return measure_difficulty(
            file, self._episodes, lambda: self._mllm, self.asking, self._inputs
        )

    def rows(self, file: epath.Path) -> dict[int, Row]:
        """Returns the rows from which `questions` has the rates, by the questions' positions."""
        return {row["index"]: row for row in KeptRows(file.parent / RATES, self._inputs).rows}

    def rates(self, file: epath.Path, frames: int, label: str) -> dict[int, Row]:
        """Returns the rates from another number of frames by the questions' positions.

        Args:
          file: in which they are kept.
          frames: that the model is shown; 0: none.
          label: for people.
        """
        kept = KeptRows(file, {**self._inputs, "frames": str(frames)})
        asking = dataclasses.replace(self.asking, frames=frames)
        return fill_rates(kept, self._episodes, lambda: self._mllm, asking, label)

    @functools.cached_property
    def _mllm(self) -> Params:
        return self._models.load(self._base.stored["mllm"])
