"""`msjoe import`: what it writes, what it prints, and that the next command takes it."""

import json
import re
import shlex
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from msjoe_jax.commands.import_ import import_questions, lines_of
from msjoe_jax.commands.predecode import predecode
from msjoe_jax.data.predecode import DecodeSettings
from msjoe_jax.data.questions import load_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.subtitles import of_video
from msjoe_jax.errors import UserError
from msjoe_jax.tasks import TASKS
from tests.support.benchmarks import LVBENCH, NEXTQA, NEXTQA_COLUMNS, as_lines, table
from tests.support.commands import PYTHON, ROOT, command, program
from tests.support.one_a_second import clip


@pytest.fixture
def given(tmp_path):
    clip(tmp_path / "videos" / "1164" / "4010.MP4")
    (tmp_path / "videos" / "7508.avi").touch()
    (tmp_path / "videos" / "4010.srt").write_text("1\n00:00:00,5 --> 00:00:01,0\nhello\n")
    rows = [*NEXTQA, NEXTQA[0], [*NEXTQA[0][:4], "how many more", 7, *NEXTQA[0][6:]],
            [9, 9, 9, 9, "who", 0, 0, "DO", "a", "b", "c", "d", "e"]]  # fmt: skip
    return tmp_path, table(tmp_path / "val.csv", rows, NEXTQA_COLUMNS)


def flags_of(given, *more):
    folder, source = given
    return (
        "nextqa", f"--source={source}", f"--videos={folder}/videos", f"--out={folder}/out", *more
    )  # fmt: skip


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_command_counts_every_row_and_the_next_one_takes_what_it_wrote(given):
    folder, source = given
    done = command("import", *flags_of(given, f"--subtitles={folder}/videos", "--json"))
    assert done.returncode == 0, done.stderr
    *lines, last, after = done.stdout.splitlines()
    assert lines[0] == (f"{source}: read 6 rows: kept 2, without video 2, duplicated 1, refused 1")
    text, sheet = "\n".join(lines), json.loads(last)
    assert f"  refused: {source}: row 5: field 'answer' is '7', not an index from 0 to 4" in text
    assert f"  duplicated: {source}: row 4: the same as {source}: row 1" in text
    assert f"  without video: {source}: row 6: no file of that name in {folder}/videos" in text
    assert f"  without video: {source}: row 3: {folder}/videos/7508.avi: an empty file" in text
    counts = ("kept", "without_video", "duplicated", "refused")
    assert sheet["read"] == 6 == sum(sheet[key] for key in counts)
    assert sheet["groups"]["kind"] == {"causal": 1, "descriptive": 1}
    out = folder / "out"
    assert after == f"next: msjoe predecode --manifest={out}/videos.jsonl --out={out}/records"
    left_out = rows_of(out / "left_out.jsonl")
    assert [row["what"] for row in left_out] == ["refused", "duplicated", *["without video"] * 2]
    assert rows_of(out / "videos.jsonl") == [
        {"id": "4010", "video": "../videos/1164/4010.MP4",
         "extra": {"subtitles": [[0.5, 1.0, "hello"]]}}
    ]  # fmt: skip
    assert predecode(out / "videos.jsonl", out / "records", DecodeSettings(), 1) == (1, 0)
    questions = load_questions(out / "questions.jsonl")
    assert [q.id for q in questions] == ["4010_6", "4010_1"]
    assert TASKS["nextqa"].read(out / "questions.jsonl") == questions
    info = RecordReader(out / "records").info(questions[0].video)
    assert [line.text for line in of_video(questions[0], info)] == ["hello"]


def test_folders_of_pictures_and_members_of_archives_are_taken_as_predecode_takes_them(tmp_path):
    folder, part = tmp_path / "videos", "x.tar!a/b.mp4"
    (folder / "frames" / "cup").mkdir(parents=True)
    for k in range(4):
        picture = Image.fromarray(np.full((32, 32, 3), 40 * k, np.uint8))
        picture.save(folder / "frames" / "cup" / f"{k}.png")
    with tarfile.open(folder / "x.tar", "w") as archive:
        archive.add(clip(tmp_path / "b.mp4", 3), "a/b.mp4")
    rows = [
        {"id": video, "video": video, "question": "?", "options": ["x", "y"], "answer": "A"}
        for video in ("frames/cup", part, "x.tar!a/gone.mp4")
    ]
    source = as_lines(tmp_path / "q.jsonl", rows)
    out = tmp_path / "out"
    sheet = import_questions("jsonl", source, str(folder), str(out), rate=2.0)
    assert (sheet["kept"], sheet["without_video"]) == (2, 1)
    assert "x.tar!a/gone.mp4: no such member among 1" in sheet["left_out"]["without video"][0]
    assert predecode(out / "videos.jsonl", out / "records", DecodeSettings(), 1) == (2, 0)
    reader = RecordReader(out / "records")
    durations = {
        q.id: reader.info(q.video).duration for q in load_questions(out / "questions.jsonl")
    }
    assert durations == {"frames/cup": 2.0, part: 3.0}
    sheet = import_questions("jsonl", source, str(folder), str(out))
    assert (sheet["kept"], sheet["without_video"]) == (1, 2)
    assert "of which --rate says how many" in sheet["left_out"]["without video"][0]


def test_the_walk_of_the_page(tmp_path):
    """The page's own lines, with clips of ours for those that FFmpeg makes there."""
    page = (ROOT / "docs" / "import.md").read_text()
    typed, shown = re.findall(r"```\n(.*?)```", page, re.DOTALL)[1:3]
    lines = typed.replace("\\\n", " ").splitlines()
    for line in lines:
        if line.startswith("ffmpeg"):
            clip(tmp_path / line.split()[-1], 8)
        elif not line.startswith("msjoe"):
            subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
    (walk,) = (shlex.split(line)[1:] for line in lines if line.startswith("msjoe"))
    environment = PYTHON | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "msjoe_jax", *walk],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(str(tmp_path), "…") == shown


def test_parts_by_video_which_later_additions_do_not_move(tmp_path):
    def imported(count, out):
        for i in range(count):
            if not (path := tmp_path / "videos" / f"v{i}.mp4").exists():
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
        rows = [{"id": f"{i}-{j}", "video": f"v{i}", "question": f"{j}?", "options": ["x", "y"],
                 "answer": "A"} for i in range(count) for j in range(2)]  # fmt: skip
        source = as_lines(tmp_path / "q.jsonl", rows)
        shares = {"validation": 0.2, "heldout": 0.3}
        sheet = import_questions(
            "jsonl", source, str(tmp_path / "videos"), str(tmp_path / out), split=shares
        )
        parts = {
            part: {q.video for q in load_questions(tmp_path / out / f"{part}.jsonl")}
            for part in ("train", *shares)
        }
        assert sum(map(len, parts.values())) == count and sheet["kept"] == 2 * count
        for part, videos in parts.items():
            assert sheet["parts"][part] == {"questions": 2 * len(videos), "videos": len(videos)}
            assert f"{part}: questions {2 * len(videos)}" in "\n".join(lines_of(sheet))
        return parts

    content = clip(tmp_path / "one.mp4", 1).read_bytes()
    before, after = imported(20, "a"), imported(40, "b")
    assert all(before[part] <= after[part] for part in before)


def test_where_nothing_is_kept_it_is_an_error_and_the_rows_are_listed(given):
    folder, _ = given
    source = as_lines(folder / "meta.jsonl", LVBENCH)
    flags = flags_of((folder, source))[1:]
    done = command("import", "lvbench", *flags)
    assert done.returncode == 2 and "without video 3" in done.stdout
    assert done.stderr.splitlines()[-1] == (
        f"error: none of the 3 rows is kept; see {folder}/out/left_out.jsonl"
    )
    assert len(rows_of(folder / "out" / "left_out.jsonl")) == 3
    assert not (folder / "out" / "questions.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "msjoe import NAME: one of jsonl, video_mme"),
        (("egoschema",), "msjoe import egoschema: not one of jsonl, video_mme"),
        (("nextqa",), "--source is missing"),
        (("nextqa", "--source=f", "--videos=.", "--out=o", "--column=id:x"),
         "--column and --answers are of jsonl and csv, not of nextqa"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_one_line(words, said):
    done = command("import", *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_folder_that_is_not_there(given):
    folder, source = given
    with pytest.raises(UserError, match="none: no such folder"):
        import_questions("nextqa", source, str(folder / "none"), str(folder / "out"))


def test_no_jax():
    program(
        """
        import sys
        import msjoe_jax.commands.import_
        heavy = {"jax", "flax", "tensorflow", "orbax", "torch"} & set(sys.modules)
        assert not heavy, heavy
        """
    )
