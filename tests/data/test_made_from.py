"""Records keep to their sources: what has changed is named or made anew, never kept in silence."""

import json
import os

import pytest

from msjoe_jax.commands.predecode import predecode
from msjoe_jax.data.predecode import DecodeSettings
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from tests.support.tiny import tiny_video

SETTINGS = DecodeSettings(fps=1.0, max_side=32, quality=90)


@pytest.fixture
def folder(tmp_path):
    """A folder with two videos of 1 s, their list, and their records."""
    for name in "ab":
        tiny_video(tmp_path / f"{name}.mp4", 5)
    write(tmp_path)
    assert make(tmp_path) == (2, 0)
    return tmp_path


def write(folder, **fields):
    rows = [{"id": name, "video": f"{name}.mp4"} for name in "ab"]
    rows[0].update(fields)
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make(folder, **options):
    return predecode(folder / "list.jsonl", folder / "out", SETTINGS, 1, **options)


def lengths(folder):
    reader = RecordReader(folder / "out")
    assert reader.ids == ["a", "b"]
    for name in reader.ids:
        assert len(reader.frames(name, range(reader.info(name).num_frames)))
    return [reader.info(name).num_frames for name in reader.ids]


def contents(folder):
    return {p.name: p.read_bytes() for p in (folder / "out").iterdir() if p.is_file()}


def test_what_has_not_changed_stays_byte_for_byte(folder):
    before = contents(folder)
    os.utime(folder / "a.mp4")  # an untouched copy
    os.rename(folder / "b.mp4", folder / "kept")  # the frames are all there is of it
    assert make(folder) == (2, 0) and contents(folder) == before
    os.rename(folder / "kept", folder / "b.mp4")
    assert make(folder, refresh=True) == (2, 0) and contents(folder) == before


def test_another_file_is_refused_by_name_or_made_anew(folder):
    before = contents(folder)
    tiny_video(folder / "a.mp4", 15)
    with pytest.raises(UserError, match=r"video 'a': the contents of .*a\.mp4 are others") as error:
        make(folder)
    assert "--refresh" in error.value.lines[-1] and len(error.value.lines) == 2
    assert contents(folder) == before
    assert make(folder, refresh=True) == (2, 0)
    assert lengths(folder) == [3, 1]
    after = contents(folder)
    assert make(folder) == (2, 0) and contents(folder) == after  # the later record counts


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"start": 0.4}, "'start' was None, is 0.4"),
        ({"end": 0.4}, "'end' was None, is 0.4"),
        ({"stream": 0}, "'stream' was None, is 0"),
        ({"fps": 5}, "'fps' was 1, is 5"),
        ({"max_side": 16}, "'max_side' was None, is 16"),
    ],
)
def test_another_choice_of_the_same_file_is_another_source(folder, fields, words):
    write(folder, **fields)
    with pytest.raises(UserError, match=f"video 'a': {words}"):
        make(folder)
    assert make(folder, refresh=True) == (2, 0) and make(folder) == (2, 0)
    assert lengths(folder) == [5 if "fps" in fields else 1, 1]


def test_other_subtitles_are_refused_by_name_or_read_anew(folder):
    def said():
        return [s.text for s in RecordReader(folder / "out").info("a").subtitles]

    file = folder / "a.srt"
    file.write_text("1\n00:00:00,000 --> 00:00:01,000\nbutter\n")
    write(folder, subtitles="a.srt")
    with pytest.raises(UserError, match=r"video 'a': 'subtitles' were none, are .*a\.srt"):
        make(folder)
    assert make(folder, refresh=True) == make(folder) == (2, 0) and said() == ["butter"]
    file.write_text(file.read_text().replace("butter", "salt") + "\n2\n00:00:00,500 --> y\nno\n")
    with pytest.raises(UserError, match=r"video 'a': the contents of .*a\.srt are others"):
        make(folder)
    assert make(folder, refresh=True) == (2, 0) and said() == ["salt"]
    (note,) = RecordReader(folder / "out").info("a").source.notes
    assert note.startswith("cues of subtitles are broken: ") and "a.srt" in note
    file.unlink()  # what is gone has not changed
    assert make(folder) == (2, 0) and said() == ["salt"]
    write(folder)
    with pytest.raises(UserError, match="video 'a': 'subtitles' were named, and are no more"):
        make(folder)
    write(folder, extra={"subtitles": [[0, 1, "milk"]]})
    with pytest.raises(UserError, match=r"video 'a': 'extra\.subtitles' are others"):
        make(folder)
    os.mkfifo(file)
    write(folder, subtitles="a.srt")
    assert make(folder) == (2, 0) and said() == ["salt"]
    write(folder, subtitles="a.srt", start=0.4)
    assert make(folder, refresh=True) == (2, 0) and said() == []
    (note,) = RecordReader(folder / "out").info("a").source.notes
    assert note.startswith("without subtitles: ") and note.endswith("a.srt: no regular file")


def test_a_part_of_a_run_that_was_killed_is_checked_too(tmp_path, monkeypatch):
    for name in "ab":
        tiny_video(tmp_path / f"{name}.mp4", 5)
    write(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("msjoe_jax.data.predecode.Packer.add", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make(tmp_path)
    assert list((tmp_path / "out" / "parts").iterdir())
    for name in "ab":
        tiny_video(tmp_path / f"{name}.mp4", 10)
    with pytest.raises(UserError, match="video 'a': the contents"):
        make(tmp_path)
    assert make(tmp_path, refresh=True) == (2, 0) and lengths(tmp_path) == [2, 2]


def test_one_that_cannot_be_made_anew_is_listed(folder):
    (folder / "a.mp4").write_bytes(b"no video")
    assert make(folder, refresh=True) == (2, 1)
    (row,) = map(json.loads, (folder / "out" / "failures.jsonl").read_text().splitlines())
    assert row["id"] == "a" and "a.mp4" in row["reason"]
    with pytest.raises(UserError, match="video 'a'"):
        make(folder)
    (folder / "a.mp4").unlink()
    os.mkfifo(folder / "a.mp4")
    with pytest.raises(UserError, match=r"video .a.: .*named pipe"):
        make(folder)


def test_only_some_of_many_are_named(tmp_path):
    rows = [{"id": f"v{k}", "video": "a.mp4"} for k in range(9)]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_video(tmp_path / "a.mp4", 2)
    make(tmp_path)
    tiny_video(tmp_path / "a.mp4", 3)
    with pytest.raises(UserError) as error:
        make(tmp_path)
    assert len(error.value.lines) == 7 and "and 4 more" in error.value.lines[5]
