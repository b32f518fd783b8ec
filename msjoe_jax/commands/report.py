"""Writes one HTML page of an evaluation, or of a training run.

    msjoe report --evaluation=DIR        # DIR/report.html: accuracies, cost, questions in pictures
    msjoe report --run=WORKDIR           # WORKDIR/report.html: curves, time, what came out

DIR is where `msjoe evaluate` wrote (its --workdir); WORKDIR that of a run, which may still be
going on. The page needs nothing beside itself: no network, no script, no other file.
"""

from absl import flags
from etils import epath

from msjoe_jax.commands.cli import run_app
from msjoe_jax.errors import UserError
from msjoe_jax.report.evaluation_folder import read_evaluation
from msjoe_jax.report.evaluation_page import render
from msjoe_jax.run_report import REPORT, write_run_report
from msjoe_jax.runtime.files import write_whole


def write_evaluation_report(folder: epath.PathLike) -> epath.Path:
    """Writes the report of an evaluation into its folder, and returns where it is.

    Raises:
      UserError: there is no evaluation, or what it wrote is damaged.
    """
    page = epath.Path(folder) / REPORT
    write_whole(page, render(read_evaluation(folder)))
    return page


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    evaluation = flags.DEFINE_string("evaluation", "", "Folder of an evaluation.")
    run = flags.DEFINE_string("run", "", "Work folder of a training run.")

    def start() -> None:
        if bool(evaluation.value) == bool(run.value):
            raise UserError("give one of --evaluation=DIR and --run=WORKDIR")
        if evaluation.value:
            print(f"report in {write_evaluation_report(evaluation.value)}")
        else:
            print(f"report in {write_run_report(run.value)}")

    run_app(start)
