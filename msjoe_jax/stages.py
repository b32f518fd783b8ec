"""The stages of a config, in order, each resumed or skipped by what the work folder holds."""

import copy
import pathlib
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from msjoe_jax.data.word_tokenizer import build_word_tokenizer
from msjoe_jax.data.world import WorldSpec
from msjoe_jax.data.world_build import build_world, questions_path, records_path
from msjoe_jax.difficulty import measure_difficulty
from msjoe_jax.errors import UserError
from msjoe_jax.evaluate import evaluate
from msjoe_jax.models.functional import Params
from msjoe_jax.runtime.checkpoint import Checkpoints, load_params
from msjoe_jax.system import System, describe, make_system
from msjoe_jax.train import run_stage, training_questions
from msjoe_jax.warmup import Loop

STAGES = ("world", "warm_up", "difficulty", "pretrain", "joint", "evaluate")


def run_stages(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Runs `config.stages`.

    Raises:
      UserError: an unknown stage, or what a stage says of its input.
    """
    for stage in config.stages:
        if stage not in STAGES:
            raise UserError(f"config.stages: {stage!r} is not one of {', '.join(STAGES)}")
    stages = [stage for stage in STAGES if stage in config.stages]
    config = copy.deepcopy(config)
    if "world" in stages:
        _world(config, workdir / "world")
    system = make_system(config)
    base = _base_params(config, workdir, system, "warm_up" in stages)
    sets = {"base": base}
    if {"difficulty", "pretrain", "joint"} & set(stages):
        questions = training_questions(config)
    if "difficulty" in stages:
        file = workdir / "difficulty" / "questions.jsonl"
        questions = measure_difficulty(config, file, system, base, questions)
    params = base
    for stage in ("pretrain", "joint"):
        if stage in stages:
            params = run_stage(config, stage, workdir, system, params, questions)
            sets[stage] = params
    if "evaluate" in stages:
        evaluate(config, workdir, system, sets)
