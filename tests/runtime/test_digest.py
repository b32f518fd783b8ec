"""Digests of contents, and what is remembered of files that have not changed."""

import json
import os
import pathlib

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.digest import (
    Remembered,
    differences,
    digest,
    digest_of_code,
    digest_of_file,
    digest_of_folder,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(values, values)
def test_a_digest_is_of_the_value(one, other):
    """Equal values, whatever the order of their keys, and no others: JSON tells 1 from True."""
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (digest(one) == digest(other)) == same
    assert digest(one, other) == digest(one, other) != digest([one, other])


def test_a_folder_is_the_names_and_contents_of_its_files(tmp_path):
    def folder(name, files):
        for path, text in files.items():
            file = tmp_path / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return digest_of_folder(tmp_path / name)

    files = {"a": "1", "b [x]/c": "2"}  # no pattern
    assert folder("one", files) == folder("elsewhere", files)
    others = (
        {"a": "1"},
        {**files, "a": "2"},
        {"a": "2", "b [x]/c": "1"},
        {"a": "1", "b [x]/d": "2"},
    )
    digests = {folder(f"other{i}", other) for i, other in enumerate(others)}
    assert len(digests) == len(others) and folder("one", files) not in digests
    assert digest_of_file(tmp_path / "one" / "a") == digest_of_file(tmp_path / "elsewhere" / "a")


def test_what_differs_is_named():
    now = {"questions": "1", "records": "2"}
    assert differences({"records": "2", "questions": "1", "more": "3"}, now) == []
    assert differences({"records": "9"}, now) == [
        "questions (was not stated, is 1)",
        "records (was 9, is 2)",
    ]


def test_unchanged_files_are_not_read_again(tmp_path):
    folder, calls = tmp_path / "data", []
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("one")

    def value():
        calls.append(1)
        return digest_of_folder(folder)

    def remembered(name="value"):
        return Remembered(tmp_path / "run" / "digests.json").of(folder, name, value)

    first = remembered()
    assert remembered() == first == digest_of_folder(folder) and len(calls) == 1
    assert remembered("another") == first and len(calls) == 2
    # Other contents of the same size, the time of writing put back.
    file = folder / "sub" / "file"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_text("two")
    os.utime(file, ns=times)
    second = remembered()
    assert second == digest_of_folder(folder) != first and len(calls) == 3
    file.rename(folder / "moved")
    assert remembered() not in (first, second)
    (folder / "more").write_text("")
    assert remembered() == digest_of_folder(folder) and len(calls) == 5


@pytest.mark.parametrize("text", ["{", '{"x": 1}', "[]"])
def test_a_damaged_memory_is_made_again(tmp_path, capsys, text):
    """It only saves time: nothing is refused for it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("b")
    (tmp_path / "digests.json").write_text(text)
    assert Remembered(tmp_path / "digests.json").of(folder, "x", lambda: "found") == "found"
    assert ("made again" in capsys.readouterr().out) == (text != '{"x": 1}')
    entries = json.loads((tmp_path / "digests.json").read_text())
    (key,) = [key for key in entries if key.endswith(" x")]
    del entries[key]["digest"]
    (tmp_path / "digests.json").write_text(json.dumps(entries))
    assert Remembered(tmp_path / "digests.json").of(folder, "x", lambda: "again") == "again"


def test_a_link_to_nowhere_is_named(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="gone leads to no file"):
        Remembered(tmp_path / "digests.json").of(folder, "x", lambda: "found")


def test_object_storage_has_the_same_digests_and_is_not_remembered(tmp_path, bucket):
    for folder in (epath.Path(tmp_path), bucket):
        (folder / "f" / "b").mkdir(parents=True)
        (folder / "f" / "a").write_bytes(bytes(3 << 20))
        (folder / "f" / "b" / "c").write_text("c")
    assert digest_of_folder(bucket / "f") == digest_of_folder(tmp_path / "f")
    values = iter("12")
    memory = Remembered(bucket / "memory.json")
    assert [memory.of(bucket / "f", "name", lambda: next(values)) for _ in range(2)] == ["1", "2"]


def test_the_digest_of_the_code_is_that_of_every_module(monkeypatch):
    before = digest_of_code()
    assert before == digest_of_code()
    read = pathlib.Path.read_text
    monkeypatch.setattr(
        pathlib.Path,
        "read_text",
        lambda path, *a, **k: read(path, *a, **k) + "#" * (path.name == "joint_step.py"),
    )
    assert digest_of_code() != before
