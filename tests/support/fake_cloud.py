"""A cloud of files: `gcloud` and the tools of a host, as programs on PATH that record their calls.

A host is a folder that is the home of the shell commands that it is sent. The request for the slice
is a state in a file. Time passes when a script sleeps: then the next event happens.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

TPU = pathlib.Path(__file__).parents[2] / "tpu"
SLICE = ("--name", "pod", "--zone", "us-x1-b")

# The environment of a host. Its Python does what the run would do to a script: it writes to its log
# until it is told to end, by a file or by SIGTERM.
HOST_PYTHON = """#!/bin/bash
case "$*" in
  *jax.distributed*) echo "host: 4 of 16 devices"; exit "$(cat "$FAKE/check" 2>/dev/null || echo 0)" ;;
esac
printf '%q ' "$(hostname)" "$PWD" "NOTE=${NOTE-}" "$@" >>"$FAKE/launched"
echo >>"$FAKE/launched"
echo "working"
trap 'echo saved; exit 75' TERM
until [[ -e $HOME/end ]]; do /bin/sleep 0.01; done
code=$(cat "$HOME/end")
rm "$HOME/end"
exit "$code"
"""

HOST_TOOLS = {
    "sudo": 'echo "$(hostname) $*" >>"$FAKE/sudo"; exec "$@"',
    "fuser": 'n=$(cat "$FAKE/locks" 2>/dev/null || echo 0); echo $((n - 1)) >"$FAKE/locks"; '
    "((n > 0))",
    "add-apt-repository": ":",
    "apt-get": ":",
    "mount": ":",
    "mountpoint": "exit 1",
    "hostname": "echo ${HOME##*/}",
    "sleep": "exec /bin/sleep 0.01",
    "python3.11": """mkdir -p venv/bin
cp "$FAKE/python" venv/bin/python
printf '#!/bin/sh\\necho "$(hostname) $*" >>"$FAKE/pip"\\n' >venv/bin/pip
chmod +x venv/bin/*""",
}

# The only other programs that a host has.
HOST_HAS = (
    "bash cat cp chmod dirname basename env flock grep head id ls lsblk mkdir mv nohup pgrep rm sed "
    "setsid tail tar gzip tr true"
).split()


class Cloud:
    """The side of a test: it sets what is there and reads what was called."""

    def __init__(self, folder: pathlib.Path, hosts: int = 2, state: str = "NONE") -> None:
        self.folder = folder
        for name in ("bin", "hostbin", "buckets"):
            (folder / name).mkdir()
        for tool in ("gcloud", "git", "docker", "xpk", "sleep"):
            line = f'exec {sys.executable} -S -E {pathlib.Path(__file__)} {tool} "$@"'
            write_program(folder / "bin" / tool, f"#!/bin/sh\n{line}\n")
        for tool, text in HOST_TOOLS.items():
            write_program(folder / "hostbin" / tool, f"#!/bin/bash\n{text}\n")
        for tool in HOST_HAS:
            if tool not in HOST_TOOLS and (path := shutil.which(tool)):
                (folder / "hostbin" / tool).symlink_to(path)
        (folder / "hostbin" / "gcloud").symlink_to(folder / "bin" / "gcloud")
        write_program(folder / "python", HOST_PYTHON)
        (folder / "calls").touch()
        (folder / "hosts").write_text(str(hosts))
        self.write("state", state)
        self.write("events", [])
        self.write("fails", [])
        make_hosts(folder)

    def write(self, name: str, value: object) -> None:
        (self.folder / name).write_text(json.dumps(value))

    def read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def call(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a script of tpu/ as a user would, in the test's folder."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", TPU / script, *arguments],
            env={**os.environ, "PATH": path, "FAKE": str(self.folder)},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def succeed(self, script: str, *arguments: str) -> str:
        """The same for the slice `pod`; returns what it prints."""
        done = self.call(script, *SLICE, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def events(self, *events: str) -> None:
        """What happens at each sleep of a script, in order; "" is nothing."""
        self.write("events", list(events))

    def send(self, command: str) -> subprocess.CompletedProcess[str]:
        """Sends a shell command to host 0."""
        path = f"{self.folder / 'bin'}/gcloud"
        words = ["compute", "tpus", "tpu-vm", "ssh", "pod", "--worker=0", f"--command={command}"]
        environment = {**os.environ, "FAKE": str(self.folder)}
        return subprocess.run([path, *words], env=environment, capture_output=True, text=True)

    def fail(self, words: str, times: int = 1, status: int = 1) -> None:
        """Makes the next calls that contain these words fail."""
        fails = json.loads(self.read("fails"))
        self.write("fails", [*fails, {"words": words, "times": times, "status": status}])

    @property
    def calls(self) -> list[list[str]]:
        """Every call so far, as words."""
        return [json.loads(line) for line in self.read("calls").splitlines()]

    @property
    def steps(self) -> list[str]:
        """The calls that change something, in short: "create", "ssh start", "delete", …"""
        return [step for call in self.calls if (step := shorten(call))]

    def host(self, number: int) -> pathlib.Path:
        return self.folder / f"host-{number}"

    def end(self) -> None:
        """Ends what a test left running."""
        for host in range(int(self.read("hosts"))):
            kill_host(self.folder, host)


def write_program(path: pathlib.Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def shorten(call: list[str]) -> str:
    """A call's meaning, or "" for a question."""
    tool, *words = call
    if tool in ("sleep", "git") or "list" in words or "describe" in words:
        return ""
    if tool != "gcloud":
        return f"{tool} {words[0]}"
    if words[0] == "storage":
        return " ".join(words[:2])
    if words[3] != "ssh":
        return words[3]
    command = next(w for w in words if w.startswith("--command=")).removeprefix("--command=")
    if "host.sh install" in command:
        return "ssh install"
    if "host.sh status" in command:
        return ""
    return f"ssh {command.split('host.sh ')[1].split()[0]}"


# --- the programs ---------------------------------------------------------------------------------


def make_hosts(folder: pathlib.Path) -> None:
    for host in range(int((folder / "hosts").read_text())):
        (folder / f"host-{host}").mkdir(exist_ok=True)


def kill_host(folder: pathlib.Path, host: int) -> None:
    """Ends a host's processes as a power cut does: nobody writes an exit status."""
    for file in (folder / f"host-{host}" / "logs").glob("*.pid"):
        pid = int(file.read_text())
        with contextlib.suppress(OSError):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if (folder / f"host-{host}").samefile(f"/proc/{fields[1]}/cwd"):
                os.kill(int(fields[1]), signal.SIGKILL)
                os.kill(pid, signal.SIGKILL)


def happen(folder: pathlib.Path, event: str) -> None:
    """"state WORD", "end CODE [HOST]", "down HOST", or "" for nothing."""
    word, *rest = event.split() or [""]
    hosts = range(int((folder / "hosts").read_text()))
    if word == "state":
        (folder / "state").write_text(json.dumps(rest[0]))
    elif word == "end":
        for host in hosts if len(rest) == 1 else [int(rest[1])]:
            new = folder / f"host-{host}" / "end.new"
            new.write_text(rest[0])
            new.rename(new.with_name("end"))
    elif word == "down":
        kill_host(folder, int(rest[0]))


def pop(folder: pathlib.Path, words: str) -> int:
    """The status with which this call is to fail, or 0."""
    fails = json.loads((folder / "fails").read_text())
    for fail in fails:
        if fail["times"] and fail["words"] in words:
            fail["times"] -= 1
            (folder / "fails").write_text(json.dumps(fails))
            return int(fail["status"])
    return 0


def ssh(folder: pathlib.Path, words: list[str]) -> int:
    options = dict(w.split("=", 1) for w in words if w.startswith("--") and "=" in w)
    worker = options["--worker"]
    hosts = range(int((folder / "hosts").read_text())) if worker == "all" else [int(worker)]
    path = str(folder / "hostbin")
    status = 0
    for host in hosts:
        home = str(folder / f"host-{host}")
        environment = {**os.environ, "HOME": home, "PATH": path}
        done = subprocess.run(
            [f"{path}/bash", "-c", options["--command"]],
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
        )
        status = status or done.returncode
    return status


def scp(folder: pathlib.Path, words: list[str]) -> int:
    source, target = (word for word in words if not word.startswith("--"))
    worker = next(w for w in words if w.startswith("--worker=")).removeprefix("--worker=")
    if ":" in target:
        for home in folder.glob("host-*"):
            shutil.copy(source, home / target.partition(":")[2])
    else:
        name = source.partition(":")[2]
        shutil.copytree(folder / f"host-{worker}" / name, f"{target}/{name}", dirs_exist_ok=True)
    return 0


def storage(folder: pathlib.Path, words: list[str]) -> int:
    verb, *rest = words
    here = [
        str(folder / "buckets" / w.removeprefix("gs://")) if w.startswith("gs://") else w
        for w in rest
        if not w.startswith("--")
    ]
    if verb == "ls":
        path = pathlib.Path(here[0])
        print(rest[0] if path.is_file() else f"{rest[0]}/a")
        return 0 if path.exists() else 1
    if verb == "cp":
        shutil.copy(here[0], here[1])
    else:
        shutil.copytree(here[0], here[1], dirs_exist_ok=True)
    return 0


def gcloud(folder: pathlib.Path, words: list[str]) -> int:
    state = json.loads((folder / "state").read_text())
    if words[0] == "storage":
        return storage(folder, words[1:])
    kind, verb = words[2:4]
    if (kind, verb) == ("tpu-vm", "ssh"):
        return ssh(folder, words[5:])
    if (kind, verb) == ("tpu-vm", "scp"):
        return scp(folder, words[4:])
    if (kind, verb) == ("tpu-vm", "describe"):
        print((folder / "hosts").read_text())
    elif verb == "list":
        print("" if state == "NONE" else state)
    elif verb == "describe":
        print("no capacity\nleft")
    elif verb == "create":
        happen(folder, "state WAITING_FOR_RESOURCES")
        make_hosts(folder)
    elif verb == "delete":
        happen(folder, "state NONE")
        for home in folder.glob("host-*"):
            kill_host(folder, int(home.name.removeprefix("host-")))
            shutil.rmtree(home, ignore_errors=True)
    return 0


def git(words: list[str]) -> int:
    """The commit holds what lies in tpu/ now, for speed and so that tests see uncommitted scripts."""
    if "rev-parse" in words:
        print("0123456789ab")
        return 0
    file = next(w for w in words if w.startswith("--output=")).removeprefix("--output=")
    return subprocess.run(["tar", "-caf", file, "-C", TPU.parent, "tpu"]).returncode


def main(tool: str, words: list[str]) -> int:
    folder = pathlib.Path(os.environ["FAKE"])
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps([tool, *words]) + "\n")
    if status := pop(folder, " ".join([tool, *words])):
        print(f"ERROR: ({tool}) told to fail", file=sys.stderr)
        return status
    if tool == "sleep":
        first, *rest = json.loads((folder / "events").read_text()) or [""]
        (folder / "events").write_text(json.dumps(rest))
        happen(folder, first)
        return 0
    if tool == "git":
        return git(words)
    return gcloud(folder, words) if tool == "gcloud" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
