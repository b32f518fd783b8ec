"""Imports anybody's questions and videos: question files and a list for `msjoe predecode`.

    msjoe import NAME --source=FILE --videos=DIR --out=DIR [--subtitles=DIR]
        [--rate=PICTURES] [--split=validation:0.1,heldout:0.1] [--json]

NAME is a task (`msjoe import` lists them), or csv: any table, JSON or JSON lines of your own, with
--column=FIELD:COLUMN where a column's name is not guessed. docs/import.md has the forms. It writes

    OUT/questions.jsonl   the questions that have a video; with --split a file for each part, too
    OUT/videos.jsonl      their videos, with subtitles, for `msjoe predecode --manifest=…`
    OUT/left_out.jsonl    every other row, with its place and the reason

and says how the source's rows were counted: read = kept + without video + duplicated + refused.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from etils import epath

from msjoe_jax.commands.cli import run_app
from msjoe_jax.data import subtitles as subtitle_files
from msjoe_jax.data.files_by_id import FilesById
from msjoe_jax.data.questions import Question, questions_text, subtitle_rows
from msjoe_jax.data.sources import RATES
from msjoe_jax.data.splits import read_shares, split_by_video
from msjoe_jax.data.videos_by_id import VideosById
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import lock, on_disk, write_whole
from msjoe_jax.tasks import TASKS, own_rows
from msjoe_jax.tasks.importing import (
    DUPLICATED,
    REFUSED,
    WITHOUT_VIDEO,
    Imported,
    bring_together,
    own_name,
)
from msjoe_jax.tasks.reading import Form, read_values
from msjoe_jax.tasks.rows import read_rows

OWN = ("jsonl", "csv")  # questions of one's own, in any form of file
QUESTIONS, VIDEOS, LEFT_OUT = "questions.jsonl", "videos.jsonl", "left_out.jsonl"
TOLD = 5  # rows of a kind that are told one by one


def import_questions(
    name: str,
    source: str,
    videos: str,
    out: str,
    *,
    subtitles: str = "",
    rate: float | None = None,
    split: Mapping[str, float] | None = None,
    form: Form | None = None,
) -> dict[str, Any]:
    """Imports a source of questions, and writes the files above.

    Args:
      name: a task, or one of OWN.
      source: a file or a folder of files.
      videos: the folder that the videos are in, or in folders below.
      out: the folder to write.
      subtitles: a folder of these; "": none are wanted.
      rate: pictures a second of folders of them; None: there are none.
      split: the share of the videos in each part; None: there are no parts.
      form: how rows become questions; None: as `name` says.

    Returns:
      The sheet, which --json prints.

    Raises:
      UserError: a name, file or folder that cannot be used, or no question has a video.
    """
    reading = read_values(form or form_of(name), source, read_rows(source))
    found = bring_together(
        reading,
        VideosById(videos, rate),
        FilesById(subtitles, subtitle_files.ENDINGS) if subtitles else None,
    )
    folder = on_disk(out, "the imported questions")
    parts = {} if split is None else _parts(found, split)
    with lock(folder):
        write_whole(folder / LEFT_OUT, _lines(_left_out_rows(found)))
        if found.questions:
            write_whole(folder / QUESTIONS, questions_text(found.questions))
            write_whole(folder / VIDEOS, _lines(_video_rows(found, folder)))
            for part, questions in parts.items():
                write_whole(folder / f"{part}.jsonl", questions_text(questions))
    return _sheet(name, source, out, found, parts)


def form_of(name: str) -> Form:
    """Returns how the rows of a name become questions.

    Raises:
      UserError: there is no such name.
    """
    if name in OWN:
        return own_rows.form({})
    task = TASKS.get(name)
    if task is None or task.form is None:
        names = ", ".join(dict.fromkeys((*TASKS, *OWN)))
        raise UserError(f"msjoe import {name}: not one of {names}")
    return task.form


def _parts(found: Imported, shares: Mapping[str, float]) -> dict[str, list[Question]]:
    """Splits the questions by the names of their videos' files, which others of a name share."""
    return split_by_video(
        found.questions, shares, name=lambda video: own_name(found.videos[video].source.path)
    )


def _video_rows(found: Imported, folder: epath.Path) -> list[dict[str, Any]]:
    rows = []
    here = os.path.realpath(folder)
    for name, one in found.videos.items():
        row: dict[str, Any] = {"id": name, "video": os.path.relpath(one.source.path, here)}
        row |= {} if one.source.rate is None else {"rate": one.source.rate}
        row |= dict(zip(("start", "end"), one.segment, strict=False))
        if one.track is not None:
            row["extra"] = {"subtitles": subtitle_rows(one.track.subtitles)}
        rows.append(row)
    return rows


def _left_out_rows(found: Imported) -> list[dict[str, Any]]:
    rows = []
    for one in found.left_out:
        row = {"what": one.what, "row": one.row.place, "reason": one.row.reason}
        rows.append(row | ({"id": one.id, "video": one.video} if one.video else {}))
    return rows


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats JSON lines; half a character of a name stays escaped."""
    return "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)


def _sheet(
    name: str, source: str, out: str, found: Imported, parts: Mapping[str, Sequence[Question]]
) -> dict[str, Any]:
    counts = Counter(one.what for one in found.left_out)
    cannot_be_opened = set(found.dead.values())
    missing = {
        one.video
        for one in found.left_out
        if one.what == WITHOUT_VIDEO and one.row.reason not in cannot_be_opened
    }
    groups: dict[str, Counter[str]] = {}
    for question in found.questions:
        for kind, group in question.extra["groups"].items():
            groups.setdefault(str(kind), Counter())[str(group)] += 1
    return {
        "format": 1,
        "name": name,
        "source": source,
        "out": out,
        "read": found.rows,
        "kept": len(found.questions),
        "without_video": counts[WITHOUT_VIDEO],
        "duplicated": counts[DUPLICATED],
        "refused": counts[REFUSED],
        "without_answer": sum(q.answer is None for q in found.questions),
        "with_evidence": sum(bool(q.evidence) for q in found.questions),
        "videos": {
            "kept": len(found.videos),
            "missing": len(missing),
            "dead": len(found.dead),
        },
        "left_out": {
            what: [f"{one.row}" for one in found.left_out if one.what == what][:TOLD]
            for what in (WITHOUT_VIDEO, DUPLICATED, REFUSED)
        },
        "broken_subtitles": {"count": len(found.broken), "first": found.broken[:TOLD]},
        "notes": found.notes,
        "groups": {kind: dict(sorted(each.items())) for kind, each in groups.items()},
        "parts": {
            part: {"questions": len(questions), "videos": len({q.video for q in questions})}
            for part, questions in parts.items()
        },
    }


def lines_of(sheet: Mapping[str, Any]) -> list[str]:
    """Formats a sheet for people."""
    lines = [
        f"{sheet['source']}: read {sheet['read']} rows: kept {sheet['kept']}, without video "
        f"{sheet['without_video']}, duplicated {sheet['duplicated']}, refused {sheet['refused']}"
    ]
    for what, told in sheet["left_out"].items():
        lines += [f"  {what}: {line}" for line in told]
        if (more := sheet[what.replace(" ", "_")] - len(told)) > 0:
            lines.append(f"  {what}: … and {more} more, in {LEFT_OUT}")
    counts = sheet["videos"]
    lines.append(
        f"videos {counts['kept']}, not found {counts['missing']}, cannot be opened "
        f"{counts['dead']}; without an answer {sheet['without_answer']}, with evidence "
        f"{sheet['with_evidence']}"
    )
    lines += [f"  {what}: {times}" for what, times in sheet["notes"].items() if times]
    if broken := sheet["broken_subtitles"]["count"]:
        lines.append(f"  subtitles that cannot be read: {broken}")
        lines += [f"    {line}" for line in sheet["broken_subtitles"]["first"]]
    for part, of in sheet["parts"].items():
        lines.append(f"{part}: questions {of['questions']}, videos {of['videos']}")
    return lines


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    names = {
        "source": "File of the questions, or a folder of such files.",
        "videos": "Folder that holds the videos, in folders below too.",
        "out": "Folder to write.",
    }
    given = {name: flags.DEFINE_string(name, "", text) for name, text in names.items()}
    subtitles = flags.DEFINE_string("subtitles", "", "Folder of subtitles, by the videos' ids.")
    rate = flags.DEFINE_float(
        "rate", None, "Pictures a second of videos that are folders of pictures.", *RATES
    )
    split = flags.DEFINE_list("split", [], "Parts by video, NAME:SHARE,…; the rest is train.")
    columns = flags.DEFINE_multi_string(
        "column", [], "Of csv and jsonl: FIELD:COLUMN; options and groups take COLUMN|COLUMN."
    )
    answers = flags.DEFINE_enum(
        "answers", "auto", own_rows.ANSWERS, "Of csv and jsonl: what answers are."
    )
    as_line = flags.DEFINE_bool("json", False, "The sheet as JSON, in the last line.")

    def start(words: list[str]) -> None:
        if len(words) != 1:
            raise UserError(f"msjoe import NAME: one of {', '.join(dict.fromkeys((*TASKS, *OWN)))}")
        (name,) = words
        form = form_of(name)
        if missing := [
            f"--{flag} is missing: {names[flag]}" for flag in names if not given[flag].value
        ]:
            raise UserError(*missing)
        if name in OWN:
            form = own_rows.form(own_rows.read_columns(columns.value), answers.value)
        elif columns.value or answers.value != "auto":
            raise UserError(f"--column and --answers are of {' and '.join(OWN)}, not of {name}")
        shares = read_shares(split.value) if split.value else None
        sheet = import_questions(
            name,
            **{flag: one.value for flag, one in given.items()},
            subtitles=subtitles.value,
            rate=rate.value,
            split=shares,
            form=form,
        )
        print("\n".join(lines_of(sheet)))
        if as_line.value:
            print(json.dumps(sheet))
        folder = epath.Path(sheet["out"])
        if not sheet["kept"]:
            raise UserError(f"none of the {sheet['read']} rows is kept; see {folder / LEFT_OUT}")
        print(f"next: msjoe predecode --manifest={folder / VIDEOS} --out={folder / 'records'}")

    run_app(start, takes_words=True)
