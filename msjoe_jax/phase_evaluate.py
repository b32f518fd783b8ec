"""The phase evaluate: arms on the held-out questions, with the weights that a run has."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from etils import epath

from msjoe_jax.config import NAMES, Config
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.thinned import count_thinned
from msjoe_jax.evaluation.arms import Arm
from msjoe_jax.evaluation.evaluate import Evaluator, evaluate
from msjoe_jax.evaluation.grading import extractor_of
from msjoe_jax.evaluation.looks import spread
from msjoe_jax.evaluation.preset import Changed, preset_of
from msjoe_jax.models.params import Params
from msjoe_jax.phase_data import heldout_split
from msjoe_jax.phase_inputs import data_inputs, settings_of, weights_inputs
from msjoe_jax.phase_models import Models, Weights
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.siglip import embedder_names
from msjoe_jax.rollout.stored_models import StoredModel
from msjoe_jax.runtime.digest import digest, digest_of_file
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.from_file import read_selection
from msjoe_jax.tasks import TASKS

SELECTION = "selection"  # the arm, and its selector, of a file of frames


class Loaded:
    """Parameters as evaluations take them: one MLLM is held, the last, and of the others all.

    So evaluations of one folder after another read it once.

    Args:
      models: that the parameters are of.
    """

    def __init__(self, models: Models):
        self._models = models
        self._held: dict[StoredModel, Params] = {}

    def __call__(self, model: StoredModel) -> Params:
        """Returns a model's parameters on the machine."""
        if model not in self._held:
            if model.name == "mllm":
                self._held = {m: held for m, held in self._held.items() if m.name != "mllm"}
            self._held[model] = self._models.load(model)
        return self._held[model]


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
    preset: Changed | None = None,
    loaded: Loaded | None = None,
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
      preset: what the task's preset has changed in the config; None: it was not asked for.
      loaded: parameters of an evaluation before, to be taken again.
    """
    load = loaded or Loaded(models)
    embedders = embedder_names(models.system.siglip, sets["base"].names)
    questions, reader = heldout_split(config, embedders)
    episodes = Episodes(config.episode, models.programs, models.text, reader, questions)
    chosen: dict[str, str] = {}
    if preset is not None:
        chosen = {"preset": config.data.task}
    if selection:
        arm = _of_file(config, selection, questions, reader)
        arms = {**arms, SELECTION: dataclasses.replace(arm, mllm=list(sets)[-1], sampler="base")}
        chosen["selection"] = digest_of_file(selection)
    used = dict.fromkeys(part for arm in arms.values() for part in arm.sets)
    looked_at = spread(questions, config.evaluate.looks)
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
        "settings": _settings(config, arms, looked_at),
    }
    size = models.programs.machine.padded(min(config.evaluate.batch, len(questions)))
    thinned = count_thinned(reader, (q.video for q in questions), config.frames.candidates)
    evaluate(
        Evaluator(
            episodes,
            config.data.task,
            lambda set_name, model: load(sets[set_name].stored[model]),
            size,
            budgets,
            timed,
            looked_at,
        ),
        arms,
        workdir,
        {"frames": config.frames.key, "seed": config.seed, "thinned": thinned._asdict()},
        inputs,
        {
            "checkpoint": {name: getattr(config, name).checkpoint for name in config.models.names},
            "weights": {name: dict(sets[name].names) for name in used},
            **({} if preset is None else {"preset": {"task": config.data.task, "set": preset}}),
        },
        None if preset is None else preset_of(config.data.task),
    )


def _settings(config: Config, arms: Mapping[str, Arm], looked_at: Collection[str]) -> str:
    """Returns the digest of all else that rows are made from."""
    return digest(
        settings_of(config, *NAMES, "frames", "prompt"),
        dataclasses.asdict(config.episode),
        config.data.task,
        config.evaluate.batch,
        {name: dataclasses.asdict(arm) for name, arm in sorted(arms.items())},
        looked_at,
        "rows have columns",
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
