"""Commands, flags and fields that pages and docstrings name are there, and parse."""

import functools
import json
import os
import re
import subprocess
import sys

import jax
import pytest
from flax import nnx
from ml_collections import ConfigDict

from msjoe_jax.config import add_group, base
from msjoe_jax.models.sampler import SamplerConfig
from msjoe_jax.selectors import SELECTORS, networks
from tests.support.commands import ROOT
from tests.support.documented import commands_in, refusal, words_of
from tests.test_repository import texts

PAGES = re.compile(
    r"(README|CONTRIBUTING)\.md|(docs|tpu)/[\w-]+\.md|(configs|benchmarks|msjoe_jax/commands)/.*\.py"
)
# Examples of what a reader is to add, and any field.
ADDED = {"evaluate.skip", "objective.rewards.coverage", "field"}


def pages() -> dict[str, str]:
    return {name: text for name, text in texts().items() if PAGES.fullmatch(name)}


def test_commands_are_found_in_blocks_spans_and_docstrings():
    page = (
        "Run `msjoe plan\n--json` or `x`.\n```\n# no\nmsjoe ask --video=a \\\n   --out=b  # why\n"
        "python -m a.b > f\n```\n\n    make demo\n"
    )
    found = list(commands_in("README.md", page))
    assert found == [
        "msjoe plan --json", "msjoe ask --video=a --out=b  # why", "python -m a.b > f", "make demo"
    ]  # fmt: skip
    assert [words_of(command) for command in found[1:3]] == [
        ["msjoe", "ask", "--video=a", "--out=b"],
        ["python", "-m", "a.b"],
    ]
    text = '"""What.\n\nCommand: python -m a --x=1 \\\n    --y=… …\n"""\nmsjoe = 1\n'
    assert list(map(words_of, commands_in("a.py", text))) == [
        ["python", "-m", "a", "--x=1", "--y=…"]
    ]


def test_targets_and_files_are_looked_up():
    assert refusal(["make", "demo", "CONFIG=tiny"], {"demo"}) == ""
    assert refusal(["make", "demos"], {"demo"}) == "no such target: ['demos']"
    assert refusal(["python", "-m", "pytest", "tests/none.py", "-k", "-x"], set())


WRONG = {
    "msjoe plans --config=tiny": "no such command: plans",
    "msjoe plan --config=joint_v4 --slice=v4:2x2x1": "slice",
    "msjoe plan --config=joint_v4 --config.mesh.fspd=4": "fspd",
    "msjoe plan --config=joint_v4 --config.mesh.fsdp=many": "fsdp",
    "python -m benchmarks.none": "No module named 'benchmarks.none'",
    "python -m benchmarks.models --news=17": "unrecognized arguments: --news=17",
    "python -m benchmarks.slices --only=joint_v4 --twice": "twice",
    "python -m msjoe_jax.main --config=tiny --workdirs=W": "workdirs",
    "msjoe launch --restarts=1 -- --config=tiny --workdirs=W": "workdirs",
}


@pytest.mark.slow
def test_every_command_that_is_named_parses():
    """All in one process: their flags are defined one after the other, and taken away again."""
    where: dict[str, str] = {}
    for name, text in pages().items():
        for command in commands_in(name, text):
            where.setdefault(command, name)
    assert len(where) > 60 and len({name for name in where.values()}) > 20
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.documented"],
        input=json.dumps([*where, *WRONG]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for command, words in WRONG.items():
        assert words in found.pop(command), command
    bad = [f"{where[c]}: {c}: {why}" for c, why in found.items() if why]
    assert not bad, "\n".join(bad)


def test_networks_have_the_parameters_that_their_page_states():
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) M \|$", texts()["docs/networks.md"], re.M)
    assert sorted(name for name, _ in rows) == sorted(networks())
    for name, stated in rows:
        network = SELECTORS[name].network
        assert network is not None
        build = functools.partial(network.build, SamplerConfig(), 768)
        shapes = nnx.eval_shape(lambda build=build: nnx.state(build(nnx.Rngs(0)), nnx.Param))
        count = sum(x.size for x in jax.tree.leaves(shapes)) / 1e6
        digits = len(stated.partition(".")[2])
        assert f"{count:.{digits}f}" == stated, name


def test_every_field_that_is_named_is_there():
    config = base()
    for group in ("world", "warm_up"):
        add_group(config, group)

    def there(field: str) -> bool:
        value = config
        for part in field.split("."):
            if not isinstance(value, ConfigDict) or part not in value:
                return False
            value = value[part]
        return True

    lost = []
    for name, text in pages().items():
        named = set(re.findall(r"--config\.([a-z][\w.]*)=", text))
        named |= {f for f in re.findall(r"`config\.([a-z_]+\.[a-z_]+)", text) if f.count(".")}
        lost += [f"{name}: {field}" for field in named - ADDED if not there(field)]
    assert not lost, "\n".join(lost)
