"""TensorBoard's event files: what a resumed run will write again is taken out of the old ones."""

import os

from etils import epath

from msjoe_jax.runtime.files import open_whole

PREFIX = "events.out.tfevents."
FRAME_BYTES = 16  # of a TFRecord, around its data: length, checksum of the length; checksum


def drop_events(folder: epath.PathLike, start_step: int) -> None:
    """Drops the events of `start_step` and later steps from the event files of a folder.

    A last event that a kill has torn goes too. Each file is rewritten whole or not at all.
    """
    files = [p for p in epath.Path(folder).iterdir() if p.name.startswith(PREFIX)]
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
        read = sum(size for size, _ in events)
        if read == os.path.getsize(file) and all(stays for _, stays in events):
            continue
        with file.open("rb") as old, open_whole(file) as new:
            for size, stays in events:
                record = old.read(size)
                if stays:
                    new.write(record)
