"""The loader's rate on a small world, and what a plan asks of a host."""

import numpy as np
import pytest

from benchmarks import loader
from msjoe_jax.config_check import check
from msjoe_jax.config_files import load_config
from msjoe_jax.data.embed import embed_records
from msjoe_jax.data.records import RecordWriter
from msjoe_jax.rollout.system import Tokenizers, make_system
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.world.phase import texts_of_world
from msjoe_jax.world.word_tokenizer import build_word_tokenizer


def test_the_need_is_that_of_the_fastest_update():
    update = {"seconds": 80.0}
    plan = {
        "hosts": 4,
        "price": {"updates": {"pretrain": {"seconds": 20.0}, "joint": update}},
        "price_of_data": {"updates": {"pretrain": {"seconds": 10.0}, "joint": update}},
    }
    assert loader.need(plan, 32) == pytest.approx(32 / 10 / 4)


def test_made_up_frames_have_detail_at_every_size():
    """Halving a picture leaves most of its contrast: noise of one size would lose it."""
    picture = loader.photograph(np.random.default_rng(0), (64, 36))
    assert picture.size == (64, 36)
    whole, half = np.asarray(picture), np.asarray(picture.resize((32, 18)))
    assert 25 < whole.std() < 75 and half.std() > 0.8 * whole.std()
    fine = np.abs(np.diff(whole.astype(float), axis=1)).mean()
    assert fine > 1


@pytest.mark.parametrize("length", [7, 200])
def test_the_prompts_of_all_waves_are_made(tmp_path, length, capsys):
    """Also where a video has fewer frames than a selector may choose, and more."""
    config = check(load_config("tiny:short"), 1, files=False)
    build_word_tokenizer(tmp_path / "tokenizer.json", texts_of_world(config.prompt))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    system = make_system(config.models, Tokenizers(tokenizer, tokenizer))
    rng = np.random.default_rng(0)
    with RecordWriter(tmp_path / "records") as writer:
        writer.add("v", enumerate(rng.integers(0, 256, (length, 32, 32, 3), np.uint8)))
    width = system.clip_config.embed_dim
    embed_records(tmp_path / "records", lambda x: rng.normal(size=(len(x), width)), "random")
    served = loader.serve(config, system, tokenizer, tmp_path / "records", 2, 3)
    assert served.questions > 0
    # Of a question at least the embeddings, float16, and one frame; at most all of the folder.
    folder = sum(path.stat().st_size for path in (tmp_path / "records").iterdir())
    assert 2 * length * width < served.bytes < 10 * folder
    assert loader.disk_rate(tmp_path / "records") > 0
    assert "3/3" in capsys.readouterr().err
