"""The TPU scripts parse, and issue the commands they should. No cloud is touched."""

import os
import pathlib
import shlex
import shutil
import subprocess

import pytest

TPU = pathlib.Path(__file__).parents[2] / "tpu"
SCRIPTS = ("create.sh", "setup.sh", "launch.sh")
SLICE = ("--name", "pod", "--zone", "us-x1-b", "--project", "p")


def call(folder: pathlib.Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script with a `gcloud` in front that records its arguments and does nothing."""
    gcloud = folder / "gcloud"
    gcloud.write_text(f'#!/bin/sh\nfor a; do printf "%s\\0" "$a"; done >>"{folder}/called"\n')
    gcloud.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", TPU / script, *arguments], env=environment, capture_output=True, text=True
    )


def dry_run(folder: pathlib.Path, script: str, *arguments: str) -> list[list[str]]:
    """The commands of a dry run, as argument lists."""
    done = call(folder, script, "--dry-run", *SLICE, *arguments)
    assert done.returncode == 0, done.stderr
    assert not (folder / "called").exists()
    # bash's $'…' quoting is not shlex's: let bash read its own words back.
    program = "p() { printf '%s\\0' \"$@\" $'\\1'; }\n"
    program += "".join(f"p {line}\n" for line in done.stdout.splitlines())
    parts = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return [words.split("\0")[:-1] for words in parts.stdout.split("\1\0")[:-1]]


@pytest.mark.parametrize("script", [*SCRIPTS, "common.sh"])
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", TPU / script], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    subprocess.run(["shellcheck", "-x", "-P", TPU, *(TPU / s for s in SCRIPTS)], check=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_bad_arguments(tmp_path, script):
    helped = call(tmp_path, script, "--help")
    assert helped.returncode == 0
    assert helped.stdout.startswith(f"usage: tpu/{script}")
    for arguments, words in (
        (("--what",), "unknown argument --what"),
        (("--zone", "z"), "--name is missing"),
        (("--name", "n"), "--zone is missing"),
        (("--name", "--zone"), "--name needs a value"),
        ((*SLICE, "--project"), "--project needs a value"),
    ):
        refused = call(tmp_path, script, *arguments)
        assert refused.returncode == 2
        assert refused.stderr == f"error: {words}; see --help\n"
    assert not (tmp_path / "called").exists()


def test_create(tmp_path):
    (command,) = dry_run(tmp_path, "create.sh", "--type", "v4-16", "--spot")
    assert command[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "create", "pod"]
    assert {"--zone=us-x1-b", "--project=p", "--accelerator-type=v4-16", "--spot"} < set(command)
    assert call(tmp_path, "create.sh", *SLICE).returncode == 0  # without --dry-run it is called
    called = (tmp_path / "called").read_text().split("\0")
    assert called[:5] == command[1:6]
    assert "--accelerator-type=v4-32" in called
    assert "--spot" not in called


def test_setup_ships_commits_and_installs_on_all_hosts(tmp_path):
    archive, copy, install, check = dry_run(tmp_path, "setup.sh")
    assert archive[-1] == "HEAD"
    assert "--worker=all" in copy and "--worker=all" in install and "--worker=all" in check
    remote = install[-1].removeprefix("--command=")
    subprocess.run(["bash", "-n", "-c", remote], check=True)
    assert "requirements.txt" in remote


def test_launch_starts_the_program_on_a_host(tmp_path):
    """The remote command is run here, with a stand-in for the environment's Python."""
    overrides = ('--config.note=it\'s "$HOME"', "--config.seed=1")
    (command,) = dry_run(tmp_path, "launch.sh", "--workdir", "gs://b/run", "--", *overrides)
    assert "--worker=all" in command
    host = tmp_path / "host"
    (host / "venv" / "bin").mkdir(parents=True)
    (host / "msjoe_jax").mkdir()
    python = host / "venv" / "bin" / "python"
    python.write_text('#!/bin/bash\nprintf "%q\\n" "$PWD" "$@"\nexec sleep 60\n')
    python.chmod(0o755)
    remote = command[-1].removeprefix("--command=")

    def on_host(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", text], cwd=host, capture_output=True, text=True)

    assert on_host(remote).returncode == 0
    try:
        refused = on_host(remote)
        assert (refused.returncode, refused.stderr) == (1, "a run is on: stop it first\n")
        on_host("for i in $(seq 100); do grep -q seed run.log && break; sleep 0.05; done")
        lines = [shlex.split(line)[0] for line in (host / "run.log").read_text().splitlines()]
        assert lines == [
            str(host / "msjoe_jax"),
            "-u",
            "-m",
            "msjoe_jax.main",
            "--config=configs/joint_v4.py",
            "--workdir=gs://b/run",
            *overrides,
        ]
    finally:
        (stop,) = dry_run(tmp_path, "launch.sh", "--stop")
        stopped = on_host(stop[-1].removeprefix("--command="))
    assert (stopped.returncode, stopped.stdout) == (0, "")


def test_launch_needs_a_work_folder_and_follows_the_log(tmp_path):
    assert "--workdir is missing" in call(tmp_path, "launch.sh", *SLICE).stderr
    (command,) = dry_run(tmp_path, "launch.sh", "--logs")
    assert command[-2:] == ["--worker=0", "--command=tail -n 200 -F run.log"]
