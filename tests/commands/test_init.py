"""Preparing a training: what is found, how it is split, what is refused before any work."""

import dataclasses
import json
import os
import pathlib

import pytest

from msjoe_jax.commands import init
from msjoe_jax.commands.init import (
    filled,
    find_videos,
    prepare,
    read_given,
    split_before,
)
from msjoe_jax.config_check import check
from msjoe_jax.config_files import load_config
from msjoe_jax.data.questions import Question, load_questions, save_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from tests.support.commands import command
from tests.support.tiny import clip_of, tiny_model_folder, tiny_video


def question(number, video):
    return Question(f"q{number}", video, "what colour is the cup ?", ("red", "blue"), number % 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model, three videos (one of them broken) and a text among them."""
    folder = tmp_path_factory.mktemp("init")
    tiny_model_folder(folder)
    (folder / "videos").mkdir()
    for number, name in enumerate(("a.mp4", "b.mkv", "unasked.avi")):
        tiny_video(folder / "videos" / name, 20 + 10 * number)
    (folder / "videos" / "broken.mov").write_bytes(b"no video")
    (folder / "videos" / "notes.txt").write_text("no video")
    asked = [question(i, "ab"[i % 2]) for i in range(6)]
    save_questions(folder / "questions.jsonl", [*asked, question(6, "broken")])
    return folder


def given(made, **changes):
    values = {
        "videos": str(made / "videos"),
        "questions": str(made / "questions.jsonl"),
        "heldout": "",
        "model": str(made / "model"),
        "clip": str(made / "model"),
    }
    return read_given(**{**values, **changes})


# --- what is given --------------------------------------------------------------------------------


def test_videos_of_a_folder_and_of_a_list(made, tmp_path, capsys):
    assert list(find_videos(made / "videos")) == ["a", "b", "broken", "unasked"]
    assert "passed over: notes.txt" in capsys.readouterr().out
    (tmp_path / "list.jsonl").write_text('{"id": "x", "video": "deep/a.bin"}\n')
    (entry,) = find_videos(tmp_path / "list.jsonl").values()
    assert (entry.id, entry.path) == ("x", tmp_path / "deep" / "a.bin")
    with pytest.raises(UserError, match="holds no video"):
        find_videos(tmp_path)
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    with pytest.raises(UserError, match="holds no video"):
        find_videos(tmp_path)
    assert r"no id can be made of it: caf\udce9.mp4" in capsys.readouterr().out
    for name in ("a.mp4", "a.mkv"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"a\.mkv and a\.mp4 would both be the video 'a'"):
        find_videos(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        find_videos(tmp_path / "none")


def test_what_is_wrong_is_one_line_before_any_work(made, tmp_path):
    save_questions(tmp_path / "unknown.jsonl", [question(0, "a"), question(1, "z")])
    with pytest.raises(UserError, match=r"unknown\.jsonl: 1 of the videos .* such as 'z'"):
        given(made, questions=str(tmp_path / "unknown.jsonl"))
    unanswered = [dataclasses.replace(question(i, v), answer=None) for i, v in enumerate("ab")]
    save_questions(tmp_path / "secret.jsonl", unanswered)
    with pytest.raises(UserError, match=r"secret\.jsonl: 1 questions have no answer"):
        given(made, questions=str(tmp_path / "secret.jsonl"))
    with pytest.raises(UserError, match=r"--clip=.*: neither a published model"):
        given(made, clip=str(tmp_path))
    done = command("init", "--questions=q.jsonl", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert [line.split()[1] for line in done.stderr.splitlines()] == [
        "--videos", "--model", "--clip",
    ]  # fmt: skip


def test_a_split_of_ones_own(made, tmp_path, capsys):
    save_questions(tmp_path / "kept.jsonl", [question(9, "unasked"), question(8, "a")])
    result = given(made, heldout=str(tmp_path / "kept.jsonl"))
    assert [q.id for q in result.heldout] == ["q9", "q8"] and len(result.train) == 7
    assert "1 of its videos are trained on too, such as 'a'" in capsys.readouterr().out


# --- the work -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_makes_what_its_config_names(made, tmp_path, capsys):
    out = tmp_path / "own"
    prepare(given(made), out, workers=1)
    printed = capsys.readouterr().out
    assert "videos without a question, which are passed over: 1 of 4" in printed
    assert "questions left out, since their videos fail: 1; see " in printed
    records = RecordReader(out / "records", clip_of(made / "model"))
    assert sorted(records.ids) == ["a", "b"] and records.embeddings("a") is not None
    failed = [json.loads(x) for x in (out / "records" / "failures.jsonl").read_text().splitlines()]
    assert [row["id"] for row in failed] == ["broken"]
    parts = [load_questions(out / name) for name in ("train.jsonl", "heldout.jsonl")]
    assert sorted(q.id for part in parts for q in part) == [f"q{i}" for i in range(6)]
    config = check(load_config(str(out / "own.py")), 1)
    assert config.mllm.dtype == "float32" and config.mllm.param_dtype == "float32"
    assert config.frames.key == 3  # half of the longest video
    assert config.rollout.questions == len(parts[0]) and config.joint.steps == 1000

    # Again: what is there stays, an edited config too.
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    edited = out / "own.py"
    before[edited] = edited.read_bytes().replace(b"updates = 1000", b"updates = 5")
    edited.write_bytes(before[edited])
    prepare(given(made), out, workers=1)
    assert "own.py: is there already, and stays" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    other = given(made)._replace(models={"mllm": made / "videos", "clip": made / "model"})
    with pytest.raises(UserError, match=r"was begun with .*model, not .*videos; choose another"):
        prepare(other, out, workers=1)


@pytest.mark.slow
def test_what_is_added_later_is_taken_in(made, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a.mp4", "b.mkv"):
        (videos / name).write_bytes((made / "videos" / name).read_bytes())
    save_questions(tmp_path / "q.jsonl", [question(i, "ab"[i % 2]) for i in range(4)])
    changes = {"videos": str(videos), "questions": str(tmp_path / "q.jsonl")}
    assert split_before(tmp_path / "own") == {}
    prepare(given(made, **changes), tmp_path / "own", workers=1)
    before = split_before(tmp_path / "own")
    tiny_video(videos / "c.mp4", 25)
    asked = load_questions(tmp_path / "q.jsonl")
    save_questions(tmp_path / "q.jsonl", [*asked, question(9, "c")])
    prepare(given(made, before=before, **changes), tmp_path / "own", workers=1)
    reader = RecordReader(tmp_path / "own" / "records", clip_of(made / "model"))
    assert sorted(reader.ids) == ["a", "b", "c"] and reader.embeddings("c") is not None
    kept = [load_questions(tmp_path / "own" / f"{n}.jsonl") for n in ("train", "heldout")]
    assert {q.id for part in kept for q in part} == {"q0", "q1", "q2", "q3", "q9"}
    assert before.items() <= split_before(tmp_path / "own").items() and len(before) == 2


# --- the config -----------------------------------------------------------------------------------


def test_fields_are_filled_and_comments_stay():
    text = '\na = ""  # a path\nb = 3\ncab = 1\n'
    assert filled(text, {"a": 'x "y"', "b": 5}) == '\na = "x \\"y\\""  # a path\nb = 5\ncab = 1\n'


class Device:
    platform, device_kind = "gpu", "chip"

    def __init__(self, gigabytes):
        self.gigabytes = gigabytes

    def memory_stats(self):
        return {"bytes_limit": int(self.gigabytes * 1e9)}


@pytest.mark.parametrize(
    ("count", "gigabytes", "training"),
    [(1, 80, "lora"), (8, 80, "full"), (16, 33, "full"), (8, 16, "lora")],
)
def test_lora_where_a_full_training_of_the_7b_does_not_fit(
    monkeypatch, tmp_path, count, gigabytes, training
):
    """One H100 and eight chips of v5e are too small, eight H100 and sixteen of v4 are not."""
    from msjoe_jax.models.qwen2_5_vl.config import SPECIAL_TOKENS, QwenConfig

    ids = {field: i for field, (_, i) in SPECIAL_TOKENS.items()}
    (tmp_path / "mllm").mkdir()
    sizes = QwenConfig.published("qwen2.5-vl-7b", ids).to_hf()
    (tmp_path / "mllm" / "config.json").write_text(json.dumps(sizes))
    monkeypatch.setattr(init.jax, "devices", lambda: [Device(gigabytes)] * count)
    models = {"mllm": tmp_path, "clip": tmp_path}
    fields = init._fields(models, pathlib.Path(tmp_path), questions=100, frames=200)
    assert (fields["training"], fields["precision"]) == (training, "bfloat16")
    assert fields["questions_per_update"] == 32 and fields["key_frames"] == 32
    few = init._fields(models, pathlib.Path(tmp_path), questions=11, frames=9)
    assert few["questions_per_update"] == max(count, 11 // count * count) and few["key_frames"] == 4
