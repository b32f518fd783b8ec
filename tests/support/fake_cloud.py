"""A cloud of files: `gcloud` and the tools of a host, as programs on PATH that record their calls.

A host is a folder that is the home of the shell commands that it is sent. The request for the slice
is a state in a file. Time passes when a script sleeps: then the next event happens. The programs
are in fake_gcloud.sh.
"""

import os
import pathlib
import shutil
import subprocess

TPU = pathlib.Path(__file__).parents[2] / "tpu"
PROGRAMS = pathlib.Path(__file__).with_name("fake_gcloud.sh")
SLICE = ("--name", "pod", "--zone", "us-x1-b")

# The environment of a host. Its Python does what the run would do to a script: it writes to its log
# until it is told to end, by a file or by SIGTERM.
HOST_PYTHON = """#!/bin/bash
[[ $* != *jax.distributed* ]] || { echo "host: 4 of 16 devices" && exit; }
trap 'echo saved; exit 75' TERM
line=$(printf '%q ' "$(hostname)" "$PWD" "NOTE=${NOTE-}" "$@")
echo "$line" >>"$FAKE/launched"
echo "working"
until [[ -e $HOME/end ]]; do sleep 0.01; done
code=$(<"$HOME/end")
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
    "sleep": f"exec {shutil.which('sleep')} 0.01",
    "python3.11": """mkdir -p venv/bin
cp "$FAKE/python" venv/bin/python
printf '#!/bin/bash\\necho "$(hostname) $*" >>"$FAKE/pip"\\n' >venv/bin/pip
chmod +x venv/bin/*""",
}
# The only other programs that a host has.
HOST_HAS = """bash cat cp chmod dirname basename env flock grep gzip head id ls lsblk mkdir mv nohup
pgrep rm sed setsid tail tar tr true"""


class Cloud:
    """The side of a test: it sets what is there and reads what was called."""

    def __init__(self, folder: pathlib.Path, hosts: int = 2, state: str = "NONE") -> None:
        self.folder = folder
        for name in ("bin", "hostbin", "buckets", *(f"host-{host}" for host in range(hosts))):
            (folder / name).mkdir()
        for name in ("calls", "events", "fails"):
            (folder / name).touch()
        self.write("hosts", hosts)
        self.write("state", state)
        for tool in ("gcloud", "git", "docker", "xpk", "sleep"):
            write_program(folder / "bin" / tool, f'exec bash "{PROGRAMS}" {tool} "$@"')
        for tool, text in HOST_TOOLS.items():
            write_program(folder / "hostbin" / tool, text)
        for tool in HOST_HAS.split():
            if path := shutil.which(tool):
                (folder / "hostbin" / tool).symlink_to(path)
        (folder / "hostbin" / "gcloud").symlink_to(folder / "bin" / "gcloud")
        (folder / "python").write_text(HOST_PYTHON)
        (folder / "python").chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "FAKE": str(folder),
            "TPU": str(TPU),
        }

    def write(self, name: str, value: object) -> None:
        (self.folder / name).write_text(f"{value}\n")

    def read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def bash(self, *words: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", *words],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def call(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a script of tpu/ as a user would, in the test's folder."""
        return self.bash(TPU / script, *arguments)

    def succeed(self, script: str, *arguments: str) -> str:
        """The same for the slice `pod`; returns what it prints."""
        done = self.call(script, *SLICE, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def send(self, command: str) -> subprocess.CompletedProcess[str]:
        """Sends a shell command to host 0."""
        words = ("compute", "tpus", "tpu-vm", "ssh", "pod", "--worker=0", f"--command={command}")
        return self.bash(PROGRAMS, "gcloud", *words)

    def happen(self, event: str) -> None:
        """Makes an event happen now."""
        done = self.bash(PROGRAMS, "happen", event)
        assert done.returncode == 0, done.stderr

    def events(self, *events: str) -> None:
        """What happens at each sleep of a script, in order; "" is nothing."""
        (self.folder / "events").write_text("".join(f"{event}\n" for event in events))

    def fail(self, words: str, times: int = 1) -> None:
        """Makes the next calls that contain these words fail."""
        with (self.folder / "fails").open("a") as fails:
            fails.write(f"{times} 1 {words}\n")

    @property
    def calls(self) -> list[list[str]]:
        """Every call so far, as words."""
        return split(self.read("calls"))

    @property
    def steps(self) -> list[str]:
        """The calls that change something, in short: "create", "ssh start", "delete", …"""
        return [step for call in self.calls if (step := shorten(call))]

    def host(self, number: int) -> pathlib.Path:
        return self.folder / f"host-{number}"

    def end(self) -> None:
        """Ends what a test left running."""
        for host in self.folder.glob("host-*"):
            self.happen(f"down {host.name.removeprefix('host-')}")


def write_program(path: pathlib.Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def split(text: str) -> list[list[str]]:
    """Lines of words that bash has quoted. It reads its own quoting back; shlex would not."""
    program = "p() { printf '%s\\0' \"$@\" $'\\1'; }\n"
    program += "".join(f"p {line}\n" for line in text.splitlines())
    parts = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return [line.split("\0")[:-1] for line in parts.stdout.split("\1\0")[:-1]]


def shorten(call: list[str]) -> str:
    """A call's meaning, or "" for a question."""
    tool, *words = call
    if tool in ("sleep", "git") or "list" in words or "describe" in words:
        return ""
    if tool != "gcloud":
        return f"{tool} {words[0]}"
    if words[0] == "storage":
        return "" if words[1] == "ls" else " ".join(words[:2])
    if words[3] != "ssh":
        return words[3]
    command = next(w for w in words if w.startswith("--command=")).removeprefix("--command=")
    if "host.sh install" in command:
        return "ssh install"
    if "host.sh status" in command:
        return ""
    return f"ssh {command.split('host.sh ')[1].split()[0]}"
