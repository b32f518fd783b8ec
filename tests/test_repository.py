"""What holds for the repository as a whole: it imports, its references lead somewhere."""

import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEXTS = (".md", ".py", ".sh", ".toml", ".yml", ".yaml", ".cff", ".txt", "")


@functools.cache
def tracked() -> list[str]:
    """Files that git knows and that are there."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = done.stdout.decode().split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


@functools.cache
def texts() -> dict[str, str]:
    """Contents of the files that people wrote."""
    names = [name for name in tracked() if pathlib.PurePath(name).suffix in TEXTS]
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names}


# --- imports --------------------------------------------------------------------------------------

IMPORTS = """
import importlib, json, sys, traceback
failed = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except BaseException:
        failed[name] = traceback.format_exc(limit=-1)
print(json.dumps(failed))
"""


LMMS_EVAL = ("msjoe_jax.integrations.lmms_eval_model", "benchmarks.lmms_eval_local.utils")


def test_every_file_is_imported():
    """All in one process: what they do when they are imported (flags, say) must not collide.

    Tests themselves are left to pytest, which imports each of them.
    """
    files = [pathlib.PurePath(name) for name in tracked() if name.endswith(".py")]
    files = [file for file in files if not re.fullmatch(r"test_\w+\.py|conftest\.py", file.name)]
    names = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
    assert {"msjoe_jax.main", "benchmarks.models", "configs.tiny", "tests.support.tiny"} <= {*names}
    # Loaded by lmms-eval in its own environment; tests/integrations has a stand-in of it.
    names = [name for name in names if name not in LMMS_EVAL]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, json.dumps(sorted(names))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    failed = json.loads(done.stdout.splitlines()[-1])
    assert not failed, "\n".join(f"{name}: {why}" for name, why in failed.items())


# --- references -----------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a Markdown page."""
    found: dict[str, int] = {}
    slugs = set()
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", without_code, re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = found[slug] = found.get(slug, -1) + 1
        slugs.add(f"{slug}-{count}" if count else slug)
    return slugs


def test_anchors():
    page = "# A `b`, c!\n## 4. The draw\n```\n# no\n```\n## 4. The draw\n### [x y](z.md) ###\n"
    assert anchors(page) == {"a-b-c", "4-the-draw", "4-the-draw-1", "x-y"}


def references() -> list[tuple[str, str, str]]:
    """(file, page, anchor) of every docs/PAGE.md that a text names; no anchor is ""."""
    pattern = re.compile(r"\bdocs/([\w-]+\.md)(?:#([\w-]+))?")
    return [
        (name, f"docs/{page}", anchor)
        for name, text in texts().items()
        for page, anchor in pattern.findall(text)
        if name != "tests/test_repository.py"
    ]


def test_every_page_that_is_named_has_that_heading():
    found = references()
    assert len(found) > 10
    lost = [
        f"{name}: {page}#{anchor}"
        for name, page, anchor in found
        if page not in texts() or (anchor and anchor not in anchors(texts()[page]))
    ]
    assert not lost, "\n".join(lost)


@pytest.mark.parametrize("name", [name for name in tracked() if name.endswith(".md")])
def test_every_link_leads_somewhere(name):
    here = (ROOT / name).parent
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", texts()[name]):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = here / path if path else ROOT / name
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            lost.append(link)
    assert not lost, "\n".join(lost)


# What programs write, and what others publish.
ELSEWHERE = {"table.md"}


def test_nothing_is_cited_that_is_not_here():
    """No page outside the repository, and no section of a document that it does not name."""
    pages = {pathlib.PurePath(name).name for name in tracked() if name.endswith(".md")}
    lost = []
    for name, text in texts().items():
        if name == "tests/test_repository.py":
            continue
        named = set(re.findall(r"\b([\w-]+\.md)\b", text)) - pages - ELSEWHERE
        sections = re.findall(r"\b(?!CLIP\b)[A-Z]{2,},? §+ ?\d[\d.]*", text)
        lost += [f"{name}: {what}" for what in [*named, *sections]]
    assert not lost, "\n".join(lost)


def test_what_the_readmes_commands_write_is_ignored():
    text = (ROOT / "README.md").read_text()
    outputs = set(re.findall(r"--(?:out|workdir|local-dir)=([\w./-]+)", text))
    assert {"own/run", "runs/tiny", "report.html"} <= outputs
    asked = subprocess.run(
        [
            "git",
            "check-ignore",
            "--no-index",
            *(f"{o}{'' if '.html' in o else '/'}" for o in outputs),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout.split()
    assert {path.rstrip("/") for path in asked} == outputs
    code = subprocess.run(["git", "check-ignore", "msjoe_jax/models/sampler.py"], cwd=ROOT)
    assert code.returncode == 1  # a folder of ours with such a name is not
