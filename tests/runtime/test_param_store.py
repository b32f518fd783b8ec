"""Parameters written a layer at a time, read by Orbax and by ourselves."""

import math
from unittest import mock

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.errors import UserError
from msjoe_jax.runtime import param_store
from msjoe_jax.runtime.checkpoint import load_meta, load_params, save_params
from msjoe_jax.runtime.param_store import ParamReader, ParamWriter
from tests.support.placed import placed

TYPES = [np.float16, ml_dtypes.bfloat16, np.float32]
LEAVES = st.dictionaries(
    st.sampled_from(["mllm/layers/a", "mllm/layers/b/c", "mllm/d", "clip/e"]),
    st.tuples(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.sampled_from(TYPES)),
    min_size=1,
)


@settings(deadline=None, max_examples=25)
@given(LEAVES, st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_any_shape_and_chunk(tmp_path_factory, shapes, chunk_bytes, seed):
    """Rows that do not divide into chunks, rows larger than one, layers in any order."""
    folder = tmp_path_factory.mktemp("store") / "params"
    rng = np.random.default_rng(seed)
    values = {
        path: rng.integers(0, 1 << 8, math.prod(shape) * np.dtype(dtype).itemsize, np.uint8)
        .view(dtype)
        .reshape(shape)
        for path, (shape, dtype) in shapes.items()
    }
    values["mllm/scalar"] = np.float32(seed).reshape(())
    leaves = {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in values.items()}
    stacked = frozenset(path for path in values if "/layers/" in path)
    with mock.patch.object(param_store, "CHUNK_BYTES", chunk_bytes):
        writer = ParamWriter(folder, leaves, stacked, {"a": 1})
        for path, x in values.items():
            for layer in rng.permutation(len(x)) if path in stacked else (None,):
                flat = (x if layer is None else x[layer]).reshape(-1)
                writer.write(path, None if layer is None else int(layer), flat)
    reader = ParamReader(folder)
    assert {p: (x.shape, x.dtype) for p, x in reader.leaves.items()} == {
        p: (x.shape, x.dtype) for p, x in values.items()
    }
    restored = load_params(str(folder), placed(leaves))
    for path, x in values.items():
        assert np.asarray(restored[path]).tobytes() == x.tobytes()
        assert reader.read(path).tobytes() == x.tobytes()
        if path in stacked:
            assert reader.read(path, len(x) - 1).tobytes() == x[-1].tobytes()
    assert load_meta(str(folder)) == {"a": 1}


def test_reads_what_orbax_wrote(tmp_path):
    """Stored whole or in pieces, compressed, in its own database."""
    x = np.random.default_rng(0).normal(size=(3, 1100, 2100)).astype(np.float32)  # 9 MB a layer
    save_params(str(tmp_path / "p"), {"layers": {"x": x}, "y": x[0, 0]}, {})
    reader = ParamReader(tmp_path / "p")
    np.testing.assert_array_equal(reader.read("layers/x", 2), x[2])
    np.testing.assert_array_equal(reader.read("y"), x[0, 0])


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    leaf = jax.ShapeDtypeStruct((4,), np.float32)
    ParamWriter(tmp_path / "p", {"a": leaf}, frozenset(), {}).write("a", None, np.arange(4.0))
    (tmp_path / "p" / "state" / "a" / "0").write_bytes(b"123")
    reader = ParamReader(tmp_path / "p")
    with pytest.raises(UserError, match=r"p cannot be read: a: ") as caught:
        reader.read("a")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no checkpoint in"):
        ParamReader(tmp_path / "absent")


def test_a_lost_chunk_is_no_zeros(tmp_path):
    """TensorStore takes what is absent for zeros unless told not to; stored zeros stay zeros."""
    leaf = jax.ShapeDtypeStruct((4,), np.float32)
    ParamWriter(tmp_path / "p", {"a": leaf}, frozenset(), {}).write("a", None, np.arange(4.0))
    (tmp_path / "p" / "state" / "a" / "0").unlink()
    with pytest.raises(UserError, match=r"p cannot be read: a: .*missing"):
        ParamReader(tmp_path / "p").read("a")
    save_params(str(tmp_path / "zeros"), {"a": np.zeros(4, np.float32)}, {})
    assert not ParamReader(tmp_path / "zeros").read("a").any()


def test_object_storage_is_read_too(bucket):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    save_params(bucket / "params", {"a": {"b": values}}, {"x": 1})
    reader = ParamReader(bucket / "params")
    np.testing.assert_array_equal(reader.read("a/b"), values)
    np.testing.assert_array_equal(reader.read("a/b", 1), values[1])
