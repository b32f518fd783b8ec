"""Measures the base MLLM's pass rates: the share of right answers sampled from uniform frames."""

import dataclasses

import numpy as np
from etils import epath

from msjoe_jax.data.questions import Question, load_questions, save_questions
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.collect import grade_replies
from msjoe_jax.rollout.episode import Episodes, full_weight
from msjoe_jax.runtime.progress import progress


def measure_difficulty(
    file: epath.PathLike,
    episodes: Episodes,
    params: dict[str, Params],
    *,
    samples: int,
    temperature: float,
    task: str,
    batch_size: int,
) -> list[Question]:
    """Measures pass rates and writes the questions with them to `file`, or reads an existing one.

    A question that cannot be asked (see Episodes) keeps difficulty None; trainings that use the
    difficulty leave it out.

    Args:
      file: a question file (JSON lines).
      episodes: of the base model, over the training questions.
      params: parameters of mllm, clip and sampler.
      samples: answers drawn for each question.
      temperature: of the answers, as in training.
      task: name of TASKS, by which they are graded.
      batch_size: questions at a time.
    """
    file = epath.Path(file)
    if file.exists():
        return load_questions(file)
    questions = list(episodes.questions)
    batches = episodes.batches(batch_size)
    total = -(-len(questions) // batch_size)
    rated = list(questions)
    with progress("difficulty", total, unit="batch") as bar:
        for batch in batches:
            weight = full_weight(batch)
            queries = [[("",)]] * len(batch["index"])
            selected = episodes.select(params, batch, queries, 0, selector="uniform")
            answered = episodes.answer(
                params["mllm"],
                batch,
                selected.selection,
                0,
                temperature=temperature,
                weight=weight,
                samples=samples,
            )
            grades = grade_replies(
                task, episodes.batch_questions(batch), answered, episodes.text.prompt.think
            )
            scores = np.array([[g.score for g in row] for row in grades], np.float32)
            for index, counts, rate in zip(batch["index"], weight, scores.mean(-1), strict=True):
                if counts:
                    rated[index] = dataclasses.replace(questions[index], difficulty=float(rate))
            bar.update()
    file.parent.mkdir(parents=True, exist_ok=True)
    save_questions(file, rated)
    return rated
