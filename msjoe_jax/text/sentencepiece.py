"""A sentencepiece model, `spiece.model`, read without its library.

The file is a protocol buffer (sentencepiece_model.proto), of whose fields a few are needed: the
pieces with their scores, and how a text is normalised before it is cut into pieces.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.errors import UserError

NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # types of pieces
UNIGRAM = 1  # of model types
FIXED = {1: 8, 5: 4}  # bytes by wire type


class Pieces(NamedTuple):
    """The vocabulary of a unigram model and its normalisation.

    pieces: text and score, by id; unknown: the id of what has no piece; charsmap: the compiled map
    of characters, empty: none; collapses: whether repeated, leading and trailing spaces go.
    """

    pieces: list[tuple[str, float]]
    unknown: int
    charsmap: bytes
    collapses: bool


def read_pieces(file: epath.Path) -> Pieces:
    """Reads a unigram model.

    Raises:
      UserError: the file is damaged, or asks for something that is not computed here.
    """
    try:
        return _read(file)
    except (ValueError, IndexError, KeyError, TypeError, struct.error) as error:
        raise UserError(f"{file}: no readable sentencepiece model ({error})") from None


def _read(file: epath.Path) -> Pieces:
    parts: dict[int, list[bytes]] = {1: [], 2: [b""], 3: [b""]}
    for number, value in _fields(file.read_bytes()):
        if number in parts:
            parts[number].append(value)
    trainer, normalizer = (dict(_fields(parts[number][-1])) for number in (2, 3))
    pieces, unknown = [], []
    for index, part in enumerate(parts[1]):
        fields = dict(_fields(part))
        text, kind = fields[1].decode(), fields.get(3, NORMAL)
        if kind not in (NORMAL, UNKNOWN, CONTROL):
            raise UserError(
                f"{file}: piece {index} ({text!r}) is of type {kind}, not computed here"
            )
        if kind == UNKNOWN:
            unknown.append(index)
        pieces.append((text, struct.unpack("<f", fields[2])[0] if 2 in fields else 0.0))
    asked = {
        f"model_type={trainer.get(3, UNIGRAM)}": trainer.get(3, UNIGRAM) != UNIGRAM,
        "treat_whitespace_as_suffix": bool(trainer.get(24, 0)),
        "byte_fallback": bool(trainer.get(35, 0)),
        "escape_whitespaces=false": not normalizer.get(5, 1),
    }
    if any(asked.values()):
        names = ", ".join(name for name, is_asked in asked.items() if is_asked)
        raise UserError(f"{file}: {names} is not computed here")
    if len(unknown) != 1:
        raise ValueError(f"{len(unknown)} pieces stand for what is unknown")
    return Pieces(pieces, unknown[0], normalizer.get(2, b""), bool(normalizer.get(4, 1)))


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yields number and value of every field of a message; messages and floats as their bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            yield number, varint()
            continue
        if wire != 2 and wire not in FIXED:
            raise ValueError(f"wire type {wire}")
        length = varint() if wire == 2 else FIXED[wire]
        if at + length > len(data):
            raise ValueError("it ends early")
        yield number, data[at : at + length]
        at += length
