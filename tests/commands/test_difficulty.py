"""What is measured of questions before training, what is dropped for it, and how they are split."""

import json
import signal
import subprocess
import sys

import pytest
from etils import epath

from msjoe_jax.commands.convert import convert
from msjoe_jax.commands.difficulty import (
    FILTERS,
    Asked,
    config_of,
    filtered,
    filters_of,
    histogram,
    shares_of,
    split_of,
    write_results,
)
from msjoe_jax.commands.launch import hosts
from msjoe_jax.config import base
from msjoe_jax.data.questions import Question, load_questions, save_questions
from msjoe_jax.data.records import RecordWriter
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.supervisor import Supervisor, held_port
from tests.commands.test_evaluate import GOLDEN
from tests.support.commands import PYTHON, ROOT, command
from tests.support.processes import xla_flags
from tests.support.system import colour_questions, noise_videos

SAMPLES = 4
#         always right, from 4 frames, from many, blind, a hard one, and one that is not asked
RATES = {
    "uniform": [1.0, 0.75, 0.25, 0.5, 0.25, None],
    "few": [0.25, 0.5, 0.0, 0.0, 0.25, None],
    "many": [1.0, 1.0, 0.0, 1.0, 0.25, None],
    "blind": [0.25, 0.25, 0.25, 0.5, None, None],
}


def rows_of(rates):
    return {
        i: {"index": i, "rate": rate, "valid": rate and 1.0, "dropped": None if rate is not None
            else "prompt too long: 99 tokens, more than 96"}
        for i, rate in enumerate(rates)
    }  # fmt: skip


ROWS = {name: rows_of(rates) for name, rates in RATES.items()}
QUESTIONS = [Question(f"q{i}", f"v{i}", "?", ("a", "b"), 0) for i in range(6)]


def test_each_filter_drops_what_it_says():
    asked = Asked(drop=FILTERS)
    reasons, unknown = filtered(QUESTIONS, ROWS, asked)
    assert reasons == {
        "q0": ["always_right"],
        "q1": ["few"],
        "q2": ["many"],
        "q3": ["blind"],
        "q5": ["not_asked"],
    }
    assert dict(unknown) == {"blind": 1}
    for name, wanted in (("few", {"q1"}), ("always_right", {"q0"})):
        found, _ = filtered(QUESTIONS, ROWS, Asked(drop=(name,)))
        assert set(found) == wanted | {"q5"}
    strict, _ = filtered(QUESTIONS, ROWS, Asked(drop=("few", "many"), solved=0.25, unsolved=0.25))
    assert strict["q4"] == ["few", "many"] and strict["q0"] == ["few"]


def test_no_more_frames_are_shown_than_are_searched(capsys):
    asked = Asked(drop=("few", "many")).within(30)
    assert (asked.few, asked.many) == (4, 30)
    assert capsys.readouterr().out == "many: 30 frames are shown, config.frames.candidates=30\n"
    assert Asked(few=2).within(100) == Asked(few=2) and not capsys.readouterr().out


def test_counts_and_histogram_are_written_and_told(tmp_path, capsys):
    asked = Asked(drop=FILTERS, shares=(0.5, 0.25, 0.25))
    parts = {"train": QUESTIONS[:5], "validation": [], "heldout": QUESTIONS[5:]}
    out = epath.Path(tmp_path)
    write_results(out, QUESTIONS, parts, ROWS, asked, {"samples": SAMPLES, "frames": 16})
    assert [q.id for q in load_questions(out / "train.jsonl")] == ["q4"]
    assert [q.id for q in load_questions(out / "heldout.jsonl")] == ["q5"]  # judged as it is
    assert not (out / "validation.jsonl").exists()
    printed = capsys.readouterr().out
    assert (
        "few: 1 of 5 training questions dropped, solved from 4 frames (at least 0.5 right)"
        in printed
    )
    assert "blind: 1 of 5 training questions dropped, solved without frames (at least" in printed
    assert "(at least 0.5 right); 1 could not be asked so, and stay" in printed
    assert "validation: no question is left" in printed
    summary = json.loads((out / "difficulty.json").read_text())
    assert summary["measured"]["uniform"] == {
        "frames": 16,
        "questions": 5,
        "mean": 0.55,
        "valid": 1.0,
        "by_right_answers": [0, 2, 1, 1, 1],
        "not_asked": {"prompt too long": 1},
    }
    assert {k: v["dropped"] for k, v in summary["filters"].items()} == dict.fromkeys(FILTERS, 1)
    assert summary["dropped"] == 4 and summary["splits"]["train"] == {"questions": 1, "videos": 1}
    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert [(row["id"], row["why"]) for row in dropped] == [
        ("q0", ["always_right"]), ("q1", ["few"]), ("q2", ["many"]), ("q3", ["blind"])
    ]  # fmt: skip
    assert dropped[1]["rates"] == {"uniform": 0.75, "few": 0.5, "many": 1.0, "blind": 0.25}
    with pytest.raises(UserError, match="no question is left to train on; drop less"):
        write_results(out, QUESTIONS, {"train": QUESTIONS[:1]}, ROWS, asked, summary)
    assert not (out / "heldout.jsonl").exists()  # of the split before


def test_nothing_that_could_be_asked_has_an_empty_histogram():
    assert histogram(rows_of([None]), 2) == {
        "questions": 0, "mean": None, "valid": None, "by_right_answers": [0, 0, 0],
        "not_asked": {"prompt too long": 1},
    }  # fmt: skip


def test_flags_are_read():
    assert filters_of(["blind", "few"]) == ("few", "blind") and filters_of([]) == ()
    with pytest.raises(UserError, match="--drop=hard is not one of always_right, few, many, blind"):
        filters_of(["hard"])
    assert shares_of(["0.8", "0.1", "0.1"]) == (0.8, 0.1, 0.1) and shares_of([]) == ()
    for values in (
        ["1"],
        ["0.5", "0.5", "0.5"],
        ["a", "b", "c"],
        ["nan", "0", "1"],
        ["0", "0", "1"],
    ):
        with pytest.raises(
            UserError, match=f"--split={','.join(values)}: give the shares of train"
        ):
            shares_of(values)
    assert split_of(QUESTIONS, Asked()) == {"train": QUESTIONS}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A converted MLLM alone, and videos that no CLIP has embedded."""
    folder = tmp_path_factory.mktemp("difficulty")
    convert(epath.Path(GOLDEN), epath.Path(folder / "mllm"))
    embedded = noise_videos(folder / "embedded", {f"v{i}": 8 + i for i in range(4)})
    with RecordWriter(folder / "records") as writer:
        for video in embedded.ids:
            frames = embedded.frame_bytes(video, range(embedded.info(video).num_frames))
            writer.add(video, enumerate(frames))
    save_questions(folder / "questions.jsonl", colour_questions(embedded.ids, 10))
    (folder / "config.py").write_text(
        "from msjoe_jax.config import base\n\n\ndef get_config():\n"
        "    c = base()\n"
        "    c.mllm.dtype, c.evaluate.batch, c.difficulty.samples = 'float32', 4, 2\n"
        "    c.frames.candidates, c.frames.preview, c.frames.key = 16, 2, 2\n"
        "    c.frames.preview_patches = c.frames.key_patches = 16\n"
        "    c.prompt.query_prompt_tokens = c.prompt.answer_prompt_tokens = 160\n"
        "    c.prompt.query_tokens, c.prompt.answer_tokens = 8, 8\n"
        "    return c\n"
    )
    return folder


def flags_of(made, out, *more):
    return (
        f"--checkpoint={made / 'mllm'}",
        f"--config={made / 'config.py'}",
        f"--records={made / 'records'}",
        f"--questions={made / 'questions.jsonl'}",
        f"--out={made / out}",
        *more,
    )


def test_a_converted_model_without_clip_does(made):
    given = base()
    given.data.train_sets = {"a": {"records": "x", "questions": "y"}}
    files = str(made / "records"), str(made / "questions.jsonl")
    config = config_of(str(made / "mllm"), *files, "", given)
    assert config.phases == ("difficulty",) and config.mllm.checkpoint == str(made / "mllm")
    assert (config.data.train_records, config.data.train_sets) == (files[0], {})
    with pytest.raises(UserError, match=r"config\.data\.train_records is not set"):
        config_of(str(made / "mllm"), "", "", "", base())
    done = command("difficulty")
    assert done.returncode == 2 and "give --checkpoint=DIR, a model folder" in done.stderr


KILLED = """
import os, signal, sys
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.kept_rows import KeptRows
add = KeptRows.add
def add_and_die(self, rows):
    add(self, rows)
    if (self._path.name, hosts.index()) == (os.environ["KILL_IN"], int(os.environ["VICTIM"])):
        os.kill(os.getpid(), signal.SIGKILL)
KeptRows.add = add_and_die
sys.argv = ["msjoe", "difficulty", *sys.argv[1:]]
from msjoe_jax.__main__ import main
main()
"""


def dying(file, host=0):
    return PYTHON | {"KILL_IN": file, "VICTIM": str(host)}


@pytest.mark.soak
def test_two_hosts_measure_what_one_does_through_a_kill_of_either(made):
    """One host has two devices, two have one each: the same bytes, as of a training."""
    more = ("--drop=few", "--few=1", "--split=0.6,0.2,0.2", "--solved=0.9")

    def on_two(environment):
        line = [sys.executable, "-c", KILLED, *flags_of(made, "hosts", *more)]
        with held_port() as port:
            return Supervisor().run(hosts(line, 2, 1, port, environment))

    two = "--xla_force_host_platform_device_count=2"
    done = command("difficulty", *flags_of(made, "one host", *more), XLA_FLAGS=two)
    assert done.returncode == 0, done.stderr
    assert on_two(dying("rates.jsonl", 1)) == 1
    assert on_two(dying("rates-1.jsonl", 0)) == 1
    assert not (made / "hosts" / "difficulty.json").exists()
    assert on_two(dying("none")) == 0
    one, other = (
        {path.name: path.read_bytes() for path in (made / out).iterdir() if path.is_file()}
        for out in ("one host", "hosts")
    )
    for files in (one, other):
        files.pop(".lock", None)
        files.pop("digests.json", None)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


@pytest.mark.soak
def test_a_killed_measurement_ends_in_the_same_bytes_on_one_device_or_two(made):
    more = ("--drop=always_right,few,blind", "--few=1", "--split=0.6,0.2,0.2", "--solved=0.9")
    done = command("difficulty", *flags_of(made, "whole", *more))
    assert done.returncode == 0, done.stderr
    assert "few: " in done.stdout and "difficulty, blind: " in done.stdout
    for file in ("rates.jsonl", "rates-1.jsonl", "rates-blind.jsonl"):
        line = [sys.executable, "-c", KILLED, *flags_of(made, "killed", *more)]
        victim = subprocess.run(line, env=dying(file), cwd=ROOT, capture_output=True)
        assert victim.returncode == -signal.SIGKILL, victim.stderr[-3000:]
    done = command("difficulty", *flags_of(made, "killed", *more))
    assert done.returncode == 0 and "made again" not in done.stdout, done.stderr
    done = command("difficulty", *flags_of(made, "two", *more), XLA_FLAGS=xla_flags(2))
    assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in (made / "whole").iterdir())
    assert {"rates.jsonl", "questions.jsonl", "dropped.jsonl", "difficulty.json"} < set(files)
    for other in ("killed", "two"):
        for name in set(files) - {"digests.json", ".lock"}:
            assert (made / "whole" / name).read_bytes() == (made / other / name).read_bytes(), name
    rated = load_questions(made / "whole" / "questions.jsonl")
    assert all(question.difficulty in (0, 0.5, 1) for question in rated)
