"""`python -m msjoe_jax.main --config=configs/NAME.py --workdir=DIR`: runs a config's stages."""

# ruff: noqa: E402  (the platform is settled before JAX is imported)
from msjoe_jax.runtime.platform import quiet_cpu_default

quiet_cpu_default()

import json
import pathlib
import time

from absl import app, flags, logging
from ml_collections import config_flags

from msjoe_jax.errors import UserError, run_cli
from msjoe_jax.runtime.workdir import lock_workdir, record_config
from msjoe_jax.stages import run_stages

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; the same one resumes it.")

# Fields that may change when a run is resumed: they do not change what has been computed.
MAY_DIFFER = frozenset(
    {"stages", "log_every", "media_every", "checkpoint_every", "keep_checkpoints"}
)


def run() -> None:
    """Checks the flags, locks the work folder and runs the stages."""
    if _CONFIG.value is None or not _WORKDIR.value:
        raise UserError("give --config=configs/NAME.py and --workdir=DIR")
    config, workdir = _CONFIG.value, pathlib.Path(_WORKDIR.value)
    began = time.perf_counter()
    with lock_workdir(str(workdir)):
        record_config(str(workdir), json.loads(config.to_json()), MAY_DIFFER)
        run_stages(config, workdir)
    print(f"done in {time.perf_counter() - began:.0f} s; results in {workdir}")


def main(_: list[str]) -> None:
    """Entry for absl."""
    logging.set_verbosity(logging.ERROR)  # Orbax reports every file it writes
    run_cli(run)


def cli() -> None:
    """Parses the command line; a bad flag or config is one line, not a traceback."""
    try:
        app.run(main, flags_parser=_parse)
    except SystemExit:
        raise


def _parse(argv: list[str]) -> list[str]:
    def parse() -> None:
        try:
            flags.FLAGS(argv)
        except (flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError) as error:
            raise UserError(f"{error}") from None

    run_cli(parse)
    return argv


if __name__ == "__main__":
    cli()
