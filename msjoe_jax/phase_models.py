"""The models of a run as its phases take them: definitions, programs, and where weights lie."""

import dataclasses
import functools
from collections.abc import Mapping

from etils import epath

from msjoe_jax.config import TRAININGS, Config
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.computing import for_computing
from msjoe_jax.rollout.model_files import chat_of
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.rollout.stored_models import StoredModel
from msjoe_jax.rollout.system import (
    System,
    Tokenizers,
    load_tokenizers,
    make_system,
    state_table,
)
from msjoe_jax.rollout.text import Text, make_text
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.digest import Remembered
from msjoe_jax.runtime.machine import Machine
from msjoe_jax.training.state import State, abstract_state
from msjoe_jax.training.train import Trained


@dataclasses.dataclass(frozen=True)
class Models:
    """The models of a run: definitions, tokenizers and compiled programs."""

    system: System
    tokenizers: Tokenizers
    text: Text
    programs: Programs

    def load(self, model: StoredModel) -> Params:
        """Loads parameters onto the run's machine, to compute with."""
        like = for_computing(self.system) if model.name == "mllm" else None
        return model.load(self.system, self.programs.machine, like)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Where the parameters of the models lie, and what names the values of each."""

    stored: dict[str, StoredModel]
    names: dict[str, str]


def make_models(config: Config, machine: Machine) -> Models:
    """Builds the models of a config; no parameter is allocated.

    Raises:
      UserError: a file of a checkpoint cannot be read, or a leaf does not divide over the mesh.
    """
    tokenizers = load_tokenizers(config.models)
    system = make_system(config.models, tokenizers)
    chat = chat_of(config.mllm.checkpoint, system.family, system.mllm_config, tokenizers.mllm)
    text = make_text(system, tokenizers, config.prompt, chat)
    for tree in (system.abstract, *_states(config, system)):  # before anything is allocated
        machine.places(tree, state_table(system))
    machine.serving_places(system.abstract["mllm"], state_table(system))
    return Models(system, tokenizers, text, Programs(system, machine))


def _states(config: Config, system: System) -> list[State]:
    names = [name for name in TRAININGS if name in config.phases]
    return [abstract_state(config.training_run(name), system) for name in names]


def stored_weights(config: Config, models: Models, memory: Remembered) -> Weights:
    """Returns the weights of the config's checkpoints; a sampler without one starts fresh."""
    # Not by values, whose last bits may be other ones on other hardware.
    fresh = {"sampler": f"fresh, seed {config.seed}"}
    base = Weights({"sampler": StoredModel("sampler", None, seed=config.seed)}, fresh)
    checkpoints = {name: getattr(config, name).checkpoint for name in config.models.names}
    folders = {name: epath.Path(c) / "params" for name, c in checkpoints.items() if c}
    given = {name: StoredModel(name, folder, name) for name, folder in folders.items()}
    return moved_weights(base, given, folders, models, memory)


def moved_weights(
    weights: Weights,
    moved: Mapping[str, StoredModel],
    folders: Mapping[str, epath.Path],
    models: Models,
    memory: Remembered,
) -> Weights:
    """Returns weights of which some models are others.

    Args:
      weights: as they were.
      moved: the others.
      folders: whose files their names depend on.
      models: of the run.
      memory: of the names.
    """

    def name_all() -> dict[str, str]:
        of_values = {
            name: functools.partial(model.fingerprint, models.system)
            for name, model in moved.items()
        }
        return {n: memory.of(folders[n], n, compute) for n, compute in of_values.items()}

    names = hosts.on_first(name_all, "the names of weights")
    return Weights({**weights.stored, **moved}, {**weights.names, **names})


def trained_weights(
    start: Weights, trained: Trained, models: Models, memory: Remembered
) -> Weights:
    """Returns the weights with which a training from `start` ended."""
    folders = dict.fromkeys(trained.moved, trained.folder)
    return moved_weights(start, trained.moved, folders, models, memory)
