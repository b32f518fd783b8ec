"""Draws docs/pipeline.png and, given a finished run of configs/tiny.py, docs/rollout.png.

python docs/make_pictures.py [RUN]
"""

import pathlib
import sys

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import load_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.report.figures import keyframe_figure
from msjoe_jax.rollout.episode import Episodes, fetch, preview_fn, time_ordered
from msjoe_jax.rollout.model_folder import load_bundle
from msjoe_jax.rollout.programs import Programs

HERE = pathlib.Path(__file__).parent
BLUE, GREEN, ORANGE, GREY = "#dbe8f6", "#dff0dc", "#fbe6cf", "#eeeeee"


def rollout(run: pathlib.Path) -> None:
    """A validation question about two events, as the trained model deals with it."""
    config, system, params = load_bundle(run / "final")
    reader = RecordReader(run / "world" / "validation")
    question = load_questions(run / "world" / "questions-validation.jsonl")[-3]
    episodes = Episodes(config, Programs(system, config.evaluate.smooth), reader, [question])
    batch = next(
        iter(
            make_pipeline(
                [question],
                reader,
                batch_size=1,
                num_candidates=config.frames.candidates,
                num_preview=config.frames.preview,
                preview_fn=preview_fn(config, system),
                shuffle=False,
                num_epochs=1,
            )
        )
    )
    weight = batch["valid"].astype("float32")
    queries = episodes.reason(params["mllm"], batch, 0, rollouts=1, temperature=0.0, weight=weight)
    selection = episodes.select(
        params, batch, queries.tokens, queries.mask, 0, selector="sampler", draws=1
    )
    chosen = time_ordered(selection.draw)
    answer = episodes.answer(params["mllm"], batch, chosen, 0, temperature=0.0, weight=weight)
    found = fetch(selection)
    texts = queries.replies[0][0].queries
    figure = keyframe_figure(
        batch["timestamps"][0],
        found.logits[0, 0],
        found.similarity[0, 0, : len(texts)],
        list(texts),
        list(reader.frames(question.video, chosen[0, 0])),
        chosen[0, 0],
        title=f"{question.question}  ({question.extra['setting']})   answer: "
        f"{answer.texts[0][0]}   right: {question.letter} {question.options[question.answer]}",
    )
    figure.savefig(HERE / "rollout.png", dpi=90, bbox_inches="tight")


def pipeline() -> None:
    """Four stages left to right, the joint step below them."""
    figure, axes = plt.subplots(figsize=(12, 4.6))
    axes.set_xlim(0, 12)
    axes.set_ylim(0, 4.6)
    axes.axis("off")

    def box(x: float, y: float, w: float, h: float, title: str, text: str, colour: str) -> None:
        axes.add_patch(
            FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.05", fc=colour, ec="#555555")
        )
        axes.text(x + w / 2, y + h - 0.2, title, ha="center", va="top", weight="bold", fontsize=10)
        axes.text(x + w / 2, y + h / 2 - 0.2, text, ha="center", va="center", fontsize=8.5)

    def arrow(start: tuple[float, float], end: tuple[float, float], **style: object) -> None:
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, **style))

    top = 2.6
    box(
        0.1,
        top,
        2.0,
        1.7,
        "data",
        "question, T candidate\nframes (JPEG records),\nCLIP embeddings",
        GREY,
    )
    box(
        2.6,
        top,
        2.0,
        1.7,
        "1  reason",
        "MLLM sees N preview\nframes, writes up to 4\nshort visual queries",
        BLUE,
    )
    box(
        5.1,
        top,
        2.0,
        1.7,
        "2  similarity",
        "frozen CLIP: cosine of\nevery query with every\nframe, S [Q, T]",
        GREY,
    )
    box(
        7.6,
        top,
        2.0,
        1.7,
        "3  sample",
        "1-D U-Net: logits over\ntime; draw K frames\n(Gumbel-top-K)",
        GREEN,
    )
    box(10.0, top, 1.9, 1.7, "4  answer", "MLLM sees the K key\nframes at high\nresolution", BLUE)
    for x in (2.15, 4.65, 7.15, 9.65):
        arrow((x, top + 0.85), (x + 0.4, top + 0.85), color="#333333")
    box(
        2.6,
        0.2,
        7.0,
        1.4,
        "joint step: one XLA program",
        "rewards → group-relative advantages → GRPO loss on query and answer tokens\n"
        "+ REINFORCE loss on the ordered frame draw → both gradients → both updates",
        ORANGE,
    )
    arrow((10.95, top - 0.05), (9.7, 0.9), color="#333333", connectionstyle="arc3,rad=-0.25")
    axes.text(10.75, 1.55, "right or\nwrong", fontsize=8.5, ha="left")
    arrow((3.6, 1.65), (3.6, top - 0.08), color="#3a6ea5", linestyle="--")
    arrow((8.6, 1.65), (8.6, top - 0.08), color="#3f8f3a", linestyle="--")
    axes.text(3.7, 2.05, "MLLM weights", fontsize=8.5, color="#3a6ea5")
    axes.text(8.7, 2.05, "sampler weights", fontsize=8.5, color="#3f8f3a")
    figure.savefig(HERE / "pipeline.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    pipeline()
    if len(sys.argv) > 1:
        rollout(pathlib.Path(sys.argv[1]))
