"""Runs a training as a child process, or as several on this machine, and minds them.

msjoe launch --restarts=3 -- --config=… --workdir=…              on every host of a slice
msjoe launch --processes=2 --devices=2 -- --config=… --workdir=…  two hosts on this machine

What follows -- are the flags of `python -m msjoe_jax.main`. When a host dies, this says which and
how, ends the others, and starts all again. Exit status: 0 done; 75 saved, not finished; 2 wrong
input; 1 a host died; 128 + N a host died after this process was sent signal N.
"""

import contextlib
import glob
import os
import sys
from collections.abc import Mapping, Sequence

from absl import flags

from msjoe_jax.commands.cli import run_app
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.supervisor import Child, Supervisor, held_port

MAIN = (sys.executable, "-m", "msjoe_jax.main")
VIRTUAL = "--xla_force_host_platform_device_count="


def hosts(
    command: Sequence[str], processes: int, devices: int, port: int, environment: Mapping[str, str]
) -> list[Child]:
    """Returns the processes of one cluster on this machine.

    Args:
      command: what each runs; the flags that make it one of several are put at its end.
      processes: how many.
      devices: virtual CPU devices of each; 0: what there is.
      port: of this machine, free: where they meet.
      environment: of this process.

    Raises:
      UserError: this machine's GPUs cannot be shared out evenly.
    """
    settings = dict(environment)
    if devices:
        settings["XLA_FLAGS"] = f"{settings.get('XLA_FLAGS', '')} {VIRTUAL}{devices}".strip()
        settings.setdefault("JAX_PLATFORMS", "cpu")
    if processes == 1:
        return [Child(command, settings)]
    gpus = [] if settings.get("JAX_PLATFORMS") == "cpu" else visible_gpus(settings)
    if len(gpus) % processes:
        raise UserError(
            f"--processes={processes}: {len(gpus)} GPUs cannot be shared out evenly; "
            "CUDA_VISIBLE_DEVICES=0,1,… names those to use"
        )
    settings.setdefault("PYTHONUNBUFFERED", "1")  # through a pipe, too, lines come as they are made
    children = []
    for host in range(processes):
        own = gpus[host * len(gpus) // processes : (host + 1) * len(gpus) // processes]
        flags_of_host = [
            f"--coordinator=localhost:{port}",
            f"--hosts={processes}",
            f"--host={host}",
        ]
        shared = {"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {}
        children.append(Child([*command, *flags_of_host], settings | shared))
    return children


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Returns the names that CUDA gives this machine's NVIDIA GPUs, or those the user chose."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name]
    return [str(i) for i, _ in enumerate(glob.glob("/dev/nvidia[0-9]*"))]


def launch(
    arguments: Sequence[str],
    processes: int = 1,
    devices: int = 0,
    restarts: int = 0,
    main: Sequence[str] = MAIN,
    supervisor: Supervisor | None = None,
) -> int:
    """Runs the training with these flags to its end and returns the exit status.

    Args:
      arguments: flags of `msjoe_jax.main`.
      processes: hosts of a cluster on this machine; 1: this process is one host's.
      devices: virtual CPU devices of each; 0: what there is.
      restarts: how often to start anew after a death.
      main: the command that takes the flags.
      supervisor: who runs it.

    Raises:
      UserError: a flag that this command gives itself, or numbers that make no sense.
    """
    for flag, value, least in (
        ("processes", processes, 1),
        ("devices", devices, 0),
        ("restarts", restarts, 0),
    ):
        if value < least:
            raise UserError(f"--{flag}={value}: give {least} or more")
    own = {"coordinator", "hosts", "host"} if processes > 1 else set()
    for word in arguments:
        if word.startswith("-") and word.lstrip("-").partition("=")[0] in own:
            raise UserError(f"{word}: --processes={processes} gives this flag to each process")
    with held_port() if processes > 1 else contextlib.nullcontext(0) as port:
        children = hosts([*main, *arguments], processes, devices, port, os.environ)
        return (supervisor or Supervisor()).run(children, restarts)


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    processes = flags.DEFINE_integer(
        "processes", 1, "Hosts to start on this machine, as one cluster; 1: this host's own."
    )
    devices = flags.DEFINE_integer("devices", 0, "Virtual CPU devices of each; 0: what there is.")
    restarts = flags.DEFINE_integer("restarts", 0, "How often to start anew after a host died.")
    words = sys.argv
    cut = words.index("--") if "--" in words else len(words)
    sys.argv, arguments = words[:cut], words[cut + 1 :]

    def start() -> None:
        if not arguments:
            raise UserError("give the flags of the training after --: -- --config=… --workdir=…")
        sys.exit(launch(arguments, processes.value, devices.value, restarts.value))

    run_app(start)
