"""What a video is: names of every kind are files, and what is no file is refused at once."""

import hashlib
import os
import socket
import subprocess
import sys

import pytest

from msjoe_jax.data import sources
from msjoe_jax.data.sources import (
    SourceFacts,
    VideoSource,
    as_source,
    difference,
    facts_of,
    is_folder,
    opened,
    shown,
    status_of,
)
from msjoe_jax.data.video import VideoError, decode
from tests.support.tiny import tiny_video

NAMES = [
    b"12:30:00.mp4",
    b"a:b.mp4",
    b"concat:x|y.mp4",
    b"http:x.mp4",
    b"file:x.mp4",
    b"pipe:0",
    b"subfile,,start,0,end,0,,:a.mp4",
    b"-vf.mp4",
    b"q'uo\"te.mp4",
    b"new\nline.mp4",
    b"100%03d.mp4",
    b" space .mp4",
    b"caf\xe9.mp4",
    b"a!b.mp4",
    b"x.tar!y.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name_is_opened_as_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    tiny_video(tmp_path / "plain.mp4", 7)
    os.rename("plain.mp4", name)
    source = as_source(os.fsdecode(name))  # relative to the current folder
    assert not is_folder(source) and not source.inside
    with opened(source) as file:
        assert len(list(decode(file))) == 2
    with open(name, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    status = os.stat(name)
    assert facts_of(source) == SourceFacts(status.st_size, status.st_mtime_ns, digest)
    printed = shown(source.path)
    assert printed.isprintable() and printed.encode()


def pipe(path):
    os.mkfifo(path)


def listening(path):
    # The name of a socket is short: it is bound from within its folder.
    code = "import os, socket, sys; os.chdir(sys.argv[1]); socket.socket(socket.AF_UNIX).bind('it')"
    subprocess.run([sys.executable, "-c", code, path.parent], check=True)


SPECIAL = [
    (pipe, "a named pipe, not a video file"),
    (listening, "a socket, not a video file"),
    (lambda path: path.symlink_to("/dev/zero"), "a device, not a video file"),
    (lambda path: path.symlink_to("gone.mp4"), "a link to gone.mp4, which is not there"),
    (lambda path: path.symlink_to("it"), "Too many levels of symbolic links"),
    (lambda path: path.touch(), "an empty file"),
    (lambda path: None, "No such file or directory"),
    (lambda path: path.mkdir(), "a folder without pictures"),
]


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(("make", "words"), SPECIAL)
def test_what_is_no_file_is_one_line_at_once(tmp_path, make, words, linked):
    make(tmp_path / "it")
    path = tmp_path / "it"
    if linked:
        path = tmp_path / "link"
        path.symlink_to("it")
        words = "a link to it, which is not there" if "not there" in words else words
        words = words.replace("No such file or directory", "a link to it, which is not there")
    source = VideoSource(str(path))
    for call in (status_of, facts_of, lambda source: opened(source).__enter__()):
        if words == "a folder without pictures" and call not in (status_of, facts_of):
            continue  # a folder is not opened, but listed
        with pytest.raises(VideoError) as error:
            call(source)
        assert words in str(error.value) and str(path) in str(error.value)


def test_standard_input_that_is_a_pipe_is_refused_and_never_waited_for():
    code = (
        "from msjoe_jax.data.sources import *\n"
        "try: status_of(VideoSource('/dev/stdin'))\n"
        "except VideoError as error: print(error)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()  # while nothing comes from the pipe and it stays open
        process.communicate()
    assert said == "/dev/stdin: a named pipe, not a video file; copy its contents to a file\n"


def test_names_that_cannot_be(tmp_path):
    for path, words in [
        (f"{tmp_path}/a\0b", "NUL"),
        (f"{tmp_path}/{'x' * 300}", "File name too long"),
        ("gs://bucket/a.mp4", "must be on a disk of this host"),
    ]:
        with pytest.raises(VideoError, match=words):
            status_of(VideoSource(path))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "a.mp4").chmod(0)
    with pytest.raises(VideoError, match=r"a\.mp4: cannot be opened \(Permission denied\)"):
        status_of(VideoSource(str(tmp_path / "a.mp4")))


def test_files_and_folders_have_fields_of_their_own(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.png").write_bytes(b"x")
    (tmp_path / "a.mp4").write_bytes(b"x")
    folder, file = str(tmp_path / "frames"), str(tmp_path / "a.mp4")
    assert is_folder(VideoSource(folder, rate=2)) and not is_folder(VideoSource(file, stream=1))
    for source, words in [
        (VideoSource(folder), "needs 'rate'"),
        (VideoSource(folder, rate=2, stream=0), "has no 'stream'"),
        (VideoSource(file, rate=2), "'rate' is of a folder"),
    ]:
        with pytest.raises(VideoError, match=words):
            is_folder(source)


def record(source, **others):
    return {"video": source.path, **vars(source), **vars(facts_of(source)), **others}


def changed(before, source):
    return difference(before, source, source.path)


def test_size_and_time_decide_and_then_the_contents(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"before")
    source = VideoSource(str(path))
    before = record(source)
    monkeypatch.setattr(sources, "_hash", None)  # not needed while size and time are the same
    assert changed(before, source) == ""
    monkeypatch.undo()
    os.utime(path, ns=(1, 1))  # an untouched copy
    assert changed(before, source) == ""
    path.write_bytes(b"after!")  # of the same size
    assert "are others" in changed(before, source)
    os.utime(path, ns=(1, 1))
    path.write_bytes(b"longer than before")
    assert "are others" in changed(before, source)
    (tmp_path / "b.mp4").write_bytes(b"before")
    elsewhere = VideoSource(str(tmp_path / "b.mp4"))
    assert changed(before, elsewhere) == ""
    path.unlink()
    assert changed(before, source) == ""  # frames of it are all there is
    os.mkfifo(path)
    with pytest.raises(VideoError, match="named pipe"):
        changed(before, source)


def test_another_part_of_the_same_file_is_another_source(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")
    before = record(VideoSource(str(path), start=1.0))
    assert changed(before, VideoSource(str(path), start=1.0)) == ""
    for now, words in [
        (VideoSource(str(path)), "'start' was 1.0, is None"),
        (VideoSource(str(path), 1.0, 2.0), "'end' was None, is 2.0"),
        (VideoSource(str(path), 1.0, stream=1), "'stream' was None, is 1"),
        (VideoSource(str(path), 1.0, rate=5.0), "'rate' was None, is 5.0"),
    ]:
        assert changed(before, now) == words
    assert changed({"start": 1.0}, VideoSource(str(path), start=1.0)) == ""  # states no hash


def test_a_folder_changes_with_its_pictures_alone(tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(b"%d" % k)
    source = VideoSource(str(tmp_path), rate=1.0)
    before = record(source)
    assert before["size"] == 3
    (tmp_path / "notes.txt").write_text("mine")
    assert changed(before, source) == ""
    os.rename(tmp_path / "2.png", tmp_path / "3.png")
    assert "are others" in changed(before, source)
    os.rename(tmp_path / "3.png", tmp_path / "2.png")
    assert changed(before, source) == ""
    (tmp_path / "old.png").write_bytes(b"9")
    os.utime(tmp_path / "old.png", ns=(1, 1))
    os.rename(tmp_path / "old.png", tmp_path / "1.png")  # as large, and older
    assert "are others" in changed(before, source)


def test_a_hash_of_many_segments_is_computed_once(tmp_path, monkeypatch):
    path = tmp_path / "long.mp4"
    path.write_bytes(b"contents")
    read = []
    real = sources._hashed
    monkeypatch.setattr(sources, "_hashed", lambda file: read.append(1) or real(file))
    hashes = {facts_of(VideoSource(str(path), k, k + 1.0)).sha256 for k in range(9)}
    assert len(hashes) == len(read) == 1


def test_the_socket_of_these_tests_is_one(tmp_path):
    listening(tmp_path / "it")
    assert (tmp_path / "it").is_socket() and socket.AF_UNIX
