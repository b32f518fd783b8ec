"""Pass rates c of the base MLLM: the share of right answers, sampled from uniform frames."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import Question, load_questions, save_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.models.params import Params
from msjoe_jax.rl.advantages import chance_corrected, smoothed_pass_rate
from msjoe_jax.rollout.episode import Episodes, time_ordered
from msjoe_jax.rollout.frames import preview_fn
from msjoe_jax.rollout.programs import Programs


def measure_difficulty(
    config: ConfigDict,
    file: pathlib.Path,
    programs: Programs,
    params: dict[str, Params],
    questions: list[Question],
) -> list[Question]:
    """Writes `questions` with their pass rates to `file`, or reads it if it is there.

    `config.difficulty.samples` answers a question at the training temperature. A question that
    cannot be asked (see Episodes) keeps difficulty None and is left out of stage I.
    """
    if file.exists():
        return load_questions(file)
    reader = RecordReader(config.data.train_records)
    episodes = Episodes(config, programs, reader, questions)
    size = config.evaluate.batch
    batches = make_pipeline(
        questions,
        reader,
        batch_size=size,
        num_candidates=config.frames.candidates,
        num_preview=config.frames.preview,
        preview_fn=preview_fn(config, programs.system.qwen.vision),
        shuffle=False,
        num_epochs=1,
    )
    rated = list(questions)
    for batch in tqdm(batches, total=-(-len(questions) // size), desc="difficulty", unit="batch"):
        weight = batch["valid"].astype(np.float32)
        tokens, mask = episodes.query_tokens([[("",)]] * len(batch["index"]))
        chosen = episodes.select(params, batch, tokens, mask, 0, selector="uniform", draws=1)
        answers = episodes.answer(
            params["mllm"],
            batch,
            time_ordered(chosen.draw),
            0,
            temperature=config.rollout.answer_temperature,
            weight=weight,
            samples=config.difficulty.samples,
        )
        for index, counts, rate in zip(
            batch["index"], weight, answers.correct.mean(-1), strict=True
        ):
            if counts:
                rated[index] = dataclasses.replace(questions[index], difficulty=float(rate))
    jax.block_until_ready(answers.features)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_questions(file, rated)
    return rated


def with_adjusted_rates(config: ConfigDict, questions: list[Question]) -> list[Question]:
    """The questions with pass rates smoothed and corrected for chance, as the config says.

    A measured rate is a share of few samples: `smoothing` draws it towards the mean of all. A
    guesser among M options is right once in M: the correction makes that a rate of 0 (SPEC §3).
    """
    d = config.difficulty
    known = [q.difficulty for q in questions if q.difficulty is not None]
    if not known or not (d.smoothing or d.chance_corrected):
        return questions
    mean = float(np.mean(known))

    def adjusted(question: Question) -> Question:
        if question.difficulty is None:
            return question
        right = question.difficulty * d.samples
        rate = smoothed_pass_rate(jnp.float32(right), d.samples, mean, d.smoothing)
        if d.chance_corrected:
            rate = chance_corrected(rate, len(question.options))
        return dataclasses.replace(question, difficulty=float(rate))

    return [adjusted(question) for question in questions]
