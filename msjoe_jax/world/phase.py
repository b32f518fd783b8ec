"""The tiny world's phases: `world` builds its data, `warm_up` trains its CLIP and its MLLM."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from etils import epath

from msjoe_jax.data.embed import embed_records
from msjoe_jax.data.records import RecordReader
from msjoe_jax.fields import fields_of, option
from msjoe_jax.models.params import Params, fingerprint
from msjoe_jax.rollout.programs import clip_encoder
from msjoe_jax.rollout.stored_models import clip_name
from msjoe_jax.rollout.system import System
from msjoe_jax.rollout.text import Text
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.checkpoint import Checkpoints
from msjoe_jax.runtime.checkpoint_inputs import check_inputs
from msjoe_jax.runtime.digest import Inputs, digest, digest_of_file
from msjoe_jax.runtime.machine import fetch, make_machine
from msjoe_jax.runtime.mesh import everywhere
from msjoe_jax.runtime.program import quick_options
from msjoe_jax.runtime.progress import progress
from msjoe_jax.runtime.stopping import end_if_asked
from msjoe_jax.text.prompts import PromptConfig
from msjoe_jax.world.build import build_world, questions_path, records_path
from msjoe_jax.world.second import WORDS_A_VIDEO, SecondSpec
from msjoe_jax.world.spec import (
    COLOURS,
    KINDS,
    SETTINGS,
    SPLITS,
    WORDS,
    WorldSpec,
    question_text,
)
from msjoe_jax.world.warmup_asks import texts_of_asks
from msjoe_jax.world.warmup_clip import ClipTraining, Loop, clip_loop, naming_accuracy
from msjoe_jax.world.warmup_mllm import MllmTraining, mllm_loop
from msjoe_jax.world.word_tokenizer import build_word_tokenizer

EMBED_BATCH = 96  # frames embedded per call: one video of the world
SAVE_EVERY = 100  # steps of a warm-up between checkpoints


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """The tiny world, which asks two questions about each video (docs/world.md)."""

    seed: int = option(0, "Seed of the world.", low=0, high=(1 << 31) - 1)
    num_train: int = option(2048, "Videos to train on.", low=1)
    num_validation: int = option(500, "Videos to tune on.", low=1)
    num_heldout: int = option(1000, "Videos to judge on.", low=1)
    version: int = option(
        1,
        "1: look-alikes last a frame or two. 2: some last longer or flicker, an event shows its "
        "colour late, and questions are about up to three events.",
        low=1,
        high=2,
    )
    plateaus: int = option(
        1, "Look-alikes of 10 to 17 frames of each kind in a video (version 2).", low=0, high=3
    )
    flickers: int = option(
        2,
        "Look-alikes of 3 to 5 frames, every second one, of each kind in a video (version 2).",
        low=0,
        high=4,
    )
    short_look_alikes: int = option(
        4, "Look-alikes of a frame or two of each kind in a video (version 2).", low=0, high=8
    )
    late_colour: bool = option(
        True, "Colours show in the last third of an event alone, not at random (version 2)."
    )
    two_events: float = option(
        0.4, "Share of questions about two events, at most 0.5 (version 2).", low=0, high=0.5
    )
    three_events: float = option(
        0.3, "Share of questions about three, likewise; one event: the rest.", low=0, high=0.5
    )

    def slips(self) -> Iterator[str]:
        """Yields what cannot be."""
        if self.version == 1:
            for name, default in SECOND.items():
                if getattr(self, name) != default:
                    yield f"{name}={getattr(self, name)} needs config.world.version=2"
        if self.two_events + self.three_events < 0.5:
            yield (
                f"two_events={self.two_events} and three_events={self.three_events} leave more "
                "than half of the questions for one event: raise one of them"
            )

    def spec(self) -> WorldSpec:
        """Returns what the world is made from."""
        sizes = (self.seed, self.num_train, self.num_validation, self.num_heldout)
        if self.version == 1:
            return WorldSpec(*sizes)
        return SecondSpec(
            *sizes,
            plateaus=self.plateaus,
            flickers=self.flickers,
            look_alikes=self.short_look_alikes,
            late_colour=self.late_colour,
            two_events=self.two_events,
            three_events=self.three_events,
        )


# Fields of version 2, with their defaults: under version 1 they may not be others.
SECOND = {
    field.name: field.default
    for field in fields_of(WorldConfig)
    if field.name not in ("version", "seed", "num_train", "num_validation", "num_heldout")
}


@dataclasses.dataclass(frozen=True)
class WarmUpConfig:
    """Supervised training steps of the tiny world's models."""

    clip_steps: int = option(0, "Training steps of CLIP.", low=0)
    mllm_steps: int = option(0, "Training steps of the MLLM.", low=0)
    asks: bool = option(False, "The MLLM also learns to reply to selectors' own prompts.")


def build(config: Any, folder: epath.PathLike) -> Any:
    """Builds the world's records, questions and tokenizer; returns the config pointed at them."""
    folder = epath.Path(folder)
    hosts.on_first(lambda: _write(config, folder), "the tiny world")
    tokenizer = folder / "tokenizer.json"
    paths = {}
    for split in SPLITS:
        paths[f"{split}_records"] = str(records_path(folder, split))
        paths[f"{split}_questions"] = str(questions_path(folder, split))
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, **paths),
        mllm=dataclasses.replace(config.mllm, tokenizer=str(tokenizer)),
        clip=dataclasses.replace(config.clip, tokenizer=str(tokenizer)),
    )


def _write(config: Any, folder: epath.Path) -> None:
    w = config.extensions["world"]
    build_world(folder, w.spec())
    tokenizer = folder / "tokenizer.json"
    before = tokenizer.read_bytes() if tokenizer.exists() else None
    texts = texts_of_world(config.prompt, w.version)
    if config.extensions["warm_up"].asks:
        texts += texts_of_asks(config.frames.key)
    build_word_tokenizer(tokenizer, texts)
    if before not in (None, tokenizer.read_bytes()):
        print(f"{tokenizer}: made from other prompts; made again")


def texts_of_world(prompt: PromptConfig, version: int = 1) -> list[str]:
    """Returns every text that the tiny models read or write, for the word-level vocabulary.

    Args:
      prompt: the wording.
      version: of the world.
    """
    wording = (
        prompt.system,
        prompt.query_instruction,
        prompt.answer_instruction,
        prompt.think_instruction,
    )
    most = 2 if version == 1 else WORDS_A_VIDEO
    questions = [question_text(range(n)) for n in range(1, most + 1)]
    return [*WORDS, *KINDS, *SETTINGS, *COLOURS, *questions, *wording, "."]


def warm_up(
    config: Any,
    folder: epath.Path,
    system: System,
    text: Text,
) -> dict[str, epath.Path]:
    """Trains CLIP, embeds all frames, trains the MLLM; returns the checkpoints of both.

    Args:
      config: the run's config.
      folder: where the checkpoints of both trainings go.
      system: the tiny models.
      text: their tokenizers and prompts.
    """
    steps = config.extensions["warm_up"]
    reader = RecordReader(config.data.train_records)
    loop = clip_loop(
        reader, text.clip_tokenizer, system.clip_config, ClipTraining(config.seed, steps.clip_steps)
    )
    inputs = {
        "records": reader.digest(),
        "tokenizer": digest_of_file(text.clip_tokenizer.file),
        "settings": digest(config.seed, steps.clip_steps, dataclasses.asdict(system.clip_config)),
    }
    clip = fetch(run_loop(loop, folder / "clip", "warm up CLIP", inputs))
    folders = [getattr(config.data, f"{split}_records") for split in SPLITS]
    hosts.on_first(lambda: _embed(folders, system, clip), "the embeddings")
    if steps.clip_steps:
        hosts.on_first(lambda: _tell_naming(config, system, text, clip), "the accuracy of CLIP")
    training = MllmTraining(config.seed, steps.mllm_steps, asks=steps.asks)
    mllm = mllm_loop(config.frames, system, text, reader, training)
    settings = digest(config.seed, steps.mllm_steps, steps.asks, config.parts("frames", "prompt"))
    inputs |= {"tokenizer": digest_of_file(text.tokenizer.file), "settings": settings}
    run_loop(mllm, folder / "mllm", "warm up MLLM", inputs)
    ends = {"clip": steps.clip_steps, "mllm": steps.mllm_steps}
    return {name: folder / name / str(step) for name, step in ends.items()}


def _embed(folders: Sequence[str], system: System, clip: Params) -> None:
    name = clip_name(system, fingerprint(clip))
    here = make_machine(devices=jax.local_devices()[:1])  # the other hosts wait
    with jax.set_mesh(here.mesh):
        encode = clip_encoder(system, clip)
        for folder in folders:
            embed_records(folder, encode, name, batch=EMBED_BATCH)


def _tell_naming(config: Any, system: System, text: Text, clip: Params) -> None:
    """Prints the first result of a run: how well CLIP names what it was not trained on."""
    reader = RecordReader(config.data.validation_records, clip_name(system, fingerprint(clip)))
    encode = jax.jit(lambda params, tokens: system.clip_model(params).encode_text(tokens))
    share, number = naming_accuracy(
        reader, text.clip_tokenizer, system.clip_config, functools.partial(encode, clip)
    )
    print(
        f"CLIP names the kind of {share:.1%} of {number:,} objects in validation frames "
        f"(of {len(KINDS)} kinds; look-alikes count as what they look like)"
    )


def run_loop(loop: Loop, folder: epath.PathLike, label: str, inputs: Inputs) -> Params:
    """Runs a warm-up loop to its end, resuming from its last checkpoint if there is one.

    Every device holds the whole models: they are tiny.

    Raises:
      UserError: the checkpoint is from other `inputs`.
    """
    check_inputs(folder, inputs)
    with Checkpoints(folder, keep=1) as checkpoints:
        begin = jax.jit(loop.init, out_shardings=everywhere(), compiler_options=quick_options())
        state = begin()
        start = checkpoints.latest_step() or 0
        if start:
            state, _, _ = checkpoints.restore(state)
        elif not loop.steps:  # what starts from here reads it
            checkpoints.save(0, state, None, {"phase": label, "inputs": dict(inputs)})
        if start >= loop.steps:
            return state["params"]
        with progress(label, loop.steps, initial=start) as bar:
            for index in range(start, loop.steps):
                state, metrics = loop.step(state, index)
                bar.update()
                count = index + 1
                if count % SAVE_EVERY == 0 or count == loop.steps:
                    bar.metrics(loss=float(metrics["loss"]))
                    checkpoints.save(count, state, None, {"phase": label, "inputs": dict(inputs)})
                if count % SAVE_EVERY == 0:
                    end_if_asked(f"step {count} of {label}")
    return state["params"]
