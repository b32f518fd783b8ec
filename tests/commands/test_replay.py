"""Which row of a log is replayed, and what is said of one that is not there."""

import json

import pytest

from msjoe_jax.commands.replay import find_row
from msjoe_jax.errors import UserError


def test_finds_the_row_of_an_update_and_a_question(tmp_path):
    log = tmp_path / "rollouts.jsonl"
    rows = [{"step": step, "id": name} for step in (1, 2) for name in ("a", "b")]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert find_row(log, 2, "a") == {"step": 2, "id": "a"}
    with pytest.raises(UserError, match="no row of step 3 and question 'a'"):
        find_row(log, 3, "a")
    log.write_text("{torn")
    with pytest.raises(UserError, match=r"rollouts\.jsonl:1"):
        find_row(log, 1, "a")
    with pytest.raises(UserError, match=r"none\.jsonl"):
        find_row(tmp_path / "none.jsonl", 1, "a")
