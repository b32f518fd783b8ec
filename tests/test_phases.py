"""Starts in one work folder: what is kept from other inputs is made again or refused by name.

Programs of the models are stubbed: an update adds 1 to what trains, an answer is a letter.
"""

import contextlib
import dataclasses
import functools
import gc
import json
import re
import shutil
import zlib

import jax
import numpy as np
import pytest

from msjoe_jax import phase_models, phases
from msjoe_jax.config import NAMES, read_config
from msjoe_jax.data.questions import load_questions, save_questions
from msjoe_jax.errors import Unfinished, UserError
from msjoe_jax.phases import run_phases
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.model_folder import load_model_folder, save_model_folder
from msjoe_jax.rollout.results import Completed
from msjoe_jax.rollout.stored_models import StoredModel
from msjoe_jax.runtime.checkpoint import load_meta
from msjoe_jax.runtime.checkpoint_folders import LAST_FILE
from msjoe_jax.training import train
from msjoe_jax.training.state import stored
from msjoe_jax.weights.safetensors import read_header
from tests.support.system import colour_questions, noise_videos
from tests.support.tiny import clip_of, tiny_config, tiny_model_folder

VIDEOS = {"v0": 6, "v1": 9, "v2": 7}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with records, questions and a model; tests copy it."""
    folder = tmp_path_factory.mktemp("phases")
    model = tiny_model_folder(folder)
    for split in ("train", "heldout"):
        noise_videos(folder / split, VIDEOS, clip=clip_of(model), shard_bytes=1)
        asked = [dataclasses.replace(q, difficulty=None) for q in colour_questions(list(VIDEOS), 6)]
        save_questions(folder / f"{split}.jsonl", asked)
    return folder


@functools.cache
def made_system(folder):
    return load_model_folder(folder / "model").system


def like_embeddings(system, arrays):
    """How many of the arrays have the shape of the MLLM's embedding, as its moments have."""
    shape = system.abstract["mllm"]["language"]["embedding"].shape
    return sum(x.shape == shape and not x.is_deleted() for x in arrays)


def held(system):
    """How many the process holds."""
    gc.collect()
    return like_embeddings(system, jax.live_arrays())


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    """A copy of it, in which updates and answers are stubs."""

    def run_loop(loop, state, checkpoints, start):
        system = made_system(made)  # what it started from is gone
        assert held(system) == like_embeddings(system, jax.tree.leaves(state))
        trained = [n for n in ("mllm", "sampler") if getattr(loop.run.training, f"train_{n}")]
        state = {**state, **{n: jax.tree.map(lambda x: x + 1, state[n]) for n in trained}}
        position = loop.stream.get_state()
        kept = stored(loop.run, state)
        checkpoints.save(loop.run.training.steps, kept, position, loop.meta)
        return state, loop.run.training.steps

    def begin(self, place, mllm, rows, *_, samples, **__):
        """What is answered depends on the first token alone, and a little on the model."""
        assert held(made_system(made)) == 1
        spread = [zlib.crc32(np.asarray(row[0]["positions"]).tobytes()) for row in rows]
        texts = [
            [f"<answer>{'ABCD'[(n + i) % 4]}</answer>" for i in range(samples)] for n in spread
        ]
        ends = np.ones((len(rows), samples), bool)
        return lambda: Completed(None, None, None, None, texts, ends, 0)

    monkeypatch.setattr(phase_models, "make_system", lambda *_: made_system(made))
    monkeypatch.setattr(train, "run_loop", run_loop)
    monkeypatch.setattr(Episodes, "begin", begin)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def start(home, *names, at=None, **fields):
    """Runs phases in the folder `w`, as one more start of the same run.

    `at`: where that folder and the run's inputs are; in `home` if not given.
    """
    at = at or home
    c = tiny_config(home)
    c.phases = names
    for name in NAMES:
        c[name].checkpoint = str(at / "model")
    for split in ("train", "heldout"):
        c.data[f"{split}_records"] = str(at / split)
        c.data[f"{split}_questions"] = str(at / f"{split}.jsonl")
    c.pretrain.steps = c.joint.steps = 1
    c.evaluate.batch, c.evaluate.arms = 2, ("uniform",)
    c.rollout.questions, c.rollout.query_rollouts, c.difficulty.samples = 2, 2, 4
    c.update_from_flattened_dict(fields)
    run_phases(read_config(c), at / "w")


def refused(home, *names, **fields):
    with pytest.raises(UserError) as error:
        start(home, *names, **fields)
    (line,) = error.value.lines
    return line


def sampler_of(folder):
    return np.asarray(load_model_folder(folder, ["sampler"]).params["sampler"]["skip_scale"])


def other_model(home, *names):
    """The model folder, written again with other values of these models."""
    shutil.move(home / "model", home / "before")
    model = load_model_folder(home / "before")
    params = {
        name: jax.tree.map(lambda x, n=name: x + 1 if n in names else x, model.params[name])
        for name in NAMES
    }
    parts = {name: model.settings[name] for name in ("frames", "prompt")}
    settings = phases.Config().models
    settings = dataclasses.replace(
        settings,
        **{
            name: dataclasses.replace(getattr(settings, name), **model.settings[name])
            for name in NAMES
        },
    )
    save_model_folder(
        home / "model",
        settings=settings,
        parts=parts,
        system=model.system,
        tokenizers=model.tokenizers,
        params=params,
    )
    shutil.rmtree(home / "before")


def edit(file, change):
    questions = load_questions(file)
    save_questions(file, change(questions))


def corrected(questions):
    first = questions[0]
    return [dataclasses.replace(first, answer=(first.answer + 1) % 4), *questions[1:]]


def longer(questions):
    return [*questions, dataclasses.replace(questions[0], id=f"new{len(questions)}")]


# --- bundles --------------------------------------------------------------------------------------


def test_final_is_always_the_last_training(home, capsys):
    w, before = home / "w", sampler_of(home / "model")
    start(home, "difficulty", "pretrain")
    assert sampler_of(w / "final") == before + 1
    capsys.readouterr()
    start(home, "difficulty", "pretrain", "joint")
    printed = capsys.readouterr().out
    assert f"{w / 'final'}: made from other mllm weights" in printed
    assert "rates.jsonl" not in printed
    assert sampler_of(w / "final") == before + 2
    # What came from checkpoints is not written again.
    assert {p.name for p in w.iterdir()} == {
        "final", "difficulty", "pretrain", "joint", "digests.json",
    }  # fmt: skip
    # With the last training left out of the list it is still the last one in the folder.
    start(home, "difficulty", "pretrain")
    assert f"{w / 'final'}: holds joint, which config.phases leaves out" in capsys.readouterr().out
    assert sampler_of(w / "final") == before + 2
    shutil.rmtree(w / "joint")
    start(home, "difficulty", "pretrain")
    assert sampler_of(w / "final") == before + 1


def test_final_keeps_the_factors_of_lora(home):
    fields = {"mllm.lora_rank": 2, "mllm.lora_targets": "^language/layers/(q|down)$"}
    start(home, "difficulty", "joint", **fields)
    adapter = home / "w" / "final" / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(home / "model")
    assert (config["r"], config["lora_alpha"]) == (2, 32.0)
    layers = {f"language_model.layers.{i}" for i in range(3)}
    names = {f"base_model.model.model.{layer}.{module}.lora_{x}.weight" for layer in layers
             for module in ("self_attn.q_proj", "mlp.down_proj") for x in "AB"}  # fmt: skip
    tensors = read_header(adapter / "adapter_model.safetensors")
    assert tensors.keys() == names
    ups = [tensors[name].read() for name in names if "lora_B" in name]
    assert all((up == 1).all() for up in ups)  # they began at 0, and an update adds 1
    start(home, "difficulty", "joint", "evaluate", **fields)
    assert (adapter / "adapter_config.json").is_file()


def test_a_resumed_start_is_silent_and_reads_no_weights_for_their_names(home, capsys, monkeypatch):
    every = ("difficulty", "pretrain", "joint")
    start(home, *every)
    w = home / "w"
    times = {p: p.stat().st_mtime_ns for p in w.rglob("*") if p.is_file()}
    for method in ("fingerprint", "load"):
        monkeypatch.setattr(StoredModel, method, lambda *_: pytest.fail("read again"))
    capsys.readouterr()
    start(home, *every)
    assert capsys.readouterr().out == ""
    assert {p: p.stat().st_mtime_ns for p in w.rglob("*") if p.is_file()} == times


def test_the_same_weights_elsewhere_are_the_same(home, capsys):
    start(home, "evaluate")
    shutil.copytree(home / "model", home / "copy")
    capsys.readouterr()
    start(home, "evaluate", **{f"{name}.checkpoint": str(home / "copy") for name in NAMES})
    assert "made again" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mllm", "sampler"])
def test_weights_that_changed_at_their_path(home, capsys, name):
    """What is measured by them is measured again while nothing was trained from them."""
    start(home, "difficulty")
    other_model(home, name)
    capsys.readouterr()
    start(home, "difficulty")
    printed = capsys.readouterr().out
    assert ("rates.jsonl: made from other mllm weights" in printed) == (name == "mllm")
    start(home, "difficulty", "pretrain")
    other_model(home, name)
    for again in (("difficulty", "pretrain"), ("evaluate",)):
        line = refused(home, *again)
        assert f"pretrain/checkpoints holds a training from other {name} weights (was " in line


def test_a_tokenizer_that_changed_at_its_path(home):
    fields = {"mllm.tokenizer": "", "pretrain.sampler_advantage": "relative"}
    start(home, "pretrain", **fields)
    file = home / "model" / "mllm" / "tokenizer.json"
    file.write_text(file.read_text().replace("dog", "cow"))
    assert "other mllm tokenizer (was " in refused(home, "pretrain", **fields)


# --- embeddings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "heldout", "validation"])
def test_frames_of_one_clip_and_text_of_another_are_refused(home, split):
    before = clip_of(home / "model")
    shutil.copytree(home / "train", home / "validation")
    other_model(home, "clip")
    now = clip_of(home / "model")
    for folder in {"train", "heldout", "validation"} - {split}:
        shutil.rmtree(home / folder)
        noise_videos(home / folder, VIDEOS, clip=now)
    asked = {"data.validation_records": str(home / split)}
    asked["data.validation_questions"] = str(home / "train.jsonl")
    line = refused(home, "difficulty", "joint", "evaluate", **asked)
    command = f"`msjoe predecode --out={home / split} --clip={home / 'model'}`"
    assert f"{home / split}: " in line and before in line and now in line and command in line
    assert {p.name for p in (home / "w").iterdir()} == {"digests.json"}


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_half_a_folder_embedded_is_found_at_the_start(home, split):
    (home / split / f"clip-{clip_of(home / 'model')}-00002.arrayrecord").unlink()
    line = refused(home, "joint", "evaluate")
    assert "1 of 3 shards" in line and f"--out={home / split}" in line
    assert not (home / "w" / "joint").exists()


# --- questions and records ------------------------------------------------------------------------


@pytest.mark.parametrize("change", [corrected, pytest.param(longer, marks=pytest.mark.soak)])
def test_questions_that_changed_at_their_path(home, capsys, change):
    file = home / "train.jsonl"
    start(home, "difficulty")
    first = load_questions(home / "w" / "difficulty" / "questions.jsonl")
    edit(file, change)
    capsys.readouterr()
    start(home, "difficulty")
    assert "difficulty/rates.jsonl: made from other questions (was " in capsys.readouterr().out
    rated = load_questions(home / "w" / "difficulty" / "questions.jsonl")
    assert [q.id for q in rated] == [q.id for q in load_questions(file)]
    assert all(q.difficulty is not None for q in rated) and rated != first
    start(home, "difficulty", "joint")
    edit(file, change)
    rates = (home / "w" / "difficulty" / "rates.jsonl").read_bytes()
    line = refused(home, "difficulty", "joint")
    assert "joint/checkpoints holds a training from other questions (was " in line
    # It is refused before the pass rates that it used are thrown away.
    assert (home / "w" / "difficulty" / "rates.jsonl").read_bytes() == rates


def test_pass_rates_that_changed_stop_what_goes_by_them(home):
    def rated(rate):
        edit(home / "train.jsonl", lambda q: [dataclasses.replace(x, difficulty=rate) for x in q])

    rated(0.5)
    start(home, "pretrain", "joint")
    rated(0.25)
    line = refused(home, "pretrain", "joint")
    assert re.search(r"pretrain/checkpoints .* other pass rates \(was \w+, is \w+\);", line)
    shutil.rmtree(home / "w")
    start(home, "joint")  # by none: they may change
    rated(0.5)
    start(home, "joint")


def test_records_that_changed_at_their_path(home):
    start(home, "joint")
    shutil.rmtree(home / "train")
    noise_videos(home / "train", {**VIDEOS, "v0": 7}, clip=clip_of(home / "model"))
    assert "joint/checkpoints holds a training from other records" in refused(home, "joint")


def test_a_training_does_not_change_its_start(home):
    start(home, "difficulty", "pretrain", "joint")
    line = refused(home, "difficulty", "joint")
    assert "joint/checkpoints" in line
    assert "other trainings before it (was pretrain, is none), starting weights" in line
    shutil.rmtree(home / "w" / "pretrain")
    start(home, "difficulty", "pretrain", "joint")  # ends in the same values


def test_evidence_is_what_the_next_training_starts_from(home):
    fields = {"evidence.steps": 2, "evidence.questions": 2, "rollout.queries": "question"}
    line = refused(home, "evidence", **fields)
    assert "none of the 6 training questions has evidence" in line
    edit(home / "train.jsonl", lambda asked: [
        dataclasses.replace(question, evidence=((1.0, 2.0),)) for question in asked
    ])  # fmt: skip
    start(home, "evidence", **fields)
    learned = sampler_of(home / "w" / "final")
    assert learned != sampler_of(home / "model")
    assert load_meta(home / "w" / "final" / "params")["trained"]["phases"] == ["evidence"]
    start(home, "difficulty", "evidence", "pretrain", **fields)
    assert sampler_of(home / "w" / "final") == learned + 1
    line = refused(home, "difficulty", "pretrain", **fields)
    assert "other trainings before it (was evidence, is none), starting weights" in line
    start(home, "evidence", **fields)
    assert sampler_of(home / "w" / "final") == learned + 1  # that of pretrain stays


def test_a_checkpoint_that_does_not_say_what_it_was_made_from_is_refused(home):
    start(home, "joint")
    meta = next((home / "w" / "joint" / "checkpoints").glob("*/meta/metadata"))
    document = json.loads(meta.read_text())
    del document["meta"]["inputs"]
    meta.write_text(json.dumps(document))
    assert "was not stated" in refused(home, "joint")


# --- the evaluation -------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_evaluation_is_kept_or_made_again(home, capsys, monkeypatch):
    start(home, "joint", "evaluate")
    report = (home / "w" / "eval.json").read_bytes()
    answer = Episodes.begin_answer
    monkeypatch.setattr(Episodes, "begin_answer", lambda *_, **__: pytest.fail("answered again"))
    start(home, "joint", "evaluate")
    assert (home / "w" / "eval.json").read_bytes() == report
    monkeypatch.setattr(Episodes, "begin_answer", answer)
    rows = f"{home / 'w' / 'eval_rows.jsonl'}: made from other "
    for fields, said in (
        ({"evaluate.limit": 3}, "questions"),
        ({"evaluate.arms": ("uniform", "joint_uniform")}, "arms (was uniform, is joint_uniform, "),
    ):
        capsys.readouterr()
        start(home, "joint", "evaluate", **fields)
        assert rows + said in capsys.readouterr().out
    edit(home / "heldout.jsonl", corrected)
    start(home, "joint", "evaluate")
    assert rows + "arms" in capsys.readouterr().out


@pytest.mark.soak
def test_run_on_object_storage_is_the_run_on_a_disk(home, bucket, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    for kind in ("model", "train", "heldout"):
        for file in sorted(p for p in (home / kind).rglob("*") if p.is_file()):
            (bucket / file.relative_to(home)).write_bytes(file.read_bytes())
    for split in ("train", "heldout"):
        (bucket / f"{split}.jsonl").write_bytes((home / f"{split}.jsonl").read_bytes())
    every = ("difficulty", "pretrain", "evaluate")
    start(home, *every)
    capsys.readouterr()
    start(home, *every, at=bucket)
    assert f"{bucket}/train: copying 9 files" in capsys.readouterr().out
    there, here = bucket / "w", home / "w"
    for name in ("difficulty/questions.jsonl", "eval_questions.jsonl", "eval.json"):
        assert (there / name).read_bytes() == (here / name).read_bytes(), name
    assert np.array_equal(sampler_of(there / "final"), sampler_of(here / "final"))
    written = sorted(p.name for p in there.iterdir())
    assert written == sorted({p.name for p in here.iterdir()} - {"digests.json"})
    (there / "final" / "params" / LAST_FILE).unlink()  # a kill before the last file was written
    start(home, *every, at=bucket)
    assert f"{there}/final: made from other" in capsys.readouterr().out
    assert np.array_equal(sampler_of(there / "final"), sampler_of(here / "final"))


def test_a_saving_ends_whatever_ends_the_evaluation():
    """What was trained must not be lost to an evaluation that fails."""
    ended = []
    for error in (Unfinished("a signal"), UserError("no such video"), None):
        with (
            contextlib.suppress(Unfinished, UserError),
            phases._saved_meanwhile(lambda: ended.append(1)),
        ):
            if error:
                raise error
    assert len(ended) == 3
