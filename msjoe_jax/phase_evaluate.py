"""The phase evaluate: arms on the held-out questions, with the weights that a run has."""

import dataclasses
from collections.abc import Mapping

from etils import epath

from msjoe_jax.config import NAMES, Config
from msjoe_jax.data.thinned import count_thinned
from msjoe_jax.evaluation.arms import Arm
from msjoe_jax.evaluation.evaluate import Evaluator, evaluate
from msjoe_jax.models.params import Params
from msjoe_jax.phase_data import heldout_split
from msjoe_jax.phase_inputs import data_inputs, settings_of, weights_inputs
from msjoe_jax.phase_models import Models, Weights
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.siglip import embedder_names
from msjoe_jax.runtime.digest import digest


def evaluate_arms(
    config: Config,
    workdir: epath.Path,
    models: Models,
    sets: Mapping[str, Weights],
    arms: Mapping[str, Arm],
) -> None:
    """Evaluates arms, and writes what it finds into a work folder.

    Args:
      config: says which questions, and how they are asked.
      workdir: the folder.
      models: the models.
      sets: weights by the names that arms give them.
      arms: by name.
    """
    embedders = embedder_names(models.system.siglip, sets["base"].names)
    questions, reader = heldout_split(config, embedders)
    episodes = Episodes(config.episode, models.programs, models.text, reader, questions)
    used = dict.fromkeys(part for arm in arms.values() for part in (arm.mllm, arm.sampler))
    settings = settings_of(config, *NAMES, "frames", "prompt")
    inputs = {
        "arms": ", ".join(sorted(arms)),
        **data_inputs(questions, reader),
        **{
            f"{name} models": digest(weights_inputs(sets[name].names, models.system, models.text))
            for name in sorted(used)
        },
        "settings": digest(
            settings,
            dataclasses.asdict(config.episode),
            config.data.task,
            config.evaluate.batch,
            "rows say whether the reply was valid",
        ),
    }
    size = models.programs.machine.padded(min(config.evaluate.batch, len(questions)))

    def load(set_name: str, model: str) -> Params:
        return models.load(sets[set_name].stored[model])

    thinned = count_thinned(reader, (q.video for q in questions), config.frames.candidates)
    evaluate(
        Evaluator(episodes, config.data.task, load, size),
        arms,
        workdir,
        {"frames": config.frames.key, "seed": config.seed, "thinned": thinned._asdict()},
        inputs,
    )
