"""Safetensors files: equal to the library's, whole or absent, and clear about damage."""

import itertools
import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.errors import UserError
from msjoe_jax.weights import safetensors as module
from msjoe_jax.weights.safetensors import (
    INDEX,
    NAMES,
    plan_files,
    read_folder,
    read_header,
    write_file,
)

TENSORS = st.dictionaries(
    st.text("abc.", min_size=1, max_size=4),
    st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(list(NAMES))),
    max_size=4,
)


def write(file, values):
    write_file(file, {n: (x.dtype, x.shape) for n, x in values.items()}, values.__getitem__)


@given(TENSORS, st.integers(0, 99))
def test_what_is_written_is_read_by_us_and_by_the_library(tmp_path_factory, tensors, seed):
    file = tmp_path_factory.mktemp("st") / "model.safetensors"
    rng = np.random.default_rng(seed)
    values = {
        name: np.asarray(rng.normal(size=shape)).astype(dtype)
        for name, (shape, dtype) in tensors.items()
    }
    write(file, values)
    assert os.listdir(file.parent) == ["model.safetensors"]
    ours = {name: tensor.read() for name, tensor in read_folder(file.parent).items()}
    theirs = dict(safetensors.deserialize(file.read_bytes()))
    assert ours.keys() == theirs.keys() == values.keys()
    for name, x in values.items():
        assert (ours[name].dtype, ours[name].shape) == (x.dtype, x.shape)
        assert (theirs[name]["dtype"], tuple(theirs[name]["shape"])) == (NAMES[x.dtype], x.shape)
        assert ours[name].tobytes() == bytes(theirs[name]["data"]) == x.tobytes()


def test_a_tensor_that_cannot_be_loaded_leaves_no_file(tmp_path):
    def load(name):
        if name == "b":
            raise UserError("b is damaged")
        return np.zeros(3, np.float32)

    form = (np.dtype(np.float32), (3,))
    with pytest.raises(UserError, match="b is damaged"):
        write_file(tmp_path / "a", {"a": form, "b": form}, load)
    assert os.listdir(tmp_path) == []


def header(tensors, size=0):
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + b"x" * size


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no safetensors file"),
        (b"hello, this is text", "the header is cut off"),
        (header({"a": ENTRY}, 7), "cut off: .* bytes of at least"),
        (header({"a": {**ENTRY, "shape": [3]}}, 8), "a has another size than its shape"),
        (header({"a": {**ENTRY, "data_offsets": [-8, 0]}}, 8), "a lies outside the file"),
        (header({"a": {"dtype": "F32"}}, 8), "no safetensors file"),
        (header([1]), "no safetensors file"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"model.safetensors: .*{message}"):
        read_header(file)


def test_a_type_that_numpy_lacks_is_passed_on_by_its_name(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(header({"a": {**ENTRY, "dtype": "F8_E4M3"}}, 8))
    assert read_header(file)["a"].dtype == "F8_E4M3"


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    write(tmp_path / "a", {"x": np.ones(9, np.float32)})
    tensor = read_header(tmp_path / "a")["x"]
    os.truncate(tmp_path / "a", tensor.stop - 1)
    with pytest.raises(UserError, match="became shorter"):
        tensor.read()


def test_folders_of_several_files(tmp_path):
    index = tmp_path / INDEX
    with pytest.raises(UserError, match="other formats are not read"):
        read_folder(tmp_path)
    for file in "12":
        write(tmp_path / file, {f"x{file}": np.full(2, int(file), ml_dtypes.bfloat16)})
    index.write_text(json.dumps({"weight_map": {"x1": "1", "x2": "2"}}))
    tensors = read_folder(tmp_path)
    assert {n: t.read().tolist() for n, t in tensors.items()} == {"x1": [1, 1], "x2": [2, 2]}
    write(tmp_path / "2", {"x1": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match=r"2: holds x1, as .*1 does"):
        read_folder(tmp_path)
    for weight_map, message in (
        ({"x": "3"}, "absent: 3"),
        ({"x": "../1"}, "outside its folder"),
        (3, "no index"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(UserError, match=message):
            read_folder(tmp_path)


@given(
    st.dictionaries(st.text(min_size=1), st.integers(0, 9), min_size=1, max_size=9),
    st.integers(1, 20),
)
def test_files_keep_the_order_and_the_limit(sizes, limit):
    files = plan_files(sizes, limit)
    assert [name for names in files.values() for name in names] == list(sizes)
    groups = [[sizes[name] for name in names] for names in files.values()]
    assert all(len(group) == 1 or sum(group) <= limit for group in groups)
    for left, right in itertools.pairwise(groups):
        assert sum(left) + right[0] > limit  # no file is closed early


def test_a_single_file_and_an_index_beside_it(tmp_path):
    """An index that a conversion to one file has left, as transformers reads such folders."""
    write(tmp_path / "model-00001-of-00001.safetensors", {"old": np.zeros(1, np.float32)})
    places = {"old": "model-00001-of-00001.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    write(tmp_path / "open_clip_model.safetensors", {"other": np.zeros(1, np.float32)})
    assert list(read_folder(tmp_path)) == ["old"]
    write(tmp_path / "model.safetensors", {"new": np.zeros(1, np.float32)})
    assert list(read_folder(tmp_path)) == ["new"]


def test_a_file_that_was_not_fetched(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    (tmp_path / "model.safetensors").write_bytes(pointer)
    with pytest.raises(UserError, match="a pointer of Git LFS: `git lfs pull` fetches"):
        read_folder(tmp_path)


def test_tensors_of_the_same_values(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "COMPARED", 3)
    x = np.arange(10, dtype=np.float32).reshape(2, 5)
    x[0, 0] = np.nan
    other, last = x.copy(), x.copy()
    other[0, 1], last[-1, -1] = 7, 7
    tensors = {"x": x, "same": x.copy(), "other": other, "last": last, "flat": x.reshape(-1),
               "narrow": x[1].astype(np.float16), "wide": x[1]}  # fmt: skip
    write(tmp_path / "a", tensors)
    t = read_header(tmp_path / "a")
    assert t["x"].equals(t["same"]) and t["narrow"].equals(t["wide"])
    assert not any(t["x"].equals(t[name]) for name in ("other", "last", "flat", "wide"))
    assert not t["x"].equals(t["x"]._replace(dtype="F8_E4M3"))
