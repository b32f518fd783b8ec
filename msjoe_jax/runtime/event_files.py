"""TensorBoard's event files: what a resumed run will write again is taken out of the old ones."""

import os
import struct

from etils import epath

from msjoe_jax.runtime.files import PARTIAL, open_whole

PREFIX = "events.out.tfevents."
ASIDE = ".damaged"  # ends the name of a copy of a damaged file
FRAME_BYTES = 16  # of a TFRecord, around its data: length, checksum of the length; checksum


def drop_events(folder: epath.PathLike, start_step: int) -> None:
    """Drops the events of `start_step` and later steps from the event files of a folder.

    A last event that a kill has torn goes too. Each file is rewritten whole or not at all; what is
    no event file, or is damaged before its end, stays beside the new one under another name, which
    a line says.
    """
    files = [p for p in epath.Path(folder).iterdir() if p.name.startswith(PREFIX)]
    for leftover in [p for p in files if p.name.endswith(PARTIAL)]:  # of a kill in here
        leftover.unlink()
        files.remove(leftover)
    files = [p for p in files if p.is_file() and not p.name.endswith(ASIDE)]
    if not files:
        return
    # Here for the reason in metrics.py; it stops at the first event that is torn or damaged.
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    for file in files:
        events: list[tuple[int, bool]] = []  # size in the file, whether it stays
        for data in RawEventFileLoader(os.fspath(file)).Load():
            event = Event.FromString(data)
            stays = event.HasField("file_version") or event.step < start_step
            events.append((len(data) + FRAME_BYTES, stays))
        read, size = sum(size for size, _ in events), file.stat().length
        if read == size and all(stays for _, stays in events):
            continue
        if not _is_torn(file, read):
            print(f"{file}: damaged at byte {read} of {size}; kept as {file.name}{ASIDE}")
            file.copy(file.parent / (file.name + ASIDE))
        with file.open("rb") as old, open_whole(file) as new:
            for size, stays in events:
                record = old.read(size)
                if stays:
                    new.write(record)


def _is_torn(file: epath.Path, read: int) -> bool:
    """Says whether what follows the first `read` bytes is no more than one unfinished record."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    with file.open("rb") as data:
        data.seek(read)
        head = data.read(12)
    if len(head) < 12:
        return True
    length, checksum = struct.unpack("<QI", head)
    unfinished = file.stat().length - read < length + FRAME_BYTES
    return unfinished and masked_crc32c(head[:8]) == checksum
