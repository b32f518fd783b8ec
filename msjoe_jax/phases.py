"""The stages of a config, in order, each resumed or skipped by what the work folder holds."""

import copy
import pathlib

import jax
from ml_collections import ConfigDict
from tqdm import tqdm

from msjoe_jax.data.embed import embed_records
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.evaluate import check_selectors, evaluate, load_heldout
from msjoe_jax.models.params import Params, fingerprint
from msjoe_jax.rollout.frames import check_frames
from msjoe_jax.rollout.model_folder import save_bundle
from msjoe_jax.rollout.programs import Programs, clip_encoder
from msjoe_jax.rollout.system import System, make_system
from msjoe_jax.runtime.checkpoint import Checkpoints, load_params
from msjoe_jax.training.difficulty import measure_difficulty
from msjoe_jax.training.state import check_training
from msjoe_jax.training.train import run_stage, training_questions
from msjoe_jax.world.build import build_world, questions_path, records_path
from msjoe_jax.world.spec import (
    COLOURS,
    KINDS,
    SETTINGS,
    SPLITS,
    WORDS,
    WorldSpec,
    question_text,
)
from msjoe_jax.world.warmup_clip import ClipTraining, Loop, clip_loop
from msjoe_jax.world.warmup_mllm import MllmTraining, mllm_loop
from msjoe_jax.world.word_tokenizer import build_word_tokenizer

STAGES = ("world", "warm_up", "difficulty", "pretrain", "joint", "evaluate")
EMBED_BATCH = 96  # frames a call: one tiny-world video
LOOP_SAVE_EVERY = 100  # steps of a warm-up between checkpoints


def check_stages(config: ConfigDict) -> None:
    """Finds slips that would otherwise end a run after hours.

    Raises:
      UserError: an unknown stage, an unknown selector, or one that needs a stage that is not run,
        a frame mode that is unknown or that the tiny world's warm-up does not teach, a seed out of
        range, or what `check_training` finds.
    """
    for name, seed in (("seed", config.seed), ("world.seed", config.world.seed)):
        if not 0 <= seed < 1 << 31:
            raise UserError(f"config.{name}={seed} must be from 0 to {(1 << 31) - 1}")
    check_frames(config)
    if config.frames.mode == "video" and "warm_up" in config.stages:
        raise UserError("config.frames.mode=video: the stage warm_up teaches images only")
    for stage in config.stages:
        if stage not in STAGES:
            raise UserError(f"config.stages: {stage!r} is not one of {', '.join(STAGES)}")
    for stage in ("pretrain", "joint"):
        if stage in config.stages:
            check_training(config, stage)
    if "evaluate" in config.stages:
        trained = {"pretrain", "joint"} & set(config.stages)
        check_selectors(config.evaluate.selectors, {"base", *trained})


def run_stages(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Runs `config.stages`, which `check_stages` has passed.

    Raises:
      UserError: what a stage says of its input.
    """
    stages = [stage for stage in STAGES if stage in config.stages]
    config = copy.deepcopy(config)
    if "world" in stages:
        _world(config, workdir / "world")
    elif "evaluate" in stages:  # its data are read now: training would be in vain without them
        load_heldout(config, embedded="warm_up" not in stages)
    system = make_system(config)
    base = _base_params(config, workdir, system, "warm_up" in stages)
    warmed = [stage for stage in stages if stage == "warm_up"]
    save_bundle(workdir / "base", config, system, base, warmed)
    programs = Programs(system, config.evaluate.smooth)
    sets = {"base": base}
    if {"difficulty", "pretrain", "joint"} & set(stages):
        questions = training_questions(config)
    if "difficulty" in stages:
        file = workdir / "difficulty" / "questions.jsonl"
        questions = measure_difficulty(config, file, programs, base, questions)
    params = base
    for stage in ("pretrain", "joint"):
        if stage in stages:
            params = run_stage(config, stage, workdir, programs, params, questions)
            sets[stage] = params
    if params is not base:
        learned = [stage for stage in stages if stage in ("warm_up", "pretrain", "joint")]
        save_bundle(workdir / "final", config, system, params, learned)
    if "evaluate" in stages:
        evaluate(config, workdir, programs, sets)


# --- the tiny world's own stages ---------------------------------------------------------------


def _world(config: ConfigDict, folder: pathlib.Path) -> None:
    """Builds the world's records and questions and the tokenizer; points the config at them."""
    w = config.world
    build_world(folder, WorldSpec(w.seed, w.num_train, w.num_validation, w.num_heldout))
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.exists():
        build_word_tokenizer(tokenizer, _texts(config))
    config.mllm.tokenizer = config.clip.tokenizer = str(tokenizer)
    for split in SPLITS:
        config.data[f"{split}_records"] = str(records_path(folder, split))
        config.data[f"{split}_questions"] = str(questions_path(folder, split))


def _texts(config: ConfigDict) -> list[str]:
    """Every text that the tiny models read or write, for the word-level vocabulary."""
    c = config.prompt
    wording = (c.system, c.query_instruction, c.answer_instruction, c.think_instruction)
    questions = (question_text([0]), question_text([0, 1]))
    return [*WORDS, *KINDS, *SETTINGS, *COLOURS, *questions, *wording, "."]


def _base_params(
    config: ConfigDict, workdir: pathlib.Path, system: System, warm_up: bool
) -> dict[str, Params]:
    """Starting parameters: supervised here, or read from the checkpoints that the config names."""
    params = {}
    for name in ("mllm", "clip", "sampler"):
        path = config[name].checkpoint
        if path:
            params[name] = load_params(f"{path}/params", system.abstract[name], prefix=name)
        elif name == "sampler":
            params[name] = system.init("sampler", config.seed)
        elif not warm_up:
            raise UserError(
                f"config.{name}.checkpoint is not set: name a checkpoint folder or add the stage "
                "warm_up"
            )
    if not warm_up:
        return params
    train = RecordReader(config.data.train_records)
    clip = ClipTraining(config.seed, config.warm_up.clip_steps)
    assert system.clip_tokenizer is not None
    loop = clip_loop(train, system.clip_tokenizer, system.clip, clip)
    params["clip"] = run_loop(loop, workdir / "warm_up" / "clip", "warm up CLIP")
    encode = clip_encoder(system, params["clip"])
    mark = fingerprint(params["clip"])
    for split in SPLITS:
        embed_records(config.data[f"{split}_records"], encode, mark, batch=EMBED_BATCH)
    mllm = MllmTraining(config.seed, config.warm_up.mllm_steps)
    loop = mllm_loop(config, system, train, mllm)
    params["mllm"] = run_loop(loop, workdir / "warm_up" / "mllm", "warm up MLLM")
    return params


def run_loop(loop: Loop, folder: pathlib.Path, label: str) -> Params:
    """Runs a warm-up loop to its end, from its last checkpoint where there is one."""
    with Checkpoints(str(folder), keep=1) as checkpoints:
        state, start = jax.jit(loop.init)(), checkpoints.latest_step() or 0
        if start:
            state, _, _ = checkpoints.restore(state)
        with tqdm(total=loop.steps, initial=start, desc=label, unit="step") as bar:
            for index in range(start, loop.steps):
                state, metrics = loop.step(state, index)
                bar.update()
                done = index + 1
                if done % LOOP_SAVE_EVERY == 0 or done == loop.steps:
                    bar.set_postfix(loss=f"{float(metrics['loss']):.3f}")
                    checkpoints.save(done, state, None, {"stage": label})
    return state["params"]
