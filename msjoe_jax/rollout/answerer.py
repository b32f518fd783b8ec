"""Answers one question about one video file with a trained model."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, Int, UInt8

from msjoe_jax.data.decoded_source import decode_source
from msjoe_jax.data.embed import embed_records
from msjoe_jax.data.questions import Question, Subtitle
from msjoe_jax.data.records import RecordReader, RecordWriter, VideoInfo
from msjoe_jax.data.sources import VideoSource, as_source
from msjoe_jax.errors import UserError
from msjoe_jax.fields import read
from msjoe_jax.models.params import fingerprint
from msjoe_jax.rollout.episode import Episodes, full_weight
from msjoe_jax.rollout.frames import FrameConfig
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.rollout.programs import Programs, clip_encoder
from msjoe_jax.rollout.results import Completed, EpisodeConfig
from msjoe_jax.rollout.siglip import embedder_names, siglip_encoder
from msjoe_jax.rollout.stored_models import clip_name
from msjoe_jax.rollout.text import Text
from msjoe_jax.runtime.machine import Machine, fetch
from msjoe_jax.runtime.progress import progress
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.signals import rows_of_queries
from msjoe_jax.text.prompts import LETTERS, AnswerReply, QueryReply, parse_answer

VIDEO_ID = "video"
FPS = 1.0  # candidate frames per second (docs/method.md#2-an-episode)
MAX_SIDE = 448  # of the stored frames, in pixels: predecode's default
EMBED_BATCH = 32  # frames CLIP sees at a time: fills a chip, and costs a short video little

# Called with the name of a step, gives a context manager that is entered around it.
Watch = Callable[[str], contextlib.AbstractContextManager[Any]]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A model's answer to a question about a video.

    letter, option: of the answer, None if the reply had no valid one; queries: the texts that were
    searched for; frames: the key frames in time order, RGB; times: their timestamps in seconds.

    The other fields show how the answer arose: info and damaged (packets left out) of the video;
    the replies, parsed, verbatim, and the answer's without its end token; the candidates'
    timestamps, the rows of S (of each signal in turn), the logits, and the selected candidates,
    best first; the previews and key frames as JPEGs by time; a line if queries were cut at CLIP's
    context, else "".
    """

    letter: str | None
    option: str | None
    queries: tuple[str, ...]
    frames: UInt8[np.ndarray, "K H W 3"]
    times: Float[np.ndarray, "K"]
    info: VideoInfo
    damaged: int
    query_reply: QueryReply
    query_text: str
    answer_reply: AnswerReply
    answer_text: str
    answer_words: str
    timestamps: Float[np.ndarray, "T"]
    similarity: Float[np.ndarray, "S·Q T"]
    logits: Float[np.ndarray, "T"]
    selected: Int[np.ndarray, "K"]
    previews: list[tuple[float, bytes]]
    key_frames: list[tuple[float, bytes]]
    cut_note: str = ""


class Opened(NamedTuple):
    """A video that was decoded and embedded; damaged: packets that were left out."""

    reader: RecordReader
    damaged: int


class Answerer:
    """A trained model that answers questions about video files.

    The video becomes a temporary record folder; from there on this is evaluation's code path with
    one question: same pipeline, same steps, greedy, the top K of the sampler.

    Args:
      folder: a model folder.
      machine: where it runs; None: this process's devices (see `machine.local_machine`).
      key_frames: most frames that it answers from; None: as many as in its training.
      selector: name of SELECTORS; None: its own trained one.

    Raises:
      UserError: it does not exist, or lacks one of its models or a tokenizer; no such selector.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        machine: Machine | None = None,
        *,
        key_frames: int | None = None,
        selector: str | None = None,
    ):
        if selector is not None and selector not in SELECTORS:
            raise UserError(f"selector {selector!r} is not one of {', '.join(SELECTORS)}")
        model = load_model_folder(folder, machine=machine)
        if model.text is None:
            raise UserError(f"{folder}: holds no tokenizer; it can neither read nor write text")
        slips: list[str] = []
        frames = read(FrameConfig, model.settings["frames"], "frames.", slips)
        if slips:
            raise UserError(*(f"{folder}: {slip}" for slip in slips))
        self.folder = epath.Path(folder)
        self.system, self.params = model.system, model.params
        self.settings, self.text = model.settings, model.text
        self.frames = dataclasses.replace(frames, key=key_frames) if key_frames else frames
        self.selector = selector or model.system.network
        self.programs, self.machine = Programs(model.system, model.machine), model.machine
        self.encoders = {"clip": clip_encoder(model.system, model.params["clip"])}
        siglip = model.system.siglip if "siglip" in model.params else None
        if siglip:
            self.encoders["siglip"] = siglip_encoder(siglip, model.params["siglip"])
        weights = {name: fingerprint(model.params[name]) for name in self.encoders}
        self.embedders = embedder_names(
            siglip, {**weights, "clip": clip_name(self.system, weights["clip"])}
        )

    def answer(
        self,
        video: epath.PathLike | VideoSource,
        question: str,
        options: Sequence[str],
        *,
        subtitles: Sequence[Subtitle] = (),
        watch: Watch = contextlib.nullcontext,
    ) -> Answer:
        """Answers a multiple-choice question.

        Args:
          video: a file that FFmpeg reads, or any other source (see data/sources.py).
          question: the question's text.
          options: the texts of 2 to 26 options.
          subtitles: of the video; answer reads those of its key frames.
          watch: called with each step's name and entered around it, such as a stopwatch.

        Raises:
          UserError: a video without a frame, too few options, or a prompt that is too long.
        """
        if not 2 <= len(options) <= len(LETTERS):
            raise UserError(f"options: {len(options)} given; 2 to {len(LETTERS)} are needed")
        with self.opened(video, watch=watch) as opened:
            return self.answer_opened(opened, question, options, subtitles=subtitles, watch=watch)

    @contextlib.contextmanager
    def opened(
        self, video: epath.PathLike | VideoSource, *, watch: Watch = contextlib.nullcontext
    ) -> Iterator["Opened"]:
        """Decodes and embeds a video, for any number of questions inside the `with` statement.

        Raises:
          UserError: a video without a frame.
        """
        with tempfile.TemporaryDirectory() as folder:
            records = epath.Path(folder) / "records"
            with watch("decode"):
                damaged = write_records(video, records)
            with watch("embed frames"):
                for name, encode in self.encoders.items():
                    embed_records(records, encode, self.embedders[name], EMBED_BATCH, name)
            yield Opened(RecordReader(records, **self.embedders), damaged)

    def answer_opened(
        self,
        opened: "Opened",
        question: str,
        options: Sequence[str],
        *,
        subtitles: Sequence[Subtitle] = (),
        watch: Watch = contextlib.nullcontext,
    ) -> Answer:
        """Answers a question about a video of `opened`.

        Args:
          opened: the video.
          question: the question's text.
          options: the texts of the options; none: the reply is free text, and holds no letter.
          subtitles: as of `answer`.
          watch: as of `answer`.

        Raises:
          UserError: a prompt that is too long.
        """
        # The right option is unknown, and the reply is not graded.
        request = Question(
            "asked", VIDEO_ID, question, tuple(options), answer=0, subtitles=tuple(subtitles)
        )
        with jax.set_mesh(self.machine.mesh):
            return self._answer(request, opened.reader, opened.damaged, watch)

    def _answer(
        self, question: Question, reader: RecordReader, damaged: int, watch: Watch
    ) -> Answer:
        config = EpisodeConfig(self.frames, signals=self.system.signals)
        prompt = dataclasses.replace(self.text.prompt, subtitles=bool(question.subtitles))
        if not question.options:  # no letter can be asked for
            prompt = dataclasses.replace(prompt, answer_instruction="")
        text = dataclasses.replace(self.text, prompt=prompt)
        episodes = Episodes(config, self.programs, text, reader, [question])
        # A row a part of the machine, of which the first is asked.
        batch, params = next(iter(episodes.batches(self.machine.padded(1)))), self.params
        weight = full_weight(batch)
        with watch("reason"):
            reasoned = episodes.reason(
                params["mllm"], batch, 0, rollouts=1, temperature=0.0, weight=weight
            )
        _check(episodes)
        with watch("score and select"):
            selected = episodes.select(
                params,
                batch,
                reasoned.queries,
                0,
                selector=self.selector,
                weight=weight,
            )
            similarity, logits = fetch((selected.similarity, selected.logits))
        with watch("answer"):
            completed = episodes.answer(
                params["mllm"], batch, selected.selection, 0, temperature=0.0, weight=weight
            )
        _check(episodes)
        reply = parse_answer(
            completed.texts[0][0],
            num_options=len(question.options),
            think=self.text.prompt.think,
            finished=bool(completed.finished[0, 0]),
        )
        query_reply = reasoned.replies[0][0]
        mask, index = batch["frame_mask"][0], batch["frame_index"][0]
        key_indices = selected.selection.frames[0, 0, 0]
        key_indices = key_indices[key_indices >= 0]
        indices, valid = (x[0, 0, 0] for x in fetch(selected.draw))
        info = reader.info(VIDEO_ID)
        previews = batch["preview_index"][0][batch["preview_mask"][0]]
        return Answer(
            letter=None if reply.answer is None else LETTERS[reply.answer],
            option=None if reply.answer is None else question.options[reply.answer],
            queries=query_reply.queries,
            frames=reader.frames(VIDEO_ID, index[key_indices]),
            times=info.timestamps[index[key_indices]],
            info=info,
            damaged=damaged,
            query_reply=query_reply,
            query_text=_verbatim(self.text, reasoned.completed),
            answer_reply=reply,
            answer_text=_verbatim(self.text, completed),
            answer_words=completed.texts[0][0],
            timestamps=info.timestamps[index[mask]],
            similarity=rows_of_queries(
                similarity[0, 0], len(self.system.signals), len(query_reply.queries)
            )[:, mask],
            logits=logits[0, 0][mask],
            selected=indices[valid],
            previews=_jpegs(reader, previews),
            key_frames=_jpegs(reader, index[key_indices]),
            cut_note=self.text.cut_note(cut) if (cut := len(episodes.cut_queries)) else "",
        )


def write_records(video: epath.PathLike | VideoSource, folder: epath.Path) -> int:
    """Writes one video as a record folder; returns how many damaged packets were left out.

    Raises:
      UserError: it is no video, or no frame can be decoded.
    """
    with (
        decode_source(as_source(video), FPS, MAX_SIDE) as decoding,
        RecordWriter(folder) as writer,
        progress("decoding", None, unit="frame") as bar,
    ):

        def frames() -> Any:
            for item in decoding:
                bar.update()
                yield item

        # The duration is final only when the last frame has come.
        writer.add(VIDEO_ID, frames(), duration=lambda: decoding.duration, fps=FPS)
    return decoding.warnings


def _check(episodes: Episodes) -> None:
    for failure in episodes.failures:
        raise UserError(f"{failure['error']}; shorten the question or its options")


def _jpegs(reader: RecordReader, indices: Int[np.ndarray, "n"]) -> list[tuple[float, bytes]]:
    times = reader.info(VIDEO_ID).timestamps[indices]
    jpegs = reader.frame_bytes(VIDEO_ID, indices)
    return [(float(t), jpeg) for t, jpeg in zip(times, jpegs, strict=True)]


def _verbatim(text: Text, completed: Completed) -> str:
    """Returns the one completion's text, with its end token if it has one."""
    completions = completed.completions
    tokens, mask = fetch((completions.tokens[0, 0, 0], completions.mask[0, 0, 0]))
    return text.verbatim(tokens, mask)
