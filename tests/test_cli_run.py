"""`deepvit-edu run` and `deepvit-edu records --plan`, as they are typed."""

import os
import signal

import pytest

from deepvit_edu.cli import main
from deepvit_edu.training import Run
from tests.experiment.plans import TUNING, write_plan


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the tiny plan, one run at a time, and returns exit status, output and errors."""
    plan = write_plan(tmp_path, seeds=[0])

    def call(*options, command="run"):
        where = ["--folder", str(tmp_path / "records"), "--device", "cpu", "--workers", "1", "--quiet"]
        status = main([command, str(plan), *where, *options])
        out, err = capsys.readouterr()
        return status, out, err

    call.plan, call.records = str(plan), str(tmp_path / "records")
    return call


def test_a_plan_is_run_once_and_told(run, capsys):
    assert run("--dry-run")[:2] == (0, "plain_s0\nre_s0\n")
    status, out, _ = run()
    assert status == 0
    assert "plain_s0: accuracy" in out
    assert out.endswith("nothing is missing\n")
    assert run("--dry-run")[1] == "nothing is missing\n"
    assert main(["records", run.records, "--plan", run.plan]) == 0
    told = capsys.readouterr().out
    assert "A tiny plan (tiny, section full)" in told
    assert "1 of 1" in told
    assert "plain: in the deep half all queries share" in told
    assert "the maps matter in 0 of 1 runs" in told


def test_records_of_a_plan_want_a_folder(run, capsys):
    assert main(["records", run.records, "--plan", run.plan]) == 1
    assert "there is no folder of records at" in capsys.readouterr().err


def test_ctrl_c_keeps_the_run_and_says_how_to_go_on(run, monkeypatch):
    step = Run.train_step

    def interrupt(self):
        os.kill(os.getpid(), signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "train_step", interrupt)
        status, _, err = run()
    assert status == 130
    assert err.endswith("stopped; what is missing of tiny can be run by the same call\n")
    assert run()[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "3/2"], "the shard '3/2' is not I/N"),
        (["--workers", "-1"], "--workers is -1; it must be at least 1"),
        (["--budget-seconds", "nan"], "--budget-seconds is nan"),
        (["--shard", "half"], "the shard 'half' is not I/N"),
        (["--section", "gpu"], "no section 'gpu'"),
        (["--device", "abacus"], "device 'abacus' cannot be used here"),
    ],
)
def test_bad_options_are_one_sentence(run, options, message):
    status, _, err = run(*options)
    assert status == 1
    assert message in err
    assert err.count("\n") == 1


def test_no_plan_is_one_sentence(tmp_path, capsys):
    assert main(["run", str(tmp_path / "none.yml")]) == 1
    assert capsys.readouterr().err == (
        f"deepvit-edu: there is no plan at {tmp_path / 'none.yml'}; plans are .yml files, as in book/experiments\n"
    )


def test_rates_at_which_nothing_trains_are_told(tmp_path, capsys):
    plan = write_plan(tmp_path, seeds=[0], tuning={**TUNING, "learning_rates": [1e30]})
    assert main(["run", str(plan), "--folder", str(tmp_path), "--device", "cpu", "--workers", "1", "--quiet"]) == 1
    assert "no learning rate of the plan tiny lets the arm 'plain' train" in capsys.readouterr().err
