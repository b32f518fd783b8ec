"""Damaged record folders give right data, a named refusal or a counted loss, nothing else."""

import random
import shutil

import numpy as np
import pytest

from msjoe_jax.data.embed import embed_records
from msjoe_jax.data.record import Details, Source
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.shards import ShardWriter, write_manifest
from msjoe_jax.data.signals import read_signal, write_signal
from msjoe_jax.data.verify import wrong_shards
from msjoe_jax.errors import UserError
from tests.support.records import flat

VIDEOS = {"a": 3, "b": 2, "c": 2, "d": 3}  # two shards of as many frames and videos
NAMED = ("00000", "00001", "manifest.json", "video ", "frame ", "embeddings of several")


def make(folder, seed=0):
    """A folder with everything that one can have: two shards, sound, embeddings, a signal."""
    folder.mkdir()
    shards = []
    for number, names in enumerate((("a", "b"), ("d", "c"))):
        shard = ShardWriter(folder, f"{number:05d}", 90, audio=True)
        for v, name in enumerate(names):
            frames = [(t, flat((40 * v + seed, 30 * t, 99))) for t in range(VIDEOS[name])]
            source = Source(f"{name}.mp4", 3, 4, "ab" * 32, warnings={"x": v}, rate=25.0)
            sound = f"sound of {name}".encode() * 9
            shard.add(
                name, frames, 1.0, lambda s=sound, k=source: Details(None, {"v": 1}, k, (), s)
            )
        shards.append(shard.finish())
    write_manifest(folder, shards, {"fps": 1.0})
    embed_records(folder, lambda fs: np.stack([f.reshape(-1)[:8] / 256 for f in fs]), "fp", batch=4)
    write_signal(folder, "s", lambda reader, info: np.arange(float(info.num_frames)))
    return folder


def everything(folder):
    """All that can be read of a folder, and the error in place of what cannot."""
    reader = RecordReader(folder, "fp")
    found = {("settings",): repr(reader.settings)}
    for name in reader.ids:
        every = range(VIDEOS.get(name, 1))
        for kind, read in (
            ("info", lambda n=name: repr(reader.info(n))),
            ("jpegs", lambda n=name, e=every: reader.frame_bytes(n, e)),
            ("frames", lambda n=name, e=every: reader.frames(n, e).tobytes()),
            ("sound", lambda n=name: reader.sound(n)),
            ("clip", lambda n=name: reader.embeddings(n).tobytes()),
            ("signal", lambda n=name: read_signal(reader, "s", n).tobytes()),
        ):
            try:
                found[name, kind] = read()
            except UserError as error:
                found[name, kind] = error
    return found


def mutate(rng, folder, files):
    """Damages a file, as disks, copies and people do; returns what was done."""
    name = rng.choice(files)
    file = folder / name
    data = bytearray(file.read_bytes())
    # Most of a small ArrayRecord file is padding, which holds nothing.
    held = np.flatnonzero(np.frombuffer(data, np.uint8))
    place = int(rng.choice(held)) if rng.random() < 0.9 else rng.randrange(len(data))
    kind = rng.choice(["flip", "flip", "flip", "zero", "cut", "insert", "swap", "remove"])
    if kind == "flip":
        data[place] ^= rng.randrange(1, 256)
    elif kind == "zero":
        length = rng.choice([1, 8, 100, 5000])
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif kind == "cut":
        del data[place:]
    elif kind == "insert":
        data[place:place] = rng.randbytes(rng.choice([1, 7, 300]))
    elif kind == "swap":
        alike = [f for f in files if f.rpartition("-")[0] == name.rpartition("-")[0]]
        other = folder / rng.choice(alike)
        file.write_bytes(other.read_bytes())
        other.write_bytes(data)
        return f"{name} and {other.name} swapped"
    if kind == "remove":
        file.unlink()
    else:
        file.write_bytes(data)
    return f"{kind} at {place} of {name}"


@pytest.mark.parametrize("mutations", [200, pytest.param(1000, marks=pytest.mark.soak)])
def test_mutated_folders_lose_nothing_in_silence(tmp_path, mutations):
    folder = make(tmp_path / "r")
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    want, files = everything(folder), sorted(whole)
    assert not any(isinstance(value, UserError) for value in want.values())
    rng, outcomes = random.Random(14), {"right": 0, "refused": 0, "lost": 0}
    for number in range(mutations):
        done = mutate(rng, folder, files)
        try:
            found = everything(folder)
        except UserError as error:
            assert len(error.lines) == 1 and str(folder) in str(error), (number, done, error)
            outcomes["refused"] += 1
        else:
            assert found.keys() == want.keys(), (number, done)
            errors = {key: v for key, v in found.items() if isinstance(v, UserError)}
            for key, value in found.items():
                assert key in errors or value == want[key], (number, done, key)
            for why in errors.values():
                lines = why.lines
                assert len(lines) == 1 and any(n in lines[0] for n in NAMED), (number, done, why)
            outcomes["lost" if errors else "right"] += 1
        for name in files:
            if name in done:
                (folder / name).write_bytes(whole[name])
    assert everything(folder) == want  # all has been mended in between
    assert sum(outcomes.values()) == mutations
    assert min(outcomes.values()) > mutations / 20, outcomes


@pytest.mark.parametrize("kind", ["frames", "audio", "clip-fp", "signal-s", "videos"])
def test_a_file_of_another_folder_is_told_from_the_own(tmp_path, kind):
    """Of the same videos, counts and sizes: only the pictures differ."""
    folder, other = make(tmp_path / "r"), make(tmp_path / "other", seed=9)
    for path in (folder, other):
        assert wrong_shards(RecordReader(path, "")) == []
    name = f"{kind}-00000.arrayrecord"
    same = (folder / name).read_bytes() == (other / name).read_bytes()
    assert same == (kind == "audio")  # whose bytes are of the name alone
    shutil.copy(other / name, folder / name)
    found = everything(folder)
    wrong = {key for key, value in found.items() if isinstance(value, UserError)}
    told = {"frames": {"jpegs", "frames"}, "clip-fp": {"clip"}, "signal-s": {"signal"}}
    told |= {"videos": {"jpegs", "frames"}, "audio": set()}
    assert wrong == {(video, what) for video in "ab" for what in told[kind]}
    lines = wrong_shards(RecordReader(folder, ""))
    expected = [f"{folder}: shard 00000 is not the one of the manifest"]
    assert lines == (expected if kind in ("frames", "videos") else [])
