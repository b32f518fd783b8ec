"""The phase measures the base model alone, from uniform frames of any number, and once."""

import json

import jax
import pytest
from etils import epath

from msjoe_jax.commands.difficulty import config_of
from msjoe_jax.config import base
from msjoe_jax.data.questions import load_questions, save_questions
from msjoe_jax.phase_data import read_split
from msjoe_jax.phase_difficulty import Difficulty
from msjoe_jax.phase_models import make_models, stored_weights
from msjoe_jax.runtime.digest import Remembered
from msjoe_jax.runtime.machine import make_machine
from tests.support.system import colour_questions, noise_videos
from tests.support.tiny import clip_of, tiny_model_folder

pytestmark = pytest.mark.slow


def test_rates_are_measured_once_from_each_number_of_frames(tmp_path, monkeypatch):
    model = tiny_model_folder(tmp_path)
    reader = noise_videos(tmp_path / "records", {"a": 6, "b": 9}, clip=clip_of(model))
    save_questions(tmp_path / "questions.jsonl", colour_questions(reader.ids, 3))
    given = base()
    given.difficulty.samples, given.evaluate.batch = 2, 2
    files = str(tmp_path / "records"), str(tmp_path / "questions.jsonl")
    config = config_of(str(model), *files, "", given)
    machine, out = make_machine(config.mesh), epath.Path(tmp_path / "out")
    with jax.set_mesh(machine.mesh):
        models = make_models(config, machine)
        weights = stored_weights(config, models, Remembered(out / "digests.json"))

        def measure():
            one = Difficulty(config, models, weights, *read_split(config, "train"))
            rated = one.questions(out / "questions.jsonl")
            rates = {n: one.rates(out / f"rates-{n}.jsonl", n, f"{n}") for n in (0, 1)}
            return rated, one.rows(out / "questions.jsonl"), rates

        first = measure()
        # All is there: nothing is loaded any more.
        monkeypatch.setattr(type(models), "load", lambda *_: pytest.fail("loaded"))
        assert measure() == first
    rated, rows, rates = first
    assert load_questions(out / "questions.jsonl") == rated
    assert [q.difficulty for q in rated] == [rows[i]["rate"] for i in range(3)]
    assert all(row["rate"] in (0, 0.5, 1) for of in (rows, *rates.values()) for row in of.values())
    heads = [
        json.loads((out / name).read_text().splitlines()[0])["inputs"]
        for name in ("rates.jsonl", "rates-0.jsonl", "rates-1.jsonl")
    ]
    assert [head.pop("frames", None) for head in heads] == [None, "0", "1"]
    assert heads[0] == heads[1] == heads[2]
    assert not {"clip weights", "sampler weights"} & set(heads[0])
