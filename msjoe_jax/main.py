"""`python -m msjoe_jax.main --config=NAME --workdir=DIR`: runs the phases of a config.

On a TPU slice the same command starts on every host. Exit status: 0 finished; 75 saved before its
end (SIGTERM, Ctrl-C), the same command resumes; 2 bad input; anything else: died, it resumes too.
"""

import contextlib
import json
import re
import time

from absl import flags
from etils import epath

from msjoe_jax.commands.cli import HostFlags, define_config, given_config, run_app
from msjoe_jax.errors import UserError
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.digest import digest_of_code
from msjoe_jax.runtime.files import is_local, lock
from msjoe_jax.runtime.goodput import process_ledger
from msjoe_jax.runtime.heartbeat import FOLDER, Heartbeat
from msjoe_jax.runtime.platform import (
    keep_compiled_programs,
    quiet_cpu_default,
    use_huge_pages,
)
from msjoe_jax.runtime.stopping import signals_wait

_CONFIG = define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the same one resumes it.")
_HOSTS = HostFlags()

SPLITS = ("train", "validation", "heldout")
# Fields that may change when a run is resumed: they do not change what has been computed, but for
# the last bits. A rate holds for the updates to come, whatever the checkpoint was made with.
MAY_DIFFER = frozenset(
    {"phases", "log_every", "media_every", "checkpoint_every", "keep_checkpoints"}
    | {"checkpoint_minutes", "profile_start", "profile_updates"}
    | {"evaluate.arms", "evaluate.batch", "evaluate.limit", "evaluate.model"}
    | {"evaluate.looks"}
    | {"final_model", "patience", "evidence.steps", "pretrain.steps", "joint.steps"}
    # How the same batch is spread over devices and time.
    | {"mesh.data", "mesh.fsdp", "mesh.tensor", "mesh.rollout_tensor"}
    | {"rollout.waves", "objective.micro_batches"}
    # Contents count, wherever they lie: phases.py compares their digests.
    | {f"data.{split}_{kind}" for split in SPLITS for kind in ("records", "questions")}
    | {f"{model}.{kind}" for model in ("mllm", "clip") for kind in ("checkpoint", "tokenizer")}
    | {"sampler.checkpoint", "siglip.checkpoint", "data.max_dropped", "data.shared_videos"}
    | {"optimizer.mllm_lr", "optimizer.sampler_lr", "optimizer.max_skipped"}
)


def run() -> None:
    """Checks the config, joins the hosts, locks the work folder and runs the phases.

    Raises:
      UserError: a wrong flag or config, or what a phase raises.
      Unfinished: a signal has ended the run, and it is saved.
    """
    quiet_cpu_default()  # before JAX is imported
    keep_compiled_programs()
    process_ledger()  # of wall time and of compilations
    config_dict = given_config(_CONFIG)
    if not _WORKDIR.value:
        raise UserError("give --workdir=DIR")
    if not is_local(_WORKDIR.value) and not re.match("gs://[^/]+/.", _WORKDIR.value):
        raise UserError(f"--workdir={_WORKDIR.value} must be a path or gs://BUCKET/FOLDER")
    _HOSTS.connect()
    began = time.perf_counter()
    stall = _HOSTS.watchdog()
    with hosts.only_the_first_talks(), signals_wait(), stall, hosts.failures_told():
        # After JAX has its hosts: what follows imports it.
        from msjoe_jax.config_check import check
        from msjoe_jax.own import computed_lines
        from msjoe_jax.phases import run_phases
        from msjoe_jax.run_report import report_lines
        from msjoe_jax.runtime.profiler import listen_for_signal
        from msjoe_jax.runtime.space import room_for
        from msjoe_jax.runtime.workdir import record_config

        values = json.loads(config_dict.to_json())
        hosts.agree(digest_of_code(), "the code")
        hosts.agree(values, "the config")
        config = check(config_dict)
        for line in computed_lines(values):
            print(line)
        workdir = epath.Path(_WORKDIR.value)
        held = lock(workdir) if hosts.is_first() else contextlib.nullcontext()
        with room_for(workdir), held, listen_for_signal():
            fresh = not (workdir / "config.json").exists()
            may_differ = MAY_DIFFER | {
                f"data.train_sets.{name}.{kind}"
                for name in config.data.train_sets
                for kind in ("records", "questions")
            }
            hosts.on_first(lambda: record_config(workdir, values, may_differ), "the work folder")
            try:
                with Heartbeat(workdir, hosts.index()):
                    run_phases(config, workdir)
            except UserError:
                # A run that ended before it made anything must not tie the folder to its config.
                made = {p.name for p in workdir.iterdir()} - {".lock", FOLDER}
                if hosts.is_first() and fresh and made <= {"config.json", "digests.json"}:
                    for name in made:
                        (workdir / name).unlink()
                    (workdir / FOLDER).rmtree()
                raise
            report = report_lines(workdir) if hosts.is_first() else []
        print(f"done in {time.perf_counter() - began:.0f} s; results in {workdir}")
        for line in report:
            print(line)


if __name__ == "__main__":
    use_huge_pages()
    run_app(run)
