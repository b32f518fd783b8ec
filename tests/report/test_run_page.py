"""The page of a run."""

import json

import pytest

from msjoe_jax.report.page import Html
from msjoe_jax.report.run_folder import Run, Training, read_run
from msjoe_jax.report.run_page import MOST_CURVES, render
from tests.report.test_page import Tags
from tests.support.evaluation_folder import NASTY, write_evaluation
from tests.support.run_folder import write_run

LABELS = {"joint": "joint", "joint_uniform": "joint MLLM, uniform"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "run")


def run_of(*metrics, **parts):
    """A run of one training with these rows of metrics."""
    rows = [{"step": step, **row} for step, row in enumerate(metrics, 1)]
    training = Training("joint", rows, parts.get("validations", []), parts.get("dropped", []))
    return Run("w", {"phases": ["joint"]}, [training], None, None, parts.get("changes", []))


def test_a_page_tells_how_the_run_went(folder):
    page = Tags(render(read_run(folder), LABELS, [Html("<section>a question</section>")]))
    for text in ("0.700", "[0.600, 0.800]", "+0.300", "1 question dropped under every arm"):
        assert text in page.text  # the final table
    for text in ("joint MLLM, uniform", "best: update 10, 0.490", "rewards/diversity"):
        assert text in page.text
    for text in ("sampler/entropy", "grad_norm/mllm", "joint_step", "95th percentile", "share"):
        assert text in page.text
    assert "prompt too long" in page.text and "a question" in page.text
    assert "data.train_questions" in page.text and "seed 7" in page.text
    assert "grad_norm/sampler" not in page.text  # never finite
    assert [tag for tag, _ in page.tags].count("polyline") > 8


def test_the_same_input_gives_the_same_bytes(folder):
    assert render(read_run(folder), LABELS) == render(read_run(folder), LABELS)


def test_an_evaluation_beside_the_run_is_shown(folder, tmp_path):
    write_evaluation(tmp_path, questions=6)
    (tmp_path / "config.json").write_text(json.dumps({"phases": ["evaluate"]}))
    assert "What moves a number" in render(read_run(tmp_path), {})


def test_parts_of_an_update_add_up(folder):
    times = {"time/answer_s": 1.0, "time/reason_s": 2.0, "time/rollout_s": 3.0}
    page = render(run_of(*[times | {"time/update_s": 4.0}] * 3), {})
    bars = Tags(page[page.index("joint: time") :]).tags
    widths = [a["width"] for tag, a in bars if tag == "rect" and "x" in a]
    assert widths == ["50.0%", "25.0%", "25.0%"]  # reason, answer, the rest


def test_a_run_without_anything_yet_has_a_page():
    page = Tags(render(Run("w", {}, [], None, None, []), {})).text
    assert "Run w" in page
    page = Tags(render(run_of(), {})).text
    assert "No metrics were logged." in page and "None was dropped." in page


def test_long_trainings_are_averaged_and_say_so():
    page = render(run_of(*[{"reward": 0.5}] * 1000), {})
    assert "a point is the mean of 5 updates" in page and len(page) < 100_000


def test_of_many_metrics_some_are_drawn():
    row = {f"rewards/r{i:02}": 0.1 for i in range(MOST_CURVES + 2)}
    assert f"{MOST_CURVES} of {MOST_CURVES + 2} metrics" in render(run_of(row, row), {})


def test_update_0_is_never_the_best():
    rows = [{"step": 0, "joint": 0.9, "valid": {"joint": 1.0}}, {"step": 5, "joint": 0.4}]
    assert "best: update 5, 0.400" in render(run_of(validations=rows), {})
    assert "best:" not in render(run_of(validations=rows[:1]), {})


def test_texts_are_escaped():
    changes = [{"time": NASTY, "field": NASTY, "was": NASTY, "is": 1, "after": {}}]
    dropped = [{"id": NASTY, "error": f"{NASTY}: why"}]
    run = run_of({f"rewards/{NASTY}": 0.1}, changes=changes, dropped=dropped)
    page = render(run._replace(config={NASTY: {NASTY: NASTY}}), {})
    assert "<script" not in page and page.count("&lt;script&gt;") > 5
