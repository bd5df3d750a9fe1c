"""Which records of a plan there are, which are missing, and what tuning chose."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from ..records import Record, load_record
from ..train import Recipe
from .plan import Job, Plan, all_jobs, arm_config, arm_data, arm_recipe


def tuned_rate(plan: Plan, arm: str, folder: Path) -> float | None:
    """The learning rate with the best mean accuracy on the held-out images; None while tuning runs are missing.

    Without tuning in the plan it is the recipe's. A rate at which a run failed is out.
    """
    if not plan.tuning:
        return {**plan.recipe, **plan.arms[arm].recipe}.get("learning_rate", Recipe.learning_rate)
    arm = plan.arms[arm].tuned_as or arm
    means = {}
    for rate in plan.tuning["learning_rates"]:
        outcomes = [outcome(plan, Job(arm, seed, rate), folder) for seed in plan.tuning["seeds"]]
        if None in outcomes:
            return None
        if all("failed" not in result for result in outcomes):
            means[rate] = sum(result["test_accuracy"] for result in outcomes) / len(outcomes)
    if not means:
        raise ValueError(f"no learning rate of the plan {plan.name} lets the arm '{arm}' train; add smaller ones")
    return max(means, key=means.get)


def record_path(plan: Plan, job: Job, folder: Path) -> Path:
    """Where a run's record stands, or is to stand."""
    name, arm = (plan.arms[job.arm].taken_from or f"{plan.name}/{job.arm}").split("/")
    return folder / name / plan.section / f"{replace(job, arm=arm).name}.json"


def outcome(plan: Plan, job: Job, folder: Path) -> Record | None:
    """The record of a run, or {"failed": why}, or None where there is none yet.

    Raises:
        ValueError: when the record was made with another model or recipe than the plan declares.
    """
    path = record_path(plan, job, folder)
    if path.exists():
        record = load_record(path)
        check_declared(plan, job, record, path)
        return record
    failure = path.with_suffix(".failed")
    if not failure.exists():
        return None
    failed = json.loads(failure.read_text(encoding="utf-8"))
    recipe = arm_recipe(plan, job, failed["recipe"]["learning_rate"])
    _check_options(plan, asdict(recipe), failed["recipe"], failure)
    return failed


def check_declared(plan: Plan, job: Job, record: Record, path: Path) -> None:
    """ValueError where a record at `path` was made with another model, recipe or number of images than declared."""
    config = arm_config(plan, job.arm, record["config"]["model"]["num_classes"])
    recipe = arm_recipe(plan, job, record["config"]["recipe"]["learning_rate"])
    _check_options(plan, asdict(config), record["config"]["model"], path)
    _check_options(plan, asdict(recipe), record["config"]["recipe"], path)
    if job.learning_rate is None:  # tuning runs have parts of the images
        images = arm_data(plan, job.arm)
        limits = {key: images[key] for key in ("train_images", "test_images") if key in images}
        _check_options(plan, limits, record, path)


def _check_options(plan: Plan, declared: dict, recorded: dict, path: Path) -> None:
    for option, value in json.loads(json.dumps(declared)).items():
        if recorded.get(option, value) != value:
            raise ValueError(
                f"{path} was made with {option} {recorded[option]} and the plan {plan.name} declares {value}; declare "
                f"another plan or section for other runs, or remove the record"
            )


def missing_jobs(plan: Plan, folder: Path, shard: tuple[int, int] = (1, 1)) -> list[Job]:
    """The runs without an outcome, in order; with a shard (i, n) those of every n-th arm only."""
    leaders = [name for name, arm in plan.arms.items() if arm.tuned_as is None]
    index, count = shard
    mine = {name for name, arm in plan.arms.items() if leaders.index(arm.tuned_as or name) % count == index - 1}
    return [job for job in all_jobs(plan) if job.arm in mine and outcome(plan, job, folder) is None]
