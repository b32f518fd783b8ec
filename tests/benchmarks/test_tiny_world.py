"""The table of the tiny world's arms over seeds, from made-up runs."""

import json

import pytest

from benchmarks import tiny_world

N = 20  # held-out questions


def write_run(folder, right):
    """A finished run: `right` of each arm, the number of its first questions that it answers."""
    folder.mkdir()
    rows = [{"id": str(i), **{a: float(i < r) for a, r in right.items()}} for i in range(N)]
    if folder.name == "sampler_only-1":
        rows[0]["joint"] = None  # dropped there: it counts nowhere
    (folder / "eval_questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_table(tmp_path, capsys):
    write_run(tmp_path / "base", dict.fromkeys(tiny_world.BASE_ARMS, 5))
    for seed in range(3):
        for name, training in tiny_world.TRAININGS.items():
            right = {training.arm: 15 + seed if name == "joint" else 10}
            if name == "joint":
                right[tiny_world.OTHER_PREVIEWS] = 4
            write_run(tmp_path / f"{name}-{seed}", right)
    tiny_world.report(tmp_path, 3, 1.0)
    table = json.loads((tmp_path / "table.json").read_text())["arms"]
    assert table.keys() == tiny_world.LABELS.keys()
    assert table["joint"]["seeds"] == pytest.approx([14 / 19, 15 / 19, 16 / 19])
    assert table["sampler_only"]["joint_minus"] == pytest.approx(15 / 19 - 9 / 19)
    low, high = table["sampler_only"]["by_seed"]
    assert low < 6 / 19 < high
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + len(table)
    assert (tmp_path / "table.md").read_text().splitlines() == lines[:-1]
