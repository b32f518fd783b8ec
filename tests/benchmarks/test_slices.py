"""The table of slices: its rows from plans, and that no shipped config is left out."""

import json

from benchmarks import slices
from msjoe_jax.config_files import load_config, shipped_configs
from msjoe_jax.runtime.chips import GIB


def found(**changes):
    """A plan of two programs."""
    update = {"seconds": 80.0, "samples": 3.2, "mfu": 0.21, "parts": {}}
    programs = [
        {"name": "joint: answer", "peak_bytes": 20 * GIB, "alive_bytes": 5 * GIB},
        {"name": "joint: joint_step", "peak_bytes": 22 * GIB, "alive_bytes": GIB},
    ]
    mesh = {"data": 1, "fsdp": 8, "tensor": 1, "rollout_tensor": 2}
    return {
        "config": "mine", "effort": 0.0, "mesh": mesh, "topology": "tpu7x:2x2x1", "chips": 8,
        "fits": True, "hbm_bytes": 30 * GIB, "programs": programs,
        "price": {"updates": {"pretrain": {}, "joint": update}, "hours": 10.0},
        "price_of_data": {"updates": {"joint": {**update, "seconds": 50.0}}, "hours": 6.0},
        **changes,
    }  # fmt: skip


def test_a_plan_is_a_row():
    """Eight devices are four chips; the largest is the one with most beside it."""
    cells = dict(zip((*slices.COLUMNS, "cost"), slices.row(found(), 2.0), strict=True))
    assert list(cells.values()) == [
        "`mine`", "tpu7x:2x2x1", "4", "1 × 8 × 1, rollouts 2", "fits",
        "joint: answer: 20.0 + 5.0", "5.0", "80 / 50", "10.0 / 6.0", "3.2 / 3.2", "21% / 21%",
        "80 / 48",
    ]  # fmt: skip


def test_what_does_not_compile_is_the_largest():
    plan = found(fits=False, effort=-1.0)
    plan["programs"][1]["peak_bytes"] = None
    cells = slices.row(plan)
    assert cells[4:7] == ["DOES NOT FIT (quick screen)", "joint: joint_step: does not fit", "–"]


def test_every_config_for_tpus_has_a_slice():
    assert sorted([*slices.SLICES, "joint_h100x8", "own", "tiny"]) == shipped_configs()


def test_configs_state_their_plan_and_the_page_has_all_of_them():
    """The numbers of docstrings and page are those of the kept plans, meshes those of configs."""
    for file in slices.PLANS.glob("*.json"):
        kept = json.loads(file.read_text())
        assert f"\n{slices.note(kept)}\n" in (slices.ROOT / f"configs/{file.stem}.py").read_text()
        config = load_config(file.stem)
        assert kept["mesh"] == config.mesh.to_dict() and kept["fits"]
        assert kept["topology"] == slices.SLICES[file.stem]
    assert slices.PAGE.read_text() == slices.page()
