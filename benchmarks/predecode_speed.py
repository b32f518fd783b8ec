"""Measures how fast videos become record folders, beside `ffmpeg` writing the same JPEGs.

    python -m benchmarks.predecode_speed                # ten minutes each, 720p, 25 frames a second
    python -m benchmarks.predecode_speed --seconds=60   # shorter ones

The files are made here, by x264's preset veryfast from FFmpeg's test picture in several hues, twice
as many as cores. ffmpeg decodes with `fps=1`, scales to predecode's size and keeps chroma whole as
predecode does; predecode's `--quality` is that whose files are nearest in bytes. All run in turn,
`--rounds` times: predecode with its default workers, which are processes; the same steps in as many
threads of one process; and ffmpeg in two ways of using the cores: one file after the other with its
own threads, and as many files as cores with one thread each. The ratios are to the better of these.
"""

import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from absl import app, flags

from msjoe_jax.commands.predecode import cores
from msjoe_jax.data.manifest import load_entries
from msjoe_jax.data.predecode import DecodeSettings, decode_part
from msjoe_jax.data.shards import encode_jpeg
from msjoe_jax.data.video import decode

WIDTH, HEIGHT, RATE = 1280, 720, 25
SIDE = DecodeSettings.max_side
PIECE = 60  # seconds that are encoded; a longer video repeats them, copied
SCALED = f"fps=1,scale={SIDE}:{SIDE * HEIGHT // WIDTH},format=yuvj444p"
FFMPEG = ("ffmpeg", "-v", "error", "-y")
CLOSE = 0.05  # how far apart the bytes may be


class Measured(NamedTuple):
    """One run: seconds of wall and of all cores, and the bytes of the JPEGs it wrote."""

    wall: float
    cpu: float
    bytes: int


def make_videos(folder: pathlib.Path, files: int, seconds: int) -> list[pathlib.Path]:
    """Makes the videos, each of other frames, and a list of them for predecode."""
    videos = []
    piece = min(PIECE, seconds)
    for number in range(files):
        part, video = folder / f"piece{number}.mp4", folder / f"video{number}.mp4"
        source = f"testsrc2=s={WIDTH}x{HEIGHT}:r={RATE}:d={piece},hue=h={360 * number // files}"
        x264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
        _run(*FFMPEG, "-f", "lavfi", "-i", source, *x264, part)
        again = str(seconds // piece - 1)
        _run(*FFMPEG, "-stream_loop", again, "-i", part, "-c", "copy", video)
        part.unlink()
        videos.append(video)
    rows = (f'{{"id": "{video.stem}", "video": "{video.name}"}}\n' for video in videos)
    (folder / "list.jsonl").write_text("".join(rows))
    return videos


def quality_for(video: pathlib.Path, target: float) -> int:
    """Returns the quality at which predecode's JPEGs of a video have nearest to `target` bytes."""
    frames = [frame for _, frame in decode(video, 1.0, SIDE, max_frames=PIECE)]
    sizes = {q: np.mean([len(encode_jpeg(frame, q)) for frame in frames]) for q in range(80, 96)}
    return min(sizes, key=lambda quality: abs(sizes[quality] - target))


def in_processes(folder: pathlib.Path, out: pathlib.Path, quality: int) -> None:
    """Runs predecode as its user does."""
    line = [sys.executable, "-m", "msjoe_jax", "predecode", f"--manifest={folder / 'list.jsonl'}"]
    _run(*line, f"--out={out / 'records'}", f"--quality={quality}")


def in_threads(folder: pathlib.Path, out: pathlib.Path, quality: int) -> None:
    """Decodes the same parts in threads of one process, which this starts."""
    code = (
        "import sys; from benchmarks.predecode_speed import decode_in_threads;"
        "decode_in_threads(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
    )
    _run(sys.executable, "-c", code, folder / "list.jsonl", out, quality)


def decode_in_threads(manifest: str, out: str, quality: int) -> None:
    """Decodes the videos of a list into parts, one in each of as many threads as cores."""
    settings = DecodeSettings(quality=quality)
    with ThreadPoolExecutor(cores()) as pool:
        entries = load_entries(manifest)
        list(pool.map(lambda entry: decode_part(entry, out, settings), entries))


def by_ffmpeg(
    videos: Sequence[pathlib.Path], out: pathlib.Path, at_once: int, threads: int
) -> None:
    """Runs ffmpeg on each video; `threads` 0: its own number."""
    count = ("-threads", str(threads)) if threads else ()

    def one(video: pathlib.Path) -> None:
        (out / video.stem).mkdir()
        pictures = out / video.stem / "%05d.jpg"
        _run(*FFMPEG, *count, "-i", video, "-vf", SCALED, "-q:v", "2", pictures)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, videos))


def measure(run: Callable[[pathlib.Path], None]) -> Measured:
    """Runs something that writes into an empty folder by processes that it waits for."""
    with tempfile.TemporaryDirectory() as name:
        out = pathlib.Path(name)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        run(out)
        wall = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        pictures = [p for p in out.rglob("*") if p.suffix == ".jpg" or p.name.startswith("frames-")]
        return Measured(wall, cpu, sum(path.stat().st_size for path in pictures))


def table(found: dict[str, list[Measured]], frames: int) -> list[str]:
    """Returns the lines of the result: the fastest run of each, and ratios to the best ffmpeg.

    Args:
      found: the runs of each way, by its name; those of ffmpeg begin with "ffmpeg".
      frames: source frames of all videos.
    """
    best = {name: min(runs) for name, runs in found.items()}
    wall = min(run.wall for name, run in best.items() if name.startswith("ffmpeg"))
    cpu = min(run.cpu for name, run in best.items() if name.startswith("ffmpeg"))
    lines = [
        "| | wall s | CPU s | source frames/s | MB | × ffmpeg | CPU × ffmpeg |",
        "|---" * 7 + "|",
    ]
    for name, run in best.items():
        lines.append(
            f"| {name} | {run.wall:.1f} | {run.cpu:.1f} | {frames / run.wall:,.0f} | "
            f"{run.bytes / 1e6:.1f} | {wall / run.wall:.2f} | {cpu / run.cpu:.2f} |"
        )
    return lines


def _run(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {words[0]}: {done.stderr.strip()}")


def main() -> None:
    """Defines the flags and prints the table."""
    seconds = flags.DEFINE_integer("seconds", 600, "Of each video; whole minutes above one.")
    files = flags.DEFINE_integer("files", 2 * cores(), "How many videos.", lower_bound=1)
    rounds = flags.DEFINE_integer("rounds", 2, "How often each is run.", lower_bound=1)

    def start(_: list[str]) -> None:
        if not shutil.which("ffmpeg"):
            raise SystemExit("error: ffmpeg is not on the PATH")
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            videos = make_videos(folder, files.value, seconds.value)
            n = cores()
            ways: dict[str, Callable[[pathlib.Path], None]] = {
                "ffmpeg, one file at a time": lambda out: by_ffmpeg(videos, out, 1, 0),
                f"ffmpeg, {n} files at a time": lambda out: by_ffmpeg(videos, out, n, 1),
            }
            target = measure(lambda out: by_ffmpeg(videos[:1], out, 1, 0)).bytes / seconds.value
            quality = quality_for(videos[0], target)
            ways |= {
                "predecode": lambda out: in_processes(folder, out, quality),
                f"{n} threads": lambda out: in_threads(folder, out, quality),
            }
            found: dict[str, list[Measured]] = {name: [] for name in ways}
            load = [os.getloadavg()[0]]
            for _round in range(rounds.value):
                for way, run in ways.items():
                    found[way].append(measure(run))
                    load.append(os.getloadavg()[0])
                    print(f"{way}: {found[way][-1]}", flush=True)
        frames = files.value * seconds.value * RATE
        print(f"{files.value} videos of {seconds.value} s, {frames:,} frames; {n} cores;", end=" ")
        print(f"quality {quality}; load {min(load):.1f} to {max(load):.1f}")
        print("\n".join(table(found, frames)))
        ours, theirs = (found[way][0].bytes for way in ("predecode", next(iter(ways))))
        if abs(ours / theirs - 1) > CLOSE:
            raise SystemExit(f"error: the bytes differ by {ours / theirs - 1:.1%}")

    app.run(start)


if __name__ == "__main__":
    main()
