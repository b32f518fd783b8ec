"""What a TPU host installs: exact versions, complete, those of requirements.txt, and no torch."""

import importlib.metadata
import pathlib
import sys

import pytest
from packaging.markers import Environment, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[2]
HOST = {"python_version": "3.11", "sys_platform": "linux", "platform_machine": "x86_64"}


def lines(file: str) -> list[str]:
    text = (ROOT / file).read_text()
    return [line for row in text.splitlines() if (line := row.partition("#")[0].strip())]


def pins() -> dict[str, str]:
    parts = [line.partition("==") for line in lines("tpu/requirements.txt")]
    return {str(canonicalize_name(name)): version for name, _, version in parts}


def environment() -> Environment:
    made = default_environment()
    made.update(HOST)  # type: ignore[typeddict-item]
    return made


def test_every_line_is_an_exact_version():
    for line in lines("tpu/requirements.txt"):
        (one,) = Requirement(line).specifier
        assert one.operator == "==" and "*" not in one.version, line
    assert len(pins()) == len(lines("tpu/requirements.txt"))
    assert "libtpu" in pins()
    assert not [
        name for name in pins() if name.startswith(("torch", "nvidia", "triton", "jax-cuda"))
    ]


def test_they_are_those_of_the_project():
    for line in lines("requirements.txt"):
        asked = Requirement(line)
        if asked.marker is None or asked.marker.evaluate(environment()):
            version = pins().get(canonicalize_name(asked.name), "none")
            assert asked.specifier.contains(version, prereleases=True), f"{line} but {version}"


@pytest.mark.skipif(
    (sys.version_info[:2], sys.platform) != ((3, 11), "linux"), reason="a host's Python is 3.11"
)
def test_nothing_is_missing():
    """As far as the versions here are those: pip must not resolve anything on a host."""
    pinned = pins()
    todo = [(Requirement(line), frozenset[str]()) for line in lines("requirements.txt")]
    done = set()
    while todo:
        asked, extras = todo.pop()
        name = canonicalize_name(asked.name)
        marker = asked.marker
        wanted = marker is None or any(
            marker.evaluate({**environment(), "extra": extra}) for extra in ("", *extras)
        )
        if not wanted or (name, frozenset(asked.extras)) in done:
            continue
        done.add((name, frozenset(asked.extras)))
        assert name in pinned, f"{asked} is not in tpu/requirements.txt: make it anew"
        assert asked.specifier.contains(pinned[name], prereleases=True), f"{asked}: {pinned[name]}"
        if importlib.metadata.version(asked.name) == pinned[name]:
            for more in importlib.metadata.requires(asked.name) or []:
                todo.append((Requirement(more), frozenset(asked.extras)))
    assert {name for name, _ in done} == set(pinned)
