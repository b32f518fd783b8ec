"""Answers one question about one video, and writes an HTML page on how the answer arose.

    msjoe ask --checkpoint=DIR --video=FILE --question="…" \\
        --options="…" --options="…" --out=report.html

The video is anything that `msjoe predecode` takes: a file, a folder of pictures (with --rate), a
member of an archive; or the part of it from --start to --end, in seconds. The same in Python:
`msjoe_jax.load(DIR).answer(FILE, question, options)`.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import flags
from etils import epath

from msjoe_jax.commands.cli import run_app
from msjoe_jax.commands.video_flags import define_part
from msjoe_jax.data.questions import Subtitle, is_unicode
from msjoe_jax.data.sources import VideoSource, as_source, is_folder, shown
from msjoe_jax.data.subtitles import read_subtitles
from msjoe_jax.errors import UserError
from msjoe_jax.models.params import count_params
from msjoe_jax.report.answer_page import Report, ReportFrame, Timing, render
from msjoe_jax.rollout.answerer import Answer, Answerer
from msjoe_jax.runtime.compile_counter import CompileCounter
from msjoe_jax.runtime.files import on_disk, write_whole
from msjoe_jax.text.prompts import LETTERS


class Stopwatch:
    """A stopwatch for named steps, which also prints on stderr the step that is running."""

    def __init__(self) -> None:
        self.timings: list[Timing] = []

    @contextlib.contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Times the body of a `with` statement as one step."""
        print(f"{step} …", file=sys.stderr)
        counter, began = CompileCounter(), time.perf_counter()
        try:
            yield
        finally:
            counter.close()
        self.timings.append(Timing(step, time.perf_counter() - began, counter.seconds))


def ask(
    checkpoint: epath.PathLike,
    video: epath.PathLike | VideoSource,
    question: str,
    options: Sequence[str],
    subtitles: Sequence[Subtitle] = (),
) -> Report:
    """Answers a question about a video and collects the content of the page.

    Args:
      checkpoint: a model folder.
      video: a file.
      question, options: the texts.
      subtitles: of the video; none: the prompt has none.

    Raises:
      UserError: no such checkpoint, a video without a frame, or a prompt that is too long.
    """
    watch, source = Stopwatch(), as_source(video)
    with watch("load checkpoint"):
        answerer = Answerer(checkpoint)
    answer = answerer.answer(source, question, options, subtitles=subtitles, watch=watch)
    name = shown(os.path.basename(source.path.rstrip("/")))
    return make_report(answerer, answer, name, question, options, watch.timings)


def make_report(
    answerer: Answerer,
    answer: Answer,
    video: str,
    question: str,
    options: Sequence[str],
    timings: list[Timing],
) -> Report:
    """Makes the content of the page.

    Args:
      answerer: the model.
      answer: its answer to the question.
      video: the file's name.
      question: the question's text.
      options: the texts of the options.
      timings: seconds of every step.
    """
    reply, frames = answer.answer_reply, answerer.frames
    return Report(
        video=video,
        duration=answer.info.duration,
        num_frames=answer.info.num_frames,
        damaged=answer.damaged,
        checkpoint=str(answerer.folder),
        tiny=answerer.settings["mllm"].get("size") == "tiny",
        question=question,
        options=tuple(options),
        previews=[ReportFrame(*frame) for frame in answer.previews],
        preview_size=_read_size(answerer, answer, frames.preview_patches),
        query_reply=answer.query_text,
        query_valid=answer.query_reply.valid,
        queries=answer.queries,
        stood_in=answer.query_reply.num_parsed == 0,
        timestamps=answer.timestamps,
        logits=answer.logits,
        similarity=answer.similarity,
        selected=answer.selected,
        key_frames=[ReportFrame(*frame) for frame in answer.key_frames],
        key_size=_read_size(answerer, answer, frames.key_patches),
        answer_reply=answer.answer_text,
        answer=reply.answer,
        answer_valid=reply.valid,
        timings=timings,
        models=_models(answerer),
        device=f"{len(jax.devices())} × {jax.devices()[0].device_kind}",
        cut_note=answer.cut_note,
        signals=answerer.system.signals,
    )


def _read_size(answerer: Answerer, answer: Answer, patches: int) -> str:
    """Returns "width × height" of a frame as the MLLM gets it within a budget of patches."""
    vision = answerer.system.mllm_config.vision
    factor = vision.patch * vision.merge
    height, width = answerer.system.family.images.fit(
        answer.info.height,
        answer.info.width,
        factor=factor,
        min_pixels=factor**2,
        max_pixels=patches * vision.patch**2,
    )
    return f"{width} × {height}"


def _models(answerer: Answerer) -> list[tuple[str, str, int]]:
    settings: dict[str, Any] = answerer.settings
    sampler = f"width {settings['sampler']['width']}, depth {settings['sampler']['depth']}"
    sizes = {n: settings[n].get("size") or "as its config.json says" for n in answerer.params}
    return [
        (name, size, count_params(answerer.params[name]))
        for name, size in {**sizes, "sampler": sampler}.items()
    ]


def run(
    checkpoint: str,
    video: str | VideoSource,
    question: str,
    options: Sequence[str],
    out: str,
    subtitles: str = "",
) -> None:
    """Checks the flags, answers, and writes the page, which appears whole or not at all.

    Args:
      checkpoint: path of a model folder.
      video: path of the video, or the video as a source.
      question: the question's text.
      options: the texts of the options.
      out: path of the page.
      subtitles: path of the video's subtitles; "": none.

    Raises:
      UserError: as `ask`, or a flag that is missing or wrong, or `out` cannot be written.
    """
    source = as_source(video)
    required = {"checkpoint": checkpoint, "video": source.path, "question": question, "out": out}
    for name, value in required.items():
        if not value.strip():
            raise UserError(f"--{name} is missing or empty")
    if not 2 <= len(options) <= len(LETTERS):
        raise UserError(f"options: {len(options)} given; 2 to 26 are needed, a flag for each")
    if not all(option.strip() for option in options):
        raise UserError("an option of --options is empty")
    if not is_unicode([question, *options]):
        raise UserError("--question and --options must be UTF-8 text")
    on_disk(out, "the report")
    is_folder(source)  # before the work: it is a video at all
    track = read_subtitles(subtitles) if subtitles else None
    if track is not None and track.broken:
        print(
            f"{len(track.broken)} of {track.cues} subtitles are broken, the first: "
            f"{track.broken[0]}",
            file=sys.stderr,
        )
    page = epath.Path(out)
    if page.is_dir():
        raise UserError(f"{out}: cannot be written (it is a folder); check --out")
    try:  # before the work, which would be lost if the page could not be written
        page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(page.parent / f".{page.name}.trial", b"")
        (page.parent / f".{page.name}.trial").unlink()
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); check --out") from None
    report = ask(checkpoint, source, question, options, track.subtitles if track else ())
    # A file name may hold what UTF-8 cannot.
    write_whole(page, render(report).encode("utf-8", "replace"))
    if report.num_frames > (searched := len(report.timestamps)):
        print(
            f"{shown(source.path)}: {searched:,} evenly spaced of its {report.num_frames:,} frames "
            "were searched, as many as in training (config.frames.candidates)",
            file=sys.stderr,
        )
    if report.cut_note:
        print(report.cut_note, file=sys.stderr)
    letter = "no valid answer" if report.answer is None else f"answer {LETTERS[report.answer]}"
    print(f"{letter}; report in {out}")


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    checkpoint = flags.DEFINE_string("checkpoint", "", "Folder of a trained model (WORKDIR/final).")
    video = flags.DEFINE_string("video", "", "Video file, folder of pictures or ARCHIVE!MEMBER.")
    question = flags.DEFINE_string("question", "", "The question.")
    options = flags.DEFINE_multi_string("options", [], "An option; one flag for each.")
    out = flags.DEFINE_string("out", "", "HTML file to write.")
    subtitles = flags.DEFINE_string(
        "subtitles", "", "Subtitles of the video (SRT, WebVTT, JSON) for the prompt of answer."
    )
    part = define_part()
    run_app(
        lambda: run(
            checkpoint.value,
            part(video.value),
            question.value,
            options.value,
            out.value,
            subtitles.value,
        )
    )
