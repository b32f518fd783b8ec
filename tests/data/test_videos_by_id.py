"""Videos are found by id as files, as folders of pictures, and as members of named archives."""

import os
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from msjoe_jax.data.sources import VideoSource
from msjoe_jax.data.videos_by_id import VideosById, length_of
from msjoe_jax.errors import UserError
from tests.support.one_a_second import clip


def pictures(folder, count):
    folder.mkdir(parents=True)
    for k in range(count):
        Image.fromarray(np.full((16, 16, 3), k, np.uint8)).save(folder / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    clip(folder / "c.mp4", 3)
    pictures(folder / "frames" / "Cup", 4)
    pictures(folder / "frames" / "c", 2)
    (folder / "deep").mkdir()
    with tarfile.open(folder / "deep" / "clips.tar", "w") as archive:
        archive.add(folder / "c.mp4", "a/b.mp4")
    with zipfile.ZipFile(folder / "clips.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(folder / "c.mp4", "b.mp4")
    (folder / "a!b.mp4").write_bytes((folder / "c.mp4").read_bytes())
    return folder


def found(videos, name, file=""):
    return os.path.relpath(videos.find(name, file), videos.folder)


def test_files_folders_and_members(folder):
    videos = VideosById(folder, 2.0)
    assert found(videos, "c") == "c.mp4" and found(videos, "cup") == "frames/Cup"
    assert found(videos, "c", "frames/c") == "frames/c"  # its very path
    assert found(videos, "b", "x/clips.tar!a/b.mp4") == "deep/clips.tar!a/b.mp4"
    assert found(videos, "b", "clips.zip!b.mp4") == "clips.zip!b.mp4"
    assert found(videos, "a!b", "a!b.mp4") == "a!b.mp4"
    for name, file in (("gone", ""), ("b", "none.tar!a/b.mp4"), ("frames", "")):
        with pytest.raises(UserError, match="no file of that name in "):
            videos.find(name, file)


def test_a_folder_without_a_rate_is_none(folder):
    videos = VideosById(folder)
    assert found(videos, "c", "c") == "c.mp4"
    with pytest.raises(UserError, match="frames/Cup: a folder of pictures, of which --rate says"):
        videos.find("Cup")


def test_lengths(folder):
    videos = VideosById(folder, 2.0)
    for name, file, seconds in (
        ("c", "", 3),
        ("Cup", "", 2),
        ("b", "clips.tar!a/b.mp4", 3),
        ("b", "clips.zip!b.mp4", 3),
    ):
        assert length_of(videos.source(videos.find(name, file))) == pytest.approx(seconds, abs=0.1)


def test_what_cannot_be_opened(folder, tmp_path):
    clip(tmp_path / "12:30.mkv", 3)
    assert length_of(VideoSource(f"{tmp_path}/12:30.mkv")) == pytest.approx(3, abs=0.1)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 99)
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, said in (
        ("empty.mp4", "an empty file"),
        ("junk.mp4", r"cannot be opened \(Invalid data"),
        ("pipe.mp4", "a named pipe"),
        ("none.mp4", r"cannot be opened \(No such file"),
    ):
        with pytest.raises(UserError, match=f"{name}: {said}"):
            length_of(VideoSource(f"{tmp_path}/{name}"))
    with pytest.raises(UserError, match="no such member among 1"):
        length_of(VideoSource(f"{folder}/deep/clips.tar!gone.mp4"))
