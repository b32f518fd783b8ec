"""The config's fields: one default each, documented, and read somewhere."""

import json
import pathlib
import re
import subprocess

from msjoe_jax.config import Config, base, read_config
from msjoe_jax.fields import plain
from tests.support.config_fields import FIELDS

ROOT = pathlib.Path(__file__).parents[1]
OWN = ("msjoe_jax/config.py", "msjoe_jax/config_check.py")


def test_defaults_stand_once():
    """`base()` is made of the dataclasses, and reads back as them."""
    assert read_config(base()) == Config()
    assert json.loads(base().to_json()) == json.loads(json.dumps(plain(Config())))


def test_every_field_is_documented():
    for name, field in FIELDS:
        assert len(field.option.doc) > 5 and "\n" not in field.option.doc, name


def test_every_field_is_read():
    """Outside of its declaration and its check, some code names the field."""
    files = subprocess.run(
        ["git", "ls-files", "msjoe_jax/*.py"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.split()
    text = "\n".join((ROOT / file).read_text() for file in files if file not in OWN)
    for name, _ in FIELDS:
        last = name.rpartition(".")[2]
        named = re.search(rf"\.{last}\b", text) or f'_{last.partition("_")[2]}"' in text
        assert named, name
