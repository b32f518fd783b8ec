"""How often CLIP names what a frame shows; its training is tested in test_warmup_mllm.py."""

import numpy as np

from msjoe_jax.data.records import RecordReader
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.world.build import build_world, records_path
from msjoe_jax.world.spec import KINDS, SENSES, WORDS, Plan, WorldSpec, apparent_kinds
from msjoe_jax.world.warmup_clip import naming_accuracy
from msjoe_jax.world.word_tokenizer import build_word_tokenizer
from tests.support.embeddings import write_embeddings


def test_names_are_counted_of_every_object_that_a_frame_shows(tmp_path):
    """Embeddings that know the first kind of each frame alone: all others count as wrong."""
    build_world(tmp_path / "world", WorldSpec(num_train=1, num_validation=2, num_heldout=1))
    folder = records_path(tmp_path / "world", "validation")
    plain, rows, first, total = RecordReader(folder), {}, 0, 0
    for video in plain.ids:
        info = plain.info(video)
        kinds = [apparent_kinds(Plan.from_json(info.extra), f) for f in range(info.num_frames)]
        rows[video] = np.array(
            [3 * np.eye(len(KINDS))[shown[0]] if shown else np.zeros(len(KINDS)) for shown in kinds]
        )
        first += sum(shown.count(shown[0]) for shown in kinds if shown)
        total += sum(map(len, kinds))
    write_embeddings(folder, "chosen", rows.items())
    build_word_tokenizer(tmp_path / "tokenizer.json", [*WORDS, *KINDS, *SENSES])
    share, number = naming_accuracy(
        RecordReader(folder, "chosen"),
        Tokenizer(tmp_path / "tokenizer.json"),
        CLIPConfig.published("vit-b-32"),
        lambda tokens: 7.0 * np.eye(len(tokens)),
    )
    assert number == total and 0 < first < total
    assert share == first / total
