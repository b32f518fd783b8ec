"""How commands start: flags and configs that are wrong are one line, not a traceback."""

import json
import pathlib
import subprocess
import sys

import pytest

from msjoe_jax.commands import predecode
from msjoe_jax.data.manifest import load_entries
from msjoe_jax.data.predecode import DecodeSettings
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError, run_cli
from tests.support.tiny import tiny_video

PROGRAM = """
from ml_collections import config_flags
from msjoe_jax.commands.cli import given_config, run_app
flag = config_flags.DEFINE_config_file("config", None, lock_config=True)
run_app(lambda: print(given_config(flag).a.b))
"""
CONFIG = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict({"a": {"b": 1, "c": 2}})
"""


def call(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "config.py").write_text(CONFIG)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *(a.replace("DIR", str(folder)) for a in arguments)],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )


def test_overrides_reach_the_config(tmp_path):
    done = call(tmp_path, "--config=DIR/config.py", "--config.a.b=3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give --config="),
        (("--config.a.b=3",), "--config.a.b=3: a field of which config? Give --config="),
        (("--config=DIR/none.py",), "none.py"),
        (("--config=nope", "--config.a.b=3"), "--config=nope: no such file; configs by name: "),
        (("--config=DIR/config.py", "--config.a.d=3"), "unknown field in the config: d"),
        (("--config=DIR/config.py", "--config.a.b=x"), "config.a.b"),
        (("--config=DIR/config.py", "--what=1"), "what"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, arguments, words):
    done = call(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_what_the_system_refuses_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        run_cli(open, "absent/file")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: absent/file: No such file or directory\n"


@pytest.mark.parametrize(
    ("command", "flag"), [("predecode", "--fps=abc"), ("generate", "--seed=3000000000")]
)
def test_a_commands_bad_flag_is_one_line(command, flag):
    line = [sys.executable, "-m", "msjoe_jax", command, flag]
    done = subprocess.run(
        line, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2]
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: flag {flag}") and done.stderr.count("\n") == 1


def test_a_path_that_the_system_refuses_is_one_failure(tmp_path):
    tiny_video(tmp_path / "good.mp4", 2)
    rows = [{"id": "long", "video": "x" * 300}, {"id": "good", "video": "good.mp4"}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    settings = DecodeSettings(fps=1.0, max_side=64, quality=90)
    assert predecode.predecode(tmp_path / "list.jsonl", out, settings, 1) == (1, 1)
    assert RecordReader(out).ids == ["good"]
    assert "File name too long" in json.loads((out / "failures.jsonl").read_text())["reason"]


@pytest.mark.parametrize("field", ["id", "video", "extra"])
def test_half_a_character_in_a_list_of_videos_is_named(tmp_path, field):
    row = {"id": "a", "video": "a.mp4", "extra": {}}
    row[field] = {"x": "\ud83d"} if field == "extra" else "\ud83d"
    (tmp_path / "list.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=rf"list.jsonl:1: field '{field}' holds half of a surr"):
        load_entries(tmp_path / "list.jsonl")


def test_all_values_of_a_wrong_type_are_named(tmp_path):
    done = call(tmp_path, "--config=DIR/config.py", "--config.a.b=x", "--config.a.c=1.5")
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert "config.a.b=x" in first and "config.a.c=1.5" in second


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:", "SyntaxError"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("x = 1", "no function get_config"),
        ("def get_config():\n    return None", "returned None"),
        ("def get_config(variant):\n    raise ValueError(variant)", "ValueError: what"),
    ],
)
def test_config_files_that_do_not_load_are_one_line(tmp_path, text, words):
    (tmp_path / "other.py").write_text(text)
    done = call(tmp_path, f"--config=DIR/other.py{':what' if 'variant' in text else ''}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_command_may_take_words(tmp_path):
    program = """
from absl import flags
from msjoe_jax.commands.cli import run_app
flag = flags.DEFINE_string("flag", "", "A flag.")
run_app(lambda words: print(words, flag.value), takes_words=True)
"""
    line = [sys.executable, "-c", program, "a b", "--flag=x", "c"]
    done = subprocess.run(
        line, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2]
    )
    assert (done.returncode, done.stdout) == (0, "['a b', 'c'] x\n"), done.stderr
