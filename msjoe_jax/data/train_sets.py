"""The sets that a run trains on: one, or several that are mixed by their weights.

With several, questions and videos are called SET/ID, so that sets may use the same ids.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from msjoe_jax.data.questions import DataConfig, Question, TrainSet
from msjoe_jax.data.records import RecordReader, VideoInfo
from msjoe_jax.errors import UserError

Read = Callable[[epath.PathLike], list[Question]]


def sets_of(data: DataConfig) -> dict[str, TrainSet]:
    """Returns the sets by name, in the order of their names; a single one is called ""."""
    if not data.train_sets:
        return {"": TrainSet(data.train_records, data.train_questions)}
    return dict(sorted(data.train_sets.items()))


def weights_of(data: DataConfig) -> dict[str, float]:
    """Returns the weights of several sets by name; {} of a single one."""
    return {name: one.weight for name, one in sets_of(data).items() if name}


def set_of(question: Question) -> str:
    """Returns the set of a question of several sets."""
    return question.id.partition("/")[0]


def train_questions(data: DataConfig, read: Read) -> list[Question]:
    """Reads the questions of all sets, by the reader of a task.

    Raises:
      UserError: a file cannot be read.
    """
    return [
        dataclasses.replace(question, id=f"{name}/{question.id}", video=f"{name}/{question.video}")
        if name
        else question
        for name, one in sets_of(data).items()
        for question in read(one.questions)
    ]


def train_records(data: DataConfig, clip: str | None = None, siglip: str = "") -> RecordReader:
    """Opens the records of all sets, as `RecordReader` does; a folder of several once.

    Raises:
      UserError: a folder cannot be read.
    """
    folders = {name: one.records for name, one in sets_of(data).items()}
    readers = {
        folder: RecordReader(folder, clip, siglip) for folder in dict.fromkeys(folders.values())
    }
    if not data.train_sets:
        return readers[data.train_records]
    return MixedRecords({name: readers[folder] for name, folder in folders.items()})


class MixedRecords(RecordReader):
    """Several record folders as one, whose videos are called SET/ID.

    Args:
      parts: the folders by set.

    Attributes:
      parts: likewise.

    Raises:
      UserError: their embeddings are of several models.
    """

    def __init__(self, parts: Mapping[str, RecordReader]):
        self.parts, first = dict(parts), next(iter(parts.values()))
        for name, part in parts.items():
            if (part.clip, part.siglip) != (first.clip, first.siglip):
                raise UserError(
                    f"{part.directory}: the set {name} has embeddings by {part.clip}, the first "
                    f"one by {first.clip}; embed all with one model"
                )
        super().__init__(first.directory, first.clip or "", first.siglip or "")
        # For messages: what is read, is read by the parts.
        self.directory = epath.Path(" and ".join(str(part.directory) for part in parts.values()))
        self.shards, self._where = [], {}
        self._owners: list[tuple[RecordReader, int]] = []
        for name, part in parts.items():
            start = len(self.shards)
            self.shards += part.shards
            self._owners += [(part, shard) for shard in range(len(part.shards))]
            self._where |= {
                f"{name}/{video}": (start + shard, position)
                for video, (shard, position) in part._where.items()
            }

    def info(self, video_id: str) -> VideoInfo:
        """Reads what the folder of its set says of a video."""
        shard, _ = self._locate(video_id)
        name, _, own_id = video_id.partition("/")
        return dataclasses.replace(self.parts[name].info(own_id), id=video_id, shard=shard)

    def _read(self, kind: str, shard: int, indices: Sequence[int]) -> list[bytes]:
        part, own = self._owners[shard]
        return part._read(kind, own, list(indices))
