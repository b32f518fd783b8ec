"""The count of what videos hold: silent where all is there, and says what is not."""

import copy
import subprocess
import sys

import pytest

from benchmarks import world_placement
from msjoe_jax.world.build import build_world
from msjoe_jax.world.phase import WorldConfig
from tests.support.commands import ROOT


@pytest.mark.parametrize("version", [1, 2])
def test_fresh_worlds_are_complete(version, capsys):
    complaints = world_placement.count(version, "here", world_placement.fresh(version, 4, 40))
    assert complaints == []
    line = capsys.readouterr().out
    assert line.startswith("here: 40 videos, 40 complete; a video: 6.00 event, ")
    assert version == 1 or "12.00 flicker, 6.00 plateau, 24.00 short" in line


def _first(items, **fields):
    return next(x for x in items if all(x[name] == value for name, value in fields.items()))


def _move(item, frames):
    item["frames"] = frames


def _beside(plan):
    event = plan["events"][0]
    own = [x for x in plan["look_alikes"] if x["kind"] == event["kind"] and x["form"] == "short"]
    _move(own[0], [event["start"] + event["length"]])
    own[0]["cell"] = -1


DAMAGE = {
    "0 look-alikes plateau of kind": lambda p: p["look_alikes"].remove(
        _first(p["look_alikes"], form="plateau")
    ),
    "a look-alike flicker of 2 frames": lambda p: _move(
        _first(p["look_alikes"], form="flicker"), [5, 7]
    ),
    "a look-alike flicker in the frames [5, 6, 7]": lambda p: _move(
        _first(p["look_alikes"], form="flicker"), [5, 6, 7]
    ),
    "look-alikes of the forms ['other']": lambda p: p["look_alikes"][0].update(form="other"),
    "whose colour shows as": lambda p: p["events"][0].update(
        visible=p["events"][0]["visible"][::-1]
    ),
    "an event of 9 frames": lambda p: p["events"][0].update(length=9),
    "events of 5 kinds, not of 6": lambda p: p["events"].pop(),
    "no event of what word": lambda p: p.update(setting=(p["setting"] + 1) % 3),
    "2 words, not 3": lambda p: p["words"].pop(),
    "two things in one cell of a frame": lambda p: p["look_alikes"].append(p["look_alikes"][0]),
    "two events in one frame": lambda p: p["events"][1].update(start=p["events"][0]["start"]),
    "nearer than 2 frames": _beside,
    "something outside of the video": lambda p: p["events"][0].update(start=93),
}  # fmt: skip


@pytest.mark.parametrize("complaint", DAMAGE)
def test_what_is_missing_is_said(complaint):
    plan, asked = copy.deepcopy(next(world_placement.fresh(2, 0, 1)))
    DAMAGE[complaint](plan)
    found = [*world_placement.missing(2, plan, [question["extra"] for question in asked])]
    assert any(complaint in line for line in found), found


def test_oracle_frames_that_show_too_little_are_said():
    plan, asked = copy.deepcopy(next(world_placement.fresh(2, 0, 1)))
    asked[0]["extra"]["oracle_frames"][0] = [200]
    found = [*world_placement.missing(2, plan, [question["extra"] for question in asked])]
    assert found == [f"6 oracle frames do not show all of {asked[0]['extra']['words']}"]


def test_shares_of_questions_are_held_against_the_page(capsys):
    """Questions about one event alone: the shares of all three numbers are wrong."""

    def about_one():
        for plan, asked in world_placement.fresh(2, 0, 40):
            few = [question for question in asked if len(question["extra"]["words"]) == 1]
            yield plan, few

    complaints = world_placement.count(2, "here", about_one())
    assert [line.partition(" of ")[0] for line in complaints] == [
        "here: 1.000", "here: 0.000", "here: 0.000"
    ]  # fmt: skip


@pytest.mark.slow
def test_records_are_counted_and_a_wrong_version_fails(tmp_path):
    sizes = {"num_train": 12, "num_validation": 1, "num_heldout": 1}
    build_world(tmp_path, WorldConfig(version=2, **sizes).spec())
    command = [sys.executable, "-m", "benchmarks.world_placement"]
    command += [f"--records={tmp_path / 'train'}"]
    done = [
        subprocess.run([*command, *more], capture_output=True, text=True, cwd=ROOT)
        for more in ([], ["--version=1"])
    ]
    assert [x.returncode for x in done] == [0, 1], done
    assert "12 videos, 12 complete" in done[0].stdout
    assert "things are missing or wrong" in done[1].stderr
