"""Safetensors files against the library."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from msjoe_jax.errors import UserError
from msjoe_jax.weights.safetensors import NAMES, plan_files, read_folder, read_header, write_file


def raw(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    values = tensor.reshape(-1).view(torch.uint8).numpy()
    return str(tensor.dtype), tuple(tensor.shape), values.tobytes()


ARRAYS = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8),
    st.tuples(
        st.sampled_from(sorted(NAMES, key=str)), st.lists(st.integers(0, 4), max_size=3).map(tuple)
    ),
    max_size=5,
)


@settings(deadline=None, max_examples=40)
@given(ARRAYS, st.integers(0, 2**32 - 1), st.floats(0, 0.999))
def test_files_are_the_librarys(tmp_path_factory, arrays, seed, fraction):
    file = tmp_path_factory.mktemp("file") / "model.safetensors"
    rng = np.random.default_rng(seed)
    values = {
        name: rng.integers(0, 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
        .view(dtype)
        .reshape(shape)
        for name, (dtype, shape) in arrays.items()
        if name != "__metadata__"
    }
    write_file(file, {name: (x.dtype, x.shape) for name, x in values.items()}, values.__getitem__)
    with safe_open(file, "pt") as opened:
        assert set(opened.keys()) == values.keys()
        for name, x in values.items():
            theirs = opened.get_tensor(name)
            assert tuple(theirs.shape) == x.shape
            assert raw(theirs)[2] == x.tobytes() if x.size else theirs.numel() == 0
    ours = read_folder(file.parent)
    for name, x in values.items():
        assert ours[name].read().tobytes() == x.tobytes()
        assert (ours[name].dtype, ours[name].shape) == (x.dtype, x.shape)
    content = file.read_bytes()
    file.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(UserError, match="damaged"):
        read_header(file)


def test_shards_hold_every_tensor_once():
    sizes = {f"t{i}": size for i, size in enumerate([3, 4, 9, 1, 1, 20, 2])}
    files = plan_files(sizes, limit=8)
    assert [name for group in files.values() for name in group] == list(sizes)
    assert [sum(sizes[n] for n in group) for group in files.values()] == [7, 9, 2, 20, 2]
    assert next(iter(files)) == "model-00001-of-00005.safetensors"
    assert list(plan_files(sizes, limit=40)) == ["model.safetensors"]
    assert ml_dtypes.bfloat16 in {dtype.type for dtype in NAMES}
