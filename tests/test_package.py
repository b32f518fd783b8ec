"""What pip installs is whole: the wheel has every module and config, its metadata every import."""

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Imported by no module of ours: what clu's TensorBoard writer needs, and Orbax of a bucket.
UNIMPORTED = {"tensorflow", "tensorflow-cpu", "google-cloud-storage"}


def run(*command: object, cwd: pathlib.Path, **environment: str) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked() -> list[str]:
    """Files that git knows and that are there."""
    names = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """The wheel of the tracked files alone, as a clone would build it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation")
    run(*build, "--outdir", out, source, cwd=source)
    (made,) = out.iterdir()
    return made


@pytest.mark.slow
def test_the_wheel_has_every_module_and_config_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {name for name in tracked() if name.startswith("msjoe_jax/")}
    configs = {f"msjoe_jax/{name}" for name in tracked() if name.startswith("configs/")}
    assert {"msjoe_jax/configs/tiny.py", "msjoe_jax/configs/joint_v4.py"} <= configs
    assert inside == ours | configs


@pytest.mark.slow
def test_the_wheel_says_what_pyproject_says(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
        assert any(n.endswith("/licenses/LICENSE") for n in archive.namelist())
    required = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    core = {r for r in required if "extra ==" not in str(r.marker)}
    assert core == {Requirement(line) for line in PROJECT["dependencies"]}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])


@pytest.mark.slow
def test_an_installed_copy_lists_its_commands(wheel, tmp_path):
    target, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", target, wheel, cwd=elsewhere)
    installed = {"PYTHONPATH": str(target), "JAX_PLATFORMS": "cpu"}

    where = (sys.executable, "-c", "import msjoe_jax; print(msjoe_jax.__file__)")
    assert pathlib.Path(run(*where, cwd=elsewhere, **installed).strip()).is_relative_to(target)
    by_module = run(sys.executable, "-m", "msjoe_jax", "--help", cwd=elsewhere, **installed)
    for command in (
        "ask",
        "convert",
        "export",
        "generate",
        "launch",
        "plan",
        "predecode",
        "replay",
    ):
        assert re.search(rf"^\s*{command}\b", by_module, re.MULTILINE), by_module
    script = (sys.executable, target / "bin" / "msjoe")
    assert run(*script, "--help", cwd=elsewhere, **installed) == by_module


def imported() -> dict[str, set[str]]:
    """Every top-level name that msjoe_jax imports anywhere → the files that do."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "msjoe_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                found.setdefault(name.split(".")[0], set()).add(str(path.relative_to(ROOT)))
    return found


def declared(lines: list[str]) -> set[str]:
    """The distributions that requirement lines name."""
    return {canonicalize_name(Requirement(line).name) for line in lines}


def test_every_import_is_a_declared_dependency_and_every_dependency_is_imported():
    ours = set(sys.stdlib_module_names) | {"msjoe_jax"}
    ours |= {"lmms_eval", "apache_beam"}  # in environments of their own
    core, providers = declared(PROJECT["dependencies"]), packages_distributions()
    used = set()
    for name, files in imported().items():
        if name not in ours:
            given = {canonicalize_name(d) for d in providers.get(name, ())} & core
            assert given, f"{', '.join(sorted(files))}: {name} is not in pyproject's dependencies"
            used |= given
    assert core - used == UNIMPORTED


def lock(name: str) -> dict[str, list[Requirement]]:
    """Distribution → its lines in a lock file, which pin one version each."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith(("#", "-r ")):
            requirement = Requirement(line)
            assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), line
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("requirements.txt", PROJECT["dependencies"]),
        ("requirements-dev.txt", PROJECT["optional-dependencies"]["dev"]),
    ],
)
def test_the_lock_pins_what_is_declared_within_its_bounds(name, lines):
    pins = lock(name)
    assert pins.keys() == declared(lines)
    for requirement in map(Requirement, lines):
        for pin in pins[canonicalize_name(requirement.name)]:
            (version,) = pin.specifier
            allowed = requirement.specifier.contains(version.version, prereleases=True)
            assert allowed, f"{pin} is outside {requirement}"
