"""A toy behind every door, one line of a dict each, and its effect in the files of a real run."""

import base64
import json
import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from msjoe_jax.commands.convert import convert
from msjoe_jax.commands.export import export
from msjoe_jax.config import base
from msjoe_jax.config_check import check
from msjoe_jax.data.questions import load_questions, save_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.draws import DRAWS, Law, plackett_luce
from msjoe_jax.draws.draw import Draw
from msjoe_jax.errors import UserError
from msjoe_jax.families import FAMILIES
from msjoe_jax.phases import run_phases
from msjoe_jax.rl.advantages import nested
from msjoe_jax.rl.rewards import REWARDS
from msjoe_jax.rollout.log import redraw, similarity_of
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.base import Network, Selection, Selector
from msjoe_jax.signals import SIGNALS
from msjoe_jax.signals.base import Signal
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.base import Grade, Task
from msjoe_jax.weights.safetensors import read_folder
from tests.support.system import EMBEDDING, colour_questions, noise_videos
from tests.support.tiny import TINY_FRAMES, TINY_PROMPT, clip_of, tiny_model_folder
from tests.support.toy_family import TOY, toy_folder

pytestmark = pytest.mark.slow
VIDEOS = {f"v{i}": 12 for i in range(4)}
T, K, QUERIES = TINY_FRAMES.candidates, TINY_FRAMES.key, TINY_PROMPT.max_queries


# --- the toys: what would be a file of its own, and a line of a dict ------------------------------


class EarlyNetwork(nnx.Module):
    """A linear score of a frame's embedding, which never looks at the second half of a video."""

    def __init__(self, embedding: int, rngs: nnx.Rngs):
        self.network = nnx.Linear(embedding, 1, rngs=rngs)

    def logits(self, inputs):
        score = self.network(inputs.embeddings)[..., 0]
        early = jnp.arange(score.shape[-1]) < VIDEOS["v0"] // 2
        return jnp.where(inputs.frame_mask, jnp.where(early, score, -1e4), -jnp.inf)


EARLY = Selector(
    lambda candidates, k: candidates.choose(candidates.network_logits(), k),
    Network(
        lambda sizes, embedding, rngs: EarlyNetwork(embedding, rngs),
        lambda module, inputs: module.logits(inputs),
        needs_embeddings=True,
    ),
)


def last_frame_again(candidates, k):
    """The last frame, k times, at a quarter of the tokens: repeats, and a budget each."""
    last = candidates.frame_mask.sum(-1) - 1
    shape = (*candidates.query_mask.shape[:2], candidates.num_draws, k)
    frames = np.broadcast_to(last[:, None, None, None], shape).astype(np.int32)
    return Selection(frames=frames, tokens=np.ones(shape, np.int32))


def double_log_prob(logits, draw, mask):
    return 2 * plackett_luce.log_prob(logits, draw, mask)


DOUBLE = Law(plackett_luce.sample, double_log_prob, lambda logits, mask, k: 7.0 + 0 * mask.sum(-1))


def grade_by_checksum(question, reply):
    """Something that differs between replies of an untrained model."""
    return Grade(zlib.crc32(f"{question.id}{reply.text}".encode()) % 2, True, reply.text[:9])


CHECKSUM = Task(
    read=load_questions,
    grade=grade_by_checksum,
    groups=lambda question: {"video": question.video},
    submission=lambda rows: json.dumps({row["id"]: row["answer"] for row in rows}).encode(),
)


def quarter(batch, config):
    return jnp.full(batch.measures["correct"].shape, 0.25)


RISING = Signal(
    lambda inputs: jnp.broadcast_to(
        jnp.arange(inputs.frame_mask.shape[-1]) / 16, (*inputs.query_mask.shape, T)
    )
)


@pytest.fixture(scope="module")
def toys() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SELECTORS, "early", EARLY)
        patch.setitem(SELECTORS, "last_again", Selector(last_frame_again))
        patch.setitem(DRAWS, "double", DOUBLE)
        patch.setitem(TASKS, "checksum", CHECKSUM)
        patch.setitem(REWARDS, "quarter", quarter)
        patch.setitem(SIGNALS, "rising", RISING)
        patch.setitem(FAMILIES, "toy_vl", TOY)
        yield


@pytest.fixture(scope="module")
def config(toys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("doors")
    clip = tiny_model_folder(folder)
    noise_videos(folder / "records", VIDEOS, clip=clip_of(clip))
    save_questions(folder / "questions.jsonl", colour_questions(list(VIDEOS), 8))
    convert(toy_folder(folder / "hf"), folder / "toy")
    c = base()
    c.phases = ("joint", "evaluate")
    c.mllm.size, c.mllm.checkpoint = "", str(folder / "toy")
    c.mllm.dtype, c.mllm.remat = "float32", False
    c.clip.size, c.clip.checkpoint = "", str(clip)
    c.sampler.network, c.sampler.signals = "early", ("clip", "rising")
    for name in ("candidates", "preview", "key", "preview_patches", "key_patches"):
        c.frames[name] = getattr(TINY_FRAMES, name)
    for name in ("system", "query_instruction", "answer_instruction", "max_queries"):
        c.prompt[name] = getattr(TINY_PROMPT, name)
    c.prompt.query_prompt_tokens = c.prompt.answer_prompt_tokens = 96
    c.prompt.query_tokens, c.prompt.answer_tokens = 8, 4
    c.data.task = "checksum"
    for split in ("train", "heldout"):
        c.data[f"{split}_records"] = str(folder / "records")
        c.data[f"{split}_questions"] = str(folder / "questions.jsonl")
    c.data.shared_videos = True
    c.rollout.questions, c.rollout.query_rollouts, c.rollout.frame_draws = 4, 2, 2
    c.rollout.selector = "early"
    c.objective.likelihood = "double"
    c.objective.rewards.quarter = 0.5
    c.objective.routes = {"answer": {"quarter": 0.5}}
    c.joint.steps = 2
    c.optimizer.mllm_lr, c.optimizer.sampler_lr = 1e-2, 1e-2
    c.evaluate.arms = ("uniform", "early", "last_again")
    c.evaluate.batch = 4
    return c


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """The files of a run with all of them."""
    folder = tmp_path_factory.mktemp("run")
    run_phases(check(config), folder)

    def rows(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (folder / name).read_text().splitlines()]

    return SimpleNamespace(
        folder=folder,
        config=config,
        questions=config.data.train_questions,
        log=rows("joint/rollouts.jsonl"),
        metrics=rows("joint/metrics.jsonl"),
        report=json.loads((folder / "eval.json").read_text()),
    )


def test_the_selectors_frames_are_in_the_log(run):
    assert {row["selector"] for row in run.log} == {"early"}
    frames = np.array([row["selected"] for row in run.log])
    assert frames.max() < VIDEOS["v0"] // 2 and frames.shape[1:] == (2, 2, K)
    for row in run.log:
        np.testing.assert_array_equal(redraw(row), row["draws"])
    assert {"early", "last_again"} <= run.report["arms"].keys()


def test_the_selectors_own_weights_have_trained(run):
    after = load_model_folder(run.folder / "final")
    assert after.system.network == "early"
    before = after.system.init("sampler", run.config.seed)
    kernels = [sampler["network"]["kernel"] for sampler in (before, after.params["sampler"])]
    assert kernels[0].shape == (EMBEDDING, 1)
    assert np.abs(kernels[1] - kernels[0]).max() > 1e-3


def test_the_rewards_value_is_in_the_metrics(run):
    for row in run.metrics:
        assert row["rewards/quarter"] == 0.25
        parts = 0.8 * row["rewards/accuracy"] + 0.1 * row["rewards/format"]
        assert row["reward"] == pytest.approx(parts + 0.1 * row["rewards/info"] + 0.125, abs=1e-6)


def test_the_draws_log_prob_is_in_the_update(run):
    """The sampler's gradient of the first update, from the log and the embeddings alone."""
    rows = [row for row in run.log if row["step"] == 1]
    reader = RecordReader(run.config.data.train_records)
    videos = {question.id: question.video for question in load_questions(run.questions)}
    gradient = np.zeros(EMBEDDING)
    for row in rows:
        n, half = row["frames"], VIDEOS["v0"] // 2
        logits = np.array([np.frombuffer(base64.b64decode(x), "<f4") for x in row["logits"]])
        _, advantage = nested(jnp.array(row["correct"], jnp.float32))
        draws = np.array(row["draws"])
        draw = Draw(jnp.maximum(draws, 0), jnp.asarray(draws >= 0))

        def total(logits, draw=draw, advantage=advantage, n=n):
            wide = jnp.broadcast_to(logits[:, None], (*draw.valid.shape[:2], n))
            log_prob = plackett_luce.log_prob(wide, draw, jnp.ones(wide.shape, bool))
            return (advantage * 2 * log_prob).sum()

        by_frame = np.asarray(jax.grad(total)(jnp.asarray(logits))).sum(0)
        embeddings = reader.embeddings(videos[row["id"]])
        gradient += by_frame[:half] @ embeddings[:half]  # later frames' logits are constants
    assert np.ptp([row["correct"] for row in rows]) > 0  # there is something to learn from
    want = np.linalg.norm(gradient) / (len(rows) * 4)
    assert run.metrics[0]["grad_norm/sampler"] == pytest.approx(want, rel=1e-3)
    assert run.metrics[0]["sampler/entropy"] == pytest.approx(7.0)


def test_the_signal_is_a_row_of_s(run):
    rows = similarity_of(run.log[0])
    n = run.log[0]["frames"]
    assert rows.shape == (2, 2 * QUERIES, n)
    count = len(run.log[0]["queries"][0])
    for q in range(count):
        np.testing.assert_allclose(rows[0, QUERIES + q], np.arange(n) / 16, atol=1e-3)
        assert np.abs(rows[0, q]).max() <= 1.001  # CLIP's cosines


def test_the_tasks_groups_and_submission_are_in_the_files(run):
    assert run.report["task"] == "checksum"
    groups = run.report["arms"]["uniform"]["groups"]["video"]
    assert groups.keys() == VIDEOS.keys() and all(g["questions"] == 2 for g in groups.values())
    submitted = json.loads((run.folder / "submission-uniform.json").read_text())
    assert submitted.keys() == {f"q{i}" for i in range(8)}


def test_the_family_has_trained_and_exports_under_its_own_names(run, tmp_path):
    export(run.folder / "final", tmp_path / "out", "hf")
    before = read_folder(run.folder.parent / "doors0" / "hf")
    after = read_folder(tmp_path / "out")
    assert before.keys() == after.keys() and all(name.startswith("toy.") for name in after)
    moved = {n for n in after if before[n].read().tobytes() != after[n].read().tobytes()}
    assert moved and all("visual" not in name for name in moved)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "toy_vl"
    sampler = json.loads((tmp_path / "out" / "sampler" / "config.json").read_text())
    assert sampler["network"] == "early"


def test_a_name_that_is_behind_no_door_is_refused(config):
    c = config.copy_and_resolve_references()
    c.sampler.signals, c.rollout.selector, c.objective.rewards = ("smell",), "best", {"luck": 1.0}
    with pytest.raises(UserError) as error:
        check(c)
    text = str(error.value)
    assert all(
        word in text for word in ("'smell', which is not one of clip, siglip, rising", "early")
    )
    assert "holds luck" in text
