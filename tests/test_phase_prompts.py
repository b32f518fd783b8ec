"""What a run says it will drop is what it drops."""

import pytest

from msjoe_jax.config import read_config
from msjoe_jax.data.questions import Question, save_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import ARMS
from msjoe_jax.phase_prompts import asked, count_prompts, tell_dropped
from msjoe_jax.rollout.prompt_lengths import PromptLengths
from tests.support.system import COLOURS, noise_videos, tiny_run
from tests.support.tiny import tiny_config


def question(number, words, video="a"):
    return Question(f"q{number}", video, "the cup " * words, COLOURS, number % 4, 0.5)


@pytest.fixture
def made(tmp_path):
    """Eight questions of 2, 8, … 44 words about videos of six frames and of one."""
    reader = noise_videos(tmp_path / "records", {"a": 6, "b": 1})
    questions = [question(n, 1 + 3 * n, "ab"[n % 2]) for n in range(8)]
    save_questions(tmp_path / "questions.jsonl", questions)
    config = tiny_config(tmp_path)
    for split in ("train", "validation", "heldout"):
        config.data[f"{split}_records"] = str(tmp_path / "records")
        config.data[f"{split}_questions"] = str(tmp_path / "questions.jsonl")
    config.phases = ("difficulty", "joint", "evaluate")
    config.joint.steps, config.evaluate.arms = 1, ("uniform", "joint")
    return tiny_run(config, reader, questions)


def lengths_of(run, config=None):
    made, text = read_config(config or run.config), run.episodes().text
    system = run.system
    return PromptLengths(
        made.frames, made.prompt, system.family, system.mllm_config, text.tokenizer, text.chat
    )


@pytest.mark.parametrize("limits", [(60, 60), (40, 96), (96, 56)])
def test_counted_as_dropped(made, limits):
    """By a rollout of all questions: the same ids for the same prompt with the same length."""
    made.config.prompt.query_prompt_tokens, made.config.prompt.answer_prompt_tokens = limits
    made.config.rollout.questions = len(made.questions)
    counted = count_prompts(made.questions, made.reader, lengths_of(made), [ARMS["joint"]])
    collector = made.collector()
    rollout, _ = collector.collect(made.params, 1)
    failures = collector.roll_out.episodes.failures
    reported = {row["question"]: row["error"] for row in failures}
    assert len(reported) == len(failures) == counted.dropped > 0
    assert {r.question.id for r in rollout.records if not r.weight} == set(reported)
    told = {name: kind for kind, names in counted.too_long.items() for name in names}
    assert told.keys() == reported.keys()
    for name, error in reported.items():
        limit = limits[("query", "answer").index(told[name])]
        assert error.startswith("prompt too long: ") and error.endswith(f"more than {limit}")
    worst = max(int(error.split()[3]) for error in reported.values())
    assert worst in counted.longest.values()


def test_arms_decide_which_prompts_are_made(made):
    lengths = lengths_of(made)

    def counted(*names):
        arms = [ARMS[name] for name in names]
        return count_prompts(made.questions, made.reader, lengths, arms).longest

    both, last = counted("joint"), made.questions[-1]
    assert counted("uniform", "topk_question") == {"answer": both["answer"]}
    assert counted("blind")["answer"] == lengths.blind(last, made.reader.info("b"))
    # The longest question is about the video of one frame; another's previews are two.
    assert counted("joint_other_previews")["query"] == lengths.query(last, made.reader.info("a"))
    assert counted("joint_other_previews")["query"] > both["query"]


def test_a_damaged_entry_counts(made, monkeypatch):
    info = RecordReader.info

    def damaged(self, video):
        if video == "b":
            raise UserError("damaged")
        return info(self, video)

    monkeypatch.setattr(RecordReader, "info", damaged)
    counted = count_prompts(made.questions, made.reader, lengths_of(made), [ARMS["uniform"]])
    assert counted.unreadable == ["q1", "q3", "q5", "q7"] and counted.dropped >= 4
    assert "4 by a video that is missing or cannot be read" in counted.describe()


def test_every_phase_is_told_with_what_it_asks(made, capsys):
    config = made.config
    config.prompt.query_prompt_tokens, config.prompt.answer_prompt_tokens = 66, 500

    def told():
        tell_dropped(read_config(config), made.system, made.episodes().text)
        return [line.split(": ") for line in capsys.readouterr().out.splitlines()]

    lines = told()  # difficulty writes no queries
    ((phases, count, why),) = lines
    assert phases == "joint, validation, evaluate" and "of 8 questions dropped" in count
    assert why.endswith("limit config.prompt.query_prompt_tokens=66)")
    config.prompt.query_prompt_tokens = 500
    assert not told()
    config.joint.steps, config.evaluate.limit = 0, 3
    assert {k: x[2] for k, x in asked(read_config(config)).items()} == {
        "difficulty": 0, "evaluate": 3,
    }  # fmt: skip


def test_too_many_are_refused_with_the_limit_to_raise(made, capsys):
    config = made.config
    config.phases = ("difficulty",)
    lengths = lengths_of(made)
    each = sorted(lengths.answer(q, made.reader.info(q.video)) for q in made.questions)
    fit = sum(tokens <= each[3] for tokens in each)
    text = made.episodes().text

    def tell(limit, share):
        config.prompt.answer_prompt_tokens, config.data.max_dropped = limit, share
        tell_dropped(read_config(config), made.system, text)  # room is the config's

    tell(each[3], 0.5)
    line, dropped = capsys.readouterr().out, 8 - fit
    assert 0 < dropped <= 4
    assert f"difficulty: {dropped} of 8 questions dropped: {dropped} by the answer prompt" in line
    with pytest.raises(UserError, match=rf"raise .*answer_prompt_tokens to {each[-1]}$"):
        tell(each[3], (dropped - 0.1) / 8)
    with pytest.raises(UserError, match="8 of 8 questions dropped"):
        tell(each[0] - 1, 1.0)
    tell(each[-1], 0.0)
