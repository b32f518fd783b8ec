"""Draws the pictures of the README: pipeline.png, and of a finished run rollout.png and curves.

    msjoe pictures --out=docs                          # pipeline.png: the steps of an episode
    msjoe pictures --run=runs/tiny --out=docs          # rollout.png too

rollout.png shows how the run's trained model answers one of its held-out questions: the queries'
similarities, the logits, the key frames and the answer; a run that searched for the bare question
(config.rollout.queries) does so here. validation-NAME.png has the accuracies of each training that
was validated, evidence.png how often the training on evidence found it.
"""

import itertools
import json
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from msjoe_jax.commands.cli import run_app
from msjoe_jax.config import TRAININGS
from msjoe_jax.data.embed import check_embeddings
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import ARMS
from msjoe_jax.report.figures import keyframe_figure, validation_figure
from msjoe_jax.rollout.answerer import Answerer
from msjoe_jax.rollout.batches import full_weight
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.runtime.files import on_disk, read_json_lines
from msjoe_jax.runtime.machine import fetch
from msjoe_jax.signals import rows_of_queries
from msjoe_jax.tasks import TASKS
from msjoe_jax.training.validation import PLAIN, WITH_TRUTH, best_of, read_validations

BLUE, GREEN, ORANGE, GREY = "#dbe8f6", "#dff0dc", "#fbe6cf", "#eeeeee"
INK, MLLM_INK, SAMPLER_INK = "#333333", "#3a6ea5", "#3f8f3a"
TOP = 2.6  # lower edge of the row of boxes
# Left edge, width, title, text and colour of each box of that row.
BOXES = (
    (0.1, 2.0, "data", "question, T candidate\nframes (JPEG records),\nCLIP embeddings", GREY),
    (2.6, 2.0, "reason", "MLLM sees N preview\nframes, writes up to 4\nshort visual queries", BLUE),
    (5.1, 2.0, "score", "frozen CLIP: cosine of\nevery query with every\nframe, S [Q, T]", GREY),
    (7.6, 2.0, "select", "1-D U-Net: logits over\ntime; draw K frames\n(Gumbel-top-K)", GREEN),
    (10.1, 1.8, "answer", "MLLM sees the K\nkey frames at high\nresolution", BLUE),
)
JOINT_STEP = (
    "rewards → group-relative advantages → GRPO loss on query and answer tokens\n"
    "+ REINFORCE loss on the ordered frame draw → both gradients → both updates"
)


def pipeline_figure() -> Figure:
    """Draws the steps of an episode from left to right, the joint step below them."""
    figure = Figure(figsize=(12, 4.6))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xlim(0, 12)
    axes.set_ylim(0, 4.6)
    axes.axis("off")

    def box(x: float, y: float, w: float, h: float, title: str, text: str, colour: str) -> None:
        axes.add_patch(
            FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.05", fc=colour, ec="#555555")
        )
        axes.text(x + w / 2, y + h - 0.2, title, ha="center", va="top", weight="bold", fontsize=10)
        axes.text(x + w / 2, y + h / 2 - 0.2, text, ha="center", va="center", fontsize=8.5)

    def arrow(start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, **style))

    for x, width, title, text, colour in BOXES:
        box(x, TOP, width, 1.7, title, text, colour)
    for before, after in itertools.pairwise(BOXES):
        arrow((before[0] + before[1] + 0.05, TOP + 0.85), (after[0] - 0.05, TOP + 0.85), color=INK)
    box(2.6, 0.2, 7.0, 1.4, "joint step: one XLA program", JOINT_STEP, ORANGE)
    arrow((10.95, TOP - 0.05), (9.7, 0.9), color=INK, connectionstyle="arc3,rad=-0.25")
    axes.text(10.75, 1.55, "right or\nwrong", fontsize=8.5, ha="left")
    for x, name, ink in ((3.6, "MLLM", MLLM_INK), (8.6, "sampler", SAMPLER_INK)):
        arrow((x, 1.65), (x, TOP - 0.08), color=ink, linestyle="--")
        axes.text(x + 0.1, 2.05, f"{name} weights", fontsize=8.5, color=ink)
    return figure


def config_of(run: epath.Path) -> dict[str, Any]:
    """Reads the config of a run.

    Raises:
      UserError: there is no such run.
    """
    try:
        config: dict[str, Any] = json.loads((run / "config.json").read_text())
    except OSError as error:
        raise UserError(f"{run}: no run there ({error.strerror}: config.json)") from None
    return config


def heldout_data(run: epath.Path) -> tuple[list[Question], epath.Path]:
    """Reads the held-out questions of a finished run, and where its records are.

    Raises:
      UserError: there is no such run, or its data cannot be read.
    """
    data = config_of(run)["data"]
    world = run / "world"  # the tiny world's data, whose paths the config leaves empty
    questions = data["heldout_questions"] or world / "questions-heldout.jsonl"
    records = data["heldout_records"] or world / "heldout"
    return TASKS[data["task"]].read(questions), epath.Path(records)


def rollout_figure(
    answerer: Answerer, question: Question, reader: RecordReader, searches: str = "policy"
) -> Figure:
    """Draws how a model answers a question, with greedy decoding.

    Args:
      answerer: the model.
      question: the question.
      reader: has its video.
      searches: for what: as `config.rollout.queries`.

    Raises:
      UserError: the prompt is too long, or frames cannot be read.
    """
    config = EpisodeConfig(answerer.frames, signals=answerer.system.signals)
    episodes = Episodes(config, answerer.programs, answerer.text, reader, [question])
    batch, params = next(iter(episodes.batches(answerer.machine.padded(1)))), answerer.params
    weight = full_weight(batch)
    asked: Any = [[(q.question,)] for q in episodes.batch_questions(batch)]
    if searches == "policy":
        asked = episodes.reason(
            params["mllm"], batch, 0, rollouts=1, temperature=0.0, weight=weight
        ).queries
    selected = episodes.select(
        params, batch, asked, 0, selector=answerer.system.network, weight=weight
    )
    answered = episodes.answer(
        params["mllm"], batch, selected.selection, 0, temperature=0.0, weight=weight
    )
    for failure in episodes.failures:
        raise UserError(f"question {failure['question']}: {failure['error']}")
    logits, similarity = fetch((selected.logits, selected.similarity))
    queries, mask = list(asked[0][0]), batch["frame_mask"][0]
    signals = answerer.system.signals
    rows = rows_of_queries(similarity[0, 0], len(signals), len(queries))
    if len(signals) > 1:
        queries = [f"{name}: {query}" for name in signals for query in queries]
    key_frames = selected.selection.frames[0, 0, 0]
    key_frames = key_frames[key_frames >= 0]
    truth = "not known"
    if question.answer is not None:
        truth = f"{question.letter} {question.options[question.answer]}"
    return keyframe_figure(
        batch["timestamps"][0][mask],
        logits[0, 0][mask],
        rows[:, mask],
        queries,
        list(reader.frames(question.video, batch["frame_index"][0][key_frames])),
        np.asarray(key_frames),
        title=f"{question.question}   answer: {answered.texts[0][0]}   right: {truth}",
    )


def curves_of(rows: list[dict[str, Any]], name: str) -> Figure:
    """Draws the validations of the training `name`, rows of its `validation.jsonl`."""
    best = best_of(rows)
    curves = {
        ARMS[arm].label: [row[arm] for row in rows]
        for arm in (*PLAIN, *WITH_TRUTH)
        if all(arm in row for row in rows)
    }
    updates = [row["step"] for row in rows]
    return validation_figure(updates, curves, best["step"] if best else None, f"{name}: validation")


def evidence_curves(rows: list[dict[str, Any]]) -> Figure:
    """Draws what the training on evidence found, rows of its `metrics.jsonl`."""
    named = {
        "covered": "questions with evidence among the top K",
        "precision": "share of evidence in the top K",
    }
    curves = {label: [row[name] for row in rows] for name, label in named.items()}
    updates = [row["step"] for row in rows]
    figure = validation_figure(updates, curves, None, "evidence: training questions")
    figure.axes[0].set_ylabel("share")
    return figure


def make_pictures(run: str, number: int, out: str) -> None:
    """Writes the pictures.

    Args:
      run: folder of a finished run; empty: only the picture that needs none.
      number: index of the held-out question; negative: from the end.
      out: folder of the pictures, made if it does not exist.

    Raises:
      UserError: no such run or question, or `out` cannot be written.
    """
    folder = on_disk(out, "the pictures")
    folder.mkdir(parents=True, exist_ok=True)
    pipeline_figure().savefig(folder / "pipeline.png", dpi=110, bbox_inches="tight")
    print(folder / "pipeline.png")
    if not run:
        return
    questions, records = heldout_data(epath.Path(run))
    for name in TRAININGS:
        if rows := read_validations(epath.Path(run) / name):
            picture = folder / f"validation-{name}.png"
            curves_of(rows, name).savefig(picture, dpi=90)
            print(picture)
    metrics = epath.Path(run) / "evidence" / "metrics.jsonl"
    lines = list(read_json_lines(metrics)) if metrics.exists() else []
    if rows := [row for _, row in lines if "covered" in row]:
        evidence_curves(rows).savefig(folder / "evidence.png", dpi=90)
        print(folder / "evidence.png")
    if not -len(questions) <= number < len(questions):
        raise UserError(f"--question={number}: the run has {len(questions)} held-out questions")
    model = epath.Path(run) / "final"
    answerer = Answerer(model)
    reader = RecordReader(records, **answerer.embedders)
    check_embeddings(reader, model)
    with jax.set_mesh(answerer.machine.mesh):
        searches = config_of(epath.Path(run)).get("rollout", {}).get("queries", "policy")
        figure = rollout_figure(answerer, questions[number], reader, searches)
    figure.savefig(folder / "rollout.png", dpi=90, bbox_inches="tight")
    print(folder / "rollout.png")


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    run = flags.DEFINE_string("run", "", "Folder of a finished run; empty: no rollout.png.")
    question = flags.DEFINE_integer("question", -1, "Held-out question, from 0; -1: the last.")
    out = flags.DEFINE_string("out", "", "Folder of the pictures.")

    def start() -> None:
        if not out.value:
            raise UserError("--out=DIR is missing")
        make_pictures(run.value, question.value, out.value)

    run_app(start)
