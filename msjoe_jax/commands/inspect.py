"""Says what a record folder, a question file, a checkpoint or a run holds.

    msjoe inspect --records=DIR [--verify]             # counts, durations, sizes, warnings
    msjoe inspect --questions=FILE [--records=DIR]     # categories, difficulty; what is dropped
    msjoe inspect --checkpoint=DIR                     # a model folder, or a step of a training
    msjoe inspect --run=WORKDIR                        # trainings, validations, dropped questions

--video=ID (of --records) and --question=ID (of --questions, with --records) add a contact sheet
in which the windows of evidence are marked. It all goes to the terminal; --html=FILE writes a page
with pictures, which needs nothing beside itself, and --json prints one JSON object instead.
--verify reads all of the record folder and compares it with what its manifest states; the exit
status is 1 if something is damaged.
"""

import json
import sys
from typing import Any, NamedTuple

from absl import flags
from etils import epath

from msjoe_jax.commands.cli import run_app
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.shards import kinds_of
from msjoe_jax.data.verify import wrong_shards
from msjoe_jax.errors import UserError
from msjoe_jax.report.inspect_page import render
from msjoe_jax.report.inspect_questions import inspect_questions
from msjoe_jax.report.inspect_records import inspect_records, question_sheet, video_sheet
from msjoe_jax.report.inspection import Part, as_json, as_text
from msjoe_jax.runtime.files import write_whole
from msjoe_jax.runtime.progress import progress
from msjoe_jax.tasks import TASKS

MOST_FRAMES = 512  # of a contact sheet


class Wanted(NamedTuple):
    """What the flags name; "" what is not asked for.

    frames: evenly spaced ones of a contact sheet; verify: whether all records are read.
    """

    records: str = ""
    questions: str = ""
    checkpoint: str = ""
    run: str = ""
    video: str = ""
    question: str = ""
    task: str = "jsonl"
    frames: int = 32
    verify: bool = False


class Found(NamedTuple):
    """What was found; wrong: what is damaged, a line each."""

    title: str
    parts: list[Part]
    wrong: list[str]


def inspect(wanted: Wanted) -> Found:
    """Looks at what is asked for.

    Raises:
      UserError: flags that do not go together, or what they name is not there or damaged.
    """
    subjects = [name for name in ("checkpoint", "run") if getattr(wanted, name)]
    data = bool(wanted.records or wanted.questions)
    if len(subjects) + data != 1:
        raise UserError("give --records=DIR, --questions=FILE, both, --checkpoint=DIR or --run=DIR")
    for name, needed in (("video", "records"), ("question", "questions"), ("question", "records")):
        if getattr(wanted, name) and not getattr(wanted, needed):
            raise UserError(f"--{name}={getattr(wanted, name)} needs --{needed}")
    if wanted.verify and not wanted.records:
        raise UserError("--verify needs --records=DIR")
    if wanted.task not in TASKS:
        raise UserError(f"--task={wanted.task} is none of {', '.join(TASKS)}")
    if subjects:
        # JAX, which the other subjects do without.
        from msjoe_jax.commands.inspect_models import inspect_checkpoint, inspect_run

        if wanted.run:
            return Found(f"Run {wanted.run}", inspect_run(wanted.run), [])
        return Found(f"Checkpoint {wanted.checkpoint}", inspect_checkpoint(wanted.checkpoint), [])
    return _inspect_data(wanted)


def _inspect_data(wanted: Wanted) -> Found:
    reader = RecordReader(wanted.records, "") if wanted.records else None
    task = TASKS[wanted.task]
    questions = task.read(wanted.questions) if wanted.questions else []
    parts: list[Part] = []
    wrong: list[str] = []
    if wanted.questions:
        parts += inspect_questions(wanted.questions, questions, task.groups, reader)
    if reader:
        wrong = _verify(reader) if wanted.verify else []
        parts += inspect_records(reader, wrong if wanted.verify else None)
    if wanted.video and reader:
        parts.append(video_sheet(reader, wanted.video, wanted.frames, questions))
    if wanted.question and reader:
        asked = _question(questions, wanted.question, wanted.questions)
        parts.append(question_sheet(reader, asked, wanted.frames))
    title = " of ".join(name for name in (wanted.questions, wanted.records) if name)
    return Found(f"{'Questions' if wanted.questions else 'Records'} {title}", parts, wrong)


def _question(questions: list[Question], name: str, file: str) -> Question:
    found = next((question for question in questions if question.id == name), None)
    if found is None:
        raise UserError(f"{file}: no question {name!r} among {len(questions)}")
    return found


def _verify(reader: RecordReader) -> list[str]:
    total = sum(
        shard["frames"] + len(shard["videos"]) * (len(kinds_of(shard)) - 1)
        for shard in reader.shards
    )
    with progress("verify", total, unit="record") as bar:
        return wrong_shards(reader, bar.update)


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    text: dict[str, Any] = {
        name: flags.DEFINE_string(name, default, words)
        for name, default, words in (
            ("records", "", "Record folder."),
            ("questions", "", "Question file."),
            ("checkpoint", "", "Model folder, or a checkpoint of a training."),
            ("run", "", "Work folder of a training run."),
            ("video", "", "Id of a video of --records, for a contact sheet."),
            ("question", "", "Id of a question of --questions, for a contact sheet."),
            ("task", "jsonl", "How the question file is read: a name of TASKS."),
        )
    }
    frames = flags.DEFINE_integer(
        "frames", 32, "Frames of a contact sheet.", lower_bound=1, upper_bound=MOST_FRAMES
    )
    verify = flags.DEFINE_bool("verify", False, "Read all records and compare their digests.")
    as_object = flags.DEFINE_bool("json", False, "Print one JSON object.")
    html = flags.DEFINE_string("html", "", "Page to write, with pictures.")

    def start() -> None:
        values = {name: flag.value for name, flag in text.items()}
        found = inspect(Wanted(**values, frames=frames.value, verify=verify.value))
        if html.value:
            write_whole(epath.Path(html.value), render(found.title, found.parts))
        if as_object.value:
            print(json.dumps(as_json(found.parts), ensure_ascii=False, indent=1))
        else:
            print(as_text(found.parts))
            if html.value:
                print(f"\npage in {html.value}")
        if found.wrong:
            sys.exit(1)

    run_app(start)
