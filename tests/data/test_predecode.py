"""The steps of predecoding: parts, and packing in order."""

import fcntl
import json
import os
import pathlib

import pytest

from msjoe_jax.data import predecode
from msjoe_jax.data.manifest import Entry, load_entries
from msjoe_jax.data.predecode import (
    DecodeSettings,
    Packer,
    Stopped,
    decode_part,
    pack,
    resume,
)
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.sources import facts_of
from msjoe_jax.data.video import VideoError
from msjoe_jax.errors import UserError
from tests.support.tiny import tiny_video

SETTINGS = DecodeSettings(fps=1.0, max_side=32, quality=90)


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Three videos of one, two and three seconds."""
    folder = tmp_path_factory.mktemp("videos")
    rows = []
    for v in range(3):
        tiny_video(folder / f"{v}.mp4", 5 * (v + 1))
        rows.append({"id": f"../vidéo {v}", "video": f"{v}.mp4", "extra": {"v": v}})
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return load_entries(folder / "list.jsonl")


def start(out):
    out.mkdir(exist_ok=True)
    return resume(out, SETTINGS)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("shard_bytes", [1, 1 << 28])
def test_parts_in_any_order_pack_to_the_same_folder(tmp_path, entries, monkeypatch, shard_bytes):
    monkeypatch.setattr(predecode, "SHARD_BYTES", shard_bytes)
    for name, order in (("a", entries), ("b", entries[::-1])):
        packer = start(tmp_path / name)
        for entry in order:
            decode_part(entry, packer.parts, SETTINGS)
        for entry in entries:
            packer.add(entry)
        assert packer.finish() == 3
    assert files(tmp_path / "a") == files(tmp_path / "b")
    reader = RecordReader(tmp_path / "a")
    assert len(reader.shards) == (3 if shard_bytes == 1 else 1)
    assert reader.ids == [entry.id for entry in entries]
    assert [reader.info(entry.id).num_frames for entry in entries] == [1, 2, 3]
    info, facts = reader.info(entries[1].id), facts_of(entries[1].source)
    assert info.extra == {"v": 1} and facts.size == entries[1].size
    stated = {name: getattr(info.source, name) for name in ("video", "rate", *vars(facts))}
    assert stated == {"video": "1.mp4", "rate": 5.0, **vars(facts)}
    assert "FFmpeg" in info.source.decoder and not info.source.warnings
    assert not (tmp_path / "a" / "parts").exists()


def test_a_part_is_decoded_once(tmp_path, entries):
    decode_part(entries[0], tmp_path, SETTINGS)
    before = files(tmp_path)
    gone = Entry(entries[0].id, "", entries[0].path / "gone", {})
    decode_part(gone, tmp_path, SETTINGS)
    assert files(tmp_path) == before and len(before) == 2


def test_a_part_that_fails_or_is_stopped_leaves_nothing(tmp_path, entries):
    def watch(seconds):
        raise Stopped

    with pytest.raises(Stopped):
        decode_part(entries[0], tmp_path, SETTINGS, watch)
    with pytest.raises(VideoError, match="cannot be opened"):
        decode_part(Entry("a", "", tmp_path / "none.mp4", {}), tmp_path, SETTINGS)
    assert files(tmp_path) == {}


def test_a_video_that_is_changed_while_it_is_decoded_is_a_failure(tmp_path, entries):
    path = tmp_path / "a.mp4"
    path.write_bytes(entries[2].path.read_bytes())
    entry = Entry("a", "a.mp4", path, {})

    (tmp_path / "parts").mkdir()
    with pytest.raises(VideoError, match="was changed while it was decoded"):
        decode_part(entry, tmp_path / "parts", SETTINGS, lambda _: path.touch())  # by another
    assert files(tmp_path / "parts") == {}


def test_a_part_says_how_far_it_is(tmp_path, entries):
    times: list[float] = []
    decode_part(entries[2], tmp_path, SETTINGS, times.append)
    assert times == [0, 1, 2, 3]  # three frames, and the duration


def test_a_shard_that_cannot_be_packed_leaves_nothing(tmp_path, entries):
    packer = start(tmp_path / "out")
    decode_part(entries[0], packer.parts, SETTINGS)
    (packer.parts / f"videos-{entries[1].part}.arrayrecord").write_bytes(b"damaged")
    before = files(tmp_path)
    with pytest.raises(UserError, match="damaged"):
        pack(packer.out, "00000", packer.parts, entries[:2], SETTINGS)
    assert files(tmp_path) == before


def test_a_resumed_run_waits_for_workers_of_the_killed_one(tmp_path, monkeypatch):
    """They may live a moment longer than it, and hold a lock as long as they do."""
    packer, asked, flock = start(tmp_path / "out"), [], fcntl.flock
    with (packer.parts / predecode.BUSY).open("rb") as worker:
        flock(worker.fileno(), fcntl.LOCK_SH)

        def ending(descriptor, operation):
            with pytest.raises(BlockingIOError):
                flock(descriptor, operation | fcntl.LOCK_NB)
            asked.append(operation)
            flock(worker.fileno(), fcntl.LOCK_UN)
            flock(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", ending)
        start(tmp_path / "out")
    assert asked == [fcntl.LOCK_EX]


def test_a_resumed_folder_keeps_shards_and_parts_and_drops_halves(tmp_path, entries):
    out = tmp_path / "out"
    packer = start(out)
    decode_part(entries[0], packer.parts, SETTINGS)
    packer.add(entries[0])
    packer.flush()
    decode_part(entries[1], packer.parts, SETTINGS)
    kept = files(out)
    for half in (out / "frames-00001.arrayrecord.partial", packer.parts / "videos-x.partial"):
        half.write_text("half")
    (out / ".lock").write_text("1")
    packer = start(out)
    (out / ".lock").unlink()
    assert files(out) == kept
    assert [shard["videos"] for shard in packer.shards] == [[entries[0].id]]
    packer.add(entries[1])
    assert packer.finish() == 2
    assert RecordReader(out).ids == [entries[0].id, entries[1].id]
    # A finished folder grows in the same way.
    packer = start(out)
    decode_part(entries[2], packer.parts, SETTINGS)
    packer.add(entries[2])
    assert packer.finish() == 3


def test_a_folder_without_a_video_is_not_committed(tmp_path):
    packer = start(tmp_path / "out")
    assert isinstance(packer, Packer) and packer.finish() == 0
    with pytest.raises(UserError, match="not a finished record folder"):
        RecordReader(tmp_path / "out")


def test_folders_of_others(tmp_path):
    start(tmp_path / "out")
    with pytest.raises(UserError, match=r"was made with .*, not .*; choose another --out"):
        resume(tmp_path / "out", DecodeSettings(fps=2.0, max_side=32, quality=90))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not empty and not a record folder"):
        start(tmp_path / "mine")


@pytest.mark.soak
def test_memory_is_flat_over_90_000_frames(tmp_path):
    """An hour at 25 frames a second: from a twentieth of it on, what the process holds."""
    tiny_video(tmp_path / "long.mp4", 90_000, rate=25)
    entry = Entry("long", "long.mp4", tmp_path / "long.mp4", {})
    (tmp_path / "out").mkdir()
    packer = start(tmp_path / "out")
    held: list[int] = []

    def look(seconds: float) -> None:
        if seconds % 180 == 0:
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
            held.append(pages * os.sysconf("SC_PAGE_SIZE"))

    decode_part(entry, packer.parts, SETTINGS, look)
    packer.add(entry)
    assert packer.finish() == 1
    look(0)
    assert len(held) == 22 and RecordReader(tmp_path / "out").info("long").num_frames == 3600
    assert max(held) - held[1] <= 20e6
