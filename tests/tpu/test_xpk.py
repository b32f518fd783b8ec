"""The XPK variant: its Dockerfile, and what it asks of docker and xpk. Neither is run."""

import pathlib
import re
import shlex

import pytest

from tests.support.fake_cloud import SLICE, TPU, Cloud

ROOT = TPU.parent
NEEDS = (
    *("--cluster", "c", "--type", "tpu7x-16", "--image", "eu-docker.pkg.dev/p/r/msjoe_jax"),
    *("--workdir", "gs://b/run"),
)
IMAGE = "eu-docker.pkg.dev/p/r/msjoe_jax:0123456789ab"


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> Cloud:
    return Cloud(tmp_path)


def test_the_dockerfile_copies_what_is_there_and_installs_exact_versions():
    lines = (TPU / "xpk" / "Dockerfile").read_text().splitlines()
    steps = [line.split() for line in lines if line and not line.startswith("#")]
    assert steps[0] == ["FROM", "python:3.11-slim-bookworm"]
    copied = [source for step in steps if step[0] == "COPY" for source in step[1:-1]]
    assert copied == ["tpu/requirements.txt", "configs", "msjoe_jax"]
    assert all((ROOT / source).exists() for source in copied)
    (install,) = (" ".join(step) for step in steps if step[0] == "RUN")
    assert (
        "pip install --no-cache-dir --no-deps --only-binary :all: -r tpu/requirements.txt"
        in install
    )


def test_it_builds_the_commit_pushes_it_and_creates_the_workload(cloud):
    done = cloud.call(
        "xpk/run.sh", *SLICE, "--project", "p", *NEEDS, "--spot", "--priority", "high",
        "--env", "A=b c", "--restarts", "1", "--recreations", "4", "--", "--config.note=it's $HOME",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [call[:2] for call in cloud.calls if call[0] != "git"] == [
        ["docker", "build"], ["docker", "push"], ["xpk", "workload"],
    ]  # fmt: skip
    build, push, create = (call for call in cloud.calls if call[0] != "git")
    assert {"--platform=linux/amd64", f"--tag={IMAGE}"} < set(build)
    assert f"--file={build[-1]}/tpu/xpk/Dockerfile" in build
    assert push == ["docker", "push", IMAGE]
    command = next(w for w in create if w.startswith("--command=")).removeprefix("--command=")
    assert create[:3] == ["xpk", "workload", "create"]
    assert set(create[3:]) - {f"--command={command}"} == {
        "--workload=pod", "--cluster=c", "--zone=us-x1-b", "--project=p", "--tpu-type=tpu7x-16",
        f"--docker-image={IMAGE}", "--max-restarts=4", "--restart-on-exit-codes=75",
        "--termination-grace-period-seconds=300", "--spot", "--priority=high", "--env=A=b c",
    }  # fmt: skip
    assert shlex.split(command) == [
        "exec", "python", "-m", "msjoe_jax", "launch", "--restarts=1", "--",
        "--config=configs/joint_v4.py", "--workdir=gs://b/run", "--config.note=it's $HOME",
    ]  # fmt: skip


def test_an_image_that_is_there_is_not_built_and_a_dry_run_calls_nothing(cloud):
    done = cloud.call("xpk/run.sh", *SLICE, *NEEDS, "--no-build")
    assert [call[0] for call in cloud.calls] == ["git", "xpk"], done.stderr
    done = cloud.call("xpk/run.sh", *SLICE, *NEEDS, "--dry-run")
    assert done.returncode == 0
    assert [call[:4] for call in cloud.calls[2:]] == [["git", "-C", str(ROOT), "rev-parse"]]
    assert re.findall(r"^docker push .*$", done.stdout, re.MULTILINE) == [f"docker push {IMAGE} "]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("docker build", "the image was not built: docker says why above"),
        ("docker push", f"{IMAGE} was not pushed: docker says why above"),
        ("xpk workload", "the workload was not created: xpk says why above"),
    ],
)
def test_it_fails_in_one_line(cloud, words, message):
    cloud.fail(words)
    failed = cloud.call("xpk/run.sh", *SLICE, *NEEDS)
    assert failed.returncode == 1
    assert failed.stderr.endswith(f"error: {message}\n")


def test_wrong_arguments(cloud):
    for option in ("--cluster", "--type", "--image", "--workdir"):
        at = NEEDS.index(option)
        refused = cloud.call("xpk/run.sh", *SLICE, *NEEDS[:at], *NEEDS[at + 2 :])
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"error: {option} is missing")
    for arguments, message in (
        (("--image", "p/r/i:1"), "--image p/r/i:1 has a tag"),
        (("--workdir", "/mnt/x"), "--workdir is missing or not in a bucket"),
        (("--internal-ip",), "--internal-ip is not for XPK"),
        (("--what",), "unknown argument --what"),
    ):
        assert message in cloud.call("xpk/run.sh", *SLICE, *NEEDS, *arguments).stderr
    helped = cloud.call("xpk/run.sh", "--help")
    assert helped.stdout.startswith("usage: tpu/xpk/run.sh")
    assert not cloud.calls
