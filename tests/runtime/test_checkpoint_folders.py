"""A checkpoint that was not written to its end counts nowhere, on a disk and on object storage."""

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.checkpoint import Checkpoints, load_meta, load_params, save_params
from msjoe_jax.runtime.checkpoint_folders import (
    LAST_FILE,
    check_finished,
    finished_steps,
    is_finished,
    mark_finished,
    remove_unfinished,
)

STATE = {"a": jnp.arange(4.0)}


def test_run_on_object_storage_goes_on_from_its_last_whole_checkpoint(bucket):
    folder = bucket / "run" / "checkpoints"
    assert finished_steps(folder) == []
    with Checkpoints(folder, keep=2) as checkpoints:
        for step in (1, 2, 10):
            checkpoints.save(step, {"a": STATE["a"] + step}, {"next": step}, {"x": step})
    assert finished_steps(folder) == [2, 10]
    (folder / "10" / LAST_FILE).unlink()  # a kill before the last file was written
    assert finished_steps(folder) == [2]
    with Checkpoints(folder, keep=2) as checkpoints:
        assert not (folder / "10").exists()
        state, position, meta = checkpoints.restore(STATE)
    np.testing.assert_array_equal(state["a"], STATE["a"] + 2)
    assert (position, meta) == ({"next": 2}, {"x": 2})


def test_half_written_parameters_are_refused_and_written_again(bucket):
    folder = bucket / "params"
    save_params(folder, STATE, {"x": 1})
    assert is_finished(folder)
    with pytest.raises(UserError, match="params exists; remove it"):
        save_params(folder, STATE, {})
    (folder / LAST_FILE).unlink()
    for read in (load_meta, lambda path: load_params(path, STATE)):
        with pytest.raises(UserError, match="params was not written to its end"):
            read(folder)
    save_params(folder, STATE, {"x": 2})
    assert load_meta(folder) == {"x": 2}


def test_copy_of_a_local_folder_counts(bucket, tmp_path):
    save_params(tmp_path / "params", STATE, {"x": 1})
    here = epath.Path(tmp_path)
    for folder, _, names in here.walk():
        for name in names:
            there = bucket / (folder / name).relative_to(here)
            there.write_bytes((folder / name).read_bytes())
    np.testing.assert_array_equal(load_params(bucket / "params", STATE)["a"], STATE["a"])


def test_what_is_left_half_written_on_a_disk_is_removed(tmp_path):
    save_params(tmp_path / "3", STATE, {})
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "5.orbax-checkpoint-tmp").mkdir()
    remove_unfinished(tmp_path, "4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "5.orbax-checkpoint-tmp"]
    assert finished_steps(tmp_path) == [3] and not is_finished(tmp_path / "5")
    remove_unfinished(tmp_path / "none")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=f"no checkpoint in {tmp_path}"):
        check_finished(tmp_path, "state")
    (tmp_path / "state").mkdir()
    check_finished(tmp_path, "state")
    mark_finished(tmp_path)
    mark_finished(tmp_path)
    assert (tmp_path / LAST_FILE).read_bytes() == b""
