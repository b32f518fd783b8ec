"""What a host tells of itself, and in what hosts may differ."""

import importlib.metadata
import json
import platform
import re

from msjoe_jax.runtime import facts
from msjoe_jax.runtime.digest import digest_of_code
from msjoe_jax.runtime.facts import commit, disagreements, free_bytes, own_facts, versions


def facts_of(**changed):
    return {**own_facts({"a": 1}, "."), **changed}


def test_hosts_that_differ_are_named_with_what_to_do():
    assert disagreements([facts_of()] * 2) == []
    other = facts_of(code="0", name="worker-1", disks={}, held=[5])
    (line,) = disagreements([facts_of(), other])
    assert line == (
        "hosts disagree on code: host 1 (worker-1) and host 0 differ; "
        "install the same files on every host"
    )
    assert len(disagreements([facts_of(), facts_of(versions={}, devices=[], config="")])) == 3


def test_facts_go_to_other_hosts_as_json_and_name_the_code_and_the_config():
    found = facts_of()
    assert disagreements([found, json.loads(json.dumps(found))]) == []
    assert found["code"] == digest_of_code() and found["name"] == platform.node()
    assert found["config"] != own_facts({"a": 2}, ".")["config"]
    assert found["limits"] == found["held"] == []  # of a CPU
    assert found["devices"] == ["cpu"] * len(found["devices"]) != []


def test_versions_are_of_what_is_installed(monkeypatch):
    monkeypatch.setattr(facts, "PACKAGES", ("jax", "no-such-package"))
    assert versions() == {
        "Python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
    }


def test_the_commit_is_that_of_the_code_or_nothing(monkeypatch):
    assert re.fullmatch(r"|[0-9a-f]{12}( with changes)?", commit())
    monkeypatch.setenv("PATH", "")  # no git
    assert commit() == ""


def test_free_room_is_that_of_the_nearest_folder_there_is(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/cache")
    found = free_bytes(tmp_path / "runs" / "one")
    folder, free = found["workdir"]
    assert folder == str(tmp_path / "runs" / "one") and free > 0
    assert found["compiled programs"] == ("gs://bucket/cache", None)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert set(free_bytes("gs://bucket/run")) == {"workdir", "temporary files"}
    assert not (tmp_path / "runs").exists()
