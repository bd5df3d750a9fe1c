"""Which records of a plan there are, which are missing, and what tuning chose."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from .. import data
from ..old_options import current_options
from ..reading import read_json
from ..records import Record, load_record
from ..training import Recipe
from .plan import ANNOTATOR, Job, Plan, all_jobs, arm_config, arm_data, arm_recipe


def held_out(plan: Plan) -> float:
    """The fraction of the training images that is held out to compare learning rates."""
    return plan.tuning.get("held_out", 0.1)


def tuned_rate(plan: Plan, arm: str, folder: Path) -> float | None:
    """The learning rate with the best mean accuracy on the held-out images; None while tuning runs are missing.

    Without tuning in the plan it is the recipe's. A rate at which a run failed is not chosen.
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
    """The path of a run's record, whether it exists or not."""
    name, arm = (plan.arms[job.arm].taken_from or f"{plan.name}/{job.arm}").split("/")
    return folder / name / plan.section / f"{replace(job, arm=arm).name}.json"


def weights_path(record: Path) -> Path:
    """Where the weights of the run with this record are kept, if its plan keeps them; git ignores the folder."""
    return record.parent / "weights" / f"{record.stem}.safetensors"


def outcome(plan: Plan, job: Job, folder: Path) -> Record | None:
    """The record of a run, or {"failed": why}, or None if it was not made yet.

    Raises:
        ValueError: when the record was made with another model or recipe than the plan declares, or cannot be read.
    """
    path = record_path(plan, job, folder)
    if path.exists():
        record = load_record(path)
        check_declared(plan, job, record, path, folder)
        return record
    failure = path.with_suffix(".failed")
    return _load_failure(plan, job, failure, folder) if failure.exists() else None


def _load_failure(plan: Plan, job: Job, path: Path, folder: Path) -> Record:
    try:
        failed = read_json(path)
        found, recipe = {"failed": failed["failed"]}, current_options(failed["recipe"])
        rate = recipe["learning_rate"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not describe a failed run; remove it to run again: {error!r}") from error
    declared = arm_recipe(plan, job, _declared_rate(plan, job, folder) or rate)  # its errors are about other files
    _check_options(plan, asdict(declared), recipe, path)
    return found


def check_declared(plan: Plan, job: Job, record: Record, path: Path, folder: Path) -> None:
    """ValueError where a record at `path` was made with another model, recipe or number of images than declared."""
    try:
        model, recipe = record["config"]["model"], current_options(record["config"]["recipe"])
        config = arm_config(plan, job.arm, model["num_classes"])
        declared = arm_recipe(plan, job, _declared_rate(plan, job, folder) or recipe["learning_rate"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} does not say what it was made with; remove it to run again: {error!r}") from error
    _check_options(plan, asdict(config), model, path)
    _check_options(plan, asdict(declared), recipe, path)
    images = arm_data(plan, job.arm)
    limits = {key: images[key] for key in ("train_images", "test_images") if key in images}
    if job.learning_rate is not None and data.is_drawn(images["name"]):
        limits = {**limits, **{key: plan.tuning[key] for key in ("train_images",) if key in plan.tuning}}
    elif job.learning_rate is not None:  # tuning runs have parts of the training images
        whole = record["train_images"] + record["test_images"]
        limits = {"test_images": round(whole * held_out(plan))}
    _check_options(plan, limits, record, path)


def _declared_rate(plan: Plan, job: Job, folder: Path) -> float | None:
    """The learning rate that a run must have had; None if another plan decides it, or if it is not tuned yet."""
    if job.learning_rate is not None or job.arm == ANNOTATOR:
        return arm_recipe(plan, job, job.learning_rate).learning_rate
    return None if plan.arms[job.arm].taken_from else tuned_rate(plan, job.arm, folder)


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


def open_questions(plan: Plan, folder: Path) -> list[str]:
    """A sentence for each run that no further run of this plan can give: it failed, or another plan has to make it."""
    sentences = []
    for arm, options in plan.arms.items():
        found = {seed: outcome(plan, Job(arm, seed), folder) for seed in plan.seeds}
        sentences += [
            f"{Job(arm, s).name} failed: {run['failed']}" for s, run in found.items() if run and "failed" in run
        ]
        absent = sum(run is None for run in found.values())
        if options.taken_from and absent:
            other = options.taken_from.split("/")[0]
            section = "" if plan.section == "full" else f" --section {plan.section}"
            sentences.append(
                f"{arm} is {options.taken_from}, of which {absent} of {len(found)} runs have no record: "
                f"deepvit-edu run {other}.yml{section}"
            )
    return sentences
