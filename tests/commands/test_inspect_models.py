"""What is said of checkpoints and runs, against what was saved."""

import jax.numpy as jnp
import pytest

from msjoe_jax.commands.inspect_models import inspect_checkpoint, inspect_run
from msjoe_jax.errors import UserError
from msjoe_jax.report.inspection import as_json
from msjoe_jax.runtime.checkpoint import Checkpoints, save_params
from tests.support.run_folder import write_run

PARAMS = {
    "mllm": {"a": jnp.zeros((3, 4), jnp.bfloat16), "b": jnp.zeros(5)},
    "sampler": {"w": jnp.zeros((2, 2))},
}


def test_a_model_folder_is_counted_without_reading_a_parameter(tmp_path):
    meta = {"mllm": {"dtype": "bfloat16"}, "trained": {"phases": ["pretrain", "joint"]}}
    save_params(tmp_path / "m" / "params", PARAMS, meta)
    (tmp_path / "m" / "mllm").mkdir()
    (tmp_path / "m" / "mllm" / "config.json").write_text("{}" * 50)
    found = as_json(inspect_checkpoint(tmp_path / "m"))
    checkpoint = found["checkpoint"]
    assert (checkpoint["arrays"], checkpoint["numbers"]) == (3, 21)
    assert checkpoint["kind"] == "model folder" and checkpoint["trained_by"] == "pretrain, joint"
    files = sum(path.stat().st_size for path in (tmp_path / "m").rglob("*") if path.is_file())
    assert checkpoint["files"] == files
    rows = {row["part"]: row for row in found["parameters"]["rows"]}
    assert rows["mllm"] == {"part": "mllm", "arrays": 2, "numbers": 17, "size": 44,
                            "types": "bfloat16, float32"}  # fmt: skip
    assert rows["sampler"]["numbers"] == 4 and found["mllm"] == {"dtype": "bfloat16"}


def test_a_checkpoint_of_a_training(tmp_path):
    state = {"params": PARAMS, "step": jnp.zeros((), jnp.int32)}
    with Checkpoints(tmp_path / "c", asynchronous=False) as checkpoints:
        checkpoints.save(7, state, None, {"phase": "joint"})
    found = as_json(inspect_checkpoint(tmp_path / "c" / "7"))
    assert found["checkpoint"]["kind"] == "checkpoint of a training"
    assert {row["part"] for row in found["parameters"]["rows"]} == {
        "params/mllm", "params/sampler", "step",
    }  # fmt: skip
    with pytest.raises(UserError, match="no checkpoint in"):
        inspect_checkpoint(tmp_path)


def test_a_run_is_counted(tmp_path):
    found = as_json(inspect_run(write_run(tmp_path / "run", updates=30)))
    run, joint = found["run"], found["joint"]
    assert (run["phases"], run["seed"], run["evaluated"]) == ("joint, evaluate", 7, True)
    assert run["state"] == "not known: no heartbeat"
    assert (joint["updates"], joint["validations"], joint["checkpoints"]) == (30, 4, "none")
    assert joint["at_update"] == 10 and joint["dropped_questions"] == 1
    assert joint["times_dropped"] == 2 and found["joint_dropped"] == {"prompt too long": 2}
    rows = {row["frames_chosen_by"]: row["accuracy"] for row in found["held_out_questions"]["rows"]}
    assert rows["uniform"] == 0.4 and rows["joint"] == 0.7
    (tmp_path / "run" / "heartbeat").mkdir()
    beat = '{"state": "running", "work": "joint", "done": 3, "total": 9}'
    (tmp_path / "run" / "heartbeat" / "0.json").write_text(beat)
    assert as_json(inspect_run(tmp_path / "run"))["run"]["state"] == "running, joint 3 of 9"
    (tmp_path / "run" / "heartbeat" / "0.json").write_text("{")
    assert "damaged" in as_json(inspect_run(tmp_path / "run"))["run"]["state"]
