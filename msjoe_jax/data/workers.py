"""Many videos decoded side by side: workers, how far they are, and what the death of one costs.

Each worker is a process, since a thread that decodes small frames waits for the others' Python; a
single worker is a thread of this process. Workers leave finished parts (see predecode.py) and
nothing else, so that a killed one costs the video that it was at, which is decoded again.
"""

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from etils import epath

from msjoe_jax.data.manifest import Entry
from msjoe_jax.data.predecode import DecodeSettings, Part, Stopped, decode_part, hold_parts
from msjoe_jax.data.record import VideoInfo, shortfall
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.progress import Progress
from msjoe_jax.runtime.space import FULL, has_code

OF_THE_DISK = (*FULL, errno.EROFS)  # errors that no video can cause
WAITING, BEGUN, ENDED = range(3)
LOOK_SECONDS = 0.5  # between two looks at how far the workers are
IDLE = 3  # so many times all workers may end before they begin a video
NO_START = "worker processes end before they begin; --workers=1 decodes in this one"
DIED = "its decoding ended the process (out of memory, killed, or a fault of the decoder)"


class Failure(NamedTuple):
    """Why a video gave nothing. `disk`: the number of the system's error if the disk refused."""

    reason: str
    disk: int = 0


class Board:
    """What workers write of their videos, in memory that all processes share.

    Args:
      sizes: of the videos, in bytes.

    Attributes:
      done: seconds that are decoded, of each video.
      total: its seconds by the file's header, 0 if that is unknown; once it has ended, as `done`.
      state: WAITING, BEGUN or ENDED.
      stop: set once the work is given up.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.done = RawArray("d", len(sizes))
        self.total = RawArray("d", len(sizes))
        self.state = RawArray("b", len(sizes))
        self.stop = RawValue("b", 0)

    def standing(self) -> tuple[float, float | None]:
        """Returns the seconds of video that are decoded, and how many there are in all.

        Videos of unknown length count as long as those of known length with as many bytes. The
        second is None as long as no length is known.
        """
        sizes = np.asarray(self.sizes, np.float64)
        done, total = np.frombuffer(self.done), np.frombuffer(self.total)
        ended = np.frombuffer(self.state, np.int8) == ENDED
        known = (total > 0) & (sizes > 0)
        if not known.any():
            return float(done.sum()), float(done.sum()) if ended.all() else None
        guess = sizes * (total[known].sum() / sizes[known].sum())
        expected = np.where(ended, done, np.where(total > 0, total, guess))
        return float(done.sum()), float(np.maximum(expected, done).sum())


@dataclass(frozen=True)
class Work:
    """What every worker knows.

    Attributes:
      parts: the folder of parts.
      settings: how to decode.
      board: of the videos.
      strict: whether a video that is short has failed.
    """

    parts: epath.Path
    settings: DecodeSettings
    board: Board
    strict: bool = False

    def do(self, number: int, entry: Entry) -> Failure | None:
        """Decodes video `number` of the board into its part; returns why it failed, if it did."""
        board = self.board

        def watch(seconds: float) -> None:
            if board.stop.value:
                raise Stopped
            board.done[number] = seconds

        board.state[number] = BEGUN
        board.total[number] = header_seconds(entry)
        try:
            decode_part(entry, self.parts, self.settings, watch)
            if self.strict and (why := shortfall(self.info(entry))):
                return Failure(f"{entry.video}: {why}, and --strict is given")
        # Whatever error a hostile file provokes in the decoder, the other videos are decoded.
        except Exception as error:
            disk = next((code for code in OF_THE_DISK if has_code(error, [code])), 0)
            return Failure(str(error) if isinstance(error, UserError) else repr(error), disk)
        finally:
            board.total[number] = board.done[number]
            board.state[number] = ENDED
        return None

    def info(self, entry: Entry) -> VideoInfo:
        """Reads the record of a part."""
        with contextlib.closing(Part(self.parts, entry, self.settings)) as part:
            return part.info


def header_seconds(entry: Entry) -> float:
    """Returns how long a video is by what its list or its file's header says; 0: they do not."""
    start, end = entry.start or 0.0, entry.end
    if end is None and entry.size and not entry.source.inside:
        try:
            with (
                open(entry.source.container, "rb") as file,
                av.open(file, "r", metadata_errors="replace") as container,
            ):
                assert isinstance(container, InputContainer)
                end = (container.duration or 0) / av.time_base
        except (av.FFmpegError, OSError, ValueError):
            end = None
    return max(0.0, (end or start) - start)


def decode_all(
    entries: Sequence[Entry], work: Work, workers: int, bar: Progress
) -> Generator[tuple[Entry, Failure | None]]:
    """Decodes videos into parts, and yields each in order, with why it failed if it did.

    Closing the iterator gives up what is not finished.

    Args:
      entries: the videos.
      work: how to decode them; its board is of these videos.
      workers: how many to decode at a time.
      bar: shows the seconds of video that are decoded.

    Raises:
      UserError: no worker process can start.
    """
    board, workers = work.board, min(workers, len(entries))
    lost: dict[int, Failure] = {}  # of videos whose decoding ends its process
    at = idle = 0
    with _shown(board, bar):
        while at < len(entries):
            # A process dies with its worker, a thread does not: a single one is in this process.
            pool = ThreadPoolExecutor(1) if workers == 1 else _process_pool(work, workers)
            try:
                results = {
                    n: _submit(pool, work, n, entries[n])
                    for n in range(at, len(entries))
                    if n not in lost
                }
                while at < len(entries):
                    yield entries[at], lost[at] if at in lost else results[at].result()
                    at += 1
            except BrokenProcessPool:
                pool.shutdown()
                # Which video it was is not known: each that was begun gets a process of its own.
                begun = [n for n in range(at, len(entries)) if board.state[n] == BEGUN]
                idle = 0 if begun else idle + 1
                if idle == IDLE:
                    raise UserError(NO_START) from None
                with ThreadPoolExecutor(workers) as each:
                    found = each.map(lambda n: _alone(work, n, entries[n]), begun)
                    lost |= {n: failure for n, failure in zip(begun, found, strict=True) if failure}
            except BaseException:
                board.stop.value = 1
                pool.shutdown(cancel_futures=True)
                raise
            else:
                pool.shutdown()


def _alone(work: Work, number: int, entry: Entry) -> Failure | None:
    with _process_pool(work, 1) as pool:
        try:
            return _submit(pool, work, number, entry).result()
        except BrokenProcessPool:
            work.board.state[number] = ENDED
            return Failure(DIED)


def _process_pool(work: Work, workers: int) -> ProcessPoolExecutor:
    # Not fork: the caller may have threads, of JAX for one.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, _begin, (work,))


def _submit(pool: Executor, work: Work, number: int, entry: Entry) -> Future[Failure | None]:
    if isinstance(pool, ProcessPoolExecutor):
        return pool.submit(_do, number, entry)
    return pool.submit(work.do, number, entry)


# --- in a worker's process ------------------------------------------------------------------------


class _Here:
    work: Work
    held = contextlib.ExitStack()


def _begin(work: Work) -> None:
    """Makes a process a worker, which ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then says stop
    _Here.work = work
    _Here.held.enter_context(hold_parts(work.parts))
    # A run that began before the hold has not waited for this process: its parent is dead then.
    _end_with_parent(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent(seconds: float | None = None) -> None:
    """Ends this process if its parent does so within these seconds; None: whenever it does."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    if connection.wait([parent.sentinel], seconds):
        os._exit(1)


def _do(number: int, entry: Entry) -> Failure | None:
    return _Here.work.do(number, entry)


# --- the display ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _shown(board: Board, bar: Progress) -> Iterator[None]:
    """Moves the bar by the board until the block ends."""
    over = threading.Event()

    def run() -> None:
        count, last = 0, False
        while not last:
            last = over.wait(LOOK_SECONDS)
            done, total = board.standing()
            bar.expect(None if total is None else round(total))
            if round(done) > count:
                bar.update(round(done) - count)
                count = round(done)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
