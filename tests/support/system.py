"""A tiny system at work: noise as videos, questions about them, episodes and rollouts over both."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from msjoe_jax.config import read_config
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.collect import RollOut
from msjoe_jax.rollout.collector import Collector
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.rollout.system import System, Tokenizers, load_tokenizers, make_system
from msjoe_jax.rollout.text import make_text
from msjoe_jax.training.epochs import epoch_order
from tests.support.embeddings import write_embeddings
from tests.support.tiny import tiny_params

COLOURS = ("red", "blue", "green", "white")
EMBEDDING = 32  # of the tiny CLIP


def changed(config: ConfigDict, **fields: Any) -> ConfigDict:
    """A copy with other values, by dotted name."""
    out = config.copy_and_resolve_references()
    out.update_from_flattened_dict(fields)
    return out


def noise_videos(
    folder: pathlib.Path,
    counts: Mapping[str, int],
    *,
    height: int = 56,
    width: int = 56,
    uneven: bool = False,
    clip: str = "random",
    **writing: Any,
) -> RecordReader:
    """Videos of noise with so many frames each, and embeddings of noise by the CLIP of that name.

    uneven: at odd times; writing: options of RecordWriter.
    """
    rng = np.random.default_rng(0)
    with RecordWriter(folder, **writing) as writer:
        for video, count in counts.items():
            times = np.cumsum(rng.uniform(0.5, 3, count)) if uneven else np.arange(count)
            frames = rng.integers(0, 256, (count, height, width, 3), np.uint8)
            writer.add(video, zip(times, frames, strict=True))
    rows = {video: rng.normal(size=(counts[video], EMBEDDING)) for video in counts}
    write_embeddings(folder, clip, rows.items())
    return RecordReader(folder)


def with_damage(
    reader: RecordReader, folder: pathlib.Path, damaged: Mapping[str, int]
) -> RecordReader:
    """A copy of the videos in `folder`, one frame of some cut off in the middle of its JPEG."""
    with RecordWriter(folder) as writer:
        for video in reader.ids:
            info = reader.info(video)
            jpegs = reader.frame_bytes(video, range(info.num_frames))
            if video in damaged:
                frame = damaged[video]
                jpegs[frame] = jpegs[frame][: len(jpegs[frame]) // 2]
            writer.add(video, zip(info.timestamps, jpegs, strict=True))
    rows = {video: reader.embeddings(video) for video in reader.ids}
    write_embeddings(folder, "random", ((v, row) for v, row in rows.items() if row is not None))
    return RecordReader(folder)


def colour_questions(videos: Sequence[str], count: int) -> list[Question]:
    """Questions q0, q1, … of the videos in turn, with pass rates from 0 up to below 1."""
    return [
        Question(
            f"q{i}", videos[i % len(videos)], "what colour is the cup ?", COLOURS, i % 4, i / count
        )
        for i in range(count)
    ]


@dataclasses.dataclass(frozen=True)
class TinyRun:
    """Models with random weights, and what they are asked about.

    Episodes and collectors of other configs share the compiled programs.
    """

    config: ConfigDict
    tokenizers: Tokenizers
    programs: Programs
    params: dict[str, Params]
    reader: RecordReader
    questions: list[Question]

    @property
    def system(self) -> System:
        return self.programs.system

    def episodes(self, config: ConfigDict | None = None) -> Episodes:
        made = read_config(self.config if config is None else config)
        text = make_text(self.system, self.tokenizers, made.prompt)
        return Episodes(made.episode, self.programs, text, self.reader, self.questions)

    def stream(self, config: ConfigDict | None = None) -> Iterator[Any]:
        """Fifty shuffled batches, as in training."""
        made = read_config(self.config if config is None else config)
        size = made.rollout.questions
        order = epoch_order(len(self.questions), np.full(50, size), (made.seed,))
        return iter(self.episodes(config).batches(size, order))

    def collector(
        self,
        config: ConfigDict | None = None,
        batches: Sequence[Any] | None = None,
        encode_in_step: bool = False,
    ) -> Collector:
        """A collector over these batches, or over `stream`."""
        made = read_config(self.config if config is None else config)
        importance = np.ones(len(self.questions))
        roll_out = RollOut(
            made.rollout, self.episodes(config), made.data.task, importance, encode_in_step
        )
        return Collector(roll_out, self.stream(config) if batches is None else iter(batches))


def tiny_run(config: ConfigDict, reader: RecordReader, questions: Sequence[Question]) -> TinyRun:
    """Random models of `tiny_config`, or of a variant of it."""
    settings = read_config(config).models
    tokenizers = load_tokenizers(settings)
    system = make_system(settings, tokenizers)
    params = tiny_params(system.abstract)
    return TinyRun(config, tokenizers, Programs(system), params, reader, list(questions))


def by_question(rollout: Any) -> dict[str, tuple]:
    """What was drawn, by question id."""
    arrays = jax.device_get(rollout.arrays)
    out = {}
    for b, record in enumerate(rollout.records):
        queries, answers = (
            (part.tokens[b], part.mask[b], part.log_probs[b])
            for part in (arrays.queries, arrays.answers)
        )
        out[record.question.id] = (record.draws, record.answers, record.correct, queries, answers)
    return out


def same_rollouts(one: Any, other: Any) -> None:
    """Equal draws and tokens; log-probs but for the order of additions in other batch shapes."""
    one, other = by_question(one), by_question(other)
    assert one.keys() == other.keys()
    for key, (draws, answers, correct, *parts) in one.items():
        draws_2, answers_2, correct_2, *parts_2 = other[key]
        np.testing.assert_array_equal(draws, draws_2)
        np.testing.assert_array_equal(correct, correct_2)
        assert answers == answers_2
        for (tokens, mask, log_probs), (tokens_2, mask_2, log_probs_2) in zip(
            parts, parts_2, strict=True
        ):
            np.testing.assert_array_equal(tokens, tokens_2)
            np.testing.assert_array_equal(mask, mask_2)
            np.testing.assert_allclose(log_probs, log_probs_2, atol=1e-5)
