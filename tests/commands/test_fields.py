"""docs/config.md holds what `msjoe fields` prints, and that is every field."""

import pathlib
import re

import pytest

from msjoe_jax.commands.fields import config_page
from msjoe_jax.config import EXTENSIONS, add_group, base
from msjoe_jax.data.questions import TrainSet
from msjoe_jax.fields import fields_of
from tests.support.commands import command

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "config.md"

MAPPINGS = ("objective.rewards", "objective.routes", "data.train_sets")


def leaves(values, where=""):
    """Dotted names of plain values; a mapping is one where it is a field of its own."""
    for name, value in values.items():
        path = f"{where}{name}"
        if isinstance(value, dict) and path not in MAPPINGS:
            yield from leaves(value, f"{path}.")
        else:
            yield path


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == config_page(), "make it anew: msjoe fields > docs/config.md"


def test_the_page_names_every_field_once():
    config = base()
    for name in EXTENSIONS:
        add_group(config, name)
    named = re.findall(r"^\| `([\w.]+)` \|", PAGE.read_text(), re.MULTILINE)
    of_sets = [f"data.train_sets.NAME.{field.name}" for field in fields_of(TrainSet)]
    assert sorted(named) == sorted([*leaves(config.to_dict()), *of_sets])


def test_a_row_has_type_default_limits_and_words():
    rows = {line.split("`")[1]: line for line in PAGE.read_text().splitlines() if "| `" in line}
    assert "| float | `0.28` | ≥ 0 | How far" in rows["objective.clip_high"]
    assert '| text | `"difficulty"` | `relative`' in rows["pretrain.sampler_advantage"]
    assert '| text | `"relative"` | `relative`' in rows["joint.sampler_advantage"]
    assert "| int | `0` | ≥ 0, ≤ 2147483647 |" in rows["seed"]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows.values())


@pytest.mark.slow
def test_the_command_prints_the_page():
    done = command("fields")
    assert (done.returncode, done.stdout) == (0, config_page()), done.stderr
    wrong = command("fields", "--what=1")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
