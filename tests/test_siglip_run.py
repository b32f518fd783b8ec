"""A run whose signals are CLIP and SigLIP: trained, evaluated, resumed, asked, exported."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from msjoe_jax.commands.ask import ask
from msjoe_jax.commands.export import export
from msjoe_jax.config_check import check
from msjoe_jax.data.questions import save_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from msjoe_jax.phases import run_phases
from msjoe_jax.report.answer_page import render
from msjoe_jax.rollout.log import similarity_of
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.weights.safetensors import read_folder
from tests.support.commands import command
from tests.support.siglip_oracle import siglip_model_folder
from tests.support.system import changed, colour_questions, noise_videos
from tests.support.tiny import TINY_PROMPT, clip_of, tiny_config, tiny_model_folder, tiny_video

pytestmark = pytest.mark.soak
VIDEOS = {f"v{i}": 6 for i in range(4)}
QUERIES = TINY_PROMPT.max_queries


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    model = tiny_model_folder(folder)
    noise_videos(folder / "records", VIDEOS, clip=clip_of(model))
    save_questions(folder / "questions.jsonl", colour_questions(list(VIDEOS), 4))
    siglip_model_folder(folder)
    return folder


def config_of(home, **fields):
    c = tiny_config(home)
    c.phases = ("difficulty", "joint", "evaluate")
    for name in ("mllm", "clip", "sampler"):
        c[name].checkpoint = str(home / "model")
    c.siglip.checkpoint = str(home / "siglip")
    c.sampler.signals = ("clip", "siglip")
    for split in ("train", "heldout"):
        c.data[f"{split}_records"] = str(home / "records")
        c.data[f"{split}_questions"] = str(home / "questions.jsonl")
    c.data.shared_videos = True
    c.rollout.questions, c.rollout.query_rollouts, c.rollout.frame_draws = 4, 2, 2
    c.joint.steps, c.checkpoint_every, c.difficulty.samples = 2, 1, 2
    c.optimizer.sampler_lr = 1e-2
    c.evaluate.arms, c.evaluate.batch = ("uniform", "topk_queries", "joint"), 4
    return changed(c, **fields)


def refused(config):
    with pytest.raises(UserError) as error:
        check(config)
    return error.value.lines


def test_a_config_that_does_not_go_together_is_refused_in_a_line(home):
    (line,) = refused(config_of(home, **{"siglip.checkpoint": ""}))
    assert line.startswith("config.siglip.checkpoint is not set, and config.sampler.signals")
    (line,) = refused(config_of(home, **{"sampler.signals": ("clip",)}))
    assert "no signal reads it; add siglip to config.sampler.signals" in line
    (line,) = refused(config_of(home, **{"siglip.checkpoint": str(home / "model")}))
    assert f"config.siglip.checkpoint={home / 'model'}: " in line and "holds no siglip" in line


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    """A run of two updates; the command that its refusal names has embedded the frames."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.raises(UserError) as error:
        run_phases(check(config_of(home)), folder / "refused")
    (line,) = error.value.lines
    words = f"msjoe predecode --out={home / 'records'} --siglip={home / 'siglip'}"
    assert "no SigLIP embeddings, and the run's SigLIP is" in line and f"`{words}`" in line
    done = command(*words.split(" ")[1:])
    assert done.returncode == 0, done.stderr
    assert len(list((home / "records").glob("siglip-*.arrayrecord"))) == 1
    run_phases(check(config_of(home)), folder / "w")
    return folder / "w"


def test_rows_of_both_are_in_the_log(run, home):
    """SigLIP's row of a query, from its embeddings on disk and the library's arithmetic."""
    rows = [
        json.loads(line) for line in (run / "joint" / "rollouts.jsonl").read_text().splitlines()
    ]
    model = load_model_folder(run / "final")
    params = model.params["siglip"]
    (file,) = (home / "records").glob("siglip-*.arrayrecord")
    reader = RecordReader(home / "records", "", file.name.split("-")[1])
    programs = Programs(model.system, model.machine)
    questions = {q.id: q.video for q in colour_questions(list(VIDEOS), 4)}
    boundary = float(params["logit_bias"] / np.exp(params["logit_scale"]))
    for row in rows:
        similarity, queries = similarity_of(row), row["queries"]
        assert similarity.shape[1:] == (2 * QUERIES, row["frames"])
        tokens = model.text.siglip_rows(
            [queries], np.arange(QUERIES) < np.array([[[len(texts)] for texts in queries]])
        )
        texts = np.asarray(programs.embed_siglip_queries(params, tokens))[0]
        frames = reader.embeddings(questions[row["id"]], "siglip")
        unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (texts, frames)]
        want = np.einsum("IQE,TE->IQT", *unit) + boundary
        for i, own in enumerate(queries):
            got = similarity[i, QUERIES : QUERIES + len(own)]
            np.testing.assert_allclose(got, want[i, : len(own)], atol=2e-3)  # the log is float16
            assert np.abs(similarity[i, : len(own)]).max() <= 1.001  # CLIP's cosines


def test_the_final_folder_holds_siglip_and_answers(run, home, tmp_path):
    before = load_model_folder(home / "siglip", ["siglip"]).params["siglip"]
    after = load_model_folder(run / "final")
    assert after.system.signals == ("clip", "siglip")
    assert after.params.keys() == {"mllm", "clip", "sampler", "siglip"}
    np.testing.assert_array_equal(after.params["siglip"]["logit_bias"], before["logit_bias"])
    files = sorted(path.name for path in (home / "siglip" / "siglip").iterdir())
    assert sorted(path.name for path in (run / "final" / "siglip").iterdir()) == files
    video = tiny_video(tmp_path / "v.mp4", 10)
    report = ask(run / "final", video, "what colour is the red cup ?", ["a", "b"])
    assert {name for name, _, _ in report.models} == {"mllm", "clip", "sampler", "siglip"}
    assert np.isfinite(report.logits).all()
    assert report.similarity.shape == (2 * len(report.queries), len(report.timestamps))
    assert "(the rows of clip, siglip)" in render(report)


def test_another_start_does_nothing_again_and_a_killed_one_goes_on(run, home, tmp_path):
    shutil.copytree(run, tmp_path / "w")
    joint = tmp_path / "w" / "joint"
    shutil.rmtree(joint / "checkpoints" / "2")
    run_phases(check(config_of(home)), tmp_path / "w")
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        steps = [json.loads(x)["step"] for x in (joint / name).read_text().splitlines()]
        assert steps == sorted(steps) and set(steps) == {1, 2}
    got = load_model_folder(tmp_path / "w" / "final", ["sampler"]).params["sampler"]
    want = load_model_folder(run / "final", ["sampler"]).params["sampler"]
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_another_siglip_is_another_run(run, home, tmp_path):
    """By contents: one whose pixels are prepared in another way has other embeddings."""
    shutil.copytree(run, tmp_path / "w")
    shutil.copytree(home / "siglip", tmp_path / "other")
    file = tmp_path / "other" / "siglip" / "preprocessor_config.json"
    file.write_text(json.dumps({"resample": int(Image.Resampling.BOX)}))
    with pytest.raises(UserError, match=r"embedded by SigLIP .*, and the run's SigLIP is"):
        run_phases(
            check(config_of(home, **{"siglip.checkpoint": str(tmp_path / "other")})),
            tmp_path / "w",
        )


def test_siglip_alone(run, home, tmp_path):
    """Its rows only; CLIP is still there for whoever asks for embeddings of frames."""
    fields = {"sampler.signals": ("siglip",), "joint.steps": 1, "phases": ("joint",)}
    run_phases(check(config_of(home, **fields)), tmp_path / "w")
    log = (tmp_path / "w" / "joint" / "rollouts.jsonl").read_text().splitlines()
    both = (run / "joint" / "rollouts.jsonl").read_text().splitlines()
    rows = {row["id"]: row for row in map(json.loads, both) if row["step"] == 1}
    for row in map(json.loads, log):
        assert row["queries"] == rows[row["id"]]["queries"]
        np.testing.assert_array_equal(
            similarity_of(row), similarity_of(rows[row["id"]])[:, QUERIES:]
        )


def test_it_exports_under_its_published_names(run, home, tmp_path):
    export(run / "final", tmp_path / "out", "hf")
    before, after = (read_folder(x) for x in (home / "hf_siglip", tmp_path / "out" / "siglip"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].read().tobytes() == tensor.read().tobytes(), name
    assert (tmp_path / "out" / "siglip" / "spiece.model").is_file()
    export(run / "final", tmp_path / "orbax", "orbax")
    assert load_model_folder(tmp_path / "orbax").params.keys() >= {"siglip"}
