"""A plan small enough to run within a test."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import yaml

from deepvit_edu.experiment.plan import Job, Plan, arm_config, arm_recipe
from deepvit_edu.experiment.results import record_path, tuned_rate
from deepvit_edu.records import Record, save_record

TINY_PLAN = {
    "title": "A tiny plan",
    "question": "Does it run?",
    "decision": "It does if the records are there.",
    "data": {"name": "shapes", "train_images": 40, "test_images": 20},
    "model": {"name": "cifar_vit_4x64", "depth": 2, "embed_dim": 8, "num_heads": 2, "patch_size": 16},
    "recipe": {"epochs": 2, "batch_size": 20},
    "seeds": [0, 1],
    "arms": {"plain": None, "re": {"model": {"attention": ["re"]}}},
    "contrasts": [{"name": "Re-attention", "treatment": "re", "control": "plain", "primary": True}],
}
TUNING = {"learning_rates": [0.001, 0.01], "seeds": [9], "held_out": 0.5, "recipe": {"epochs": 1}}


def write_plan(folder: Path, name: str = "tiny", **changes: object) -> Path:
    """Writes the tiny plan with some parts replaced; a part that is None is left out."""
    parts = {key: value for key, value in {**TINY_PLAN, **changes}.items() if value is not None}
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(parts, sort_keys=False))
    return path


def with_accuracy(record: Record, value: float) -> Record:
    """A record that ends with another accuracy."""
    curves = {**record["curves"], "test_accuracy": [value] * record["epochs"]}
    return {**record, "test_accuracy": value, "curves": curves}


def fill(plan: Plan, folder: Path, template: Record, accuracy: Callable[[str, int], float | None]) -> None:
    """Writes a record for each arm and seed, with `accuracy(arm, seed)`."""
    for arm in plan.arms:
        for seed in plan.seeds:
            value = accuracy(arm, seed)
            if value is None:
                continue
            config = {
                "model": asdict(arm_config(plan, arm, 10)),
                "recipe": asdict(arm_recipe(plan, Job(arm, seed), tuned_rate(plan, arm, folder))),
            }
            record = {**with_accuracy(template, value), "seed": seed, "config": config, "train_loss": 2 - value}
            save_record(record, record_path(plan, Job(arm, seed), folder))
