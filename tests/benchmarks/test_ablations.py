"""Every ablation's config builds and says something new; N_init = 0; table and curves."""

import ast
import dataclasses
import json
import pathlib
import sys

import numpy as np
import pytest

from benchmarks import ablations
from benchmarks.parallel_runs import Run, from_base, run_all
from configs import tiny as tiny_world
from msjoe_jax.config import read_config
from msjoe_jax.config_check import check
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.rollout.system import load_tokenizers, make_system
from msjoe_jax.rollout.text import make_text
from msjoe_jax.training.state import abstract_state
from tests.support.embeddings import write_embeddings
from tests.support.tiny import TINY_FRAMES, TINY_PROMPT, tiny_params, tiny_settings

VARIANTS = ablations.parse_variants(ablations.FAMILIES)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.family}-{v.name}")
def test_a_variant_builds(variant, tmp_path_factory):
    config = read_config(variant.config())
    settings = tiny_settings(tmp_path_factory.mktemp("words"))
    system = make_system(
        dataclasses.replace(config.models, clip=settings.clip), load_tokenizers(settings)
    )
    state = abstract_state(config.training_run("joint"), system)
    assert bool(state["mllm_opt"]) == config.joint.train_mllm
    assert bool(state["sampler_opt"]) == config.joint.train_sampler
    assert ("lora" in state["mllm"]) == bool(config.mllm.lora_rank)
    assert variant.claim and "\n" not in variant.claim


def test_variants_differ():
    def said(config):
        whole = json.loads(config.to_json())
        whole["evaluate"].pop("arms")
        return json.dumps(whole, sort_keys=True)

    found = [said(v.config()) for v in VARIANTS]
    assert found[0] == said(tiny_world.get_config())  # the default is the demo's own run
    assert len(set(found)) == len(found)


def test_choices():
    v = ablations.Variant
    assert ablations.parse_variants([]) == [ablations.DEFAULT]
    assert ablations.parse_variants(["options:no_kl", "frames:k6"]) == [
        ablations.DEFAULT,
        v("options", "no_kl"),
    ]
    for wrong in ("colours", "options:none"):
        with pytest.raises(ValueError, match="--only: "):
            ablations.parse_variants([wrong])
    with pytest.raises(ValueError, match="no variant 'kk'; it has: one"):
        ablations.importlib.import_module("configs.ablations.queries").get_config("kk")


def test_a_variant_repeats_only_what_it_changes(tmp_path):
    plan = lambda *v: ablations.make_overrides(ablations.Variant(*v), tmp_path)  # noqa: E731
    assert plan("frames", "k2")["sampler.checkpoint"] == tmp_path / "final"
    assert "pretrain" not in plan("frames", "k2")["phases"]
    fresh = plan("parts", "fresh")
    assert fresh["sampler.checkpoint"] == "" and "pretrain" not in fresh["phases"]
    other = plan("rewards", "no_difficulty")
    assert other["sampler.checkpoint"] == "" and "pretrain" in other["phases"]
    mlp, warm = plan("networks", "mlp"), plan("networks", "warm_start")
    assert mlp["sampler.checkpoint"] == "" and mlp["phases"] == "('pretrain', 'joint', 'evaluate')"
    assert (
        warm["sampler.checkpoint"] == "" and warm["phases"] == "('evidence', 'joint', 'evaluate')"
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.family}-{v.name}")
def test_a_variant_runs_from_the_base(variant, tmp_path):
    """Every field that the benchmark overrides is one of the config, of the right type."""
    config = variant.config()
    fields = {**ablations.make_overrides(variant, tmp_path), **ablations.limits(variant, 7, 9)}
    for name, value in fields.items():  # as flags give them
        old = config
        for part in name.split(".")[:-1]:
            old = old[part]
        assert name.split(".")[-1] in old, name
        plain = ast.literal_eval(value) if name == "phases" else value
        plain = str(plain) if isinstance(plain, pathlib.Path) else plain
        old[name.split(".")[-1]] = plain
    made = read_config(config)
    assert made.evaluate.limit == 9 and made.joint.steps <= 7
    assert made.mllm.checkpoint == str(tmp_path.absolute() / "base")
    assert (
        {"joint", "evaluate"} <= set(made.phases) <= {"evidence", "pretrain", "joint", "evaluate"}
    )
    assert ("pretrain" in made.phases) == (
        "pretrain" in read_config(variant.config()).phases and not made.sampler.checkpoint
    )


def test_the_base_run_makes_what_others_start_from(tmp_path):
    config = tiny_world.get_config()
    config.phases = ast.literal_eval(str(ablations.BASE_FIELDS["phases"]))
    config.evaluate.arms = ast.literal_eval(str(ablations.BASE_FIELDS["evaluate.arms"]))
    assert set(check(config, devices=1).phases) == {
        "world",
        "warm_up",
        "difficulty",
        "pretrain",
        "evaluate",
    }
    assert all(str(tmp_path) in str(v) for k, v in from_base(tmp_path).items() if k != "phases")


# --- N_init = 0 -----------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["image", "video"])
def test_reason_without_previews(tmp_path, mode):
    """It runs, and what it reads is the question alone: the video does not matter."""
    settings = tiny_settings(tmp_path)
    tokenizers = load_tokenizers(settings)
    system = make_system(settings, tokenizers)
    params = tiny_params(system.abstract)["mllm"]
    rng = np.random.default_rng(0)
    names = ("a", "b")
    with RecordWriter(tmp_path / "records") as writer:
        for name in names:
            frames = rng.integers(0, 256, (5, 56, 56, 3), np.uint8)
            writer.add(name, [(float(t), frame) for t, frame in enumerate(frames)])
    write_embeddings(tmp_path / "records", "mark", ((n, np.ones((5, 4))) for n in names))
    config = EpisodeConfig(dataclasses.replace(TINY_FRAMES, preview=0, mode=mode))
    episodes = Episodes(
        config,
        Programs(system),
        make_text(system, tokenizers, TINY_PROMPT),
        RecordReader(tmp_path / "records"),
        [Question(n, n, "what is the cup ?", ("dog", "white"), 0) for n in names],
    )
    weight = np.ones(2, np.float32)
    batch = next(iter(episodes.batches(2)))
    out = episodes.reason(params, batch, 0, rollouts=1, temperature=0.0, weight=weight).completed
    assert weight.all() and not episodes.failures
    assert (out.prompts.feature_index == -1).all()
    first, second = np.asarray(out.completions.tokens)
    np.testing.assert_array_equal(first, second)


# --- runs, table and curves -----------------------------------------------------------------------


def test_finished_runs_are_left_alone_and_failed_ones_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    done, bad = (Run(tmp_path / name, "configs/none.py", {}) for name in ("done", "bad"))
    done.workdir.mkdir()
    (done.workdir / "eval.json").write_text("{}")
    run_all([done], 1)
    assert [p.name for p in done.workdir.iterdir()] == ["eval.json"]
    with pytest.raises(SystemExit, match=r"1 of 2 runs failed; see .*bad/log.txt"):
        run_all([done, bad], 2)
    assert [p.name for p in bad.workdir.iterdir()] == ["log.txt"]


N = 40  # held-out questions


def made_up(root, variant, seed, right, reward, steps=30):
    """A finished run: `right` of each arm by question, `reward` at every update."""
    folder = variant.folder(root, seed)
    (folder / "joint").mkdir(parents=True)
    rows = [{"id": str(i), **{k: r[i] for k, r in right.items()}} for i in range(N)]
    (folder / "eval_questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    metrics = [
        {"step": t + 1, "reward": reward, "rewards/accuracy": reward / 2, "time/update_s": 2.0}
        for t in range(steps)
    ]
    text = "".join(json.dumps(r) + "\n" for r in metrics)
    if steps:
        (folder / "joint" / "metrics.jsonl").write_text(text)


@pytest.fixture
def runs(tmp_path):
    first = lambda n: [float(i < n) for i in range(N)]  # noqa: E731
    kl, none = ablations.Variant("options", "no_kl"), ablations.Variant("parts", "none")
    for seed in range(3):
        three = {"uniform": first(10), "topk_queries": first(20), "joint": first(30)}
        made_up(tmp_path, ablations.DEFAULT, seed, three, 0.8)
    for seed in range(2):
        made_up(tmp_path, kl, seed, {"joint": [*first(24 + 4 * seed)[:-1], None]}, 0.5 + seed / 10)
        made_up(tmp_path, none, seed, {"joint": first(8)}, 0.0, steps=0)
    return tmp_path, {ablations.DEFAULT: 3, kl: 2, none: 2}


def test_table(runs):
    rows = ablations.table(*runs)
    found = {(r["variant"], r["arm"]): r for r in rows}
    default, kl, none = (found[n, "joint"] for n in ("k6", "no_kl", "none"))
    assert default["accuracy"] == 0.75 and default["minus_default"] == [0, 0, 0]
    assert found["k6", "uniform"]["accuracy"] == 0.25
    # The question that was dropped counts in neither; seeds got 24 and 28 of the other 39.
    assert kl["accuracy"] == pytest.approx(26 / 39)
    gap, low, high = kl["minus_default"]
    assert gap == pytest.approx(-4 / 39) and low < gap < high
    assert kl["reward_at_end"] == pytest.approx(0.55) and kl["seconds_per_update"] == 2.0
    assert none["reward_at_end"] is None and none["minus_default"][0] == pytest.approx(-22 / 40)
    text = ablations.format_table(rows)
    assert len(text.splitlines()) == 2 + 5
    assert "| options:no_kl | no KL to the base model" in text and "| –" in text
    assert "(0.615 0.718)" in text and "(0.750" not in text  # where seeds differ
    assert "K = 6, the default: uniform | 0.250" in text


def test_curves(runs):
    root, _ = runs
    figure = ablations.curves_figure(*runs)
    axes = {a.get_title(): a for a in figure.axes if a.get_title()}
    assert list(axes) == ["frames", "parts", "options"]
    lines = {line.get_label(): line.get_ydata() for line in axes["options"].get_lines()}
    np.testing.assert_allclose(lines["no_kl"], 0.55)
    np.testing.assert_allclose(lines["default"], 0.8)
    assert [line.get_label() for line in axes["parts"].get_lines()] == ["default"]
    figure.savefig(root / "curves.png")
    assert (root / "curves.png").stat().st_size > 5_000


@pytest.mark.parametrize("n", [0, 1, 7, 50])
def test_smoothing(n):
    values = np.random.default_rng(n).normal(size=n)
    want = [values[max(0, i - 4) : i + 1].mean() for i in range(n)]
    np.testing.assert_allclose(ablations.smoothed(values, 5), want, atol=1e-12)
