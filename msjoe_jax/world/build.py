"""Writes the tiny world to disk as real data would be: record folders and question files."""

import dataclasses
import json
from typing import Any

from etils import epath

from msjoe_jax.data.questions import Question, save_questions
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.data.shards import MANIFEST
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.progress import progress
from msjoe_jax.world import second
from msjoe_jax.world.render import render
from msjoe_jax.world.spec import SPLITS, Plan, WorldSpec, make_video


def records_path(directory: epath.PathLike, split: str) -> epath.Path:
    """Returns the record folder of a split."""
    return epath.Path(directory) / split


def questions_path(directory: epath.PathLike, split: str) -> epath.Path:
    """Returns the question file of a split."""
    return epath.Path(directory) / f"questions-{split}.jsonl"


def plan_video(spec: WorldSpec, split: str, index: int) -> tuple[Plan, tuple[Question, Question]]:
    """Plans video `index` of a split, and its two questions, as the version of its spec does.

    Raises:
      UserError: the frames do not hold what the spec says.
    """
    if isinstance(spec, second.SecondSpec):
        return second.make_video(spec, split, index)
    return make_video(spec, split, index)


def build_world(directory: epath.PathLike, spec: WorldSpec) -> None:
    """Writes `train`, `validation` and `heldout` record folders and `questions-*.jsonl`.

    A split that exists is left alone, since it appears whole or not at all. The plan of each video
    is in its record's `extra`, the spec in the manifest.

    Raises:
      UserError: `directory` holds a world of another spec, or frames do not hold what it says.
    """
    epath.Path(directory).mkdir(parents=True, exist_ok=True)
    settings = json.loads(json.dumps(dataclasses.asdict(spec)))
    for split in SPLITS:
        if questions_path(directory, split).exists():
            if RecordReader(records_path(directory, split)).settings != settings:
                raise UserError(
                    f"{epath.Path(directory)}: holds another world; remove it or name a new folder"
                )
            continue
        questions = _write_split(records_path(directory, split), spec, split, settings)
        save_questions(questions_path(directory, split), questions)


def _write_split(
    folder: epath.Path, spec: WorldSpec, split: str, settings: dict[str, Any]
) -> list[Question]:
    pairs = [plan_video(spec, split, index) for index in range(spec.size(split))]
    # All first questions before all second ones, so that the head of the file covers all videos.
    questions = [q for row in zip(*(of_video for _, of_video in pairs), strict=True) for q in row]
    if (folder / MANIFEST).exists():  # complete: only the question file is missing
        return questions
    with (
        RecordWriter(folder, quality=spec.jpeg_quality, settings=settings) as writer,
        progress(f"{split} videos", len(pairs), unit="video") as bar,
    ):
        for plan, _ in pairs:
            writer.add(plan.id, enumerate(render(spec, plan)), extra=plan.to_json())
            bar.update()
    return questions
