"""One config for the whole life of a run's folder."""

import json

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.workdir import record_config

CONFIG = {"seed": 1, "steps": 10, "model": {"width": 64, "axes": (1, 2)}, "note": None, "x": {}}


def test_the_same_config_resumes(tmp_path):
    for _ in range(2):
        record_config(tmp_path, CONFIG)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored == {**CONFIG, "model": {"width": 64, "axes": [1, 2]}}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_different_config_names_the_fields_and_keeps_the_file(tmp_path):
    record_config(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    other = {**CONFIG, "model": {"width": 65, "axes": (1, 2)}, "steps": 20, "new": 1}
    del other["note"]
    words = "model.width was 64, is 65; new was absent, is 1; note was null, is absent; "
    with pytest.raises(UserError, match=words + "steps was 10, is 20; name another"):
        record_config(tmp_path, other)
    with pytest.raises(UserError, match=r"model\.width"):
        record_config(tmp_path, other, may_differ=frozenset({"steps"}))
    assert (tmp_path / "config.json").read_bytes() == before
    many = {f"field{i}": i for i in range(9)}
    with pytest.raises(UserError, match=r"field0 was absent.* and 9 more"):
        record_config(tmp_path, many)


def test_fields_that_may_differ_are_updated(tmp_path):
    record_config(tmp_path, CONFIG)
    record_config(tmp_path, {**CONFIG, "steps": 20}, may_differ=frozenset({"steps"}))
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 20


def test_an_unreadable_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json: not JSON"):
        record_config(tmp_path, CONFIG)
