"""A campaign in a repository of its own: a copy of the package and two tiny plans."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from deepvit_edu.experiment import campaign, load_plan, missing_jobs
from deepvit_edu.records import load_record
from tools.contents import ROOT

from .plans import TUNING, write_plan

CAMPAIGN = ROOT / "book/experiments/campaign.yml"


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with the package, two plans and the campaign's file."""
    monkeypatch.setenv("DEEPVIT_EDU_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "repository"
    shutil.copytree(ROOT / "deepvit_edu", root / "deepvit_edu", ignore=shutil.ignore_patterns("__pycache__"))
    home = root / "book/experiments"
    home.mkdir(parents=True)
    write_plan(home, "first")
    taught = {"annotated": True, "recipe": {"class_from_maps": True}}
    teacher = {"model": {"class_token": False}, "recipe": {"epochs": 1}}
    write_plan(home, "second", seeds=[5], arms={"taught": taught}, annotator=teacher, contrasts=None)
    git(root, "init", "--quiet")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "plans")
    entry = {"code": git(root, "rev-parse", "HEAD"), "plans": ["first", {"plan": "second"}]}
    (home / "campaign.yml").write_text(yaml.safe_dump(entry))
    return root


def plans(repository):
    return [load_plan(repository / f"book/experiments/{name}.yml") for name in ("first", "second")]


def test_each_rate_that_is_tried_may_be_claimed_by_itself(tmp_path):
    plan = load_plan(write_plan(tmp_path, tuning=TUNING))
    under_way = {lock.lock_file for _, _, lock in campaign._claimed([plan], tmp_path / "records")}
    assert len(under_way) == len(plan.arms) * len(TUNING["learning_rates"])


def test_hours_left_are_never_told_without_the_runs_whose_pace_is_unknown():
    assert campaign._hours([], 2) == "0.0"
    assert campaign._hours([3600.0, 7200.0], 2) == "1.5"
    assert campaign._hours([3600.0, None], 2) == "0.5 and more"
    assert campaign._hours([None], 2) == "no pace is known yet"


@pytest.mark.slow
def test_everything_that_is_missing_is_run_by_the_code_of_the_commit(repository, monkeypatch):
    monkeypatch.setattr(campaign, "LOOK_SECONDS", 0.2)
    path, folder = repository / "book/experiments/campaign.yml", repository / "book/records"
    assert campaign.status(path, folder)[1] == ("first", "4", "4", "no pace is known yet")
    campaign.run_campaign(path, folder, workers=2)
    assert [missing_jobs(plan, folder) for plan in plans(repository)] == [[], []]
    record = load_record(folder / "first/full/re_s1.json")
    assert record["commit"] == git(repository, "rev-parse", "HEAD")
    assert "1 threads" in record["hardware"]
    assert "diagnostics" in record
    assert campaign.status(path, folder)[1:] == [
        ("first", "4", "0", "0.0"),
        ("second", "1", "0", "0.0"),
        ("all", "", "0", "0.0"),
    ]
    assert "label_maps_hash" in load_record(folder / "second/full/taught_s5.json")
    assert git(repository, "log", "--format=%s") == "plans"  # it commits nothing


@pytest.mark.slow
def test_a_killed_process_loses_nothing_and_a_pause_frees_the_processor(repository, monkeypatch):
    monkeypatch.setattr(campaign, "LOOK_SECONDS", 0.2)
    path, folder = repository / "book/experiments/campaign.yml", repository / "book/records"
    command = [sys.executable, "-c", RUN, str(path), str(folder)]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    first = wait_for(lambda: children(running.pid))
    os.kill(first[0], signal.SIGKILL)
    wait_for(lambda: set(children(running.pid)) - set(first))
    campaign.pause(folder, minutes=10)
    wait_for(lambda: not children(running.pid))
    assert campaign.paused(folder)
    campaign.resume(folder)
    assert running.wait(timeout=240) == 0
    assert [missing_jobs(plan, folder) for plan in plans(repository)] == [[], []]


RUN = """
import sys
from pathlib import Path
from deepvit_edu.experiment import campaign
campaign.LOOK_SECONDS, campaign.ASK_AGAIN_SECONDS = 0.2, 5.0
campaign.run_campaign(Path(sys.argv[1]), Path(sys.argv[2]), workers=1)
"""


def children(pid: int) -> list[int]:
    """The processes that make runs."""
    done = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid=,args="], capture_output=True, text=True)
    return [int(line.split()[0]) for line in done.stdout.splitlines() if " campaign work " in line]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.1)
    raise AssertionError("what was waited for did not happen")


def test_a_changed_worktree_is_refused(repository):
    code = campaign.read_campaign(repository / "book/experiments/campaign.yml")[0].code
    place = campaign.checkout(code, repository)
    (place / "deepvit_edu/words.py").write_text("")
    with pytest.raises(ValueError, match=r"the worktree .* was changed .*words\.py"):
        campaign.checkout(code, repository)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plans: [s1]", "names no commit for the plan s1"),
        ("code: abc", "is not a campaign"),
        ("code: abc\nplans: [{section: a}]", "is not a campaign"),
        ("code: abcdef1\nplans: []", "is not a campaign"),
        ("code: abcdef1\nplans: s1", "is not a campaign"),
        ("", "is not a campaign"),
        ("code: abcdef1\nplans: [3]", "the plan 3 is neither a name nor a table"),
        ("code: abcdef1\nplans: [{plan: s1, part: a}]", "is neither a name nor a table"),
        ("code: abcdef1\nplans: [{plan: s1, section: 3}]", "is neither a name nor a table"),
        ("code: ../up\nplans: [s1]", "names no commit for the plan s1"),
        ("code: --force\nplans: [s1]", "names no commit for the plan s1"),
        ("code: [", "is not YAML that can be read"),
    ],
)
def test_files_that_are_no_campaign_are_refused(tmp_path, text, message):
    (tmp_path / "campaign.yml").write_text(text)
    with pytest.raises(ValueError, match=message):
        campaign.read_campaign(tmp_path / "campaign.yml")
    with pytest.raises(FileNotFoundError, match="there is no campaign at"):
        campaign.read_campaign(tmp_path / "none.yml")


def declared(text: str) -> dict:
    """What a plan's file says of its runs; words may be mended later."""
    parts = yaml.safe_load(text)
    return {key: parts.get(key) for key in ("data", "model", "recipe", "tuning", "seeds", "arms", "annotator")}


@pytest.mark.parametrize("entry", campaign.read_campaign(CAMPAIGN), ids=lambda entry: entry.plan)
def test_the_code_of_the_campaign_has_the_plan_as_it_is_declared(entry):
    """Runs are made from the plan as it stands in the commit that is named, so a later change would not reach them."""
    name = f"book/experiments/{entry.plan}.yml"
    then = subprocess.run(["git", "show", f"{entry.code}:{name}"], cwd=ROOT, capture_output=True, text=True)
    if then.returncode:
        pytest.skip(f"this clone has no commit {entry.code[:7]}")
    assert declared(then.stdout) == declared((ROOT / name).read_text())
