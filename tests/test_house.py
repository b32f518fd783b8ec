"""What holds of every file: layers, sizes, docstrings, imports, words, and tests where one looks.

What is not yet so stands in an allow-list, which may only shrink: a line that is not needed any
more, or names what is gone, fails as well.
"""

import ast
import functools
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jaxtyping

from msjoe_jax.commands import COMMANDS
from tests.support.commands import ROOT, program

CODE = ("msjoe_jax", "configs", "benchmarks", "docs", "tests")
LONGEST_FILE, LONGEST_FUNCTION, MANY_PARAMETERS = 400, 80, 5
ORACLES = {"torch", "torchvision", "transformers", "open_clip"}  # of the tests alone

# --- allow-lists ----------------------------------------------------------------------------------

# Modules without a test file of their name: tested elsewhere, or nothing in them to test.
NO_TEST_FILE = {
    "msjoe_jax/__main__.py",
    "msjoe_jax/report/answer_page.py",
    "msjoe_jax/rollout/programs.py",
    "msjoe_jax/signals/base.py",
    "msjoe_jax/tasks/base.py",
    "msjoe_jax/world/build.py",
    "msjoe_jax/world/render.py",
    "msjoe_jax/world/variants.py",
    "msjoe_jax/world/word_tokenizer.py",
}
LONG_FILE: set[str] = set()
LONG_FUNCTION: set[str] = set()
NO_DOCSTRING = {
    "msjoe_jax/world/spec.py:Event.visible_frames",
}
NO_ARGS: set[str] = set()
# Whatever a file calls a stage; docs/method.md names the two of the paper.
STAGE_WORD = {
    "docs/method.md",
}


# --- the files ------------------------------------------------------------------------------------


class Function(NamedTuple):
    """A function or a method of the package. `public`: no name on the way to it is private."""

    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    public: bool


def modules() -> list[str]:
    """The package's files, as paths from the root of the repository."""
    return sorted(str(p.relative_to(ROOT)) for p in (ROOT / "msjoe_jax").rglob("*.py"))


def text_of(file: str) -> str:
    return (ROOT / file).read_text()


@functools.cache
def tree_of(file: str) -> ast.Module:
    return ast.parse(text_of(file))


def definitions(file: str) -> Iterator[Function | ast.ClassDef]:
    """Functions of any depth and public classes of a file."""

    def below(node: ast.AST, prefix: str, public: bool) -> Iterator[Function | ast.ClassDef]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{prefix}{child.name}"
                yield Function(f"{file}:{name}", child, public and not child.name.startswith("_"))
                yield from below(child, f"{name}.", False)
            elif isinstance(child, ast.ClassDef):
                inside = public and not child.name.startswith("_")
                if inside:
                    yield child
                yield from below(child, f"{prefix}{child.name}.", inside)
            else:
                yield from below(child, prefix, public)

    return below(tree_of(file), "", True)


def functions() -> Iterator[Function]:
    """Every function of the package."""
    for file in modules():
        yield from (d for d in definitions(file) if isinstance(d, Function))


def only(found: Iterable[str], allowed: set[str]) -> None:
    """Fails by what is found and not allowed, and by what is allowed and not found."""
    found = set(found)
    fresh, gone = "\n".join(sorted(found - allowed)), "\n".join(sorted(allowed - found))
    assert not fresh, fresh
    assert not gone, f"take off the allow-list:\n{gone}"


# --- rooms ----------------------------------------------------------------------------------------


def test_a_room_imports_only_rooms_below_its_own():
    line = "from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", line, "--no-logo"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_libraries_that_tests_compare_with_are_not_imported():
    for file in modules():
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            else:
                continue
            assert not names & ORACLES, f"{file}:{node.lineno}"


def test_a_run_on_real_data_does_not_import_the_tiny_world():
    names = ["main", "phases", "config", *(module for _, module in COMMANDS.values())]
    program(
        f"""
        import importlib, sys

        for name in {names}:
            importlib.import_module(name if name.startswith("msjoe_jax") else f"msjoe_jax.{{name}}")
        world = [name for name in sys.modules if name.startswith("msjoe_jax.world")]
        assert not world, world
        """
    )


def test_every_module_has_its_test_file():
    """msjoe_jax/rl/credit.py is tested by tests/rl/test_credit.py."""

    def test_file(file: str) -> pathlib.Path:
        path = pathlib.Path(file).relative_to("msjoe_jax")
        return ROOT / "tests" / path.with_name(f"test_{path.name}")

    own = [file for file in modules() if not file.endswith("__init__.py")]
    only((file for file in own if not test_file(file).exists()), NO_TEST_FILE)


# --- sizes ----------------------------------------------------------------------------------------


def test_files_are_short():
    long = (file for file in modules() if len(text_of(file).splitlines()) > LONGEST_FILE)
    only(long, LONG_FILE)


def test_functions_are_short():
    def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        return (node.end_lineno or 0) - node.lineno + 1

    only((f.name for f in functions() if lines(f.node) > LONGEST_FUNCTION), LONG_FUNCTION)


# --- words ----------------------------------------------------------------------------------------


def test_what_is_public_has_a_docstring():
    found = [file for file in modules() if not ast.get_docstring(tree_of(file))]
    for file in modules():
        for defined in definitions(file):
            if isinstance(defined, ast.ClassDef):
                if not ast.get_docstring(defined):
                    found.append(f"{file}:{defined.name}")
            elif defined.public and not ast.get_docstring(defined.node):
                found.append(defined.name)
    only(found, NO_DOCSTRING)


def test_many_parameters_are_told_one_by_one():
    def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        return len([name for name in names if name not in ("self", "cls")])

    silent = (
        f.name
        for f in functions()
        if f.public
        and parameters(f.node) >= MANY_PARAMETERS
        and "Args:" not in (ast.get_docstring(f.node) or "")
    )
    only(silent, NO_ARGS)


def texts(*folders: str) -> list[str]:
    """Code and pages, as paths from the root."""
    files = [
        p for folder in folders for kind in ("py", "md") for p in (ROOT / folder).rglob(f"*.{kind}")
    ]
    return sorted(str(p.relative_to(ROOT)) for p in files)


def test_nothing_is_left_to_do():
    mark = re.compile(r"\b(TODO|FIXME|X{3})\b")
    found = [f for f in texts(*CODE) if f != "tests/test_house.py" and mark.search(text_of(f))]
    assert not found and not mark.search(text_of("README.md")), found


def test_what_runs_in_order_is_a_phase():
    word = re.compile(r"\bstages?\b", re.IGNORECASE)
    files = [*texts("msjoe_jax", "configs", "benchmarks", "docs"), "README.md"]
    only((file for file in files if word.search(text_of(file))), STAGE_WORD)


# --- names ----------------------------------------------------------------------------------------


def shape_strings(file: str) -> Iterator[tuple[int, int, int]]:
    """Line and columns, from 1 on, of the shape in every `Float[Array, "B T"]`."""
    lines = text_of(file).splitlines()
    for node in ast.walk(tree_of(file)):
        if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Tuple):
            continue
        kind = node.value.attr if isinstance(node.value, ast.Attribute) else node.value
        name = kind.id if isinstance(kind, ast.Name) else kind
        shape = node.slice.elts[-1]
        if isinstance(shape, ast.Constant) and isinstance(name, str) and hasattr(jaxtyping, name):
            line = lines[shape.lineno - 1].encode()
            first = len(line[: shape.col_offset].decode())
            last = len(line[: shape.end_col_offset].decode())
            yield shape.lineno, first + 1, last


def test_every_name_is_defined():
    """Ruff leaves F821 out because it reads the strings of shapes as names."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821"]
    done = subprocess.run(
        [*command, "--output-format", "json", *CODE], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode in (0, 1), done.stderr
    undefined = []
    for finding in json.loads(done.stdout):
        file = str(pathlib.Path(finding["filename"]).relative_to(ROOT))
        row, column = finding["location"]["row"], finding["location"]["column"]
        if not any(row == r and a <= column <= b for r, a, b in shape_strings(file)):
            undefined.append(f"{file}:{row}: {finding['message']}")
    assert not undefined, undefined
