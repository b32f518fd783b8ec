"""The TPU scripts against a fake `gcloud`: what they ask of it, and what they say when it fails."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from configs import joint_v4
from tests.support.fake_cloud import PROGRAMS, SLICE, TPU, Cloud, split

SCRIPTS = sorted(
    path.name for path in TPU.glob("*.sh") if path.name not in ("common.sh", "host.sh")
)
ALL = sorted(str(path.relative_to(TPU)) for path in TPU.rglob("*.sh"))
WORKDIR = ("--workdir", "gs://b/run")
NEEDS = {"launch.sh": WORKDIR, "run.sh": WORKDIR, "copy.sh": ("gs://b/x=/x",)}


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path)
    yield made
    made.end()


@pytest.mark.parametrize("script", ALL)
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", TPU / script], check=True)
    assert os.access(TPU / script, os.X_OK) == (script != "common.sh")


def test_shellcheck_finds_nothing():
    here = os.path.dirname(sys.executable)
    shellcheck = shutil.which("shellcheck", path=f"{here}{os.pathsep}{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([shellcheck, *(TPU / script for script in ALL), PROGRAMS], check=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_bad_arguments(cloud, script):
    helped = cloud.call(script, "--help")
    assert helped.returncode == 0
    assert helped.stdout.startswith(f"usage: tpu/{script}")
    assert "--dry-run" in helped.stdout
    for arguments, message in (
        (("--what",), r".*--what.*"),
        (("--zone", "z", "--name"), "--name needs a value"),
        ((*SLICE, "--project"), "--project needs a value"),
        (("--name", "Pod", *NEEDS.get(script, ())), "--name Pod: lower-case letters, digits and -"),
        (("--name", "n", *NEEDS.get(script, ())), "--zone is missing"),
        (("--zone", "z", *NEEDS.get(script, ())), "--name is missing"),
    ):
        if script == "fetch.sh" and arguments[0] == "--zone" and "--name" not in arguments:
            continue  # it can do without a slice
        refused = cloud.call(script, *arguments)
        assert refused.returncode == 2, (arguments, refused.stderr)
        assert re.fullmatch(f"error: {message}; see --help\n", refused.stderr), refused.stderr
    assert not cloud.calls


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_calls_nothing_and_prints_what_a_shell_can_read(cloud, script):
    printed = cloud.succeed(
        script, "--project", "p q", "--internal-ip", "--dry-run", *NEEDS.get(script, ())
    )
    assert not cloud.calls
    commands = [line for line in split(printed) if line[0] == "gcloud"]
    assert commands
    for command in commands:
        assert {"--zone=us-x1-b", "--project=p q"} <= set(command)
        assert ("--internal-ip" in command) == (command[4] in ("ssh", "scp"))


# --- create and delete ----------------------------------------------------------------------------


def test_create_waits_until_the_slice_is_there(cloud):
    cloud.events("", "state PROVISIONING", "state ACTIVE")
    printed = cloud.succeed(
        "create.sh", "--spot", "--service-account", "me@p", "--data-disk", "projects/p/d",
        "--valid-until-duration", "6h", "--", "--network=n",
    )  # fmt: skip
    create = cloud.calls[0]
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "pod"]
    assert set(create[6:]) == {
        "--node-id=pod", "--zone=us-x1-b", "--accelerator-type=v4-32",
        "--runtime-version=tpu-ubuntu2204-base", "--spot", "--service-account=me@p",
        "--data-disk=source=projects/p/d,mode=read-only", "--valid-until-duration=6h",
        "--network=n",
    }  # fmt: skip
    assert printed.splitlines() == [
        f"pod: {state}" for state in ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    ]
    assert "--filter=name~/queuedResources/pod$" in cloud.calls[1]


def test_the_default_slice_has_the_chips_of_the_full_size_config():
    (kind,) = re.findall(r"^TYPE=(\S+)$", (TPU / "create.sh").read_text(), re.MULTILINE)
    cores = re.fullmatch(r"v4-(\d+)", kind)
    mesh = joint_v4.get_config().mesh
    assert cores is not None  # a v4 is named by its cores, two a chip
    assert int(cores[1]) // 2 == mesh.data * mesh.fsdp * mesh.tensor


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-32", "v2-alpha-tpuv5"),
        ("v6e-16", "v2-alpha-tpuv6e"),
    ],
)
def test_the_image_follows_from_the_type(cloud, kind, image):
    (command,) = split(cloud.succeed("create.sh", "--dry-run", "--type", kind))
    assert f"--runtime-version={image}" in command
    (command,) = split(
        cloud.succeed("create.sh", "--dry-run", "--type", kind, "--runtime-version", "mine")
    )
    assert "--runtime-version=mine" in command


@pytest.mark.parametrize(
    ("kind", "message"),
    [("tpu7x-16", "does not serve Ironwood; use tpu/xpk/run.sh"), ("v9-8", "is not v4-N")],
)
def test_create_refuses_other_types(cloud, kind, message):
    refused = cloud.call("create.sh", *SLICE, "--type", kind)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not cloud.calls


def test_create_says_why_there_is_no_slice(cloud):
    cloud.fail("queued-resources create")
    refused = cloud.call("create.sh", *SLICE)
    assert refused.returncode == 1
    assert "error: pod was not requested" in refused.stderr
    cloud.events("state FAILED")
    failed = cloud.call("create.sh", *SLICE)
    assert failed.returncode == 3
    assert failed.stderr.startswith("error: pod is FAILED: no capacity left tpu/delete.sh removes")


def test_create_is_patient_with_gcloud_but_not_for_ever(cloud):
    cloud.fail(" list ", times=9)
    cloud.events(*[""] * 9, "state ACTIVE")
    cloud.succeed("create.sh")
    cloud.fail(" list ", times=10)
    gone = cloud.call("create.sh", *SLICE)
    assert gone.returncode == 1
    assert gone.stderr.endswith("error: gcloud failed 10 times in a row; pod stays requested\n")


def test_create_need_not_wait(cloud):
    cloud.succeed("create.sh", "--no-wait")
    assert len(cloud.calls) == 1


def test_delete(cloud):
    cloud.succeed("delete.sh")
    assert {"--force", "--quiet"} <= set(cloud.calls[0])
    assert cloud.calls[0][3:6] == ["queued-resources", "delete", "pod"]
    cloud.fail("delete")
    refused = cloud.call("delete.sh", *SLICE)
    assert refused.returncode == 1
    assert "error: pod was not deleted and may cost money" in refused.stderr


# --- fetch ----------------------------------------------------------------------------------------


def test_fetch(cloud):
    for host in (0, 1):
        (cloud.host(host) / "logs").mkdir()
        (cloud.host(host) / "logs" / "run-1.log").write_text(f"log {host}")
    results = cloud.folder / "buckets" / "b" / "run"
    results.mkdir(parents=True)
    (results / "eval.json").write_text("{}")
    cloud.succeed("fetch.sh", "--to", "my results", *WORKDIR)
    for host in (0, 1):
        copied = cloud.folder / "my results" / f"host-{host}" / "logs" / "run-1.log"
        assert copied.read_text() == f"log {host}"
    assert (cloud.folder / "my results" / "run" / "eval.json").exists()
    assert cloud.calls[0][1:5] == [
        "storage", "rsync", "--recursive", "--exclude=.*checkpoints/.*",
    ]  # fmt: skip


def test_fetch_names_the_host_that_failed(cloud):
    (cloud.host(0) / "logs").mkdir()
    (cloud.host(1) / "logs").mkdir()
    cloud.fail("--worker=1")
    failed = cloud.call("fetch.sh", *SLICE)
    assert failed.returncode == 1
    assert failed.stderr.endswith("error: not fetched from host 1: see above\n")
    assert (cloud.folder / "runs" / "pod" / "host-0" / "logs").exists()
    cloud.fail("describe")
    assert "pod could not be described" in cloud.call("fetch.sh", *SLICE).stderr
    cloud.fail("rsync")
    failed = cloud.call("fetch.sh", *WORKDIR)
    assert "gs://b/run was not fetched" in failed.stderr
