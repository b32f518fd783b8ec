"""The report of a run: what its work folder holds, with a few questions that it rolled out."""

import base64
import collections
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from msjoe_jax.config import TRAININGS
from msjoe_jax.data.pipeline import uniform_indices
from msjoe_jax.data.questions import DataConfig, Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.shards import encode_jpeg
from msjoe_jax.data.train_sets import train_questions, train_records
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import ARMS
from msjoe_jax.fields import read
from msjoe_jax.report.evaluation_page import shortened
from msjoe_jax.report.look_section import answers_table, look_section, shown_frames
from msjoe_jax.report.looks import Look
from msjoe_jax.report.page import Html, joined, paragraph, section
from msjoe_jax.report.run_folder import read_run
from msjoe_jax.report.run_page import render
from msjoe_jax.rollout.log import logits_of, similarity_of
from msjoe_jax.runtime.files import write_whole
from msjoe_jax.signals import rows_of_queries
from msjoe_jax.tasks import TASKS

REPORT = "report.html"
FIRST, LAST = 1, 2  # rows of a training's log that are shown
MOST_LISTS, MOST_DRAWS = 2, 2  # of a question's rollouts
WIDTH = 160  # of a thumbnail, in pixels
QUALITY = 70


def write_run_report(workdir: epath.PathLike) -> epath.Path:
    """Writes the report of a run into its work folder, and returns where it is.

    Raises:
      UserError: there is no run, or what it wrote is damaged.
    """
    workdir = epath.Path(workdir)
    run = read_run(workdir)
    questions = list(question_sections(workdir, run.config))
    labels = {name: arm.label for name, arm in ARMS.items()}
    page = workdir / REPORT
    write_whole(page, render(run, labels, questions))
    return page


def report_lines(workdir: epath.PathLike) -> list[str]:
    """Writes the report of a finished run; returns the lines that say where, or why there is none.

    A run that is done is not undone by its report.
    """
    try:
        return [f"report in {write_run_report(workdir)}"]
    except (UserError, OSError) as error:
        return [f"no report of the run could be written: {error}"]


def question_sections(workdir: epath.Path, config: dict[str, Any]) -> Iterator[Html]:
    """Yields sections of the first and the last questions that each training has logged."""
    logs = [(name, workdir / name / "rollouts.jsonl") for name in TRAININGS]
    logs = [(name, log) for name, log in logs if log.exists()]
    data, why = _train_data(workdir, config) if logs else (None, "")
    number = 0
    for name, log in logs:
        rows = sampled_rows(log)
        text = f"the first {FIRST} and the last {LAST} of rollouts.jsonl, of each the first "
        text += f"{MOST_LISTS} lists of queries and {MOST_DRAWS} draws"
        note = paragraph(f"Without questions and pictures: {why}") if why else ""
        yield section(f"{name}: questions as it trained", text, note)
        for place, row in rows:
            try:
                look, head = look_of(row, config, data)
            except (KeyError, IndexError, TypeError, ValueError):
                raise UserError(f"{log}:{place}: not a row of rollouts; restore the file") from None
            yield look_section(look, number, list(look.frames), head)
            number += 1


def sampled_rows(log: epath.Path) -> list[tuple[int, dict[str, Any]]]:
    """Reads the first and the last rows of a log, whatever its size, with their line numbers.

    Raises:
      UserError: one of them is damaged.
    """
    first: list[tuple[int, bytes]] = []
    last: collections.deque[tuple[int, bytes]] = collections.deque(maxlen=LAST)
    with log.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):  # torn by a kill, or being written
                break
            (first if len(first) < FIRST else last).append((number, line))
    rows = []
    for number, line in [*first, *last]:
        try:
            rows.append((number, json.loads(line)))
        except ValueError as error:
            raise UserError(f"{log}:{number}: not JSON ({error})") from None
    return rows


def look_of(
    row: dict[str, Any],
    config: dict[str, Any],
    data: tuple[dict[str, Question], RecordReader] | None,
) -> tuple[Look, Html]:
    """Makes of a row of the log what is shown of it, and the table of its answers.

    Args:
      row: the row.
      config: of the run.
      data: the questions by id, and the records of their videos; None: they are not there.
    """
    questions, reader = data or ({}, None)
    question = questions.get(row["id"])
    n, signals = row["frames"], config.get("sampler", {}).get("signals") or ["clip"]
    similarity, logits = similarity_of(row), logits_of(row)
    frames, answers = {}, []
    draws = len(row["selected"][0])
    lists = range(min(MOST_LISTS, len(row["queries"])))
    names = [f"queries {i + 1}" for i in lists]
    for i in lists:
        for j in range(min(MOST_DRAWS, draws)):
            name = f"queries {i + 1}, draw {j + 1}"
            frames[name] = tuple(place for place in row["selected"][i][j] if place >= 0)
            reply, right = row["answers"][i * draws + j], bool(row["correct"][i][j] >= 0.5)
            answers.append((name, "–", right, shortened(reply)))
    shown = sorted({place for chosen in frames.values() for place in shown_frames(chosen)})
    times, thumbnails, why = np.arange(n, dtype=float), {}, ""
    if question and reader:
        try:
            places = uniform_indices(row["candidates"], reader.info(question.video).num_frames)[:n]
            times = reader.info(question.video).timestamps[places]
            thumbnails = _thumbnails(
                reader, question.video, dict(zip(shown, places[shown], strict=True))
            )
        except (UserError, OSError) as error:  # the rest of the question can be shown
            why = f"Without pictures: {error}"
    look = Look(
        id=row["id"],
        question=question.question if question else f"Question {row['id']}",
        options=question.options if question else (),
        gold=question.letter if question else "",
        video=question.video if question else "unknown",
        times=times,
        queries={name: _texts(row["queries"][i], signals) for i, name in enumerate(names)},
        similarity={
            name: _rows(similarity[i], len(signals), len(row["queries"][i]))
            for i, name in enumerate(names)
        },
        logits={name: logits[i] for i, name in enumerate(names)},
        frames=frames,
        thumbnails=thumbnails,
    )
    notes = [paragraph(note) for note in (f"update {row['step']}", why) if note]
    head = joined([*notes, answers_table(answers)])
    return look, head


def _rows(
    similarity: Float[np.ndarray, "S·Q T"], signals: int, queries: int
) -> Float[np.ndarray, "s·q T"]:
    return rows_of_queries(similarity, signals, queries).astype(float)


def _texts(queries: list[str], signals: list[str]) -> tuple[str, ...]:
    if len(signals) == 1:
        return tuple(queries)
    return tuple(f"{name}: {query}" for name in signals for query in queries)


def _train_data(
    workdir: epath.Path, config: dict[str, Any]
) -> tuple[tuple[dict[str, Question], RecordReader] | None, str]:
    """Opens the training data of a run, or says why it cannot be: a report can do without."""
    world, slips = workdir / "world", list[str]()  # of a config of another version: it can do
    data = read(DataConfig, config.get("data", {}), "config.data.", slips)
    data = dataclasses.replace(
        data,
        train_questions=data.train_questions or str(world / "questions-train.jsonl"),
        train_records=data.train_records or str(world / "train"),
    )
    try:
        questions = train_questions(data, TASKS[data.task].read)
        reader = train_records(data, "")
    except (UserError, OSError, KeyError) as error:
        return None, str(error)
    return ({question.id: question for question in questions}, reader), ""


def _thumbnails(reader: RecordReader, video: str, frames: dict[int, int]) -> dict[int, str]:
    """Returns the pictures of a video's frames, which are given by candidate."""
    if not frames:
        return {}
    info = reader.info(video)
    scale = min(1.0, WIDTH / info.width)
    size = max(1, round(info.height * scale)), max(1, round(info.width * scale))
    pictures = reader.frames(video, list(frames.values()), size)
    return {
        candidate: base64.b64encode(encode_jpeg(picture, QUALITY)).decode()
        for candidate, picture in zip(frames, pictures, strict=True)
    }
