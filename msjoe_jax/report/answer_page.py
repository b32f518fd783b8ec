"""Renders one answered question as a self-contained HTML page, as `ask` writes it.

Whatever comes from the user or from a model is escaped; the page runs no script and its content
policy lets it load nothing but the pictures inside it.
"""

import base64
import dataclasses
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from msjoe_jax.report.figures import clock, figure_to_image, timeline_figure
from msjoe_jax.text.prompts import LETTERS

FIGURE_DPI = 160  # about twice the resolution of the page, so that fine screens show it sharp

STYLE = """
:root { --ink: #1c2330; --soft: #5b6577; --line: #dfe3ea; --mark: #c62828; --good: #1b7f4b; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f8; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 24px 20px 40px; }
h1 { font-size: 22px; line-height: 1.3; margin: 4px 0 0; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 0 0 10px; }
h2 small { font-weight: 400; color: var(--soft); font-size: 13px; margin-left: 8px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 16px; margin-top: 14px; }
.facts { color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
.note { background: #fff6e0; border-color: #ecd9a0; }
.pair { display: flex; flex-wrap: wrap; gap: 14px; }
.pair > section { flex: 1 1 380px; min-width: 0; }
ol { margin: 0; padding: 0; list-style: none; }
li { display: flex; gap: 10px; padding: 4px 8px; border-radius: 6px; overflow-wrap: anywhere; }
li b { color: var(--soft); flex: none; }
li.chosen { background: #e6f4ec; }
li.chosen b { color: var(--good); }
.tag { margin-left: auto; flex: none; font-size: 12px; color: var(--good); }
pre { margin: 0; padding: 8px 10px; background: #f6f7f9; border: 1px solid var(--line);
  border-radius: 6px; font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 320px; overflow: auto; }
.good { color: var(--good); } .bad { color: var(--mark); }
.verdict { margin: 8px 0 0; font-size: 13px; }
.sheet { display: grid; gap: 8px; grid-template-columns: repeat(auto-fill, minmax(118px, 1fr)); }
figure { margin: 0; }
figure img { width: 100%; max-height: 180px; object-fit: contain; background: #11151c;
  border-radius: 5px; display: block; }
figcaption { font-size: 12px; color: var(--soft); display: flex; justify-content: space-between; }
.timeline { width: 100%; display: block; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
td, th { text-align: right; padding: 3px 0 3px 12px; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
th { color: var(--soft); font-weight: 500; }
tr:last-child td { border-bottom: 0; }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


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
        f"<header><div class=facts>msjoe_jax report</div><h1>{_text(r.question)}</h1></header>",
        f"<p class=facts>{_facts(r)}</p>",
        _tiny_note() if r.tiny else "",
        f"<div class=pair>{_options(r)}{_answer(r)}</div>",
        _section(
            "Reason · Preview",
            f"{_count(len(r.previews), 'frame')}, evenly spread, which the model reads at "
            f"{r.preview_size}",
            f"<div class=sheet>{''.join(_frame(f) for f in r.previews)}</div>",
        ),
        f"<div class=pair>{_reply(r)}{_queries(r)}</div>",
        _timeline(r),
        _key_frames(r),
        f"<div class=pair>{_timings(r)}{_models(r)}</div>",
    ]
    lines = "\n".join(part for part in body if part)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{_text(r.question)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{lines}\n</main></body></html>\n"
    )


def _text(text: str) -> str:
    return escape(text, quote=True)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _section(title: str, small: str, inner: str, kind: str = "") -> str:
    head = f"<h2>{title}{f'<small>{small}</small>' if small else ''}</h2>" if title else ""
    return f'<section class="{kind}">{head}{inner}</section>'


def _facts(r: Report) -> str:
    parts = [f"<b>{_text(r.video)}</b>", clock(r.duration), _count(r.num_frames, "frame")]
    thinned = "" if r.num_frames == len(r.timestamps) else ", evenly thinned out"
    parts.append(f"{_count(len(r.timestamps), 'candidate')}{thinned}")
    if r.damaged:
        parts.append(f"{_count(r.damaged, 'damaged packet')} left out")
    parts.append(f"checkpoint {_text(r.checkpoint)}")
    return " · ".join(parts)


def _tiny_note() -> str:
    text = (
        "<b>This checkpoint is the tiny one.</b> It knows a few dozen words and the drawings of "
        "its own world, so the answer to a question about a real video means nothing. What the "
        "page shows is the mechanism: every step ran as it would with the full models."
    )
    return _section("", "", text, "note")


def _options(r: Report) -> str:
    rows = []
    for i, option in enumerate(r.options):
        is_answer = i == r.answer
        tag = "<span class=tag>answered</span>" if is_answer else ""
        kind = "chosen" if is_answer else ""
        rows.append(f'<li class="{kind}"><b>{LETTERS[i]}</b><span>{_text(option)}</span>{tag}</li>')
    return _section("Options", "", f"<ol>{''.join(rows)}</ol>")


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
    return _section("Answer", "reply of answer, verbatim", _pre(r.answer_reply) + verdict)


def _pre(text: str) -> str:
    # HTML drops a line break right after <pre>: this one is written to be dropped.
    blank = "" if text.strip() else "<p class=verdict>It holds nothing but white space.</p>"
    return f"<pre>\n{_text(text)}</pre>{blank}"


def _frame(frame: ReportFrame, note: str = "") -> str:
    data = base64.b64encode(frame.jpeg).decode()
    time = clock(frame.time)
    return (
        f'<figure><img alt="frame at {time}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption><span>{time}</span><span>{note}</span></figcaption></figure>"
    )


def _reply(r: Report) -> str:
    verdict = _verdict(r.query_valid, "In the form asked for.", "Not in the form asked for.")
    return _section("Reason · Reply", "verbatim", _pre(r.query_reply) + verdict)


def _queries(r: Report) -> str:
    rows = [f"<li><b>{n}</b><span>{_text(q)}</span></li>" for n, q in enumerate(r.queries, 1)]
    stand_in = "No query could be read, so the question itself stands in."
    verdict = f"<p class=verdict><span class=bad>{stand_in}</span></p>" if r.stood_in else ""
    if r.cut_note:
        verdict += f"<p class=verdict><span class=bad>{_text(r.cut_note)}.</span></p>"
    return _section(
        "Reason · Queries", "as read from the reply", f"<ol>{''.join(rows)}</ol>{verdict}"
    )


def _timeline(r: Report) -> str:
    labels, kind = [f"query {n}" for n in range(1, len(r.queries) + 1)], "CLIP cosine"
    if r.signals != ("clip",):
        labels = [f"{name} {n}" for name in r.signals for n in range(1, len(r.queries) + 1)]
        kind = _text(f"the rows of {', '.join(r.signals)}")
    figure = timeline_figure(r.timestamps, r.logits, r.similarity, labels, r.selected)
    buffer = io.BytesIO()
    Image.fromarray(figure_to_image(figure, FIGURE_DPI)).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return _section(
        "Score and select · Search",
        "above, the sampler's logits with the key frames in red; below, each query's similarity "
        f"to every frame ({kind})",
        f'<img class=timeline alt="logits and similarities over time" '
        f'src="data:image/png;base64,{data}">',
    )


def _key_frames(r: Report) -> str:
    ranks = np.argsort(np.argsort(r.timestamps[r.selected], kind="stable"), kind="stable")
    by_time = {int(place): rank for rank, place in enumerate(ranks, 1)}
    frames = "".join(_frame(f, f"#{by_time[i]}") for i, f in enumerate(r.key_frames))
    return _section(
        "Answer · Key frames",
        f"{_count(len(r.key_frames), 'frame')}, which the model reads at {r.key_size} to answer; "
        "# is the rank by logit",
        f"<div class=sheet>{frames}</div>",
    )


def _timings(r: Report) -> str:
    rows = [(t.step, f"{t.seconds:.2f}", f"{t.compiling:.2f}") for t in r.timings]
    total = [sum(t.seconds for t in r.timings), sum(t.compiling for t in r.timings)]
    rows.append(("all", f"{total[0]:.2f}", f"{total[1]:.2f}"))
    table = _table(("step", "seconds", "of it compiling"), rows)
    return _section("Time", f"on {_text(r.device)}", table)


def _models(r: Report) -> str:
    rows = [(name, _text(size), f"{count:,}") for name, size, count in r.models]
    return _section("Models", "", _table(("model", "size", "parameters"), rows))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{name}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{lines}</table>"
