"""Supervised warm-up of the tiny world's MLLM on its records: seeing, answering, querying."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jaxtyping import Array, Float, Int

from msjoe_jax.data.records import RecordReader
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.assemble import Assembler, Frame, labelled, stack_rows
from msjoe_jax.rollout.frames import FrameConfig, to_patches
from msjoe_jax.rollout.generate import Prompts, completion_log_probs
from msjoe_jax.rollout.programs import Patches, frame_features
from msjoe_jax.rollout.system import System
from msjoe_jax.rollout.text import Text
from msjoe_jax.runtime.mesh import everywhere
from msjoe_jax.runtime.program import quick_options
from msjoe_jax.selectors.replies import numbered
from msjoe_jax.text.prompts import LETTERS, answer_prompt, plain, query_prompt, turns
from msjoe_jax.world import warmup_asks, warmup_lessons
from msjoe_jax.world.fresh_weights import fresh_weights, matrices
from msjoe_jax.world.spec import (
    CELLS,
    COLOURS,
    KINDS,
    SETTINGS,
    WORDS,
    Plan,
    describe_frame,
    question_about,
    question_text,
)
from msjoe_jax.world.warmup_clip import Loop, Metrics, State

FRAMES = 8  # per video of a batch: one that shows the colour of each event, and two others
ANSWERS = 3  # answer prompts per video: about one word, about two, about all of the video's
DESCRIBE = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")  # frames, no question
UNIFORM = 0.25  # share of videos shown by random frames, from which the model learns to guess well
ORACLE = 0.75  # share of the other prompts that are certain to show the frames that answer them
# Answering is learnt sooner where questions first use a sense's own name, and show few frames: the
# share of such questions before and after EASY_UNTIL of the steps.
EASY, EASY_UNTIL = (0.6, 0.1), 0.6
# The first steps train only the vision tower, at a sixth of a whole step's cost.
LOOK_UNTIL, LOOK_VIDEOS, LOOK_RATE = 0.18, 32, 2.0
# Muon (Jordan et al. 2024) moves every direction of a matrix alike: the look-ups that answers need
# are learnt in half the steps that Adam takes. Its updates are of unit norm, hence the larger rate.
MUON_RATE = 10.0


@dataclasses.dataclass(frozen=True)
class MllmTraining:
    """Schedule of `mllm_loop`; asks: whether it teaches selectors' own prompts as well."""

    seed: int = 0
    steps: int = 600
    videos: int = 16  # per step
    learning_rate: float = 2e-3  # of Adam; matrices get MUON_RATE times it
    vision_weight: float = 1.0
    query_weight: float = 0.5
    description_weight: float = 4.0
    asks: bool = False


class Lessons(NamedTuple):
    """G prompts of each of V videos, and their replies of C tokens."""

    prompts: Prompts
    replies: Int[np.ndarray, "V G 1 C"]
    reply_mask: Float[np.ndarray, "V G 1 C"]


class MllmBatch(NamedTuple):
    """V videos of U frames; `words` names what each visual token M shows.

    There are no lessons while only the vision tower trains; asks: of selectors' prompts.
    """

    patches: Patches
    words: Int[np.ndarray, "V U·M 3"]
    word_weights: Float[np.ndarray, "V U·M 3"]
    lessons: Lessons | None = None
    asks: Lessons | None = None


def mllm_loop(
    config: FrameConfig, system: System, text: Text, reader: RecordReader, training: MllmTraining
) -> Loop:
    """Makes the supervised training of the tiny MLLM: seeing, answering, writing queries.

    (a) Every visual token learns to predict, through the tied word embedding, the words for what
    its cell shows: setting, object, colour; look-alikes count as nothing. (b) Answers in the
    project's format, from mixes of frames that do or do not hold the evidence. (c) Queries in the
    project's format, plausible but uncalibrated, so that RL has something to improve.
    The frames of a video are encoded once for all its prompts.

    Args:
      config: how many frames are shown, at what size.
      system: of the tiny models.
      text: its tokenizers and prompts.
      reader: the world's training videos.
      training: the schedule.
    """
    builder = _BatchBuilder(config, system, text, reader, training)
    look = round(LOOK_UNTIL * training.steps)
    later_steps = max(1, training.steps - look)  # of none there is a schedule, which nothing asks
    rate = training.learning_rate
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, LOOK_RATE * rate, 20),
            optax.warmup_cosine_decay_schedule(0.0, rate, min(50, later_steps // 4), later_steps),
        ],
        [look],
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.contrib.muon(
            lambda step: MUON_RATE * schedule(step),
            adam_learning_rate=schedule,
            adam_b2=0.98,
            muon_weight_dimension_numbers=matrices,
        ),
    )

    def init() -> State:
        params = fresh_weights(system, training.seed)
        return {"params": params, "optimizer": optimizer.init(params)}

    def loss_fn(params: Params, batch: MllmBatch) -> tuple[Array, Metrics]:
        model = system.mllm(params)
        features = frame_features(system, model, batch.patches)
        word_log_probs = jax.nn.log_softmax(model.language.logits(features))
        cell_log_probs = jnp.take_along_axis(word_log_probs, batch.words, -1) * batch.word_weights
        vision = -cell_log_probs.sum(-1).mean()
        if batch.lessons is None:
            return vision, {"loss": vision, "vision": vision}
        each, mask = _likelihood(system, model, features, batch.lessons), batch.lessons.reply_mask
        answer, query = -each[:, :ANSWERS].mean(), -each[:, ANSWERS].mean()
        described = -each[:, ANSWERS + 1].sum() / mask[:, ANSWERS + 1].sum()
        loss = ANSWERS * answer + training.query_weight * query + training.vision_weight * vision
        loss += training.description_weight * described
        parts = {"answer": answer, "query": query, "description": described, "vision": vision}
        if batch.asks is not None:
            parts["asks"] = -_likelihood(system, model, features, batch.asks).mean()
            loss += warmup_asks.ASKED * parts["asks"]
        return loss, {"loss": loss, **parts}

    @functools.partial(jax.jit, out_shardings=everywhere(), compiler_options=quick_options())
    def update(state: State, batch: MllmBatch) -> tuple[State, Metrics]:
        grads, metrics = jax.grad(loss_fn, has_aux=True)(state["params"], batch)
        updates, moments = optimizer.update(grads, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "optimizer": moments}, metrics

    batches = _Prefetcher(builder)
    return Loop(init, lambda state, step: update(state, batches(step)), training.steps)


def _likelihood(
    system: System, model: Any, features: Float[Array, "V M D"], lessons: Lessons
) -> Float[Array, "V G"]:
    log_probs, _ = completion_log_probs(
        model,
        lessons.prompts,
        features,
        jnp.asarray(lessons.replies),
        banned_ids=system.banned_ids(),
        temperature=1.0,
    )
    return (log_probs * lessons.reply_mask).sum((-2, -1))


class _Prefetcher:
    """Builds batch i + 1 on another thread while batch i is in use."""

    def __init__(self, build: Callable[[int], MllmBatch]):
        self._build, self._pool = build, ThreadPoolExecutor(1)
        self._pending: dict[int, Future[MllmBatch]] = {}

    def __call__(self, step: int) -> MllmBatch:
        future = self._pending.pop(step, None) or self._pool.submit(self._build, step)
        self._pending = {step + 1: self._pool.submit(self._build, step + 1)}
        return future.result()


Example = tuple[dict[str, np.ndarray], list[int], list[float]]  # prompt, reply, its weights


def _lessons(examples: Sequence[Sequence[Example]], length: int) -> Lessons:
    return Lessons(
        stack_rows([[row for row, _, _ in own] for own in examples]),
        np.array([[[np.resize(x, length)] for _, x, _ in own] for own in examples], np.int32),
        np.array([[[_pad(mask, length)] for _, _, mask in own] for own in examples], np.float32),
    )


def _pad(values: Sequence[float], length: int) -> Float[np.ndarray, "C"]:
    return np.pad(np.asarray(values, np.float32), (0, length - len(values)))


class _BatchBuilder:
    """Builds batches, each a function of (seed, step)."""

    def __init__(
        self,
        config: FrameConfig,
        system: System,
        text: Text,
        reader: RecordReader,
        training: MllmTraining,
    ):
        self.config, self.prompt, self.training = config, text.prompt, training
        self.reader, self.tokenizer = reader, text.tokenizer
        self.system = system
        self.assembler = Assembler(text.tokenizer, system.family, system.mllm_config)
        self.length = max(self.prompt.answer_prompt_tokens, self.prompt.query_prompt_tokens)
        self.plans: dict[str, Plan] = {}
        facts = warmup_lessons.DESCRIBED + len(self._plan(reader.ids[0]).words)
        self.reply_tokens = max(self.prompt.query_tokens, 1 + 3 * facts)
        self.rows: dict[tuple[tuple[str, str], int], dict[str, np.ndarray]] = {}
        self.word_ids = {
            name: text.tokenizer.token_id(name) for name in (*SETTINGS, *KINDS, *COLOURS)
        }

    def __call__(self, step: int) -> MllmBatch:
        rng = np.random.default_rng([self.training.seed, step])
        progress = step / self.training.steps
        look, easy = progress < LOOK_UNTIL, EASY[progress >= EASY_UNTIL]
        ids = self.reader.ids
        count = LOOK_VIDEOS if look else self.training.videos
        video_ids = [ids[i] for i in rng.integers(len(ids), size=count)]
        plans = [self._plan(video_id) for video_id in video_ids]
        frames = [self._choose_frames(plan, rng) for plan in plans]
        pixels = np.concatenate(self.reader.gather(list(zip(video_ids, frames, strict=True))))
        patches, grid = to_patches(pixels, self.system, self.config.key_patches)
        shape = (len(plans), FRAMES)
        size = (int(grid[0, 0]), int(grid[0, 1]))
        cells = [self._name_cells(p, f) for p, fs in zip(plans, frames, strict=True) for f in fs]
        targets = np.array(cells, np.float32).reshape(len(plans), FRAMES * CELLS, 2, 3)
        result = MllmBatch(
            patches=Patches(patches.reshape(*shape, *patches.shape[1:]), grid.reshape(*shape, 2)),
            words=targets[:, :, 0].astype(np.int32),
            word_weights=targets[:, :, 1],
        )
        if look:
            return result
        shown = list(zip(plans, frames, strict=True))
        examples = [self._examples(*one, size, easy, rng) for one in shown]
        result = result._replace(lessons=_lessons(examples, self.reply_tokens))
        if not self.training.asks:
            return result
        asked = [self._asks(*one, size, rng) for one in shown]
        return result._replace(asks=_lessons(asked, warmup_asks.REPLY_TOKENS))

    def _asks(
        self,
        plan: Plan,
        frames: Sequence[int],
        size: tuple[int, int],
        rng: np.random.Generator,
    ) -> list[Example]:
        """Makes examples of what selectors ask about numbered frames."""
        examples = []
        places = [Frame(i * CELLS, size) for i in range(len(frames))]
        for text, reply in warmup_asks.ask_and_reply(plan, frames, self.config.key, rng):
            around = turns(self.prompt.system, plain(text))
            parts = labelled(around, numbered(len(frames)), places)
            row = self.assembler.prompt(parts, warmup_asks.ASK_TOKENS)
            examples.append((row, *self._reply(f"{reply}<|im_end|>")))
        return examples

    def _plan(self, video_id: str) -> Plan:
        if video_id not in self.plans:
            self.plans[video_id] = Plan.from_json(self.reader.info(video_id).extra)
        return self.plans[video_id]

    def _choose_frames(self, plan: Plan, rng: np.random.Generator) -> list[int]:
        number = self.reader.info(plan.id).num_frames
        if self.training.asks and (window := warmup_asks.choose_window(plan, number, FRAMES, rng)):
            return window
        if rng.random() < UNIFORM:
            return sorted(rng.permutation(number)[:FRAMES].tolist())
        event_frames = [int(rng.choice(event.visible_frames)) for event in plan.events]
        others = rng.permutation(np.setdiff1d(np.arange(number), event_frames))
        return sorted(event_frames + others[: FRAMES - len(event_frames)].tolist())

    def _examples(
        self,
        plan: Plan,
        frames: Sequence[int],
        size: tuple[int, int],
        easy: float,
        rng: np.random.Generator,
    ) -> list[Example]:
        """Makes (prompt row, reply ids, their weights) of answers, queries and description.

        Args:
          plan: of the video.
          frames: numbers of the frames in the batch.
          size: patches (height, width) of a frame.
          easy: share of easy questions at this step (see EASY).
          rng: decides everything random.
        """
        c, style = self.config, self.prompt
        order = rng.permutation(plan.words).tolist()
        examples = []
        for words in warmup_lessons.asked_words(order, easy, rng):
            targets = plan.targets(words)
            evidence: list[int] = []
            if rng.random() < ORACLE:
                evidence_frames = {frame for target in targets for frame in target.visible_frames}
                evidence = [i for i, frame in enumerate(frames) if frame in evidence_frames]
            spare = rng.permutation([i for i in range(FRAMES) if i not in evidence]).tolist()
            number = c.key
            if rng.random() < easy:
                number = max(int(rng.integers(1, c.key)), len(evidence))
            places = sorted((evidence + spare)[:number])
            names = [WORDS[word] for word in words]
            if rng.random() < easy:
                names = [KINDS[target.kind] for target in targets]
            row = self._row(answer_prompt(style, question_about(names), COLOURS), places, size)
            letter = LETTERS[max(targets, key=lambda event: event.start).colour]
            examples.append((row, *self._reply(f"<answer>{letter}</answer><|im_end|>")))
        words = warmup_lessons.searched_words(order, rng)
        text = query_prompt(style, question_text(words), COLOURS, style.max_queries)
        places = sorted(rng.permutation(FRAMES)[: c.preview].tolist())
        reply = "".join(
            f"<query>{warmup_lessons.demonstrate(word, plan.setting, rng)}</query>"
            for word in words
        )
        examples.append((self._row(text, places, size), *self._reply(reply + "<|im_end|>")))
        everything = self._row(DESCRIBE, range(FRAMES), size)
        return [*examples, (everything, *self._description(plan, frames, rng))]

    def _reply(self, text: str) -> tuple[list[int], list[float]]:
        ids = self.tokenizer.encode(text)
        return ids, [1.0] * len(ids)

    def _description(
        self, plan: Plan, frames: Sequence[int], rng: np.random.Generator
    ) -> tuple[list[int], list[float]]:
        """Writes a description, of whose facts the last token each is learnt."""
        ids, weights = [0], [0.0]
        for fact in warmup_lessons.facts(plan, frames, rng):
            token_ids = self.tokenizer.encode(fact)
            ids, weights = ids + token_ids, weights + [0.0] * (len(token_ids) - 1) + [1.0]
        return ids, weights

    def _row(
        self, text: tuple[str, str], places: Sequence[int], size: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        # Prompts of one wording differ in their frames only; the rest of the row is cached.
        key = (text, len(places))
        if key not in self.rows:
            frames = [Frame(i * CELLS, size) for i in range(len(places))]
            self.rows[key] = self.assembler.row(text, frames, self.length)
        place = self.rows[key]["feature_index"]
        moved = np.asarray(places)[place // CELLS] * CELLS + place % CELLS
        index = np.where(place >= 0, moved, -1).astype(np.int32)
        return {**self.rows[key], "feature_index": index}

    def _name_cells(self, plan: Plan, frame: int) -> list[tuple[list[int], list[float]]]:
        """Returns for each cell the ids of up to three words on it, and their weights."""
        setting = self.word_ids[SETTINGS[plan.setting]]
        cells = [([setting, 0, 0], [1.0, 0.0, 0.0]) for _ in range(CELLS)]
        for cell, kind, colour in describe_frame(plan, frame):
            names = [KINDS[kind]] + ([] if colour is None else [COLOURS[colour]])
            ids = [setting] + [self.word_ids[name] for name in names]
            pad = 3 - len(ids)
            cells[cell] = (ids + [0] * pad, [1 / len(ids)] * len(ids) + [0.0] * pad)
        return cells
