"""Renders one answered question as a self-contained HTML page, as `ask` writes it."""

import base64
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from msjoe_jax.report.figures import clock, figure_to_image, timeline_figure
from msjoe_jax.report.page import Html, count, document, markup, section, table
from msjoe_jax.text.prompts import LETTERS

FIGURE_DPI = 160  # about twice the resolution of the page, so that fine screens show it sharp


@dataclasses.dataclass(frozen=True)
class ReportFrame:
    """A frame of the video as the page shows it: seconds from the start, and a JPEG."""

    time: float
    jpeg: bytes


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds that a step took, and how many of them went into compiling its program."""

    step: str
    seconds: float
    compiling: float


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that the page shows. Replies are verbatim, special tokens included.

    timestamps [T] in seconds, logits [T] and similarity [Q, T] of the valid candidates only, the
    rows of each of `signals` in turn;
    `selected` [K]: candidates in the order of their logits, highest first; `key_frames` the same
    by time. `stood_in`: no query was readable, so the question itself searched;
    `cut_note`: tells of queries that were cut, if any were.
    """

    video: str
    duration: float
    num_frames: int
    damaged: int  # packets and frames of the file that could not be decoded
    checkpoint: str
    tiny: bool
    question: str
    options: tuple[str, ...]
    previews: Sequence[ReportFrame]
    preview_size: str  # "width × height" in pixels, as the MLLM gets them
    query_reply: str
    query_valid: bool
    queries: tuple[str, ...]
    stood_in: bool
    timestamps: Float[np.ndarray, "T"]
    logits: Float[np.ndarray, "T"]
    similarity: Float[np.ndarray, "S·Q T"]
    selected: Int[np.ndarray, "K"]
    key_frames: Sequence[ReportFrame]
    key_size: str
    answer_reply: str
    answer: int | None
    answer_valid: bool
    timings: Sequence[Timing]
    models: Sequence[tuple[str, str, int]]  # name, size, parameters
    device: str
    cut_note: str = ""
    signals: tuple[str, ...] = ("clip",)


def render(r: Report) -> str:
    """Renders the page as HTML."""
    body = [
        Html(
            f"<header><div class=facts>msjoe_jax report</div><h1>{markup(r.question)}</h1></header>"
        ),
        Html(f"<p class=facts>{_facts(r)}</p>"),
        _tiny_note() if r.tiny else "",
        Html(f"<div class=pair>{_options(r)}{_answer(r)}</div>"),
        section(
            "Reason · Preview",
            f"{count(len(r.previews), 'frame')}, evenly spread, which the model reads at "
            f"{r.preview_size}",
            Html(f"<div class=sheet>{''.join(_frame(f) for f in r.previews)}</div>"),
        ),
        Html(f"<div class=pair>{_reply(r)}{_queries(r)}</div>"),
        _timeline(r),
        _key_frames(r),
        Html(f"<div class=pair>{_timings(r)}{_models(r)}</div>"),
    ]
    return document(r.question, body)


def _facts(r: Report) -> str:
    parts = [f"<b>{markup(r.video)}</b>", clock(r.duration), count(r.num_frames, "frame")]
    thinned = "" if r.num_frames == len(r.timestamps) else ", evenly thinned out"
    parts.append(f"{count(len(r.timestamps), 'candidate')}{thinned}")
    if r.damaged:
        parts.append(f"{count(r.damaged, 'damaged packet')} left out")
    parts.append(f"checkpoint {markup(r.checkpoint)}")
    return " · ".join(parts)


def _tiny_note() -> str:
    text = Html(
        "<b>This checkpoint is the tiny one.</b> It knows a few dozen words and the drawings of "
        "its own world, so the answer to a question about a real video means nothing. What the "
        "page shows is the mechanism: every step ran as it would with the full models."
    )
    return section("", "", text, "note")


def _options(r: Report) -> str:
    rows = []
    for i, option in enumerate(r.options):
        is_answer = i == r.answer
        tag = "<span class=tag>answered</span>" if is_answer else ""
        kind = "chosen" if is_answer else ""
        rows.append(
            f'<li class="{kind}"><b>{LETTERS[i]}</b><span>{markup(option)}</span>{tag}</li>'
        )
    return section("Options", "", Html(f"<ol>{''.join(rows)}</ol>"))


def _verdict(valid: bool, valid_text: str, invalid_text: str) -> str:
    kind, text = ("good", valid_text) if valid else ("bad", invalid_text)
    return f"<p class=verdict><span class={kind}>{text}</span></p>"


def _answer(r: Report) -> str:
    if r.answer is None:
        verdict = _verdict(False, "", "No valid answer: one letter in one answer tag is expected.")
    else:
        reading = f"Read as {LETTERS[r.answer]}"
        verdict = _verdict(
            r.answer_valid, f"{reading}.", f"{reading}, but not in the form asked for."
        )
    return section("Answer", "reply of answer, verbatim", Html(_pre(r.answer_reply) + verdict))


def _pre(text: str) -> str:
    # HTML drops a line break right after <pre>: this one is written to be dropped.
    blank = "" if text.strip() else "<p class=verdict>It holds nothing but white space.</p>"
    return f"<pre>\n{markup(text)}</pre>{blank}"


def _frame(frame: ReportFrame, note: str = "") -> str:
    data = base64.b64encode(frame.jpeg).decode()
    time = clock(frame.time)
    return (
        f'<figure><img alt="frame at {time}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption><span>{time}</span><span>{note}</span></figcaption></figure>"
    )


def _reply(r: Report) -> str:
    verdict = _verdict(r.query_valid, "In the form asked for.", "Not in the form asked for.")
    return section("Reason · Reply", "verbatim", Html(_pre(r.query_reply) + verdict))


def _queries(r: Report) -> str:
    rows = [f"<li><b>{n}</b><span>{markup(q)}</span></li>" for n, q in enumerate(r.queries, 1)]
    stand_in = "No query could be read, so the question itself stands in."
    verdict = f"<p class=verdict><span class=bad>{stand_in}</span></p>" if r.stood_in else ""
    if r.cut_note:
        verdict += f"<p class=verdict><span class=bad>{markup(r.cut_note)}.</span></p>"
    return section(
        "Reason · Queries", "as read from the reply", Html(f"<ol>{''.join(rows)}</ol>{verdict}")
    )


def _timeline(r: Report) -> str:
    labels, kind = [f"query {n}" for n in range(1, len(r.queries) + 1)], "CLIP cosine"
    if r.signals != ("clip",):
        labels = [f"{name} {n}" for name in r.signals for n in range(1, len(r.queries) + 1)]
        kind = f"the rows of {', '.join(r.signals)}"
    figure = timeline_figure(r.timestamps, r.logits, r.similarity, labels, r.selected)
    buffer = io.BytesIO()
    Image.fromarray(figure_to_image(figure, FIGURE_DPI)).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return section(
        "Score and select · Search",
        "above, the sampler's logits with the key frames in red; below, each query's similarity "
        f"to every frame ({kind})",
        Html(
            f'<img class=timeline alt="logits and similarities over time" '
            f'src="data:image/png;base64,{data}">'
        ),
    )


def _key_frames(r: Report) -> str:
    ranks = np.argsort(np.argsort(r.timestamps[r.selected], kind="stable"), kind="stable")
    by_time = {int(place): rank for rank, place in enumerate(ranks, 1)}
    frames = "".join(_frame(f, f"#{by_time[i]}") for i, f in enumerate(r.key_frames))
    return section(
        "Answer · Key frames",
        f"{count(len(r.key_frames), 'frame')}, which the model reads at {r.key_size} to answer; "
        "# is the rank by logit",
        Html(f"<div class=sheet>{frames}</div>"),
    )


def _timings(r: Report) -> str:
    rows = [(t.step, f"{t.seconds:.2f}", f"{t.compiling:.2f}") for t in r.timings]
    total = [sum(t.seconds for t in r.timings), sum(t.compiling for t in r.timings)]
    rows.append(("all", f"{total[0]:.2f}", f"{total[1]:.2f}"))
    return section("Time", f"on {r.device}", table(("step", "seconds", "of it compiling"), rows))


def _models(r: Report) -> str:
    rows = [(name, size, f"{number:,}") for name, size, number in r.models]
    return section("Models", "", table(("model", "size", "parameters"), rows))
