"""`msjoe report`: one page, or one line that says why not."""

import pytest

from msjoe_jax.commands.report import write_evaluation_report
from tests.support.commands import command
from tests.support.evaluation_folder import write_evaluation
from tests.support.run_folder import write_run


def test_the_page_of_an_evaluation_is_beside_it(tmp_path):
    page = write_evaluation_report(write_evaluation(tmp_path, questions=8))
    assert page == tmp_path / "report.html" and "Evaluation of runs/tiny/final" in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "write"), [("evaluation", write_evaluation), ("run", write_run)])
def test_the_command_names_the_page(tmp_path, flag, write):
    folder = write(tmp_path / "x")
    done = command("report", f"--{flag}={folder}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"report in {folder / 'report.html'}\n"
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_what_is_wrong_is_one_line(tmp_path):
    folder = write_evaluation(tmp_path / "e", questions=8)
    with (folder / "samples.jsonl").open("a") as file:
        file.write("{damaged\n")
    cases = {
        (): "give one of --evaluation=DIR and --run=WORKDIR",
        (f"--evaluation={tmp_path}",): "no summary.json there",
        (f"--run={tmp_path}",): "no config.json there",
        (f"--evaluation={folder}",): "samples.jsonl:57: not JSON",
    }
    for flags, message in cases.items():
        done = command("report", *flags)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
        assert done.stderr.startswith("error: ") and message in done.stderr
