"""`python -m msjoe_jax.main --config=NAME --workdir=DIR`: runs the phases of a config."""

import json
import re
import time

from absl import flags
from etils import epath

from msjoe_jax.commands.cli import define_config, given_config, run_app
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import is_local, lock
from msjoe_jax.runtime.platform import keep_compiled_programs, quiet_cpu_default
from msjoe_jax.runtime.space import room_for

_CONFIG = define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the same one resumes it.")

SPLITS = ("train", "validation", "heldout")
# Fields that may change when a run is resumed: they do not change what has been computed. A rate
# holds for the updates to come, whatever the checkpoint was made with.
MAY_DIFFER = frozenset(
    {"phases", "log_every", "media_every", "checkpoint_every", "keep_checkpoints"}
    | {"evaluate.arms", "evaluate.batch", "evaluate.limit", "evaluate.model"}
    | {"final_model", "patience"}
    # Contents count, wherever they lie: phases.py compares their digests.
    | {f"data.{split}_{kind}" for split in SPLITS for kind in ("records", "questions")}
    | {f"{model}.{kind}" for model in ("mllm", "clip") for kind in ("checkpoint", "tokenizer")}
    | {"sampler.checkpoint"}
    | {"optimizer.mllm_lr", "optimizer.sampler_lr", "optimizer.max_skipped"}
)


def run() -> None:
    """Checks the config, locks the work folder and runs the phases.

    Raises:
      UserError: a wrong flag or config, or what a phase raises.
    """
    quiet_cpu_default()  # before JAX is imported
    keep_compiled_programs()
    import jax

    from msjoe_jax.config_check import check
    from msjoe_jax.phases import run_phases
    from msjoe_jax.runtime.workdir import record_config

    config_dict = given_config(_CONFIG)
    if not _WORKDIR.value:
        raise UserError("give --workdir=DIR")
    if not is_local(_WORKDIR.value) and not re.match("gs://[^/]+/.", _WORKDIR.value):
        raise UserError(f"--workdir={_WORKDIR.value} must be a path or gs://BUCKET/FOLDER")
    if jax.process_count() > 1:
        raise UserError("several hosts are not supported yet: use a slice of one host")
    config = check(config_dict)
    workdir = epath.Path(_WORKDIR.value)
    began = time.perf_counter()
    with room_for(workdir), lock(workdir):
        fresh = not (workdir / "config.json").exists()
        record_config(workdir, json.loads(config_dict.to_json()), MAY_DIFFER)
        try:
            run_phases(config, workdir)
        except UserError:
            # A run that ended before it made anything must not tie the folder to its config.
            made = {p.name for p in workdir.iterdir()} - {".lock"}
            if fresh and made <= {"config.json", "digests.json"}:
                for name in made:
                    (workdir / name).unlink()
            raise
    print(f"done in {time.perf_counter() - began:.0f} s; results in {workdir}")


if __name__ == "__main__":
    run_app(run)
