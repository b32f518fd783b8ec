"""`tpu/run.sh` keeps a run going: against a fake cloud in which slices are taken away."""

import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.fake_cloud import SLICE, Cloud

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a TPU host is Linux")
WORKDIR = ("--workdir", "gs://b/run")
BEGIN = ["scp", "ssh install", "ssh check", "ssh idle", "ssh start"]
# The first sleep of run.sh comes after the request, the second after the start.
GRANTED = ("state ACTIVE",)
TAKEN = ("state SUSPENDING", "state SUSPENDED")


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path, hosts=1)
    yield made
    made.end()


@pytest.fixture
def cloud_of_two(tmp_path: pathlib.Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path, hosts=2)
    yield made
    made.end()


def watch(cloud: Cloud, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs run.sh to its end."""
    return cloud.call("run.sh", *SLICE, *WORKDIR, *arguments)


def last(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr or done.stdout).splitlines()[-1]


def starts(cloud: Cloud) -> list[str]:
    """The command of each start, without its host's folder and name."""
    return [line.split(" ", 2)[2] for line in cloud.read("launched").splitlines()]


def test_a_run_that_finishes_is_fetched_and_its_slice_deleted(cloud_of_two):
    cloud = cloud_of_two
    (cloud.folder / "buckets" / "b" / "records").mkdir(parents=True)
    cloud.events(*GRANTED, "", "end 0")
    done = watch(
        cloud, "--type", "v6e-16", "--spot", "--copy", f"gs://b/records={cloud.folder}/records",
        "--restarts", "1", "--env", "NOTE=x", "--delete-when-done", "--fetch", "kept", "--",
        "--config.seed=1 2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert cloud.steps == [
        "create", *BEGIN[:3], "ssh copy", *["storage rsync"] * 2, *BEGIN[3:],
        "scp", "scp", "delete",
    ]  # fmt: skip
    create = next(call for call in cloud.calls if "create" in call)
    assert {"--accelerator-type=v6e-16", "--spot"} <= set(create)
    command = "NOTE=x -u -m msjoe_jax launch --restarts=1 -- --config=configs/joint_v4.py"
    assert starts(cloud) == [f"{command} --workdir=gs://b/run --config.seed=1\\ 2 "] * 2
    (log,) = (cloud.folder / "kept" / "host-1" / "logs").glob("run-*.log")
    assert log.read_text() == "working\n"
    assert last(done).endswith("pod: the run finished; the slice is deleted")


def test_a_slice_that_is_not_to_be_deleted_is_said_to_cost_money(cloud):
    cloud.events(*GRANTED, "end 0")
    done = watch(cloud)
    assert done.returncode == 0
    assert last(done).endswith("the slice is still there and costs money (tpu/delete.sh)")
    assert "delete" not in cloud.steps


def test_a_slice_that_is_taken_away_is_made_again_and_the_same_command_resumes(cloud):
    cloud.events(*GRANTED, "", "end 75", *TAKEN, "state PROVISIONING", *GRANTED, "", "end 0")
    done = watch(cloud, "--recreations", "1")
    assert done.returncode == 0, done.stderr
    assert cloud.steps == ["create", *BEGIN, "delete", "create", *BEGIN]
    assert len(starts(cloud)) == 2 and len(set(starts(cloud))) == 1
    assert "the request is SUSPENDED no capacity left : again (1 of 1)" in done.stdout


def test_there_is_a_limit_of_new_slices(cloud):
    cloud.events("state FAILED", "state FAILED", "state FAILED")
    done = watch(cloud, "--recreations", "1")
    assert done.returncode == 1
    assert cloud.steps == ["create", "delete", "create"]
    assert "and --recreations 1 are used up" in last(done)


def test_bad_input_is_never_started_again(cloud_of_two):
    cloud = cloud_of_two
    cloud.events(*GRANTED, "end 2 1")  # on one host alone; the other would wait for it
    done = watch(cloud, "--delete-when-done")
    assert done.returncode == 2
    assert cloud.steps == ["create", *BEGIN, "ssh kill"]
    assert "error: pod: bad input: see tpu/logs.sh; a slice that is there costs money" in last(done)


def test_a_process_that_died_for_good_ends_the_run(cloud_of_two):
    cloud = cloud_of_two
    cloud.events(*GRANTED, "end 1 0")
    done = watch(cloud)
    assert done.returncode == 1
    assert cloud.steps == ["create", *BEGIN, "ssh kill"]
    assert "a process died for good: see tpu/logs.sh" in last(done)


def test_death_while_the_slice_is_taken_away_is_not_for_good(cloud):
    cloud.events(*GRANTED, "end 1", "", *TAKEN, *GRANTED, "end 0")
    done = watch(cloud)
    assert done.returncode == 0, done.stderr
    assert cloud.steps == ["create", *BEGIN, "delete", "create", *BEGIN]


@pytest.mark.parametrize("event", ["down 1", "end 143 1"])
def test_a_host_that_restarted_is_set_up_and_started_again(cloud_of_two, event):
    cloud = cloud_of_two
    cloud.events(*GRANTED, event, *[""] * 4, "end 0")
    done = watch(cloud)
    assert done.returncode == 0, done.stderr
    assert cloud.steps == ["create", *BEGIN, "ssh kill", *BEGIN]
    assert "the run is not on any more, on an active slice: again (1 of 20)" in done.stdout


def test_a_run_that_somebody_stopped_stays_stopped(cloud):
    cloud.events(*GRANTED, "stop")
    done = watch(cloud)
    assert done.returncode == 75
    assert "the run was stopped" in last(done)
    assert cloud.steps == ["create", *BEGIN, "ssh stop"]


def test_a_slice_that_somebody_deleted_is_not_made_again(cloud):
    cloud.events(*GRANTED, "", "state DELETING", "state NONE")
    done = watch(cloud)
    assert done.returncode == 1
    assert "the slice was deleted by somebody else" in last(done)
    assert cloud.steps == ["create", *BEGIN]


def test_a_run_that_is_on_is_watched_and_one_that_ended_is_started(cloud):
    cloud.write("state", "ACTIVE")
    cloud.succeed("setup.sh")
    cloud.succeed("launch.sh", *WORKDIR)
    before = len(cloud.steps)
    cloud.events("end 2")
    done = watch(cloud)
    assert done.returncode == 2
    assert "a run is on: watching it" in done.stdout
    cloud.events("end 0")  # after the bad input was mended: the same command again
    done = watch(cloud)
    assert done.returncode == 0, done.stderr
    assert cloud.steps[before:] == ["ssh kill", *BEGIN]


def test_gcloud_may_fail_for_a_while(cloud):
    cloud.events(*GRANTED, *[""] * 8, "end 0")
    cloud.fail("host.sh status", times=4)
    cloud.fail(" list ", times=5)
    done = watch(cloud)
    assert done.returncode == 0, done.stderr
    cloud.write("state", "ACTIVE")
    cloud.fail(" list ", times=10)
    done = watch(cloud)
    assert done.returncode == 1
    assert "gcloud failed 10 times in a row; the run may be on" in last(done)


@pytest.mark.parametrize(
    ("words", "times", "message"),
    [
        ("queued-resources create", 1, "no slice was requested"),
        ("tpu-vm scp", 5, "the run could not be started: see above"),
    ],
)
def test_what_cannot_be_started_ends_in_one_line(cloud, words, times, message):
    cloud.events(*GRANTED)
    cloud.fail(words, times)
    done = watch(cloud)
    assert done.returncode == 1
    assert message in last(done)


def test_a_setup_that_fails_once_is_tried_again(cloud):
    cloud.events(*GRANTED, "", "end 0")
    cloud.fail("host.sh check")
    done = watch(cloud)
    assert done.returncode == 0, done.stderr
    assert cloud.steps == ["create", *BEGIN[:3], *BEGIN]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--type", "v9-8"), "--type v9-8 is not v4-N"),
        (("--env", "1x"), "--env 1x is not NAME=VALUE"),
        (("--copy", "gs://b"), "gs://b is neither"),
        (("--restarts", "few"), "--restarts needs a whole number, not few"),
        (("--workdir", "/mnt/run"), "only what is in a bucket"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_paid_for(cloud, arguments, message):
    done = watch(cloud, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not cloud.calls
