"""Safetensors files, read and written a tensor at a time.

The format is a length (8 bytes), a JSON header with type, shape and place of every tensor, and the
raw values. The library reads through a memory map, whose touched pages count as this process's
memory until the file is closed, and writes from a dict of all tensors; both would hold a whole
shard. Types: bfloat16 is `ml_dtypes.bfloat16`, so torch is not needed.
"""

import json
import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import open_whole

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
INDEX = "model.safetensors.index.json"
SINGLE = ("model.safetensors", "open_clip_model.safetensors")
HEADER_LIMIT = 100 << 20  # the library's own
# Raised by reading a malformed header or index (RecursionError: by JSON nested very deeply).
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error)
SHARD_BYTES = 5 * 10**9  # of the published shards
COMPARED = 1 << 22  # values at a time
POINTER = b"version https://git-lfs"  # begins the text that stands for a file of Git LFS


class Tensor(NamedTuple):
    """The place of one tensor in its file.

    `dtype` is the format's own name where NumPy has no such type.
    """

    file: epath.Path
    start: int
    stop: int
    dtype: np.dtype | str
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Reads the values into memory of their own.

        Raises:
          UserError: the file has become shorter.
        """
        return self._part(0, math.prod(self.shape)).reshape(self.shape)

    def equals(self, other: "Tensor") -> bool:
        """Says whether another tensor has the same shape and the same values, a part at a time.

        Raises:
          UserError: a file has become shorter.
        """
        if self.shape != other.shape or not {self.dtype, other.dtype} <= NAMES.keys():
            return False
        count = math.prod(self.shape)
        for first in range(0, count, COMPARED):
            last = min(first + COMPARED, count)
            mine, theirs = self._part(first, last), other._part(first, last)
            if mine.tobytes() != theirs.tobytes() and (mine.astype(float) != theirs).any():
                return False
        return True

    def _part(self, first: int, last: int) -> np.ndarray:
        """Reads the values from `first` to before `last` of the flat tensor."""
        assert isinstance(self.dtype, np.dtype)
        with open(self.file, "rb") as file:
            file.seek(self.start + first * self.dtype.itemsize)
            raw = np.fromfile(file, np.uint8, (last - first) * self.dtype.itemsize)
        if raw.size != (last - first) * self.dtype.itemsize:
            raise UserError(f"{self.file}: became shorter while it was read")
        return raw.view(self.dtype)


def read_folder(folder: epath.PathLike) -> dict[str, Tensor]:
    """Finds all tensors of a model's folder, without reading their values.

    A single file is read, and an index beside it is not: so does the library that wrote them.

    Raises:
      UserError: there is no safetensors file, the index names an absent one, or one is damaged.
    """
    folder = epath.Path(folder)
    files = [folder / name for name in SINGLE if (folder / name).is_file()][:1]
    if (folder / INDEX).is_file() and not (folder / SINGLE[0]).is_file():
        files = _indexed(folder)
    if not files:
        raise UserError(
            f"{folder}: no {INDEX} and no {' or '.join(SINGLE)}; other formats are not read"
        )
    model: dict[str, Tensor] = {}
    for file in files:
        tensors = read_header(file)
        if repeated := model.keys() & tensors.keys():
            name = min(repeated)
            raise UserError(f"{file}: holds {name}, as {model[name].file} does")
        model |= tensors
    return model


def _indexed(folder: epath.Path) -> list[epath.Path]:
    try:
        names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
        plain = all(os.path.basename(name) == name for name in names)
    except MALFORMED as error:
        raise UserError(f"{folder / INDEX}: no index ({error!r})") from None
    if not plain:
        raise UserError(f"{folder / INDEX}: names a file outside its folder")
    if absent := [name for name in names if not (folder / name).is_file()]:
        raise UserError(f"{folder / INDEX}: names files that are absent: {', '.join(absent)}")
    return [folder / name for name in names]


def read_header(file: epath.PathLike) -> dict[str, Tensor]:
    """Reads the header of one file: its tensors, in the order of their values there.

    Raises:
      UserError: the file cannot be read, is cut off, or is none.
    """
    file = epath.Path(file)
    try:
        size = os.path.getsize(file)
        with open(file, "rb") as stream:
            head = stream.read(len(POINTER))
            if head == POINTER:
                raise ValueError("a pointer of Git LFS: `git lfs pull` fetches the file")
            stream.seek(8)
            length = struct.unpack("<Q", head[:8])[0]
            if length > min(size - 8, HEADER_LIMIT):
                raise ValueError("the header is cut off")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        base, tensors = 8 + length, {}
        for name, entry in header.items():
            start, stop = (base + int(offset) for offset in entry["data_offsets"])
            dtype, shape = entry["dtype"], tuple(map(int, entry["shape"]))
            tensors[name] = Tensor(file, start, stop, DTYPES.get(dtype, dtype), shape)
            if dtype in DTYPES and stop - start != math.prod(shape) * DTYPES[dtype].itemsize:
                raise ValueError(f"{name} has another size than its shape")
            if not base <= start <= stop:
                raise ValueError(f"{name} lies outside the file")
            if stop > size:
                raise ValueError(f"cut off: {size} bytes of at least {stop}")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except MALFORMED as error:
        raise UserError(f"{file}: no safetensors file, or a damaged one ({error})") from None
    return dict(sorted(tensors.items(), key=lambda item: item[1].start))


def write_file(
    file: epath.PathLike,
    tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    load: Callable[[str], np.ndarray],
) -> None:
    """Writes one file, tensor by tensor; it appears under its name when it is whole.

    Args:
      file: the file.
      tensors: type and shape of each tensor by name, in the order in which they are written.
      load: returns the values of a tensor of this name.

    Raises:
      OSError: the disk is full or refuses.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    start = 0
    for name, (dtype, shape) in tensors.items():
        stop = start + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open_whole(file) as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name, (dtype, shape) in tensors.items():
            values = np.ascontiguousarray(load(name)).astype(dtype, copy=False)
            assert values.size == math.prod(shape), name
            stream.write(values.reshape(-1).view(np.uint8).data)


def plan_files(sizes: Mapping[str, int], limit: int = SHARD_BYTES) -> dict[str, Sequence[str]]:
    """Distributes tensors, in order, over files of at most `limit` bytes (or of one tensor)."""
    groups: list[list[str]] = [[]]
    num_bytes = 0
    for name, size in sizes.items():
        if groups[-1] and num_bytes + size > limit:
            groups.append([])
            num_bytes = 0
        groups[-1].append(name)
        num_bytes += size
    if len(groups) == 1:
        return {SINGLE[0]: groups[0]}
    count = len(groups)
    return {f"model-{i:05}-of-{count:05}.safetensors": g for i, g in enumerate(groups, start=1)}
