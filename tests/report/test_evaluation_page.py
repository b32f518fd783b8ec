"""The page of an evaluation."""

import json

import pytest

from msjoe_jax.report import evaluation_page
from msjoe_jax.report.evaluation_folder import LONGEST_REPLY, read_evaluation
from msjoe_jax.report.evaluation_page import (
    answer_rows,
    budget_of,
    flat,
    marks_of,
    number,
    render,
    shortened,
)
from msjoe_jax.report.look_section import thumbnail_bytes
from tests.report.test_page import Tags
from tests.support.evaluation_folder import LABELS, NASTY, write_evaluation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_evaluation(tmp_path_factory.mktemp("evaluation"))


def changed(folder, tmp_path, **fields):
    """The evaluation with another summary."""
    for name in ("samples.jsonl", "looks"):
        (tmp_path / name).symlink_to(folder / name)
    summary = json.loads((folder / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps(summary | fields))
    return render(read_evaluation(tmp_path))


def test_a_page_tells_everything_that_was_measured(folder):
    page = Tags(render(read_evaluation(folder)))
    summary = json.loads((folder / "summary.json").read_text())
    for arm in summary["arms"]:
        assert arm["label"] in page.text
        assert f"{arm['accuracy']:.3f}" in page.text
        low, high = arm["ci95"]
        assert f"[{low:.3f}, {high:.3f}]" in page.text
    for row in summary["differences"]:
        assert f"{row['difference']:+.3f}" in page.text
    for text in ("missing video", "prompt too long", "unparsed", "cut off", "tagged", "lmms-eval"):
        assert text in page.text
    for text in ("weights.mllm", "0123abcd", "abc1234", "2 x cpu", "settings.extractor"):
        assert text in page.text  # what moves a number
    for text in ("By duration", "By domain", "Time and tokens", "Same frames", "frames a question"):
        assert text in page.text
    assert page.text.count("What is shown after the red cube?") == 2
    names = [name for name, _ in page.tags]
    assert "script" not in names and names.count("figure") > 10


def test_the_same_input_gives_the_same_bytes(folder):
    assert render(read_evaluation(folder)) == render(read_evaluation(folder))


def test_nothing_is_loaded_from_elsewhere(folder):
    page = Tags(render(read_evaluation(folder)))
    targets = [a[name] for _, a in page.tags for name in ("src", "href") if name in a]
    assert targets and all(target.startswith(("#", "data:image/")) for target in targets)


def test_a_mean_over_the_rows_gives_the_time(folder):
    page = Tags(render(read_evaluation(folder))).text
    assert "joint" in page and "0.1000.2000.3000.4001.000" in page  # the four steps and all


def test_a_step_that_was_not_timed_is_not_taken_for_nothing(tmp_path):
    file = write_evaluation(tmp_path) / "samples.jsonl"
    file.write_text(file.read_text().replace('"similarity": 0.2', '"similarity": null'))
    page = Tags(render(read_evaluation(tmp_path))).text
    assert "0.100–0.3000.400–" in page and "seconds a question" not in page


def test_a_page_without_looks_says_how_to_get_them(tmp_path):
    page = render(read_evaluation(write_evaluation(tmp_path, looks=0)))
    assert "evaluate with --looks=N" in page


def test_what_the_summary_lacks_has_no_section(folder, tmp_path):
    page = changed(folder, tmp_path, differences=[], overlap={}, sheet={})
    assert "Differences" not in page and "Same frames" not in page


def test_what_arms_are_made_of_is_a_column_where_they_differ(folder, tmp_path):
    page = Tags(render(read_evaluation(folder))).text
    assert "The same for all arms: queries by joint, scorer clip, sampler joint" in page
    assert "95 %selector" in page
    summary = json.loads((folder / "summary.json").read_text())
    arms = [row | {"tiers": ""} for row in summary["arms"]]
    assert ", tiers none" in changed(folder, tmp_path, arms=arms)


def test_a_checkpoint_of_each_model_is_listed(folder, tmp_path):
    page = changed(folder, tmp_path, checkpoint={"mllm": "models/a", "clip": "models/b"})
    assert f"Evaluation of {tmp_path}" in page and "checkpoint.clip" in page and "models/b" in page


def test_one_budget_has_no_curve(tmp_path):
    page = render(read_evaluation(write_evaluation(tmp_path, budgets=(8,))))
    assert "<polyline" in page and "Accuracy against budget" not in page


def test_an_arm_without_questions_has_no_number(folder, tmp_path):
    summary = json.loads((folder / "summary.json").read_text())
    arms = [{**arm, "accuracy": None, "ci95": None, "questions": 0} for arm in summary["arms"]]
    page = Tags(changed(folder, tmp_path, arms=arms)).text
    assert "nan" not in page and "None" not in page


def test_texts_of_the_summary_are_escaped(folder, tmp_path):
    page = changed(
        folder, tmp_path, checkpoint=NASTY, machine={NASTY: NASTY}, sheet={NASTY: {NASTY: 1}}
    )
    assert "<script" not in page and "&lt;script&gt;" in page


def test_pictures_stop_where_the_page_would_be_too_large(folder, monkeypatch):
    evaluation = read_evaluation(folder)
    look = evaluation.looks[0]
    one = thumbnail_bytes(look, [name for name in look.frames if name.endswith("@4")])
    monkeypatch.setattr(evaluation_page, "MOST_PICTURES", one + 100)
    page = render(evaluation)
    assert page.count("the page would be too large") == 1 and "data:image/jpeg" in page


def test_only_so_many_questions_are_shown(folder, monkeypatch):
    monkeypatch.setattr(evaluation_page, "MOST_LOOKS", 1)
    page = render(read_evaluation(folder))
    assert "1 of 2 questions that the evaluation looked at" in page
    assert page.count("What is shown after the red cube?") == 1


def test_of_many_differences_some_are_drawn(folder, monkeypatch):
    monkeypatch.setattr(evaluation_page, "MOST_DIFFERENCES", 3)
    page = render(read_evaluation(folder))
    assert "The first 3 of 4; the table has all." in page and page.count(" minus ") == 3


def test_of_many_groups_the_largest_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_page, "MOST_NAMES", 2)
    page = render(read_evaluation(write_evaluation(tmp_path, questions=41)))
    assert "The 2 groups with the most questions of 5." in page


def test_many_questions_and_arms_make_a_small_page(tmp_path):
    """Bytes grow with arms and looks, not with questions."""
    write_evaluation(tmp_path, questions=300, arms=tuple(LABELS), budgets=(8, 16), looks=24)
    page = render(read_evaluation(tmp_path))
    assert len(page) < 5e6


def test_the_budget_that_most_arms_have_is_shown():
    keys = [("a", 8), ("a", 16), ("b", 8), ("b", 16), ("c", 64), ("blind", 0)]
    assert budget_of(iter(keys), largest=True) == 16
    assert budget_of(iter(keys), largest=False) == 8
    assert budget_of(iter([]), largest=True) == 0


def test_small_parts(folder):
    assert marks_of(iter(["a", "b", "a"])) == {"a": 0, "b": 1}
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == [
        ("a.b", 1),
        ("a.c.d", [2]),
        ("e", None),
    ]
    assert [number(x) for x in (None, True, 1200, 0.5, "x")] == ["–", "yes", "1,200", "0.500", "x"]
    assert shortened("x" * LONGEST_REPLY) == "x" * LONGEST_REPLY
    assert shortened("x" * (LONGEST_REPLY + 1)) == "x" * LONGEST_REPLY + "…"
    samples = read_evaluation(folder).samples[:2]
    rows = answer_rows([samples[0]._replace(draw=2), samples[1]], {("blind", 0): "no frames"})
    assert rows[0][0] == "no frames, draw 2" and rows[0][2] == (samples[0].score == 1)
    assert rows[1][2] is None and rows[1][3].startswith("dropped: prompt too long")
