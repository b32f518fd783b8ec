"""Rows of long work: gone on with after a kill, thrown away when they are of other inputs."""

import json
import os
import signal
import subprocess
import sys

import pytest

from msjoe_jax.runtime.kept_rows import KeptRows

INPUTS = {"questions": "1", "mllm weights": "2"}
ROWS = [{"index": i, "rate": None if i == 1 else i / 3} for i in range(4)]

WRITE = """
import os, signal, sys
from tests.runtime.test_kept_rows import INPUTS, ROWS
from msjoe_jax.runtime.kept_rows import KeptRows
kept = KeptRows(sys.argv[1], INPUTS)
kept.add(ROWS[:2])
os.kill(os.getpid(), signal.SIGKILL)
"""


def write(file, rows=ROWS, inputs=INPUTS):
    KeptRows(file, inputs).add(rows)


def test_rows_come_back(tmp_path, capsys):
    file = tmp_path / "deep" / "rows.jsonl"
    assert not KeptRows(file, INPUTS).found
    write(file, ROWS[:1])
    write(file, ROWS[1:])
    kept = KeptRows(file, dict(reversed(INPUTS.items())))
    assert kept.rows == ROWS and kept.found and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("inputs", "said"),
    [({**INPUTS, "questions": "9"}, "questions (was 1, is 9)"), ({"questions": "1"}, "inputs"),
     ({**INPUTS, "arms": "a"}, "arms (was not stated, is a)")],
)  # fmt: skip
def test_rows_of_other_inputs_are_thrown_away_with_a_line(tmp_path, capsys, inputs, said):
    file = tmp_path / "rows.jsonl"
    write(file)
    assert KeptRows(file, inputs).rows == []
    assert capsys.readouterr().out == f"{file}: made from other {said}; made again\n"
    assert KeptRows(file, inputs).rows == [] and capsys.readouterr().out == ""


def test_any_cut_leaves_the_rows_before_it(tmp_path):
    file = tmp_path / "rows.jsonl"
    write(file)
    data = file.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(len(data)):
        file.write_bytes(data[:cut])
        rows = KeptRows(file, INPUTS).rows
        assert rows == ROWS[: max(sum(end <= cut for end in ends) - 1, 0)]
        write(file, ROWS[len(rows) :])
        assert file.read_bytes() == data


@pytest.mark.parametrize("damage", [b"\x00" * 9, b"\xff", b"[1]"])
def test_what_follows_a_damaged_line_is_made_again(tmp_path, damage):
    file = tmp_path / "rows.jsonl"
    write(file)
    lines = file.read_bytes().split(b"\n")
    lines[3] = damage
    file.write_bytes(b"\n".join(lines))
    assert KeptRows(file, INPUTS).rows == ROWS[:2]
    assert [json.loads(line) for line in file.read_text().splitlines()[1:]] == ROWS[:2]


def test_kill_9_loses_no_row(tmp_path):
    file = tmp_path / "rows.jsonl"
    done = subprocess.run([sys.executable, "-c", WRITE, str(file)], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert KeptRows(file, INPUTS).rows == ROWS[:2]


def test_object_storage_keeps_them_too(bucket, capsys):
    file = bucket / "rows.jsonl"
    write(file, ROWS[:1])
    write(file, ROWS[1:])
    assert KeptRows(file, INPUTS).rows == ROWS and capsys.readouterr().out == ""
    assert KeptRows(file, {"questions": "1"}).rows == []
