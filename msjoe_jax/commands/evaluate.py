"""Evaluates a trained model on held-out questions, and prints the table.

    msjoe evaluate --checkpoint=own/run/final --config=own/own.py

The folder's three models choose frames and answer as they were trained to: frames and prompts are
those of the folder. Videos and questions are the held-out ones of --config, or --records and
--questions. --arms names rows of the table, as `config.evaluate.arms` does; what trainings made is
here all of the folder. The table goes to eval.json and each question's score to
eval_questions.jsonl in --workdir; a killed evaluation goes on where it was.
"""

import dataclasses

import jax
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from msjoe_jax.commands.cli import define_config, given_config, run_app
from msjoe_jax.config import NAMES, Config, base
from msjoe_jax.config_check import check
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import arm_names, arm_of
from msjoe_jax.fields import plain
from msjoe_jax.phase_data import check_records, tell_thinned
from msjoe_jax.phase_evaluate import evaluate_arms
from msjoe_jax.phase_models import make_models, stored_weights
from msjoe_jax.phase_prompts import tell_dropped
from msjoe_jax.rollout.model_folder import PARTS, check_folder, read_settings
from msjoe_jax.rollout.siglip import SIGLIP, embedder_names
from msjoe_jax.runtime.digest import Remembered
from msjoe_jax.runtime.files import lock
from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.runtime.stopping import signals_wait

SET = "base"  # the name of the one set of weights that there is


def config_of_folder(
    folder: str, config: ConfigDict, records: str, questions: str, arms: tuple[str, ...]
) -> Config:
    """Makes the config that evaluates a model folder.

    Args:
      folder: the model folder, whose models, frames and prompts count.
      config: says all else.
      records, questions: in place of the config's held-out ones; empty: those.
      arms: in place of the config's; empty: those.

    Raises:
      UserError: the folder or the config cannot be used, or an arm is not known.
    """
    check_folder(folder, NAMES)
    settings = read_settings(epath.Path(folder))
    for part in PARTS:
        config[part] = ConfigDict(plain(settings[part]), type_safe=False)
    for name in NAMES:
        config[name].checkpoint = folder
    if SIGLIP in config.sampler.signals:
        config[SIGLIP].checkpoint = folder
    for name in ("mllm", "clip"):  # the folder has its own
        config[name].size = config[name].tokenizer = ""
    config.phases = ("evaluate",)
    config.data.heldout_records = records or config.data.heldout_records
    config.data.heldout_questions = questions or config.data.heldout_questions
    names = arms or tuple(config.evaluate.arms)
    if unknown := [name for name in names if name not in arm_names()]:
        raise UserError(f"--arms={unknown[0]} is not one of {', '.join(arm_names())}")
    config.evaluate.arms = ("uniform",)  # which needs no training; all arms are the folder's here
    made = check(config)
    return dataclasses.replace(made, evaluate=dataclasses.replace(made.evaluate, arms=names))


def evaluate_folder(config: Config, workdir: epath.Path) -> None:
    """Evaluates the model folder of a config of `config_of_folder`.

    Raises:
      UserError: data, weights or work folder cannot be used.
    """
    machine = make_machine(config.mesh)
    with signals_wait(), lock(workdir), jax.set_mesh(machine.mesh):
        models = make_models(config, machine)
        weights = stored_weights(config, models, Remembered(workdir / "digests.json"))
        embedders = embedder_names(models.system.siglip, weights.names)
        folders = {name: getattr(config, name).checkpoint for name in embedders}
        check_records(config, embedders, folders)
        tell_thinned(config)
        tell_dropped(config, models.system, models.text)
        arms = {
            name: dataclasses.replace(arm_of(name, [SET]), mllm=SET, sampler=SET)
            for name in config.evaluate.arms
        }
        evaluate_arms(config, workdir, models, {SET: weights}, arms)


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    config = define_config()
    checkpoint = flags.DEFINE_string("checkpoint", "", "Folder of a trained model (WORKDIR/final).")
    records = flags.DEFINE_string("records", "", "Record folder; empty: the config's held-out one.")
    questions = flags.DEFINE_string("questions", "", "Question file; empty: the held-out one.")
    arms = flags.DEFINE_list("arms", [], "Ways to choose the frames; empty: config.evaluate.arms.")
    workdir = flags.DEFINE_string("workdir", "", "Folder for the results; empty: beside the model.")

    def start() -> None:
        if not checkpoint.value:
            raise UserError("--checkpoint=DIR is missing: the folder of a trained model")
        folder = checkpoint.value.rstrip("/")
        given = base() if config.value is None else given_config(config)
        made = config_of_folder(folder, given, records.value, questions.value, tuple(arms.value))
        out = epath.Path(workdir.value or f"{folder}-evaluation")
        evaluate_folder(made, out)
        print(f"results in {out}")

    run_app(start)
