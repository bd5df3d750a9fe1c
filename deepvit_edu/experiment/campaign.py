"""A campaign: what is missing of many plans, run in their order beside other work, from the code of one commit.

`run_campaign` supervises processes of `work`, each of which makes one run after another. A run belongs to the process
that holds its lock, so any number of them may share the folder of records, and whatever is killed is continued from
its last checkpoint by the next one to come.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..allocator import training_environment
from ..assets import cache_folder
from ..signals import stop_requests
from ..training import Interrupted, NonFiniteLossError
from ..yaml_files import read_yaml
from .annotator import ensure_label_maps, label_maps_path
from .engine import known_rate, run_job, splits, workspace_of
from .measure import measure_model
from .plan import Job, Plan, arm_config, arm_data, arm_recipe
from .reading import load_plan
from .results import missing_jobs, outcome

NICENESS = 19
LOOK_SECONDS = 5.0
"""How often the supervisor looks at its processes and at requests to pause."""
ASK_AGAIN_SECONDS = 30.0
"""How long a process may take to keep its state: more than any step."""


@dataclass(frozen=True)
class CampaignPlan:
    """A plan of the campaign: its file, the section, and the commit whose code runs it."""

    plan: str
    section: str | None
    code: str


def read_campaign(path: str | Path) -> list[CampaignPlan]:
    """The entries of a campaign's file: `code`, a commit, and `plans`, a list of names or of {plan, section, code}.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a campaign; it says what is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no campaign at {path}; book/experiments/campaign.yml is one")
    declared = read_yaml(path)
    plans = declared.get("plans") if isinstance(declared, dict) else None
    if not isinstance(plans, list) or not plans:
        raise ValueError(f"{path} is not a campaign: it needs `code`, a commit, and `plans`, a list of plans")
    entries = [_entry(each, declared.get("code"), path) for each in plans]
    for entry in entries:
        if not isinstance(entry.code, str) or not re.fullmatch("[0-9a-f]{7,40}", entry.code):
            raise ValueError(f"{path} names no commit for the plan {entry.plan}; give `code`, the commit that runs it")
    return entries


def _entry(given: object, code: object, path: Path) -> CampaignPlan:
    """One entry of the list of plans; `code` is the file's, for entries without one of their own."""
    entry = {"plan": given} if isinstance(given, str) else given
    texts = isinstance(entry, dict) and all(isinstance(each, str | None) for each in entry.values())
    if not texts or "plan" not in entry or not set(entry) <= {"plan", "section", "code"}:
        raise ValueError(
            f"{path} is not a campaign: the plan {given!r} is neither a name nor a table of plan, section and code"
        )
    return CampaignPlan(**{"section": None, "code": code, **entry})


def checkout(code: str, root: Path) -> Path:
    """A clean worktree of the repository at `root`, at commit `code`, in the cache; made once.

    Raises:
        ValueError: when there is no such commit, or the worktree was changed.
    """
    place = cache_folder().absolute() / "campaign" / code[:12]
    if not place.exists():
        _git(root, "worktree", "prune")
        _git(root, "worktree", "add", "--quiet", "--detach", str(place), code)
    if changes := _git(place, "status", "--porcelain", "--untracked-files=no"):
        raise ValueError(
            f"the worktree {place} was changed ({changes.splitlines()[0].strip()}); remove it to have it made again"
        )
    return place


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"git {arguments[0]} failed in {folder}: {done.stderr.strip()}")
    return done.stdout.strip()


def run_campaign(path: Path, folder: Path, workers: int = 2, say: Callable[[str], None] = print) -> None:
    """Runs what is missing until nothing is, or until Ctrl-C or SIGTERM; commits nothing.

    Args:
        path: the campaign's file, in a repository.
        folder: where the records go.
        workers: processes, of one thread each, at low priority.
        say: called with a line of text for each event.

    Raises:
        Interrupted: when stopped; the same call continues.
        ValueError: for a file that is not a campaign, or an unknown commit.
    """
    entries, root = read_campaign(path), path.absolute().parent
    places = {code: checkout(code, root) for code in dict.fromkeys(entry.code for entry in entries)}
    state = folder / ".campaign"
    state.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(state / "lock", timeout=0), stop_requests() as stop:
            for code, place in places.items():
                _supervise(_work_command(path, code, folder), place, folder, workers, stop, say)
    except Timeout:
        raise ValueError(
            f"a campaign is under way in {folder} already; `deepvit-edu campaign status` says how far"
        ) from None
    if stop():
        raise Interrupted("the campaign is stopped; the same command continues it")


def _work_command(path: Path, code: str, folder: Path) -> list[str]:
    options = ["--file", str(path.absolute()), "--folder", str(folder.absolute()), "--code", code]
    return [sys.executable, "-m", "deepvit_edu", "campaign", "work", *options]


def _supervise(
    command: list[str],
    place: Path,
    folder: Path,
    workers: int,
    stop: Callable[[], bool],
    say: Callable[[str], None],
) -> None:
    """Restarts processes of a command until each has ended without an error, which means that nothing is left to do."""
    running: list[subprocess.Popen] = []
    finished = 0
    try:
        while finished < workers and not stop():
            if paused(folder):
                _end(running)
            elif len(running) + finished < workers:
                running.append(subprocess.Popen(command, cwd=place, env=training_environment(threads=1)))
            time.sleep(LOOK_SECONDS)
            for process in [process for process in running if process.poll() is not None]:
                running.remove(process)
                finished += process.returncode == 0
                if process.returncode:
                    say(f"a process ended with {process.returncode}; another one takes its place")
    finally:
        _end(running)


def _end(running: list[subprocess.Popen]) -> None:
    """Asks the processes to keep their state and stop, and waits for them.

    A request that comes just after a run's last step is lost, and the process goes on with the next run: so it is
    repeated.
    """
    for process in running:
        process.terminate()
    for process in running:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=ASK_AGAIN_SECONDS)
                break
            process.terminate()
    running.clear()


def work(path: Path, code: str, folder: Path, say: Callable[[str], None] = print) -> None:
    """Makes one missing run of this commit's plans after another, until all are made or under way elsewhere.

    Raises:
        Interrupted: on SIGTERM; the run's state is kept.
    """
    plans = [
        load_plan(Path("book/experiments") / f"{entry.plan}.yml", entry.section)
        for entry in read_campaign(path)
        if entry.code == code
    ]
    supervisor = os.getppid()
    while os.getppid() == supervisor and (claimed := next(_claimed(plans, folder), None)):
        plan, job, lock = claimed
        started = time.monotonic()
        try:
            _annotate(plan, job, folder)
            record = run_job(plan, job, folder, "cpu", known_rate(plan, job, folder), measure=measure_model)
            result = f"accuracy {record['test_accuracy']:.2%}"
        except NonFiniteLossError as error:
            result = f"failed: {error}"
        finally:
            lock.release()
        say(f"{plan.name} {job.name}: {result}, {(time.monotonic() - started) / 60:.1f} minutes")


def _annotate(plan: Plan, job: Job, folder: Path) -> None:
    """Sees to the label maps that a run needs; one process makes them, the others wait."""
    if plan.arms[job.arm].annotated:
        lock = label_maps_path(plan, folder).parent / ".unfinished" / "label_maps.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            ensure_label_maps(plan, folder, *splits(plan, job.arm), device="cpu", progress=False)


def _claimed(plans: list[Plan], folder: Path) -> Iterator[tuple[Plan, Job, FileLock]]:
    """The missing runs that no other process is making, each with its lock, already acquired."""
    for plan in plans:
        for job in missing_jobs(plan, folder):
            if known_rate(plan, job, folder) is None:
                continue
            lock = FileLock(f"{workspace_of(plan, job, folder)}.lock", timeout=0)  # a rate in its name has a point
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout):
                lock.acquire()
                if outcome(plan, job, folder) is None:
                    yield plan, job, lock
                lock.release()


def paused(folder: Path) -> bool:
    """Whether the campaign is paused now."""
    try:
        return time.time() < float((folder / ".campaign/pause").read_text())
    except (FileNotFoundError, ValueError):
        return False


def pause(folder: Path, minutes: float) -> None:
    """Asks the campaign to save its state and leave the processor free for some minutes."""
    (folder / ".campaign").mkdir(parents=True, exist_ok=True)
    (folder / ".campaign/pause").write_text(str(time.time() + 60 * minutes))


def resume(folder: Path) -> None:
    """Ends a pause."""
    (folder / ".campaign/pause").unlink(missing_ok=True)


def status(path: Path, folder: Path, workers: int = 2) -> list[tuple[str, ...]]:
    """One row for each plan, with a header: runs made, missing, and hours left.

    A run's hours are known from the pace of one like it; where some are not, there are as many hours "and more".
    """
    plans = [load_plan(path.parent / f"{entry.plan}.yml", entry.section) for entry in read_campaign(path)]
    pace = _paces(plans, folder)
    rows, of_all = [("plan", "runs", "missing", "hours left")], []
    for plan in plans:
        missing = missing_jobs(plan, folder)
        seconds = [_seconds(plan, job, pace) for job in missing]
        count = len(missing) + sum(
            outcome(plan, Job(arm, seed), folder) is not None for arm in plan.arms for seed in plan.seeds
        )
        of_all += seconds
        rows.append((plan.name, str(count), str(len(missing)), _hours(seconds, workers)))
    return [*rows, ("all", "", str(len(of_all)), _hours(of_all, workers))]


def _hours(seconds: list[float | None], workers: int) -> str:
    """How long runs take side by side, in words; None is a run whose pace is not known."""
    known = [each for each in seconds if each is not None]
    if seconds and not known:
        return "no pace is known yet"
    return f"{sum(known) / 3600 / workers:.1f}" + " and more" * (len(known) < len(seconds))


def _paces(plans: list[Plan], folder: Path) -> dict[tuple, float]:
    """Seconds per image of the slowest recorded run, by the model's size, attention and depth."""
    pace: dict[tuple, float] = {}
    for plan in plans:
        for job in (Job(arm, seed) for arm in plan.arms for seed in plan.seeds):
            record = outcome(plan, job, folder)
            if record and "failed" not in record:
                seconds = record["seconds"] / (record["train_images"] * record["epochs"])
                pace[_cost_key(plan, job)] = max(seconds, pace.get(_cost_key(plan, job), 0.0))
    return pace


def _cost_key(plan: Plan, job: Job) -> tuple:
    config = arm_config(plan, job.arm, 10)
    return config.img_size // config.patch_size, config.embed_dim, config.attention[:1], config.tokens, config.depth


def _seconds(plan: Plan, job: Job, pace: dict[tuple, float]) -> float | None:
    """How long a run will take; from a model of another depth if its own was not run yet; None if neither was."""
    *kind, depth = _cost_key(plan, job)
    images = arm_recipe(plan, job, None).epochs * arm_data(plan, job.arm).get("train_images", 50_000)
    same = {key[-1]: seconds for key, seconds in pace.items() if list(key[:-1]) == kind}
    if not same:
        return None
    nearest = min(same, key=lambda known: abs(known - depth))
    return images * same[nearest] * depth / nearest
