"""Files are found by id in any folder, case and ending, and never guessed among several."""

import os
import unicodedata

import pytest

from msjoe_jax.data.files_by_id import FilesById
from msjoe_jax.errors import UserError
from tests.support.one_a_second import clip

ENDINGS = (".mp4", ".mkv")


def made(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return FilesById(folder, ENDINGS)


def found(files, name, file=""):
    return os.path.relpath(files.find(name, file), files.folder)


def test_by_name_in_any_folder_case_and_ending(tmp_path):
    files = made(tmp_path, "a/one.mp4", "b/c/Two.MKV", "a_-b.c1.mp4", "no.txt", ".hidden.mp4",
                 unicodedata.normalize("NFD", "été.mp4"))  # fmt: skip
    assert len(files) == 4
    assert found(files, "one") == "a/one.mp4" and found(files, "two") == "b/c/Two.MKV"
    assert found(files, "a_-b.c1") == "a_-b.c1.mp4"
    assert unicodedata.normalize("NFC", found(files, "été")) == "été.mp4"
    for name in ("no", ".hidden", "hidden", "three"):
        with pytest.raises(UserError, match="no file of that name in "):
            files.find(name)


def test_of_several_the_exact_name_the_folder_and_the_ending_decide(tmp_path):
    files = made(tmp_path, "x/v.mp4", "y/v.mp4", "V.mp4", "w.mp4", "w.mkv")
    assert found(files, "V") == "V.mp4"
    assert found(files, "v", "./data/y/v.mp4") == "y/v.mp4"
    assert found(files, "v", "X\\v.mp4") == "x/v.mp4"
    assert found(files, "w", "w.mkv") == "w.mkv"
    for name, file in (("v", "v.mp4"), ("w", "")):
        with pytest.raises(UserError, match=r"2 files may be meant: "):
            files.find(name, file)


def test_an_empty_file_stands_behind_one_that_is_not(tmp_path):
    files = made(tmp_path, "v.mp4", "w.mp4")
    (tmp_path / "v.mkv").touch()
    (tmp_path / "w.mp4").write_text("")
    files = FilesById(tmp_path, ENDINGS)
    assert found(files, "v", "v.mkv") == "v.mp4" and found(files, "w") == "w.mp4"


def test_links_that_lead_back_and_paths_from_elsewhere(tmp_path):
    elsewhere = clip(tmp_path / "other" / "z.mp4")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "out").symlink_to(tmp_path / "other")
    files = FilesById(tmp_path / "in", ENDINGS)
    assert len(files) == 1 and found(files, "z") == "out/z.mp4"
    assert FilesById(tmp_path / "in" / "loop", ()).find("z", str(elsewhere)) == str(elsewhere)
    with pytest.raises(UserError, match="no such folder"):
        FilesById(tmp_path / "none", ENDINGS)


def test_a_name_that_is_no_text_is_told(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.mp4", "wb"):
        pass
    files = FilesById(tmp_path, ENDINGS)
    assert len(files) == 0 and len(files.unnamed) == 1


def test_a_language_behind_the_id(tmp_path):
    files = made(tmp_path, "v.de.mp4", "v_en.mp4", "w.fr.mp4", "w.de.mp4", "u.mp4", "u.en.mp4",
                 "t_part.mp4")  # fmt: skip
    want = {"v": "v_en.mp4", "w": "w.de.mp4", "u": "u.mp4"}
    for name, file in want.items():
        assert os.path.basename(files.find_in_a_language(name)) == file
    with pytest.raises(UserError, match="no file of that name"):
        files.find_in_a_language("t")
