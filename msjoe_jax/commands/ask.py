"""Answers one question about one video file, and shows on one HTML page how it came about.

    msjoe ask --checkpoint=DIR --video=FILE --question="…" \\
        --options="…" --options="…" --out=report.html

The video becomes a record folder for as long as that takes; from there on this is evaluation's
code path with one question: same pipeline, same stages, greedy, the sampler's top K.
"""

import contextlib
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from msjoe_jax.commands.cli import run_app
from msjoe_jax.data.embed import embed_records
from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import Question, is_unicode
from msjoe_jax.data.records import RecordReader, RecordWriter, VideoInfo
from msjoe_jax.data.video import decode
from msjoe_jax.errors import UserError
from msjoe_jax.models.params import Params, count_params, fingerprint
from msjoe_jax.models.qwen2_5_vl.images import MAX_ASPECT, smart_resize
from msjoe_jax.report.answer_page import Report, Shown, Timing, render
from msjoe_jax.rollout.episode import Batch, Episodes, fetch, time_ordered
from msjoe_jax.rollout.frames import preview_fn
from msjoe_jax.rollout.generate import Completions
from msjoe_jax.rollout.model_folder import load_bundle
from msjoe_jax.rollout.programs import Programs, clip_encoder
from msjoe_jax.rollout.system import System
from msjoe_jax.runtime.compile_counter import CompileCounter
from msjoe_jax.text.prompts import LETTERS

VIDEO_ID = "video"
FPS = 1.0  # candidates a second (SPEC §2)
MAX_SIDE = 448  # of the kept frames, in pixels: predecode's default
EMBED_BATCH = 32  # frames CLIP sees at a time: fills a chip, and costs a short video little


class Stopwatch:
    """Times the steps, and says on stderr which one is running."""

    def __init__(self) -> None:
        self.timings: list[Timing] = []

    @contextlib.contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        print(f"{step} …", file=sys.stderr)
        counter, began = CompileCounter(), time.perf_counter()
        try:
            yield
        finally:
            counter.close()
        self.timings.append(Timing(step, time.perf_counter() - began, counter.seconds))


def ask(checkpoint: pathlib.Path, video: pathlib.Path, text: str, options: Sequence[str]) -> Report:
    """Runs the four stages on one video.

    Raises:
      UserError: no such checkpoint, a video without a frame, or a prompt that is too long.
    """
    watch = Stopwatch()
    with watch("load checkpoint"):
        config, system, params = load_bundle(checkpoint)
    # Nobody knows the right option here; what the episode makes of this one is not read.
    question = Question("asked", VIDEO_ID, text, tuple(options), answer=0)
    with tempfile.TemporaryDirectory() as folder:
        records = pathlib.Path(folder) / "records"
        with watch("decode"):
            damaged = _write_records(video, records)
        with watch("embed frames"):
            mark = fingerprint(params["clip"])
            embed_records(records, clip_encoder(system, params["clip"]), mark, EMBED_BATCH)
        reader = RecordReader(records)
        programs = Programs(system, config.evaluate.smooth)
        episodes = Episodes(config, programs, reader, [question])
        batch = _batch(config, system, question, reader)
        weight = np.ones(1, np.float32)
        with watch("1 query reasoning"):
            queries = episodes.reason(
                params["mllm"], batch, 0, rollouts=1, temperature=0.0, weight=weight
            )
        _check(episodes)
        with watch("2, 3 similarity and sampler"):
            selection = episodes.select(
                params, batch, queries.tokens, queries.mask, 0, selector="sampler", draws=1
            )
            chosen = time_ordered(selection.draw)
        with watch("4 answer"):
            answer = episodes.answer(
                params["mllm"], batch, chosen, 0, temperature=0.0, weight=weight
            )
        _check(episodes)
        found = fetch(jax.tree.map(lambda x: x[0, 0], selection))
        info = reader.info(VIDEO_ID)
        frame_index, mask = batch["frame_index"][0], batch["frame_mask"][0]
        query, reply = queries.replies[0][0], answer.replies[0][0]
        return Report(
            video=video.name,
            duration=info.duration,
            num_frames=info.num_frames,
            damaged=damaged,
            checkpoint=str(checkpoint),
            tiny=config.mllm.size == "tiny",
            question=question.question,
            options=question.options,
            previews=_shown(reader, batch["preview_index"][0][batch["preview_mask"][0]]),
            preview_size=_read_size(info, system, config.frames.preview_patches),
            query_reply=_verbatim(system, queries.completions),
            query_valid=query.valid,
            queries=query.queries,
            stood_in=query.num_parsed == 0,
            timestamps=info.timestamps[frame_index[mask]],
            logits=found.logits[mask],
            similarity=found.similarity[: len(query.queries), mask],
            selected=found.draw.indices[0][found.draw.valid[0]],
            key_frames=_shown(reader, frame_index[chosen[0, 0][chosen[0, 0] >= 0]]),
            key_size=_read_size(info, system, config.frames.key_patches),
            answer_reply=_verbatim(system, answer.completions),
            answer=reply.answer,
            answer_valid=reply.valid,
            timings=watch.timings,
            models=_models(config, params),
            device=f"{len(jax.devices())} × {jax.devices()[0].device_kind}",
        )


def _write_records(video: pathlib.Path, folder: pathlib.Path) -> int:
    """One video as a record folder; returns how many damaged packets were left out."""
    decoding = decode(video, FPS, MAX_SIDE)
    with RecordWriter(folder) as writer:
        frames = tqdm(decoding, desc="decoding", unit="frame")
        writer.add(VIDEO_ID, frames, fps=FPS)
    info = RecordReader(folder).info(VIDEO_ID)
    if max(info.height, info.width) > MAX_ASPECT * min(info.height, info.width):
        raise UserError(f"{video}: frames of {info.width} × {info.height} are too elongated")
    return decoding.warnings


def _batch(config: ConfigDict, system: System, question: Question, reader: RecordReader) -> Batch:
    batches = make_pipeline(
        [question],
        reader,
        batch_size=1,
        num_candidates=config.frames.candidates,
        num_preview=config.frames.preview,
        preview_fn=preview_fn(config, system.qwen.vision),
        shuffle=False,
        num_epochs=1,
    )
    return next(iter(batches))


def _check(episodes: Episodes) -> None:
    for failure in episodes.failures:
        raise UserError(f"{failure['error']}; shorten the question or its options")


def _shown(reader: RecordReader, indices: np.ndarray) -> list[Shown]:
    times = reader.info(VIDEO_ID).timestamps[indices]
    jpegs = reader.frame_bytes(VIDEO_ID, indices)
    return [Shown(float(t), jpeg) for t, jpeg in zip(times, jpegs, strict=True)]


def _read_size(info: VideoInfo, system: System, patches: int) -> str:
    """The pixels that the MLLM gets of a frame under a budget of patches."""
    vision = system.qwen.vision
    factor = vision.patch * vision.merge
    height, width = smart_resize(
        info.height,
        info.width,
        factor=factor,
        min_pixels=factor**2,
        max_pixels=patches * vision.patch**2,
    )
    return f"{width} × {height}"


def _verbatim(system: System, completions: Completions) -> str:
    """The one completion's text, with its end token if it came to one."""
    tokens, mask = fetch((completions.tokens[0, 0, 0], completions.mask[0, 0, 0]))
    assert system.tokenizer is not None
    return system.tokenizer.decode(tokens[mask].tolist())


def _models(config: ConfigDict, params: dict[str, Params]) -> list[tuple[str, str, int]]:
    sampler = f"width {config.sampler.width}, depth {config.sampler.depth}"
    named = {name: config[name].size or "as its config.json says" for name in ("mllm", "clip")}
    sizes = {**named, "sampler": sampler}
    return [(name, size, count_params(params[name])) for name, size in sizes.items()]


def _check_texts(question: str, options: Sequence[str]) -> None:
    if not 2 <= len(options) <= len(LETTERS):
        raise UserError(f"options: {len(options)} given; 2 to 26 are needed, a flag for each")
    if not all(option.strip() for option in options):
        raise UserError("an option of --options is empty")
    if not is_unicode([question, *options]):
        raise UserError("--question and --options must be UTF-8 text")


def run(checkpoint: str, video: str, question: str, options: Sequence[str], out: str) -> None:
    """Checks the flags, answers, and writes the report, which appears whole or not at all.

    Raises:
      UserError: as `ask`, or a flag that is missing or wrong, or `out` cannot be written.
    """
    given = {"checkpoint": checkpoint, "video": video, "question": question, "out": out}
    for name, value in given.items():
        if not value.strip():
            raise UserError(f"--{name} is missing or empty")
    _check_texts(question, options)
    if not pathlib.Path(video).is_file():
        raise UserError(f"{video}: no such video file")
    page = pathlib.Path(out)
    if page.is_dir():
        raise UserError(f"{out}: cannot be written (it is a folder); check --out")
    partial = page.with_name(page.name + ".partial")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); check --out") from None
    try:
        report = ask(pathlib.Path(checkpoint), pathlib.Path(video), question, options)
        # A file name may hold what UTF-8 cannot.
        partial.write_bytes(render(report).encode("utf-8", "replace"))
        partial.replace(page)
    finally:
        partial.unlink(missing_ok=True)
    answer = "no valid answer" if report.answer is None else f"answer {LETTERS[report.answer]}"
    print(f"{answer}; report in {out}")


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    checkpoint = flags.DEFINE_string("checkpoint", "", "Folder of a trained model (WORKDIR/final).")
    video = flags.DEFINE_string("video", "", "Video file.")
    question = flags.DEFINE_string("question", "", "The question.")
    options = flags.DEFINE_multi_string("options", [], "An option; give the flag once for each.")
    out = flags.DEFINE_string("out", "", "HTML file to write.")

    def start() -> None:
        run(checkpoint.value, video.value, question.value, options.value, out.value)

    run_app(start)
