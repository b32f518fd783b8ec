"""The splits that a run's phases read, checked before hours are spent."""

from collections.abc import Mapping

from etils import epath

from msjoe_jax.config import LEARNING, Config
from msjoe_jax.data.embed import check_embeddings
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.thinned import count_thinned, thinned_line
from msjoe_jax.data.train_sets import sets_of, train_questions, train_records
from msjoe_jax.evaluation.evaluate import load_heldout, load_split
from msjoe_jax.tasks import TASKS
from msjoe_jax.training.train import Split

UNKNOWN = {"clip": ""}  # embedders that do not exist yet


def check_records(
    config: Config, embedders: Mapping[str, str], checkpoints: Mapping[str, epath.PathLike]
) -> None:
    """Checks that record folders are whole, and that the run's CLIP has embedded every frame.

    Args:
      config: the run's.
      embedders: fingerprint of the CLIP, and name of the SigLIP if there is one.
      checkpoints: where those lie, for people.

    Raises:
      UserError: a shard is missing, or it has not.
    """
    for split in splits_of(config):
        for folder in record_folders(config, split):
            reader = RecordReader(folder, **embedders)
            for model in embedders:
                check_embeddings(reader, checkpoints[model], model)


def record_folders(config: Config, split: str) -> list[str]:
    """Returns the record folders of a split: of several training sets each, once."""
    if split == "train":
        return [*dict.fromkeys(one.records for one in sets_of(config.data).values())]
    folder = getattr(config.data, f"{split}_records")
    return [folder] if folder else []


def read_split(config: Config, split: str) -> Split:
    """Reads the questions of a split, and opens the records of its videos without embeddings."""
    read = TASKS[config.data.task].read
    if split == "train":
        return train_questions(config.data, read), train_records(config.data, "")
    questions = read(getattr(config.data, f"{split}_questions"))
    return questions, RecordReader(getattr(config.data, f"{split}_records"), "")


def splits_of(config: Config) -> list[str]:
    """Returns the splits that the run reads."""
    trains = bool(set(LEARNING) & set(config.phases))
    validates = trains and config.validate_every and config.data.validation_questions
    needed = {"train": trains, "validation": validates, "heldout": "evaluate" in config.phases}
    return [split for split, wanted in needed.items() if wanted]


def tell_thinned(config: Config) -> None:
    """Prints a line for each split that holds videos with more frames than are searched."""
    limits = {"train": 0, "validation": config.validation_limit, "heldout": config.evaluate.limit}
    candidates = config.frames.candidates
    for split in splits_of(config):
        questions, reader = read_split(config, split)
        videos = [q.video for q in questions[: limits[split] or None]]
        if line := thinned_line(split, count_thinned(reader, videos, candidates), candidates):
            print(line)


def validation_split(config: Config, embedders: Mapping[str, str]) -> Split | None:
    """Reads the validation split, if the run validates; `embedders` as of `heldout_split`."""
    if not (config.validate_every and config.data.validation_questions):
        return None
    return load_split(
        config.data,
        "validation",
        limit=config.validation_limit,
        candidates=config.frames.candidates,
        previews=config.frames.preview,
        **embedders,
    )


def heldout_split(config: Config, embedders: Mapping[str, str]) -> Split:
    """Reads the held-out split; `embedders` as of `check_records`, or `UNKNOWN`."""
    return load_heldout(
        config.data,
        config.evaluate,
        candidates=config.frames.candidates,
        previews=config.frames.preview,
        max_queries=config.prompt.max_queries,
        **embedders,
    )
