"""Which records of a plan there are, which are missing, and what tuning chose."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from ..records import Record, load_record
from ..train import Recipe
from .plan import Job, Plan, all_jobs, arm_config, arm_recipe


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
        _check_declared(plan, job, record, path)
        return record
    failure = path.with_suffix(".failed")
    return json.loads(failure.read_text(encoding="utf-8")) if failure.exists() else None


def _check_declared(plan: Plan, job: Job, record: Record, path: Path) -> None:
    config = arm_config(plan, job.arm, record["config"]["model"]["num_classes"])
    recipe = arm_recipe(plan, job, record["config"]["recipe"]["learning_rate"])
    for part, declared in (("model", asdict(config)), ("recipe", asdict(recipe))):
        for option, value in json.loads(json.dumps(declared)).items():
            recorded = record["config"][part].get(option, value)
            if recorded != value:
                raise ValueError(
                    f"{path} was made with {option} {recorded} and the plan {plan.name} declares {value}; declare "
                    f"another plan or section for other runs, or remove the record"
                )


def missing_jobs(plan: Plan, folder: Path, shard: tuple[int, int] = (1, 1)) -> list[Job]:
    """The runs without an outcome, in order; with a shard (i, n) those of every n-th arm only."""
    leaders = [name for name, arm in plan.arms.items() if arm.tuned_as is None]
    index, count = shard
    mine = {name for name, arm in plan.arms.items() if leaders.index(arm.tuned_as or name) % count == index - 1}
    return [job for job in all_jobs(plan) if job.arm in mine and outcome(plan, job, folder) is None]
