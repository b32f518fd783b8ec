"""Writes a record folder's questions and videos as the local task of lmms-eval.

    python -m benchmarks.lmms_eval_task --run=runs/tiny --limit=20

The held-out videos of a run's tiny world become files without loss, a frame a second, in
runs/lmms_eval; benchmarks/lmms_eval_local is the task that reads them.
"""

import argparse
import json
import pathlib
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8

from msjoe_jax.data.questions import load_questions
from msjoe_jax.data.records import RecordReader

OUT = pathlib.Path("runs/lmms_eval")


def write_video(path: pathlib.Path, frames: UInt8[np.ndarray, "T H W 3"]) -> None:
    """Writes frames without loss, one a second."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=1)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_task(run: pathlib.Path, out: pathlib.Path, limit: int) -> int:
    """Writes the first `limit` held-out questions of a run, and returns how many there are."""
    world = run / "world"
    questions = load_questions(world / "questions-heldout.jsonl")[:limit]
    reader = RecordReader(world / "heldout")
    (out / "videos").mkdir(parents=True, exist_ok=True)
    rows = []
    for question in questions:
        path = out / "videos" / f"{question.video}.mkv"
        if not path.exists():
            count = reader.info(question.video).num_frames
            write_video(path, reader.frames(question.video, range(count)))
        rows.append(
            {
                "id": question.id,
                "video": question.video,
                "path": str(path),
                "question": question.question,
                "options": list(question.options),
                "answer": question.letter,
            }
        )
    (out / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def main() -> None:
    """Writes the task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=pathlib.Path, default=pathlib.Path("runs/tiny"))
    parser.add_argument("--limit", type=int, default=20)
    arguments = parser.parse_args()
    count = write_task(arguments.run, OUT, arguments.limit)
    print(f"{count} questions in {OUT}")


if __name__ == "__main__":
    main()
