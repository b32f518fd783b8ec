"""One config for the whole life of a run's folder."""

import datetime
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


def test_fields_that_may_differ_are_updated_and_recorded(tmp_path, capsys):
    may_differ = frozenset({"steps", "model.width", "new"})
    record_config(tmp_path, CONFIG, may_differ)
    record_config(tmp_path, CONFIG, may_differ)
    assert not (tmp_path / "config_changes.jsonl").exists() and capsys.readouterr().out == ""
    first = {**CONFIG, "steps": 20}
    record_config(tmp_path, first, may_differ)
    for step in ("joint/checkpoints/4", "joint/checkpoints/12", "joint/checkpoints/16.tmp"):
        (tmp_path / step).mkdir(parents=True)
    (tmp_path / "pretrain" / "checkpoints" / "60").mkdir(parents=True)
    (tmp_path / "base" / "checkpoints").mkdir(parents=True)
    second = {**first, "model": {"width": 65, "axes": (1, 2)}, "new": 1}
    record_config(tmp_path, second, may_differ)
    record_config(tmp_path, second, may_differ)
    assert json.loads((tmp_path / "config.json").read_text())["model"]["width"] == 65
    rows = [json.loads(x) for x in (tmp_path / "config_changes.jsonl").read_text().splitlines()]
    after = {"joint": 12, "pretrain": 60}
    want = [
        ({}, "steps", 10, 20),
        (after, "model.width", 64, 65),
        (after, "new", None, 1),
    ]
    assert [(r["after"], r["field"], r["was"], r["is"]) for r in rows] == want
    times = [datetime.datetime.fromisoformat(row["time"]) for row in rows]
    assert times == sorted(times) and times[0].tzinfo is not None
    assert capsys.readouterr().out.splitlines() == [
        "config.steps was 10, is 20, after no checkpoint (config_changes.jsonl)",
        *(
            f"config.{change}, after joint update 12, pretrain update 60 (config_changes.jsonl)"
            for change in ("model.width was 64, is 65", "new was absent, is 1")
        ),
    ]


def test_a_refused_change_is_not_recorded(tmp_path):
    record_config(tmp_path, CONFIG)
    with pytest.raises(UserError, match="seed was 1, is 2"):
        record_config(tmp_path, {**CONFIG, "steps": 20, "seed": 2}, frozenset({"steps"}))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_an_unreadable_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json: not JSON"):
        record_config(tmp_path, CONFIG)
