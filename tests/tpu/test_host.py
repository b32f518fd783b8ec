"""What the TPU scripts do on the hosts: `host.sh` runs in folders that stand for them."""

import pathlib
import re
import shlex
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.fake_cloud import SLICE, Cloud

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a TPU host is Linux")
WORKDIR = ("--workdir", "gs://b/run")


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path, state="ACTIVE")
    yield made
    made.end()


def setup_and_launch(cloud: Cloud, *arguments: str) -> str:
    """Returns the name of the run, which has begun on both hosts."""
    cloud.succeed("setup.sh")
    return launch(cloud, *WORKDIR, *arguments)


def launch(cloud: Cloud, *arguments: str) -> str:
    """Launches and waits until the run minds signals and has written what it writes; its name."""
    run = cloud.succeed("launch.sh", *arguments).strip()
    deadline = time.monotonic() + 60
    logs = [cloud.host(host) / "logs" / f"{run}.log" for host in (0, 1)]
    while not all(log.exists() and "working" in log.read_text() for log in logs):
        assert time.monotonic() < deadline, run
        time.sleep(0.02)
    return run


def wait_for(cloud: Cloud, words: str) -> str:
    """Asks for the status until it has these words; returns it. Fails after a minute."""
    deadline = time.monotonic() + 60
    while True:
        status = cloud.succeed("status.sh")
        if words in status:
            return status
        assert time.monotonic() < deadline, status


# --- setup and copy -------------------------------------------------------------------------------


def test_setup_brings_the_code_and_the_exact_packages(cloud):
    (cloud.host(0) / "msjoe_jax").mkdir()
    (cloud.host(0) / "msjoe_jax" / "old").touch()
    printed = cloud.succeed("setup.sh")
    assert cloud.steps == ["scp", "ssh install", "ssh check"]
    assert cloud.calls[0][-1] == "HEAD"
    assert printed == "host: 4 of 16 devices\n" * 2
    assert not (cloud.host(0) / "msjoe_jax" / "old").exists()
    install = "install --quiet --no-deps --only-binary :all: -r msjoe_jax/tpu/requirements.txt"
    assert cloud.read("pip").splitlines() == [
        f"host-{host} {words}" for host in (0, 1) for words in (install, "check")
    ]
    assert not cloud.read("sudo")  # Python 3.11 is there


def test_setup_waits_for_the_package_lock_before_each_use(cloud):
    """Without Python 3.11; unattended upgrades hold a lock for three looks."""
    tools = cloud.folder / "hostbin"
    (tools / "python3.11").rename(tools / "later")
    (tools / "apt-get").write_text(
        f'#!/bin/bash\n[[ $* != *install* ]] || mv "{tools}/later" "{tools}/python3.11"\n'
    )
    (cloud.folder / "locks").write_text("3")
    cloud.succeed("setup.sh")
    used = [line.split()[1] for line in cloud.read("sudo").splitlines() if "host-0" in line]
    assert used == ["fuser"] * 4 + ["add-apt-repository", "fuser", "apt-get", "apt-get"]
    assert "host-0 add-apt-repository --yes --no-update ppa:deadsnakes/ppa" in cloud.read("sudo")
    assert "-o DPkg::Lock::Timeout=900 install --yes python3.11 python3.11-venv" in cloud.read(
        "sudo"
    )


def test_setup_does_not_wait_for_ever(cloud):
    (cloud.folder / "hosts").write_text("1")
    (cloud.folder / "hostbin" / "python3.11").unlink()
    (cloud.folder / "hostbin" / "sleep").write_text("#!/bin/bash\n")
    (cloud.folder / "hostbin" / "fuser").write_text("#!/bin/bash\n")
    failed = cloud.call("setup.sh", *SLICE)
    assert failed.returncode == 1
    assert "host-0: another installation of packages did not end in 15 minutes" in failed.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("scp", "the code was not copied to all hosts"),
        ("host.sh install", "the installation failed on a host"),
        ("host.sh check", "JAX does not see the slice's chips"),
        ("git", "git archive failed"),
    ],
)
def test_setup_fails_in_one_line(cloud, words, message):
    cloud.fail(words)
    failed = cloud.call("setup.sh", *SLICE)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith(f"error: {message}")


def test_copy_mounts_and_copies_folders_and_objects(cloud):
    cloud.succeed("setup.sh")
    bucket = cloud.folder / "buckets" / "b"
    (bucket / "records").mkdir(parents=True)
    (bucket / "records" / "a b").write_text("video")
    (bucket / "q=1.jsonl").write_text("question")
    device = cloud.folder / "disk"
    device.touch()
    data = cloud.folder / "data of hosts"
    cloud.succeed(
        "copy.sh", "--mount", str(data / "disk"), "--device", str(device),
        f"gs://b/records={data}/records", f"gs://b/q=1.jsonl={data}/q.jsonl",
    )  # fmt: skip
    assert (data / "records" / "a b").read_text() == "video"
    assert (data / "q.jsonl").read_text() == "question"
    assert f"host-1 mount -o ro,noload {device} {data}/disk" in cloud.read("sudo")
    assert cloud.steps[3:].count("storage rsync") == 2  # one a host
    assert cloud.steps[3:].count("storage cp") == 2


def test_copy_fails_in_one_line(cloud):
    cloud.succeed("setup.sh")
    failed = cloud.call("copy.sh", *SLICE, "--mount", "/mnt/d", "--device", "/dev/none")
    assert failed.returncode == 1
    assert "host-0: there is no /dev/none: is a data disk attached" in failed.stderr
    failed = cloud.call("copy.sh", *SLICE, "gs://b/none=/tmp/none")
    assert failed.returncode == 1
    assert failed.stderr.endswith("error: gs://b/none was not copied to all hosts: see above\n")
    assert cloud.call("copy.sh", *SLICE).stderr == "error: nothing to mount or copy; see --help\n"
    assert "gs://BUCKET/PATH=/DIR" in cloud.call("copy.sh", *SLICE, "gs://b/x=x").stderr


# --- runs -----------------------------------------------------------------------------------------


def test_launch_starts_the_parent_on_every_host(cloud):
    """Arguments reach it as they were given."""
    overrides = ('--config.note=it\'s "$HOME"', "--config.lines=a\nb", "--config.seed=1")
    run = setup_and_launch(cloud, "--env", "NOTE=a 'b'", "--restarts", "7", "--", *overrides)
    assert re.fullmatch(r"run-\d{8}T\d{6}Z-\d+", run)
    assert wait_for(cloud, "host-1").splitlines() == [
        "pod: ACTIVE", f"host-0: {run} on", f"host-1: {run} on",
    ]  # fmt: skip
    cloud.happen("end 0")
    wait_for(cloud, f"host-1: {run} exit 0")
    started = cloud.read("launched")
    arguments = (
        "-u -m msjoe_jax launch --restarts=7 -- --config=configs/joint_v4.py --workdir=gs://b/run"
    )
    for host in (0, 1):
        folder = cloud.host(host) / "msjoe_jax"
        assert f"host-{host} {folder} NOTE=a\\ \\'b\\' {arguments} " in started
    assert started.count("--config.note=it\\'s\\ \\\"\\$HOME\\\" $'--config.lines=a\\nb'") == 2
    assert shlex.split(started.splitlines()[0])[-1] == "--config.seed=1"


def test_a_log_is_never_written_to_by_another_start(cloud):
    first = setup_and_launch(cloud)
    cloud.happen("end 1")
    wait_for(cloud, f"host-0: {first} exit 1\nhost-1: {first} exit 1")
    second = launch(cloud, *WORKDIR)
    assert second != first
    logs = cloud.host(0) / "logs"
    (logs / f"{first}.log").write_text("kept")
    # gcloud sends a command again if its connection was cut: nothing is started twice.
    start = [call for call in cloud.calls if "host.sh start" in " ".join(call)][-1]
    command = next(w for w in start if w.startswith("--command=")).removeprefix("--command=")
    assert second in command
    before = cloud.read("launched")
    assert cloud.send(command).returncode == 0
    assert cloud.send(command.replace(second, first)).returncode == 0
    assert cloud.read("launched") == before
    assert (logs / f"{first}.log").read_text() == "kept"
    listed = cloud.succeed("logs.sh", "--list", "--host", "0").splitlines()
    assert set(listed) == {f"host-0: {first}", f"host-0: {second}"}


def test_nothing_is_started_beside_a_run_or_before_setup(cloud):
    refused = cloud.call("launch.sh", *SLICE, *WORKDIR)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(
        "error: nothing was started: a host is not set"
    )
    run = setup_and_launch(cloud)
    refused = cloud.call("launch.sh", *SLICE, *WORKDIR)
    assert refused.returncode == 1
    assert f"host-1: {run} is on: stop it first" in refused.stderr
    refused = cloud.call("setup.sh", *SLICE)
    assert refused.returncode == 1
    assert "a run is on: stop it first" in refused.stderr
    assert cloud.read("launched").count("\n") == 2


def test_stop_lets_the_run_save_and_kill_does_not(cloud):
    first = setup_and_launch(cloud)
    cloud.succeed("launch.sh", "--stop")
    wait_for(cloud, f"host-0: {first} stopped 75")
    wait_for(cloud, f"host-1: {first} stopped 75")
    assert cloud.succeed("launch.sh", "--stop") == "host-0: not running\nhost-1: not running\n"
    second = launch(cloud, *WORKDIR)
    cloud.succeed("launch.sh", "--kill")
    status = cloud.succeed("status.sh").splitlines()  # it has ended when --kill returns
    assert status[1:] == [f"host-0: {second} stopped 137", f"host-1: {second} stopped 137"]
    cloud.fail("host.sh stop")
    failed = cloud.call("launch.sh", *SLICE, "--stop")
    assert failed.stderr.endswith("error: not every host was told to stop: see above\n")


def test_logs_of_any_or_all_hosts(cloud):
    none = cloud.call("logs.sh", *SLICE)
    assert none.returncode == 1
    run = setup_and_launch(cloud)
    wait_for(cloud, "on")
    for host in (0, 1):
        with (cloud.host(host) / "logs" / f"{run}.log").open("a") as log:
            log.write("".join(f"line {n}\n" for n in range(5)))
    lines = cloud.succeed("logs.sh", "--lines", "2").splitlines()
    assert lines == [f"host-{host}: line {n}" for host in (0, 1) for n in (3, 4)]
    lines = cloud.succeed("logs.sh", "--host", "1", "--lines", "1", "--run", run).splitlines()
    assert lines == ["host-1: line 4"]
    wrong = cloud.call("logs.sh", *SLICE, "--run", "run-0")
    assert wrong.returncode == 1
    assert "host-0: there is no run-0" in wrong.stderr
    assert "--host x is neither" in cloud.call("logs.sh", *SLICE, "--host", "x").stderr
    cloud.happen("end 0")  # following a log ends with the run
    assert "host-0: line 4" in cloud.succeed("logs.sh", "--follow", "--host", "0")


def test_status_tells_a_host_that_went_down(cloud):
    assert cloud.succeed("status.sh").splitlines()[1:] == ["host-0: - none", "host-1: - none"]
    run = setup_and_launch(cloud)
    cloud.happen("down 1")
    assert f"host-0: {run} on\n" in wait_for(cloud, f"host-1: {run} lost")
    cloud.fail("ssh")
    failed = cloud.call("status.sh", *SLICE)
    assert (failed.returncode, failed.stdout) == (1, "pod: ACTIVE\n")
    assert failed.stderr.endswith("error: not every host answered: see above\n")
    cloud.fail(" list ")
    failed = cloud.call("status.sh", *SLICE)
    assert "error: the request's state could not be read" in failed.stderr
    cloud.happen("state SUSPENDED")
    assert cloud.succeed("status.sh") == "pod: SUSPENDED\n"
