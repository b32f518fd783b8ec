"""Members of archives and cells of tables are the same bytes as the file that was put in."""

import hashlib
import io
import os
import random
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.data.archives import Place, Window, open_inside
from msjoe_jax.data.decoded_source import decode_source
from msjoe_jax.data.sources import VideoSource, facts_of
from msjoe_jax.data.video import VideoError
from msjoe_jax.errors import UserError
from tests.support.tiny import tiny_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 12)


@pytest.fixture(scope="module")
def archives(tmp_path_factory, clip):
    """Folder with the clip in every kind of archive."""
    folder, data = tmp_path_factory.mktemp("archives"), clip.read_bytes()
    for kind in ("ustar", "gnu", "pax"):
        form = getattr(tarfile, f"{kind.upper()}_FORMAT")
        with tarfile.open(folder / f"{kind}.tar", "w", format=form) as tar:
            for name in ("other.txt", "deep/clip: 1.mp4"):
                member = tarfile.TarInfo(name)
                member.size = len(content := data if "clip" in name else b"other")
                tar.addfile(member, io.BytesIO(content))
            link = tarfile.TarInfo("link.mp4")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
            tar.addfile(tarfile.TarInfo("empty.mp4"))
    for name, method in (("stored", 0), ("deflated", 8), ("bzip2", 12), ("lzma", 14)):
        with zipfile.ZipFile(folder / f"{name}.zip", "w", method) as archive:
            archive.writestr("other.txt", "other")
            archive.writestr("deep/clip: 1.mp4", data)
            archive.writestr("deep/", "")
            archive.writestr("empty.mp4", "")
    table = {
        "video": [b"no video", None, data],
        "nested": [{"bytes": None, "path": "x"}, None, {"bytes": data, "path": "clip.mp4"}],
        "text": ["a", "b", "c"],
    }
    pq.write_table(pa.table(table), folder / "t.parquet", row_group_size=2)
    return folder


INSIDE = [
    *(f"{kind}.tar!deep/clip: 1.mp4" for kind in ("ustar", "gnu", "pax")),
    *(f"{name}.zip!deep/clip: 1.mp4" for name in ("stored", "deflated", "bzip2", "lzma")),
    "t.parquet!video[2]",
    "t.parquet!nested[2]",
]


@pytest.mark.parametrize("inside", INSIDE)
def test_what_is_inside_decodes_like_the_file(archives, clip, inside):
    source = VideoSource(str(archives / inside))
    with (
        decode_source(source, 5.0, None) as inner,
        decode_source(VideoSource(str(clip)), 5.0, None) as outer,
    ):
        for (t, frame), (u, plain) in zip(inner, outer, strict=True):
            assert t == u and (frame == plain).all()
        assert inner.duration == outer.duration > 0
    assert facts_of(source).sha256 == hashlib.sha256(clip.read_bytes()).hexdigest()
    assert facts_of(source).size == os.path.getsize(source.container)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("gnu.tar!gone.mp4", "no such member among 4"),
        ("gnu.tar!link.mp4", "no plain file"),
        ("gnu.tar!empty.mp4", "an empty member"),
        ("stored.zip!gone.mp4", "no such member among 4"),
        ("stored.zip!deep/", "is a folder"),
        ("deflated.zip!empty.mp4", "an empty member"),
        ("t.parquet!video", "write COLUMN\\[ROW\\]"),
        ("t.parquet!film[0]", "no column 'film'; it has video, nested, text"),
        ("t.parquet!video[3]", "no row 3; it has 3, from 0"),
        ("t.parquet!video[1]", "holds no bytes in row 1"),
        ("t.parquet!nested[0]", "holds no bytes in row 0"),
        ("t.parquet!text[0]", "holds no bytes in row 0"),
    ],
)
def test_what_is_not_inside_is_one_line(archives, path, words):
    with pytest.raises(VideoError, match=words) as error:
        facts_of(VideoSource(f"{archives}/{path}"))
    assert str(error.value).startswith(f"{archives}/{path}")


@pytest.mark.parametrize(("name", "mode"), [("gzip", "w:gz"), ("bzip2", "w:bz2"), ("xz", "w:xz")])
def test_a_compressed_tar_is_refused(tmp_path, clip, name, mode):
    with tarfile.open(tmp_path / "a.tar", mode) as tar:
        tar.add(clip, "clip.mp4")
    with pytest.raises(VideoError, match=f"compressed by {name}.*unpack it"):
        facts_of(VideoSource(f"{tmp_path}/a.tar!clip.mp4"))


def test_damaged_archives_are_one_line(tmp_path, archives):
    for name in ("gnu.tar", "stored.zip", "deflated.zip", "t.parquet"):
        data = (archives / name).read_bytes()
        inside = "video[2]" if "parquet" in name else "deep/clip: 1.mp4"
        for seed in range(20):
            draw = random.Random(seed)
            damaged = bytearray(data[: draw.randrange(len(data))] if seed % 2 else data)
            for _ in range(30):
                damaged[draw.randrange(len(damaged))] ^= draw.randrange(1, 256)
            path = tmp_path / f"{seed}-{name}"
            path.write_bytes(damaged)
            try:
                with decode_source(VideoSource(f"{path}!{inside}"), 1.0, None) as frames:
                    list(frames)
            except UserError as error:
                assert str(path) in str(error) and len(error.lines) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=1, max_size=60),
    st.data(),
)
def test_a_window_reads_as_its_bytes_alone_would(tmp_path_factory, data, draw):
    offset = draw.draw(st.integers(0, len(data)))
    size = draw.draw(st.integers(0, len(data) - offset))
    path = tmp_path_factory.getbasetemp() / "window"
    path.write_bytes(data)
    alone = io.BytesIO(data[offset : offset + size])
    with Window(str(path), Place(offset, size), "name") as window:
        for _ in range(draw.draw(st.integers(0, 6))):
            whence = draw.draw(st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]))
            base = {os.SEEK_SET: 0, os.SEEK_CUR: alone.tell(), os.SEEK_END: size}[whence]
            to = draw.draw(st.integers(-base, 70))
            assert window.seek(to, whence) == alone.seek(base + to)
            count = draw.draw(st.integers(0, 70))
            assert window.read(count) == alone.read(count)
            assert window.tell() == alone.tell()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_last_of_two_members_of_a_name_counts(tmp_path):
    with (
        tarfile.open(tmp_path / "a.tar", "w") as tar,
        zipfile.ZipFile(tmp_path / "a.zip", "w") as z,
    ):
        for content in (b"first", b"second"):
            member = tarfile.TarInfo("./x")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            z.writestr("x", content)
    for name in ("a.tar", "a.zip"):
        with open_inside(str(tmp_path / name), "x") as file:
            assert file.read() == b"second"
