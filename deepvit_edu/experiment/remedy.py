"""Test your own remedy: one more arm in the plan, paired by seed with the plain model."""

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from torch import nn

from ..assets import asset_path
from ..nn.model import ATTENTIONS
from ..train import NonFiniteLossError, tier
from .engine import run_plan
from .plan import Arm, Contrast, Job, Plan, all_jobs
from .reading import load_plan
from .results import outcome
from .verdict import Effect, contrast_effect, results_of

YOURS = "yours"


@dataclass(frozen=True)
class Remedy:
    """What came out: the effect on accuracy (a fraction) and on training loss, paired by seed, and the verdict."""

    accuracy: Effect
    train_loss: Effect
    verdict: str
    plan: Plan

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
    """Trains models with an attention of yours beside plain ones, seed by seed, and weighs the difference.

    Args:
        attention: a module class called with (channels, heads, qkv_bias, attn_drop, proj_drop), best derived from
            `Attention`; or changes to the model's configuration, such as `{"attention": ("re",)}`.
        plan: a plan's file with an arm `plain` of its own; the book's `experiments/remedy.yml` unless given.
        section: the part of the plan; the reader's tier unless given.
        folder: where records are kept; a temporary one, which keeps the plain runs for a second try, unless given.
        device: where to train; the best there is unless given.
        progress: show a progress bar.

    Raises:
        ValueError: for a plan without an arm `plain` of its own, or an attention that is neither a module class nor
            changes.
        NonFiniteLossError: when a run to compare failed, or tuning did at every learning rate; it says why.
    """
    path = asset_path("experiments/remedy.yml") if plan is None else Path(plan)
    declared = load_plan(path, section if section or plan else tier())
    plain = _plain_arm(declared, path)
    folder = Path(folder) if folder else _temporary_folder()
    with _registered(attention) as changes:
        trial = replace(
            declared,
            arms={"plain": plain, YOURS: replace(plain, model={**plain.model, **changes})},
            contrasts=(Contrast("remedy", (YOURS,), ("plain",)),),
        )
        _forget(trial, folder)
        _run(trial, folder, device, progress)
        found = results_of(trial, folder)
    accuracy, loss = (contrast_effect(trial, trial.contrasts[0], found, key) for key in ("test_accuracy", "train_loss"))
    return Remedy(accuracy, loss, accuracy.verdict(trial.margin), trial)


test_remedy.__test__ = False  # its name is a promise to readers, not a test


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
                raise NonFiniteLossError(f"{error}; {_told(failed)}") from error
        raise
    if failed := _failures(plan, folder, [Job(arm, seed) for arm in plan.arms for seed in plan.seeds]):
        raise NonFiniteLossError(f"the remedy cannot be judged: {_told(failed)}")


def _failures(plan: Plan, folder: Path, jobs: list[Job]) -> dict[Job, str]:
    """Those of the runs that failed, and why."""
    outcomes = {job: outcome(plan, job, folder) for job in jobs}
    return {job: result["failed"] for job, result in outcomes.items() if result and "failed" in result}


def _told(failed: dict[Job, str]) -> str:
    job, why = next(iter(failed.items()))
    return f"the run {job.name} failed: {why}"


@contextmanager
def _registered(attention: type[nn.Module] | dict) -> Iterator[dict]:
    """The changes of configuration that build the attention; a class has a name among the attentions within it."""
    if isinstance(attention, dict):
        yield attention
        return
    if not (isinstance(attention, type) and issubclass(attention, nn.Module)):
        raise ValueError("attention is neither a module class nor a dict of changes to the model's configuration")
    ATTENTIONS[YOURS] = attention
    try:
        yield {"attention": (YOURS,)}
    finally:
        del ATTENTIONS[YOURS]


def _forget(plan: Plan, folder: Path) -> None:
    """Removes what an earlier remedy left: its code may have changed under the same name."""
    home = folder / plan.name / plan.section
    for path in list(home.rglob(f"{YOURS}_*")):  # tuning runs, too
        rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@cache
def _temporary_folder() -> Path:
    folder = Path(mkdtemp(prefix="deepvit_edu_remedy_"))
    atexit.register(rmtree, folder, ignore_errors=True)
    return folder
