"""The warm-up loops: pure steps, and examples that say what the video shows."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
import pytest

from configs.tiny import get_config
from msjoe_jax.config import read_config
from msjoe_jax.data.records import RecordReader
from msjoe_jax.rollout.frames import FrameConfig
from msjoe_jax.rollout.system import System, load_tokenizers, make_system
from msjoe_jax.rollout.text import Text, make_text
from msjoe_jax.selectors.replies import read_frames, read_scores, read_segment
from msjoe_jax.text.prompts import parse_queries
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.world import warmup_clip, warmup_mllm
from msjoe_jax.world.build import build_world, records_path
from msjoe_jax.world.second import SecondSpec
from msjoe_jax.world.spec import (
    COLOURS,
    KINDS,
    SENSES,
    SETTINGS,
    WORDS,
    Plan,
    WorldSpec,
    question_text,
)
from msjoe_jax.world.warmup_asks import texts_of_asks
from msjoe_jax.world.word_tokenizer import build_word_tokenizer

pytestmark = pytest.mark.slow


class Tiny(NamedTuple):
    frames: FrameConfig
    system: System
    text: Text
    reader: RecordReader


def make_tiny(folder, variant, spec):
    """A small world's training videos, and the tiny models' definitions."""
    build_world(folder, spec)
    config = get_config(variant)
    wording = (config.prompt.query_instruction, config.prompt.answer_instruction)
    asked = [question_text(range(n)) for n in (1, 2, 3)]
    texts = [*WORDS, *KINDS, *SETTINGS, *COLOURS, *wording, *asked, "the A."]
    tokenizer = build_word_tokenizer(folder / "tokenizer.json", texts)
    config.mllm.tokenizer = config.clip.tokenizer = str(tokenizer)
    made = read_config(config)
    tokenizers = load_tokenizers(made.models)
    system = make_system(made.models, tokenizers)
    reader = RecordReader(records_path(folder, "train"))
    return Tiny(made.frames, system, make_text(system, tokenizers, made.prompt), reader)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    spec = WorldSpec(num_train=6, num_validation=1, num_heldout=1)
    return make_tiny(tmp_path_factory.mktemp("world"), "", spec)


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """The same of the second world."""
    spec = SecondSpec(num_train=6, num_validation=1, num_heldout=1)
    return make_tiny(tmp_path_factory.mktemp("second"), "v2", spec)


def batches(tiny, training):
    """Batches of the MLLM's warm-up by step."""
    return warmup_mllm._BatchBuilder(tiny.frames, tiny.system, tiny.text, tiny.reader, training)


def _run(loop, state, steps):
    for step in steps:
        state, metrics = loop.step(state, step)
    return state, metrics


def test_clip_loop_learns_and_resumes_to_the_same_bits(tiny):
    text, sizes = tiny.text, tiny.system.clip_config
    training = warmup_clip.ClipTraining(seed=1, steps=30, batch=16)

    def build():
        return warmup_clip.clip_loop(tiny.reader, text.clip_tokenizer, sizes, training)

    loop = build()
    first = loop.step(loop.init(), 0)[1]["loss"]
    whole, metrics = _run(loop, loop.init(), range(30))
    assert float(metrics["loss"]) < float(first) - 0.5  # it starts above ln 16 = 2.8
    half, _ = _run(loop, loop.init(), range(12))
    resumed, _ = _run(build(), half, range(12, 30))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_loop_of_few_steps_or_none_can_be_made(tiny, steps):
    text, sizes = tiny.text, tiny.system.clip_config
    clip = warmup_clip.ClipTraining(steps=steps)
    assert warmup_clip.clip_loop(tiny.reader, text.clip_tokenizer, sizes, clip).steps == steps
    mllm = warmup_mllm.MllmTraining(steps=steps)
    made = warmup_mllm.mllm_loop(tiny.frames, tiny.system, text, tiny.reader, mllm)
    assert made.steps == steps


def test_batches_are_a_function_of_seed_and_step(tiny):
    training = warmup_mllm.MllmTraining(seed=3, steps=10, videos=4)
    builders = [batches(tiny, training) for _ in range(2)]
    builders[0](7)  # a step taken before must not matter
    for step in (0, 8):  # with the vision tower alone, and with prompts
        for a, b in zip(*(jax.tree.leaves(build(step)) for build in builders), strict=True):
            np.testing.assert_array_equal(a, b)
    other = batches(tiny, dataclasses.replace(training, seed=4))(8)
    assert (other.lessons.replies != builders[0](8).lessons.replies).any()


@pytest.mark.parametrize("world", ["tiny", "second"])
def test_examples_say_what_the_video_shows(request, world):
    """Replies and cell names are read back as words and compared with the plan of the video."""
    tiny = request.getfixturevalue(world)
    reader, training = tiny.reader, warmup_mllm.MllmTraining(steps=10, videos=12)
    batch = batches(tiny, training)(9)
    lessons = batch.lessons
    assert batch.asks is None
    decode = lambda ids: tiny.text.tokenizer.decode([int(i) for i in ids])  # noqa: E731
    plans = [Plan.from_json(reader.info(video_id).extra) for video_id in reader.ids]
    kinds, right, numbers = set(), 0, set()
    most = tiny.text.prompt.max_queries
    for v in range(12):
        for g in range(lessons.replies.shape[1]):
            used = lessons.prompts.feature_index[v, g]
            assert used.max() < batch.words.shape[1]
            prompt = decode(lessons.prompts.tokens[v, g][lessons.prompts.segments[v, g] == 1])
            shown = {
                decode([i])
                for row, weight in zip(batch.words[v], batch.word_weights[v], strict=True)
                for i in row[weight > 0]
            }
            setting = next(iter(shown & set(SETTINGS)))
            reply = decode(lessons.replies[v, g, 0][lessons.reply_mask[v, g, 0] > 0])
            if "<query>" in reply:
                queries = parse_queries(
                    reply.replace("<|im_end|>", ""),
                    "",
                    max_queries=most,
                    think=False,
                    finished=True,
                )
                asked = {w for w in WORDS if w in prompt.split()}
                allowed = asked | {sense for w in asked for sense in SENSES[w]}
                assert queries.valid and set(queries.queries) <= allowed
            elif "<answer>" in reply:
                asked = [w for w in prompt.split() if w in WORDS or w in KINDS]
                senses = [SENSES[w][SETTINGS.index(setting)] if w in WORDS else w for w in asked]
                want = "ABCD".index(reply.split()[1])
                matching = [
                    plan
                    for plan in plans
                    if SETTINGS[plan.setting] == setting
                    and {KINDS.index(s) for s in senses} <= {e.kind for e in plan.events}
                ]
                latest = [
                    max(
                        (e for e in plan.events if KINDS[e.kind] in senses), key=lambda e: e.start
                    ).colour
                    for plan in matching
                ]
                assert want in latest
                numbers.add(len(asked))
                right += 1
            kinds.add("query" if "<query>" in reply else "answer" if "<answer>" in reply else "?")
    assert kinds == {"query", "answer", "?"} and right == 12 * 3
    assert numbers == set(range(1, most + 1))


def test_asks_have_replies_that_selectors_can_read(tiny):
    """Numbered frames in the prompts, and what a fresh batch says of them, read back."""
    training = warmup_mllm.MllmTraining(steps=10, videos=12, asks=True)
    tokenizer = build_word_tokenizer(
        tiny.text.tokenizer.file.parent / "asks.json",
        [*WORDS, *KINDS, *SETTINGS, *COLOURS, question_text([0, 1]), *texts_of_asks(6)],
    )
    text = dataclasses.replace(tiny.text, tokenizer=Tokenizer(tokenizer))
    batch = batches(tiny._replace(text=text), training)(9)
    assert batch.lessons.replies.shape[1] == 5  # as without asks
    seen = set()
    for v in range(12):
        for g in range(2):
            used = batch.asks.prompts.segments[v, g] == 1
            assert (batch.asks.prompts.feature_index[v, g][used] >= 0).sum() == 8 * 4
            words = text.tokenizer.decode(batch.asks.prompts.tokens[v, g][used].tolist())
            assert "[ 7 ]" in words and "<unk>" not in words
            ids = batch.asks.replies[v, g, 0][batch.asks.reply_mask[v, g, 0] > 0]
            reply = text.tokenizer.decode(ids.tolist()).replace("<|im_end|>", "")
            read = [read(reply, 8) for read in (read_scores, read_segment, read_frames)]
            assert sum(x is not None for x in read) == 1 and (g or read[0] is not None)
            seen.add(next(i for i, x in enumerate(read) if x is not None))
    assert seen == {0, 1, 2}
