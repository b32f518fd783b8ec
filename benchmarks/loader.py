"""Measures how many questions a second a host makes ready, beside what a planned run asks of it.

    python -m benchmarks.loader                                   # joint_v4, videos made up here
    python -m benchmarks.loader --config=joint_k64 --records=DIR  # yours (msjoe predecode)

No model runs. What is timed is all that a host does between the device's programs for a wave of its
questions: read the candidates' embeddings, decode and cut the previews, make the prompts of
reason, then read, decode and cut the distinct key frames of all draws and make the prompts of
answer. Draws are spread over the whole video, so that few share a frame: an upper bound of the
work. Videos made up here are of 16:9 and have a photograph's detail. The need is that of the
config's fastest update in its plan (docs/plans). The disk gives the same folder's files from end to
end, and neither that nor the loader has them in memory before.
"""

import json
import os
import pathlib
import tempfile
import time
from typing import NamedTuple

import numpy as np
from absl import app, flags
from PIL import Image
from tqdm import tqdm

from msjoe_jax.config import Config
from msjoe_jax.config_check import check
from msjoe_jax.config_files import load_config
from msjoe_jax.data.embed import embed_records
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.rollout.batches import full_weight
from msjoe_jax.rollout.episode_batches import EpisodeBatches
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.rollout.system import System, Tokenizers, make_system
from msjoe_jax.rollout.text import make_text
from msjoe_jax.selectors.base import Selection
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.world.phase import texts_of_world
from msjoe_jax.world.word_tokenizer import build_word_tokenizer

PLANS = pathlib.Path(__file__).parents[1] / "docs" / "plans"
VIDEOS, FRAMES, SIZE = 4, 3600, (448, 252)
JPEGS = 64  # distinct frames of a made-up video
QUALITY = 92  # that predecode writes
BLOCK = 1 << 20  # bytes that are read at a time
MARGIN = 2.0  # times the need that a host should serve


def photograph(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Makes noise whose amplitude falls with its frequency, as a photograph's does."""
    width, height = size
    total = np.zeros((height, width, 3))
    for octave in range(7):
        sides = max(2, width >> octave), max(2, height >> octave)
        noise = rng.normal(size=(sides[1], sides[0], 3))
        for channel in range(3):
            layer = Image.fromarray(noise[..., channel].astype(np.float32))
            smooth = layer.resize(size, Image.Resampling.BICUBIC)
            total[..., channel] += 1.9**octave * np.asarray(smooth)
    total = 128 + 50 * total / total.std()
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def make_records(folder: pathlib.Path, embedding: int) -> None:
    """Makes a record folder of `VIDEOS` videos, with random embeddings of that many numbers."""
    rng = np.random.default_rng(0)
    frames = []
    for number in range(JPEGS):
        file = folder.parent / f"{number}.jpg"
        photograph(rng, SIZE).save(file, quality=QUALITY)
        frames.append(file.read_bytes())
    kilobytes = sum(map(len, frames)) / len(frames) / 1e3
    print(f"made-up frames of {SIZE[0]} × {SIZE[1]}, {kilobytes:.0f} kB each")
    with RecordWriter(folder) as writer:
        for video in range(VIDEOS):
            writer.add(f"video{video}", ((float(t), frames[t % JPEGS]) for t in range(FRAMES)))
    embed_records(folder, lambda x: rng.normal(size=(len(x), embedding)), "random", batch=256)


def forget(folder: pathlib.Path) -> None:
    """Has the system drop a folder's files from its memory, so that reads come from the disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is not written yet cannot be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_rate(folder: pathlib.Path) -> float:
    """Measures the bytes a second at which the disk gives a folder's files, one after another."""
    forget(folder)
    number, began = 0, time.perf_counter()
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            while block := file.read(BLOCK):
                number += len(block)
    return number / (time.perf_counter() - began)


class CountingReader(RecordReader):
    """A reader that counts the bytes of the records that it reads."""

    bytes = 0

    def _read(self, kind: str, shard: int, indices: list[int]) -> list[bytes]:
        records = super()._read(kind, shard, indices)
        self.bytes += sum(map(len, records))
        return records


class Served(NamedTuple):
    """Questions a second of this process, and the bytes of records that each of them took."""

    questions: float
    bytes: float


def serve(
    config: Config,
    system: System,
    tokenizer: Tokenizer,
    records: pathlib.Path,
    size: int,
    waves: int,
) -> Served:
    """Measures the questions a second of this process, from the first read on.

    Args:
      config: of the run.
      system: its models, of which only the sizes are read.
      tokenizer: of the MLLM, and of CLIP, whose texts are not read here.
      records: the folder.
      size: questions of a wave on this host.
      waves: how many.
    """
    forget(records)
    reader = CountingReader(records)
    options = ("the first of four", "the second", "the third", "the last of them all")
    questions = [
        Question(f"q{i}", reader.ids[i % len(reader.ids)], "What is done after that?", options, 0)
        for i in range(size * waves)
    ]
    text = make_text(system, Tokenizers(tokenizer, tokenizer), config.prompt)
    settings = EpisodeConfig(config.frames)
    episodes = EpisodeBatches(settings, Programs(system), text, reader, questions)
    rng, rollout = np.random.default_rng(0), config.rollout
    shape = size, rollout.query_rollouts, rollout.frame_draws, config.frames.key
    began = time.perf_counter()
    batches = episodes.batches(size, rows=np.arange(size))
    for batch in tqdm(batches, total=waves, desc=f"waves of {size}"):
        weight = full_weight(batch)
        episodes.preview_prompts(batch, weight)
        there = batch["frame_mask"].sum(-1)[:, None, None, None]
        chosen = np.sort((rng.random(shape) * there).astype(np.int64), -1)
        episodes.answer_prompts(batch, Selection(chosen), weight)
        if not weight.all():
            raise SystemExit(f"error: {episodes.failures[0]}")
    asked = size * waves
    return Served(asked / (time.perf_counter() - began), reader.bytes / asked)


def need(plan: dict, questions: int) -> float:
    """Returns the questions a second that a plan's fastest update asks of each of its hosts."""
    prices = [plan[name] for name in ("price", "price_of_data") if name in plan]
    seconds = min(one["seconds"] for price in prices for one in price["updates"].values())
    return questions / seconds / plan["hosts"]


def main() -> None:
    """Defines the flags and prints the measured rate and the need."""
    name = flags.DEFINE_string("config", "joint_v4", "A config that is planned.")
    given = flags.DEFINE_string(
        "records", "", "A folder of records with embeddings; empty: made up."
    )
    path = flags.DEFINE_string("tokenizer", "", "A tokenizer.json of the MLLM; empty: of words.")
    waves = flags.DEFINE_integer("waves", 8, "How many are made ready.")

    def start(_: list[str]) -> None:
        plan = json.loads((PLANS / f"{name.value}.json").read_text())
        config = check(load_config(name.value), plan["chips"], files=False)
        size = max(1, config.rollout.questions // config.rollout.waves // plan["hosts"])
        with tempfile.TemporaryDirectory() as folder:
            words = pathlib.Path(folder) / "tokenizer.json"
            if not path.value:
                build_word_tokenizer(words, texts_of_world(config.prompt))
            tokenizer = Tokenizer(path.value or words)
            system = make_system(config.models, Tokenizers(tokenizer, tokenizer))
            records = pathlib.Path(given.value or f"{folder}/records")
            if not given.value:
                make_records(records, system.clip_config.embed_dim)
            served = serve(config, system, tokenizer, records, size, waves.value)
            disk = disk_rate(records)
        asked = need(plan, config.rollout.questions)
        cores = len(os.sched_getaffinity(0))
        rate, read = served.questions, served.questions * served.bytes
        batch = config.rollout.questions / plan["hosts"]
        print(
            f"{name.value}: {rate:.2f} questions, {rate / batch:.3f} batches a second from {cores} "
            f"cores; its plan asks {asked:.2f} questions of each of {plan['hosts']} hosts: "
            f"{rate / asked:.1f} times the need ({MARGIN:.0f} wanted)"
        )
        print(
            f"{served.bytes / 1e6:.1f} MB of records a question, {read / 1e6:.1f} MB a second; the "
            f"disk gives {disk / 1e6:.0f} MB a second: {read / disk:.3f} of it is used, and "
            f"{asked * served.bytes / disk:.5f} needed"
        )

    app.run(start)


if __name__ == "__main__":
    main()
