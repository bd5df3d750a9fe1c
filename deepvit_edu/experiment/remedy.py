"""Test your own remedy: one more arm in the plan, paired by seed with the plain model."""

import atexit
import hashlib
import json
import threading
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from filelock import FileLock
from torch import nn

from ..assets import asset_path
from ..nn.registry import register_attention
from ..records import Record
from ..tiers import tier
from ..training import NonFiniteLossError
from .engine import run_plan
from .plan import Arm, Contrast, Job, Plan, all_jobs
from .reading import load_plan
from .results import outcome, record_path
from .verdict import Effect, contrast_effect, results_of

SAME_LOSS = 1e-4
"""Two runs with the same accuracy, and training losses less than this apart, count as the same."""
SAME_ACCURACY = 1e-9
"""Differences of accuracies that are less than this apart are equal, up to rounding."""

_one_at_a_time = threading.Lock()  # training draws from this process's global random numbers


@dataclass(frozen=True)
class Remedy:
    """The result: the effect on accuracy (a fraction) and on training loss, paired by seed, and the verdict."""

    accuracy: Effect
    train_loss: Effect
    verdict: str
    plan: Plan
    arm: str  # the remedy's name among the plan's arms, and in the names of its records
    records: Path  # the folder that they are in

    def __str__(self) -> str:
        a, loss = self.accuracy, self.train_loss
        return (
            f"accuracy {100 * a.mean:+.2f} points [{100 * a.low:+.2f}, {100 * a.high:+.2f}], "
            f"training loss {loss.mean:+.3f} [{loss.low:+.3f}, {loss.high:+.3f}], "
            f"{a.count} pairs, {self.plan.data['name']}: {self.verdict}"
        )


def test_remedy(
    attention: type[nn.Module] | dict,
    plan: str | Path | None = None,
    *,
    section: str | None = None,
    folder: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Remedy:
    """Trains models with your attention and plain ones, seed by seed, and tests the difference.

    Records of the same code in the same folder are reused; those of other remedies are kept. A
    record keeps the source of your class. Several processes may share a folder.

    Args:
        attention: a module class, called with (channels, heads) and, as far as its `__init__` takes them, `qkv_bias`,
            `attn_drop` and `proj_drop`; it turns tokens (B, N, C) into tokens (B, N, C). Or changes to the model's
            configuration, such as `{"attention": ("re",)}`.
        plan: a plan's file with an arm `plain` of its own; the book's `experiments/remedy.yml` unless given.
        section: the part of the plan; the reader's tier unless given.
        folder: where records are kept; a temporary one, which keeps the runs while Python runs, unless given.
        device: where to train; the best there is unless given.
        progress: show a progress bar.

    Raises:
        ValueError: for a plan without an arm `plain` of its own, or an attention that is neither a module class nor
            changes, or whose options do not fit. Errors in the attention's own code are raised unchanged.
        NonFiniteLossError: when a run to compare failed, or tuning did at every learning rate; it says why.
    """
    path = asset_path("experiments/remedy.yml") if plan is None else Path(plan)
    declared = load_plan(path, section if section or plan else tier())
    plain = _plain_arm(declared, path)
    folder = Path(folder) if folder else _temporary_folder()
    arm, changes = _named(attention)
    control = replace(declared, arms={"plain": plain}, contrasts=())
    trial = replace(
        declared,
        arms={"plain": plain, arm: replace(plain, model={**plain.model, **changes})},
        contrasts=(Contrast("remedy", (arm,), ("plain",)),),
    )
    home = record_path(trial, Job(arm, 0), folder).parent
    home.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time:
        for part, lock in ((control, "plain"), (trial, arm)):  # another process may be making the same runs
            with FileLock(home / f".{lock}.lock"):
                _forget_failures(trial, arm, folder)
                _run(part, folder, device, progress)
    results = results_of(trial, folder)
    accuracy, loss = (
        contrast_effect(trial, trial.contrasts[0], results, key) for key in ("test_accuracy", "train_loss")
    )
    verdict = _obvious(results["plain"], results[arm]) or accuracy.verdict(trial.margin)
    return Remedy(accuracy, loss, verdict, trial, arm, home)


test_remedy.__test__ = False  # readers call it by this name; it is not a test for pytest


def _named(attention: type[nn.Module] | dict) -> tuple[str, dict]:
    """A name for the remedy's arm, which no other remedy has, and its changes of the model's configuration."""
    if isinstance(attention, dict):
        digest = hashlib.sha256(json.dumps(attention, sort_keys=True, default=repr).encode()).hexdigest()[:8]
        return f"changes_{digest}", attention
    if not (isinstance(attention, type) and issubclass(attention, nn.Module)):
        raise ValueError("attention is neither a module class nor a dict of changes to the model's configuration")
    name = register_attention(attention)
    return name.replace("#", "_"), {"attention": (name,)}


def _obvious(plain: dict[int, Record], yours: dict[int, Record]) -> str | None:
    """The verdict in the cases where statistics are not needed or cannot help; otherwise None."""
    pairs = [(plain[seed], yours[seed]) for seed in plain]
    if all(_same(*pair) for pair in pairs):
        return "the same in every seed: it computes what plain attention does"
    records = [record for pair in pairs for record in pair]
    if all(_at_chance(arm) for arm in zip(*pairs, strict=True)):
        chance = 1 / _num_classes(records[0])
        return f"no verdict: neither is better than guessing ({chance:.0%}); train longer, or at another rate"
    differences = [other["test_accuracy"] - record["test_accuracy"] for record, other in pairs]
    if len(pairs) > 1 and max(differences) - min(differences) < SAME_ACCURACY:
        return "no verdict: all seeds differ by the same, so the interval has no width; take more test images, or seeds"
    return None


def _same(first: Record, second: Record) -> bool:
    return (
        first["test_accuracy"] == second["test_accuracy"]
        and abs(first["train_loss"] - second["train_loss"]) < SAME_LOSS
    )


def _at_chance(records: tuple[Record, ...]) -> bool:
    """Whether the mean accuracy of an arm's runs lies within two standard errors of guessing, or below."""
    chance = 1 / _num_classes(records[0])
    error = (chance * (1 - chance) / sum(record["test_images"] for record in records)) ** 0.5
    return sum(record["test_accuracy"] for record in records) / len(records) <= chance + 2 * error


def _num_classes(record: Record) -> int:
    return record["config"]["model"]["num_classes"]


def _plain_arm(plan: Plan, path: Path) -> Arm:
    """The control; ValueError where the plan does not train it, or not by itself."""
    if "plain" not in plan.arms:
        raise ValueError(f"{path} has no arm 'plain' to compare with; name a plan with one")
    plain = plan.arms["plain"]
    lender = plain.taken_from or plain.tuned_as
    if lender:
        what = "records" if plain.taken_from else "learning rate"
        raise ValueError(f"the arm 'plain' of {path} borrows its {what} from {lender}; name a plan with one of its own")
    return plain


def _run(plan: Plan, folder: Path, device: str | None, progress: bool) -> None:
    """Makes the runs that are missing.

    Raises:
        NonFiniteLossError: when one of the runs to compare failed, or tuning did at every rate; it says why.
    """
    try:
        run_plan(plan, folder, device=device, workers=1, progress=progress, say=lambda line: None)
    except ValueError as error:
        for arm in plan.arms:
            failed = _failures(plan, folder, [job for job in all_jobs(plan) if job.arm == arm and job.learning_rate])
            if failed and {job.learning_rate for job in failed} == set(plan.tuning["learning_rates"]):
                raise NonFiniteLossError(f"{error}; {_first_failure(failed)}") from error
        raise
    if failed := _failures(plan, folder, [Job(arm, seed) for arm in plan.arms for seed in plan.seeds]):
        raise NonFiniteLossError(f"the remedy cannot be judged: {_first_failure(failed)}")


def _failures(plan: Plan, folder: Path, jobs: list[Job]) -> dict[Job, str]:
    """Those of the runs that failed, and why."""
    outcomes = {job: outcome(plan, job, folder) for job in jobs}
    return {job: result["failed"] for job, result in outcomes.items() if result and "failed" in result}


def _first_failure(failed: dict[Job, str]) -> str:
    job, why = next(iter(failed.items()))
    return f"the run {job.name} failed: {why}"


def _forget_failures(plan: Plan, arm: str, folder: Path) -> None:
    """Lets runs of the remedy that failed be tried again: what they used beside their class may have changed."""
    for job in all_jobs(plan):
        if job.arm == arm:
            record_path(plan, job, folder).with_suffix(".failed").unlink(missing_ok=True)


@cache
def _temporary_folder() -> Path:
    folder = Path(mkdtemp(prefix="deepvit_edu_remedy_"))
    atexit.register(rmtree, folder, ignore_errors=True)
    return folder
