"""The phase evaluate: arms on the held-out questions, with the weights that a run has."""

import dataclasses
from collections.abc import Mapping, Sequence

from etils import epath

from msjoe_jax.config import NAMES, Config
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.thinned import count_thinned
from msjoe_jax.evaluation.arms import Arm
from msjoe_jax.evaluation.evaluate import Evaluator, evaluate
from msjoe_jax.evaluation.grading import extractor_of
from msjoe_jax.evaluation.looks import spread
from msjoe_jax.models.params import Params
from msjoe_jax.phase_data import heldout_split
from msjoe_jax.phase_inputs import data_inputs, settings_of, weights_inputs
from msjoe_jax.phase_models import Models, Weights
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.siglip import embedder_names
from msjoe_jax.runtime.digest import digest, digest_of_file
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.from_file import read_selection
from msjoe_jax.tasks import TASKS

SELECTION = "selection"  # the arm, and its selector, of a file of frames


def evaluate_arms(
    config: Config,
    workdir: epath.Path,
    models: Models,
    sets: Mapping[str, Weights],
    arms: Mapping[str, Arm],
    *,
    budgets: Sequence[int] = (),
    timed: bool = False,
    selection: str = "",
) -> None:
    """Evaluates arms, and writes what it finds into a work folder.

    Args:
      config: says which questions, and how they are asked.
      workdir: the folder.
      models: the models.
      sets: weights by the names that arms give them.
      arms: by name.
      budgets: numbers of key frames; none: the config's.
      timed: whether each step is timed.
      selection: a file of frames that another tool chose, which are one more arm; "": none.
    """
    embedders = embedder_names(models.system.siglip, sets["base"].names)
    questions, reader = heldout_split(config, embedders)
    episodes = Episodes(config.episode, models.programs, models.text, reader, questions)
    chosen = {}
    if selection:
        arm = _of_file(config, selection, questions, reader)
        arms = {**arms, SELECTION: dataclasses.replace(arm, mllm=list(sets)[-1], sampler="base")}
        chosen = {"selection": digest_of_file(selection)}
    used = dict.fromkeys(part for arm in arms.values() for part in arm.sets)
    looked_at = spread(questions, config.evaluate.looks)
    settings = settings_of(config, *NAMES, "frames", "prompt")
    inputs = {
        "arms": ", ".join(sorted(arms)),
        "frame budgets": ", ".join(map(str, budgets or [config.frames.key])),
        **data_inputs(questions, reader),
        "extractor": extractor_of(TASKS[config.data.task]),
        **chosen,
        **{
            f"{name} models": digest(weights_inputs(sets[name].names, models.system, models.text))
            for name in sorted(used)
        },
        "settings": digest(
            settings,
            dataclasses.asdict(config.episode),
            config.data.task,
            config.evaluate.batch,
            {name: dataclasses.asdict(arm) for name, arm in sorted(arms.items())},
            looked_at,
            "rows have columns",
        ),
    }
    size = models.programs.machine.padded(min(config.evaluate.batch, len(questions)))

    def load(set_name: str, model: str) -> Params:
        return models.load(sets[set_name].stored[model])

    thinned = count_thinned(reader, (q.video for q in questions), config.frames.candidates)
    evaluate(
        Evaluator(episodes, config.data.task, load, size, budgets, timed, looked_at),
        arms,
        workdir,
        {"frames": config.frames.key, "seed": config.seed, "thinned": thinned._asdict()},
        inputs,
        {
            "checkpoint": {name: getattr(config, name).checkpoint for name in config.models.names},
            "weights": {name: dict(sets[name].names) for name in used},
        },
    )


def _of_file(
    config: Config, selection: str, questions: Sequence[Question], reader: RecordReader
) -> Arm:
    """Returns the arm of frames that another tool chose; says how they were read.

    Raises:
      UserError: see `read_selection`.
    """
    file = TASKS[config.data.task].read(config.data.heldout_questions)
    found = read_selection(selection, file, reader, config.frames.candidates, limit=len(questions))
    print(found.note)
    SELECTORS[SELECTION] = found.selector  # as any other, for this process alone
    label = f"frames of {epath.Path(selection).name}"
    return Arm(label, selector=SELECTION, budget=max(1, found.longest))
