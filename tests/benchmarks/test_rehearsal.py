"""The pieces of benchmarks/rehearsal.py: sizes, questions, lessons in the formats, checks."""

import json
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import rehearsal
from benchmarks.rehearsal_models import (
    ASKED,
    BRANCH_STD,
    OPTIONS,
    Schedule,
    make_lesson,
    make_questions,
    random_tensor,
    reply_ids,
    supervise,
    write_clip_tokenizer,
    write_lines,
)
from msjoe_jax.config import base, read_config
from msjoe_jax.data.questions import load_questions
from msjoe_jax.families import FAMILIES
from msjoe_jax.fields import read
from msjoe_jax.models.params import count_params
from msjoe_jax.rollout.assemble import Assembler, Frame
from msjoe_jax.rollout.frames import FrameConfig
from msjoe_jax.rollout.generate import generate
from msjoe_jax.rollout.system import ModelSettings, load_tokenizers, make_system
from msjoe_jax.rollout.text import make_text
from msjoe_jax.text.prompts import PromptConfig, parse_answer, parse_queries
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.world.word_tokenizer import build_word_tokenizer
from tests.support.material import QWEN, needs_material


def test_the_sizes_are_the_published_ones_with_two_layers():
    mllm, clip = rehearsal.sizes()
    assert (mllm.text.width, mllm.text.vocab, mllm.text.tie_embeddings) == (2048, 151936, True)
    assert (mllm.text.layers, mllm.vision.depth) == (2, 2)
    assert (clip.vision_layers, clip.text_layers, clip.vision_width) == (2, 2, 1024)
    shapes = FAMILIES["qwen2_5_vl"].abstract_params(mllm)
    assert count_params(shapes) == pytest.approx(545e6, rel=0.01)


def test_random_tensors():
    kernel = random_tensor("visual.blocks.0.mlp.up_proj.weight", (300, 200), 0)
    assert kernel.dtype.name == "bfloat16" and kernel.shape == (300, 200)
    assert float(kernel.astype(np.float32).std()) == pytest.approx(0.02, rel=0.05)
    again, other = (
        random_tensor("visual.blocks.0.mlp.up_proj.weight", (300, 200), s) for s in (0, 1)
    )
    assert (kernel == again).all() and (kernel != other).any()
    branch = random_tensor("model.layers.0.mlp.up_proj.weight", (300, 200), 0)
    assert float(branch.astype(np.float32).std()) == pytest.approx(BRANCH_STD, rel=0.05)
    norms = (
        "model.norm.weight",
        "model.layers.1.input_layernorm.weight",
        "visual.merger.ln_q.weight",
        "visual.blocks.0.norm1.weight",
        "vision_model.pre_layrnorm.weight",
        "vision_model.encoder.layers.0.layer_norm1.weight",
        "text_model.final_layer_norm.weight",
    )
    for name in norms:
        assert (random_tensor(name, (8,), 0) == 1).all(), name
    assert (random_tensor("text_model.final_layer_norm.bias", (8,), 0) == 0).all()
    assert (random_tensor("model.embed_tokens.weight", (8,), 0) != 1).all()


def test_clips_tokenizer_is_the_published_one(tmp_path):
    write_clip_tokenizer(tmp_path)
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.size == 49408
    assert tokenizer.encode("a photo of  a Cat") == [320, 1125, 539, 320, 2368]
    assert tokenizer.token_id("<|endoftext|>") == 49407


def test_questions_are_read_and_their_letters_vary(tmp_path):
    videos = [f"v{i}" for i in range(4)]
    write_lines(tmp_path / "questions.jsonl", make_questions(videos, 16))
    questions = load_questions(tmp_path / "questions.jsonl")
    assert len({q.id for q in questions}) == 16
    assert [q.video for q in questions[:4]] == videos
    for video in videos:
        own = [q for q in questions if q.video == video]
        assert {q.answer for q in own} == {0, 1}
        assert len({q.question for q in own}) == len(own)
    assert all(len(set(q.options)) == 4 for q in questions)


@needs_material
@pytest.mark.parametrize(
    "tag, choice", [("query", OPTIONS[0]), ("query", OPTIONS[1]), ("answer", "A")]
)
def test_a_reply_spells_its_text_and_repeats_no_token_before_its_end(tag, choice):
    tokenizer = Tokenizer(QWEN)
    ids = reply_ids(tokenizer, tag, choice)
    assert tokenizer.decode(ids) == f"<{tag}>{choice}</{tag}><|im_end|>"
    assert len(set(ids)) == len(ids) <= rehearsal.FIELDS[f"prompt.{tag}_tokens"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny MLLM whose words are those of the lessons."""
    folder = tmp_path_factory.mktemp("rehearsal")
    style = PromptConfig(
        system="",
        query_instruction="search",
        answer_instruction="answer",
        max_queries=2,
        query_prompt_tokens=64,
        answer_prompt_tokens=64,
        query_tokens=8,
        answer_tokens=8,
    )
    tokenizer = build_word_tokenizer(folder / "tokenizer.json", [*ASKED, *OPTIONS, "search answer"])
    slips: list[str] = []
    named = {"size": "tiny", "tokenizer": str(tokenizer)}
    mllm = {**named, "dtype": "float32", "remat": False}
    settings = read(ModelSettings, {"mllm": mllm, "clip": named, "sampler": {}}, "", slips)
    assert not slips
    tokenizers = load_tokenizers(settings)
    system = make_system(settings, tokenizers)
    return system, make_text(system, tokenizers, style)


def fresh(system):
    """Initial values, drawn on the host; a table wide enough to name a token for certain."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        std = 0.2 if name == "language/embedding" else 0.02
        values = np.ones(leaf.shape) if "norm" in name else std * rng.standard_normal(leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, system.abstract["mllm"])


@pytest.mark.soak
def test_lessons_teach_both_formats(tiny):
    """Sampled replies are valid most of the time, and their letters and queries vary."""
    system, text = tiny
    frames, visual = FrameConfig(candidates=8, preview=2, key=3), 4
    rng = np.random.default_rng(0)
    width = system.mllm_config.text.width
    features = jnp.asarray(0.02 * rng.standard_normal((1, 6 * visual, width)), jnp.float32)
    pool = [Frame(i * visual, (4, 4)) for i in range(6)]
    assembler = Assembler(text.tokenizer, system.family, system.mllm_config)
    questions = make_questions(["v0", "v1", "v2"], 12)

    def lesson(number):
        own = np.random.default_rng(number)
        return make_lesson(assembler, text, questions, pool, frames, own, schedule)

    schedule = Schedule(steps=400, prompts=16, rate=5e-3, enough=0.2)
    said: list[str] = []
    params, steps = supervise(system, fresh(system), features, lesson, schedule, said.append)
    assert steps < schedule.steps and said
    sampling = text.sampling(8, 1.0)
    keys = jax.random.split(jax.random.key(0), (1, 16, 8))
    drawn = jax.jit(lambda p: generate(system.mllm(p), prompts, features, keys, sampling))
    prompts = jax.tree.map(jnp.asarray, lesson(999).prompts)
    done = jax.tree.map(np.asarray, drawn(params))
    letters, queries, valid = [], [], []
    for g in range(16):
        for n in range(8):
            reply = text.decode(done.tokens[0, g, n], done.mask[0, g, n])
            ended = bool(done.finished[0, g, n])
            if g % 2:
                answer = parse_answer(reply, num_options=4, think=False, finished=ended)
                letters.append(answer.answer)
                valid.append(answer.valid)
            else:
                query = parse_queries(reply, "q", max_queries=2, think=False, finished=ended)
                queries += query.queries
                valid.append(query.valid)
    assert np.mean(valid) > 0.7
    assert 0.25 < letters.count(0) / len(letters) < 0.75
    assert 0.25 < letters.count(1) / len(letters) < 0.75
    assert set(OPTIONS[:2]) <= set(queries)


@pytest.mark.soak
def test_lessons_that_teach_nothing_end_the_rehearsal(tiny):
    system, text = tiny
    assembler = Assembler(text.tokenizer, system.family, system.mllm_config)
    frames = FrameConfig(candidates=8, preview=1, key=1)
    width = system.mllm_config.text.width

    def lesson(number):
        own = np.random.default_rng(number)
        return make_lesson(
            assembler, text, make_questions(["v"], 4), [Frame(0, (2, 2))], frames, own, schedule
        )

    schedule = Schedule(steps=6, rate=0.0)
    params, features = fresh(system), jnp.zeros((1, 1, width))
    with pytest.raises(SystemExit, match="nats too many"):
        supervise(system, params, features, lesson, schedule, lambda _: None)


# --- a step's processes, and the checks -----------------------------------------------------------


def test_a_step_has_its_status_and_the_memory_of_all_its_processes(tmp_path):
    """A child of the command holds 200 MiB."""
    child = "import time; x = bytearray(200 << 20); x[::4096] = bytes([1]) * len(x[::4096]); "
    child += "time.sleep(2.5)"
    words = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); sys.exit(3)"
    )
    ended = rehearsal.watched([sys.executable, "-c", words], tmp_path / "log")
    assert ended.status == 3
    assert 0.2 < ended.peak_gib < 1.0
    assert ended.seconds > 2


def test_a_machine_that_runs_out_of_memory_ends_the_step(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "available_gib", lambda: 0.5)
    with pytest.raises(SystemExit, match="of memory are left"):
        rehearsal.watched([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log")


def finished_run(folder, **last):
    """A run's metrics and evaluation; `last`: other values in the last update."""
    good = {"grad_norm/mllm": 0.5, "grad_norm/sampler": 0.1, "frac_reward_zero_std": 0.25}
    rows = [{"step": i, **good} for i in range(1, rehearsal.UPDATES + 1)]
    rows[-1] |= last
    (folder / "joint").mkdir()
    write_lines(folder / "joint" / "metrics.jsonl", rows)
    (folder / "eval.json").write_text(json.dumps({"arms": {"joint": {}}}))


def test_a_run_that_learnt_passes(tmp_path):
    finished_run(tmp_path)
    assert "grad_norm/mllm 0.5 to 0.5" in rehearsal.check_run(tmp_path)


@pytest.mark.parametrize(
    "last",
    [
        {"grad_norm/mllm": 0.0},
        {"grad_norm/sampler": 0.0},
        {"frac_reward_zero_std": 0.5},
        {"step": 19},
    ],
)
def test_a_run_that_learnt_nothing_does_not(tmp_path, last):
    finished_run(tmp_path, **last)
    with pytest.raises(AssertionError):
        rehearsal.check_run(tmp_path)


def test_finished_steps_are_not_done_again(tmp_path, monkeypatch, capsys):
    """The second step fails, then succeeds; the first is done once."""
    script = "import pathlib, sys; f = pathlib.Path(sys.argv[1]); f.open('a').write('x'); "
    script += "sys.exit(int(sys.argv[2]))"

    def steps(status):
        def step(name, code):
            return rehearsal.Step([sys.executable, "-c", script, str(tmp_path / name), str(code)])

        return {"one": step("one", 0), "two": step("two", status)}

    monkeypatch.setattr(rehearsal, "steps_of", lambda _: steps(4))
    with pytest.raises(SystemExit, match="two ended with status 4"):
        rehearsal.rehearse(tmp_path)
    monkeypatch.setattr(rehearsal, "steps_of", lambda _: steps(0))
    rehearsal.rehearse(tmp_path)
    assert (tmp_path / "one").read_text() == "x"
    assert (tmp_path / "two").read_text() == "xx"
    assert "| all |" in capsys.readouterr().out


def test_the_second_host_is_killed_once_enough_updates_are_logged(tmp_path):
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (tmp_path / "heartbeat").mkdir()
    (tmp_path / "joint").mkdir()
    beat = tmp_path / "heartbeat" / "1.json"
    beat.write_text(json.dumps({"pid": victim.pid}))
    os.utime(beat, (0, 0))  # of an earlier start, whose number may be another process's by now
    look = rehearsal.strike(tmp_path)
    try:
        rows = [{"step": i} for i in range(1, rehearsal.STRIKE_AFTER)]
        write_lines(tmp_path / "joint" / "metrics.jsonl", rows)
        look()
        assert victim.poll() is None
        write_lines(tmp_path / "joint" / "metrics.jsonl", [*rows, {"step": 8}])
        look()
        assert victim.poll() is None
        os.utime(beat)
        look()
        assert victim.wait(60) == -signal.SIGKILL
        look()  # the process is gone, and so it looks no further
    finally:
        victim.kill()


def test_the_trainings_flags_make_a_config(tmp_path):
    """Every field exists and all go together; the checkpoints are not there yet."""
    values = base()
    for name, value in rehearsal.FIELDS.items():
        group, _, field = name.rpartition(".")
        held = values[group] if group else values
        assert field in held, name
        held[field] = value
    slips: list[str] = []
    read_config(values, slips)
    assert all("size is empty" in slip for slip in slips), slips
    assert "--config.mesh.fsdp=2" in rehearsal.training_flags(tmp_path, tmp_path / "run")
