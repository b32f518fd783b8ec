"""Files that were joined by appending: all parts are read, or it is told how much is not."""

import io

import pytest

from msjoe_jax.data.video import decode
from msjoe_jax.video.joined import BLOCK, unread_bytes
from tests.support.clips import make, number


@pytest.mark.parametrize(
    ("name", "codec", "options", "reads_all"),
    [
        (".flv", "flv1", {}, False),
        (".mp4", "mpeg4", {}, False),
        (".mp4", "mpeg4", {"mux": {"movflags": "faststart"}}, False),
        (".mov", "mpeg4", {}, False),
        (".wmv", "wmv2", {}, False),
        (".avi", "mpeg4", {}, True),
        (".mkv", "mpeg4", {}, True),
    ],
)
def test_a_part_that_is_not_read_is_told(tmp_path, name, codec, options, reads_all):
    parts = [
        make(tmp_path / f"{k}{name}", range(0, 2000, 100), codec, rate=10, first=20 * k, **options)
        for k in range(2)
    ]
    decoding = decode(parts[0])
    assert len(list(decoding)) == 2 and decoding.counts == {}
    second = parts[1].read_bytes()
    whole = tmp_path / f"whole{name}"
    whole.write_bytes(parts[0].read_bytes() + second)
    for source in (whole, io.BytesIO(whole.read_bytes())):
        decoding = decode(source)
        seen = [number(image) for _, image in decoding]
        if reads_all:
            assert seen == [0, 10, 20, 30] and "unread" not in decoding.counts
        else:
            assert seen == [0, 10] and decoding.counts == {"unread": len(second)}
            told = f"the last {len(second)} bytes are another file that is joined to this one"
            assert decoding.notes == [f"{told}, and are not read"]
    decoding = decode(whole, end=1.0)  # a part of it is all that is asked for
    assert len(list(decoding)) == 1 and "unread" not in decoding.counts


def test_a_head_is_found_wherever_it_lies_and_boxes_are_followed():
    head = b"FLV\x01\x05\0\0\0\x09"
    for gap in (1, BLOCK - 5, BLOCK, 2 * BLOCK + 7):
        data = head + b"x" * gap + head + b"abc"
        assert unread_bytes(io.BytesIO(data), "flv", 9) == len(head) + 3
    assert unread_bytes(io.BytesIO(head + b"x" * BLOCK), "flv", 0) == 0
    assert unread_bytes(io.BytesIO(head * 3), "ogg", 0) == 0
    kind = "mov,mp4,m4a,3gp,3g2,mj2"
    one = b"\0\0\0\x08ftyp" + (24).to_bytes(4, "big") + b"mdat" + b"\0\0\0\x08ftyp" * 2
    long = b"\0\0\0\1mdat" + (16).to_bytes(8, "big")
    assert unread_bytes(io.BytesIO(one), kind, 30) == 0  # it lies within a box
    assert unread_bytes(io.BytesIO(one + long + one), kind, 30) == len(one)
    assert unread_bytes(io.BytesIO(one + long + one), kind, len(one) + 30) == 0
    for broken in (b"", b"\0\0", b"\0" * 99, one + b"\0\0\0\0mdat" + one):
        assert unread_bytes(io.BytesIO(broken), kind, 0) == 0
