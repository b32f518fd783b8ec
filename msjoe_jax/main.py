"""`python -m msjoe_jax.main --config=configs/NAME.py --workdir=DIR`: runs a config's stages."""

import json
import pathlib
import time

from absl import flags

from msjoe_jax.commands.cli import define_config, given_config, run_app
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import lock
from msjoe_jax.runtime.platform import quiet_cpu_default
from msjoe_jax.runtime.workdir import record_config

_CONFIG = define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the same one resumes it.")

# Fields that may change when a run is resumed: they do not change what has been computed.
MAY_DIFFER = frozenset(
    {"stages", "log_every", "media_every", "checkpoint_every", "keep_checkpoints"}
    | {"evaluate.selectors", "evaluate.batch", "evaluate.limit"}
)


def run() -> None:
    """Checks the flags, locks the work folder and runs the stages."""
    quiet_cpu_default()  # before JAX is imported
    import jax

    from msjoe_jax.phases import check_stages, run_stages

    config = given_config(_CONFIG)
    if not _WORKDIR.value:
        raise UserError("give --workdir=DIR")
    if "://" in _WORKDIR.value:
        raise UserError(f"--workdir={_WORKDIR.value}: mount the bucket (gcsfuse) and name its path")
    if jax.process_count() > 1:
        raise UserError("several hosts are not supported yet: use a slice of one host")
    check_stages(config)
    workdir = pathlib.Path(_WORKDIR.value)
    began = time.perf_counter()
    with lock(workdir):
        fresh = not (workdir / "config.json").exists()
        record_config(str(workdir), json.loads(config.to_json()), MAY_DIFFER)
        try:
            run_stages(config, workdir)
        except UserError:
            # A run that ended before it made anything leaves the folder free for a corrected one.
            if fresh and {p.name for p in workdir.iterdir()} <= {"config.json", ".lock"}:
                (workdir / "config.json").unlink()
            raise
    print(f"done in {time.perf_counter() - began:.0f} s; results in {workdir}")


if __name__ == "__main__":
    run_app(run)
