"""Files beside the tensors."""

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.weights.folder import (
    SIDE_FILES,
    copy_side_files,
    read_json,
    read_sizes,
    write_json,
)


def test_json_goes_and_comes_back(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1, None]})
    assert (tmp_path / "a.json").read_text() == '{\n  "é": [\n    1,\n    null\n  ]\n}\n'
    assert read_json(tmp_path / "a.json") == {"é": [1, None]}


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "cannot be read"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "not a JSON object"),
    ],
)
def test_files_that_are_no_json_objects(tmp_path, content, words):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.json: {words}"):
        read_json(tmp_path / "a.json")


def test_side_files_are_copied(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    for name in SIDE_FILES[::2]:
        (source / name).write_bytes(b'{"a":\n1}')
    (source / "other.json").write_text("{}")
    copy_side_files(source, out)
    assert sorted(p.name for p in out.iterdir()) == sorted(SIDE_FILES[::2])
    assert all(p.read_bytes() == b'{"a":\n1}' for p in out.iterdir())


def test_sizes_that_cannot_be(tmp_path):
    write_json(tmp_path / "config.json", {"a": 1})
    assert read_sizes(tmp_path / "config.json", lambda config: config["a"]) == 1
    with pytest.raises(UserError, match=r"config\.json: the field 'b' is missing"):
        read_sizes(tmp_path / "config.json", lambda config: config["b"])
    with pytest.raises(UserError, match=r"config\.json: .*'int'"):
        read_sizes(tmp_path / "config.json", lambda config: len(config["a"]))
