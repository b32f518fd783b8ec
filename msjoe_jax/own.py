"""The config of a run on one's own videos: about ten fields are given, the others follow.

Everything here is read from files: a config is loaded before the hosts of a run have met, when
JAX may not yet be asked for its devices.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from msjoe_jax.config import base, read_config
from msjoe_jax.data.questions import Question, load_questions
from msjoe_jax.data.records import RecordReader, VideoInfo
from msjoe_jax.errors import UserError
from msjoe_jax.families import Family
from msjoe_jax.rollout.frames import grid_of
from msjoe_jax.rollout.model_files import chat_of
from msjoe_jax.rollout.model_folder import check_folder
from msjoe_jax.rollout.prompt_lengths import PromptLengths
from msjoe_jax.rollout.sizes import mllm_sizes_of
from msjoe_jax.text.tokenizer import Tokenizer

TRAININGS = ("full", "lora")
PRECISIONS = ("float32", "bfloat16")
LORA_RANK, LORA_RATE = 16, 1e-5
LENGTH_STEP = 256  # tokens between two compiled lengths of prompts
UNBOUND = 1 << 20  # patches: more than any frame of a record has

Paired = tuple[Question, VideoInfo]


@dataclasses.dataclass(frozen=True)
class Computed:
    """A value that was not given, and why it is what it is."""

    value: Any
    why: str


# Of the config that this process loaded last, by field.
_computed: dict[str, Computed] = {}


def own_config(
    file: str,
    *,
    model: str,
    clip: str,
    records: str,
    questions: str,
    heldout_records: str,
    heldout_questions: str,
    updates: int,
    pretrain_updates: int,
    questions_per_update: int,
    key_frames: int,
    training: str,
    precision: str,
    sets: Mapping[str, Mapping[str, Any]] | None = None,
) -> ConfigDict:
    """Makes the config of a run, and computes what is not given from the files that are.

    Args:
      file: the config file, to which paths are relative.
      model, clip: model folders.
      records, questions: the record folder and the question file to train on.
      heldout_records, heldout_questions: likewise those to judge by.
      updates: of both models together.
      pretrain_updates: of the sampler alone, before.
      questions_per_update: questions of a rollout batch.
      key_frames: frames of a video that are shown to answer.
      training: of the MLLM, a name of TRAININGS.
      precision: of the computation, a name of PRECISIONS.
      sets: by name the records, questions and weight of each set to train on, in place of `records`
        and `questions`; {} or None: there are none.

    Raises:
      UserError: a field is not set or wrong, a line each, or a file cannot be read.
    """
    paths = {
        "model": model,
        "clip": clip,
        **({} if sets else {"records": records, "questions": questions}),
        "heldout_records": heldout_records,
        "heldout_questions": heldout_questions,
    }
    slips = [f"{file}: {k} is not set; `msjoe init` fills it in" for k, x in paths.items() if not x]
    for name, value, choices in (
        ("training", training, TRAININGS),
        ("precision", precision, PRECISIONS),
    ):
        if value not in choices:
            slips.append(f"{file}: {name} is {value!r}, not one of {', '.join(choices)}")
    at = {name: str(epath.Path(file).parent / value) for name, value in paths.items()}
    train_sets = _sets(file, sets or {}, {"records": records, "questions": questions}, slips)
    if slips:
        raise UserError(*slips)
    c = base()
    c.mllm.checkpoint, c.clip.checkpoint = at["model"], at["clip"]
    c.data.train_sets = train_sets
    for name in ("records", "questions"):
        c.data[f"train_{name}"] = at.get(name, "")
        c.data[f"heldout_{name}"] = at[f"heldout_{name}"]
    c.joint.steps, c.pretrain.steps = updates, pretrain_updates
    c.rollout.questions, c.frames.key = questions_per_update, key_frames
    c.mllm.dtype = precision
    computed = _of_training(training, precision) | {
        "data.validation_records": Computed(at["heldout_records"], "the held-out videos"),
        "data.validation_questions": Computed(
            at["heldout_questions"], "a training is watched on the held-out questions"
        ),
        "final_model": Computed(
            "newest", "nothing is chosen by the questions that the end is judged by"
        ),
        "evaluate.batch": Computed(questions_per_update, "as many as in an update"),
        "mesh.fsdp": Computed(-1, "every device holds a share of the weights"),
    }
    _set(c, computed)
    computed |= _of_data(c)
    _computed.clear()
    _computed.update(computed)
    return c


def _sets(
    file: str,
    sets: Mapping[str, Mapping[str, Any]],
    single: Mapping[str, str],
    slips: list[str],
) -> dict[str, dict[str, Any]]:
    """Returns the sets with paths from the current folder.

    What is wrong is added to `slips`, such as a `single` set beside them.
    """
    for name, value in single.items():
        if sets and value:
            slips.append(f"{file}: {name} is {value!r}, and sets stand in its place; leave one out")
    made = {}
    for name, one in sets.items():
        fields = dict(one) if isinstance(one, Mapping) else {}
        for field in single:
            if isinstance(path := fields.get(field), str) and path:
                fields[field] = str(epath.Path(file).parent / path)
            else:
                slips.append(f"{file}: sets[{name!r}] has no path as {field!r}")
        made[name] = fields
    return made


def computed_lines(config: Mapping[str, Any]) -> list[str]:
    """Returns a line for each computed field of the config that this process loaded last.

    Args:
      config: its values, nested; fields that a flag has changed since are left out.
    """
    lines = []
    for name, one in _computed.items():
        value: Any = config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value == one.value:
            lines.append(f"config.{name}={one.value}: {one.why}")
    return lines


def _set(config: ConfigDict, computed: Mapping[str, Computed]) -> None:
    config.update_from_flattened_dict({name: one.value for name, one in computed.items()})


def _of_training(training: str, precision: str) -> dict[str, Computed]:
    """Returns what follows from how the MLLM trains."""
    if training == "full":
        return {"mllm.param_dtype": Computed("float32", "small updates of all weights must count")}
    return {
        "mllm.lora_rank": Computed(LORA_RANK, "training is lora"),
        "mllm.param_dtype": Computed(precision, "the weights under LoRA's factors do not train"),
        "optimizer.mllm_lr": Computed(LORA_RATE, "LoRA's factors take larger steps than weights"),
    }


def _of_data(config: ConfigDict) -> dict[str, Computed]:
    """Computes numbers of frames, patches and tokens from the data, and sets them."""
    folder = config.mllm.checkpoint
    check_folder(folder, ["mllm"])
    check_folder(config.clip.checkpoint, ["clip"])
    tokenizer = Tokenizer(epath.Path(folder) / "mllm")
    family, sizes = mllm_sizes_of("", folder, tokenizer, None)
    data = config.data
    read = [(one["records"], one["questions"]) for one in data.train_sets.to_dict().values()]
    read = read or [(data.train_records, data.train_questions)]
    read.append((data.heldout_records, data.heldout_questions))
    pairs = [pair for folder, questions in read for pair in _paired(folder, questions)]
    computed = _of_frames(config, [video for _, video in pairs], family, sizes)
    _set(config, computed)
    made = read_config(config)
    chat = chat_of(folder, family, sizes, tokenizer)
    lengths = PromptLengths(made.frames, made.prompt, family, sizes, tokenizer, chat)
    computed["prompt.length_step"] = Computed(LENGTH_STEP, "a program compiles for each length")
    for kind, tokens in (("query", lengths.query), ("answer", lengths.answer)):
        longest, question = max((tokens(q, video), q.id) for q, video in pairs)
        computed[f"prompt.{kind}_prompt_tokens"] = Computed(
            LENGTH_STEP * -(-longest // LENGTH_STEP),
            f"the longest prompt, of question {question}, has {longest:,} tokens",
        )
    _set(config, computed)
    return computed


def _paired(folder: str, file: str) -> list[Paired]:
    """Reads the questions of a file with their videos in a record folder.

    Raises:
      UserError: a question's video is not among the records, or none can be read.
    """
    reader, questions = RecordReader(folder, ""), load_questions(file)
    known = set(reader.ids)
    for question in questions:
        if question.video not in known:
            name = question.video
            raise UserError(f"{file}: question {question.id}: {folder} has no video {name!r}")
    videos = {video.id: video for video in reader.infos(q.video for q in questions)}
    pairs = [(q, videos[q.video]) for q in questions if q.video in videos]
    if not pairs:
        raise UserError(f"{folder}: no video of {file} can be read; make the folder again")
    return pairs


def _of_frames(
    config: ConfigDict, videos: Sequence[VideoInfo], family: Family, sizes: Any
) -> dict[str, Computed]:
    longest = max(video.num_frames for video in videos)
    frames = {(video.height, video.width) for video in videos}
    computed = {
        "frames.candidates": Computed(
            min(config.frames.candidates, longest), f"the longest video has {longest:,} frames"
        )
    }
    for kind in ("preview", "key"):
        budget = config.frames[f"{kind}_patches"]
        grids = [grid_of(frame, sizes.vision, family.images, UNBOUND) for frame in frames]
        (height, width), most = max(
            zip(frames, (rows * columns for rows, columns in grids), strict=True),
            key=lambda pair: pair[1],
        )
        why = f"a frame of {width} × {height} takes {most:,}"
        if most > budget:
            why += f", and is shrunk to {budget:,}"
        computed[f"frames.{kind}_patches"] = Computed(min(budget, most), why)
    return computed
