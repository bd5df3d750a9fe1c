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
from ..nn.transformer import ATTENTIONS
from ..train import tier
from .engine import run_plan
from .plan import Arm, Contrast, Plan, load_plan
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
        plan: a plan's file with an arm `plain`; the book's `experiments/remedy.yml` unless given.
        section: the part of the plan; the reader's tier unless given.
        folder: where records are kept; a temporary one, which keeps the plain runs for a second try, unless given.
        device: where to train; the best there is unless given.
        progress: show a progress bar.

    Raises:
        ValueError: for a plan without an arm `plain`, or an attention that is neither a module class nor changes.
    """
    path = asset_path("experiments/remedy.yml") if plan is None else Path(plan)
    declared = load_plan(path, section if section or plan else tier())
    if "plain" not in declared.arms:
        raise ValueError(f"{path} has no arm 'plain' to compare with")
    folder = Path(folder) if folder else _temporary_folder()
    with _registered(attention) as changes:
        trial = replace(
            declared,
            arms={"plain": declared.arms["plain"], YOURS: Arm(model=changes)},
            contrasts=(Contrast("remedy", (YOURS,), ("plain",)),),
        )
        _forget(trial, folder)
        run_plan(trial, folder, device=device, workers=1, progress=progress, say=lambda line: None)
        found = results_of(trial, folder)
    accuracy, loss = (contrast_effect(trial, trial.contrasts[0], found, key) for key in ("test_accuracy", "train_loss"))
    return Remedy(accuracy, loss, accuracy.verdict(trial.margin), trial)


test_remedy.__test__ = False  # its name is a promise to readers, not a test


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
