"""What a plan declares, and the runs that follow from it."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from ..nn.transformer import VisionTransformer, ViTConfig
from ..train import Recipe
from ..words import nearest
from ..zoo import model_config

ANNOTATOR = "annotator"
"""What stands for the arm in the name of the annotator's record."""
DATA_OPTIONS = ("name", "train_images", "test_images", "moved_to_test")
"""What a plan may say of its images: the set, limits, and the share of the training images that become test images."""


class _Loader(yaml.SafeLoader):
    """A loader to which 1e-6 is a number, too, and not only 1.0e-6."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class Arm:
    """One of the things compared: changes to the plan's model and recipe.

    Args:
        model, recipe, data: options that differ from the plan's.
        annotated: its patch tokens learn from the label maps that the plan's annotator makes.
        tuned_as: the arm whose learning rate is taken, instead of tuning this one.
        taken_from: "PLAN/ARM" whose records stand for this arm's; no run is made.
        priority: arms with 1 run for all seeds before those with 2.
    """

    model: dict = field(default_factory=dict)
    recipe: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    annotated: bool = False
    tuned_as: str | None = None
    taken_from: str | None = None
    priority: int = 1


@dataclass(frozen=True)
class Contrast:
    """A difference that the plan asks for, paired by seed: treatment minus control.

    Args:
        name: what it is called in the table.
        treatment, control: arms; several, with `levels`, for a slope.
        levels: a number for each pair of arms (a depth); the effect is then the slope of the difference against
            log2 of the level: what each doubling adds.
        primary: whether the plan's decision rests on it.
    """

    name: str
    treatment: tuple[str, ...]
    control: tuple[str, ...]
    levels: tuple[float, ...] = ()
    primary: bool = False


@dataclass(frozen=True)
class Plan:
    """An experiment as declared in its file; see `book/experiments/` for examples and CONTRIBUTING.md for the form."""

    name: str
    section: str
    title: str
    question: str
    decision: str
    data: dict
    model: dict
    recipe: dict
    seeds: tuple[int, ...]
    arms: dict[str, Arm]
    contrasts: tuple[Contrast, ...] = ()
    annotator: Arm | None = None  # changes that make the model whose scores become label maps; trained once
    tuning: dict = field(default_factory=dict)
    primary_contrasts: int = 1  # by whose number the primary intervals are corrected (Bonferroni)
    margin: float = 0.005  # a difference of accuracy below it does not matter


@dataclass(frozen=True)
class Job:
    """One run of a plan: an arm with a seed, or a tuning run, which also has its own learning rate."""

    arm: str
    seed: int
    learning_rate: float | None = None  # of a tuning run; None for a run that counts

    @property
    def name(self) -> str:
        """The name of its record, without suffix."""
        tuning = f"tuning/{self.arm}_lr{self.learning_rate:g}" if self.learning_rate else self.arm
        return f"{tuning}_s{self.seed}"


def load_plan(path: str | Path, section: str | None = None) -> Plan:
    """Reads a plan, or the section of it that is named.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a plan; the message names the file and what is wrong.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"there is no plan at {path}; plans are .yml files, as in book/experiments") from error
    try:
        declared = yaml.load(text, _Loader)
        return _plan_of(path.stem, declared, section)
    except KeyError as error:
        raise ValueError(f"{path} is not a plan that can be run: a part of it lacks {error}") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a plan that can be run: {error}") from error


def _plan_of(name: str, declared: Any, section: str | None) -> Plan:
    if not isinstance(declared, dict):
        raise ValueError("it has no named parts")
    declared = dict(declared)
    sections = declared.pop("sections", {}) or {}
    if section not in (None, "full"):
        if section not in sections:
            raise ValueError(f"it has no section '{section}'{nearest(section, list(sections))}")
        declared = _merged(declared, sections[section])
    known = set(Plan.__dataclass_fields__) - {"name", "section"}
    for key in declared:
        if key not in known:
            raise ValueError(f"there is no part '{key}'{nearest(key, sorted(known))}")
    missing = [
        key
        for key in ("title", "question", "decision", "data", "model", "recipe", "seeds", "arms")
        if key not in declared
    ]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    arms = {key: _arm_of(options or {}) for key, options in declared.pop("arms").items()}
    declared["contrasts"] = tuple(_contrast_of(options, arms) for options in declared.get("contrasts", ()))
    declared["seeds"] = tuple(declared["seeds"])
    if declared.get("annotator") is not None:
        declared["annotator"] = _annotator_of(declared["annotator"])
    plan = Plan(name=name, section=section or "full", arms=arms, **declared)
    _check_plan(plan)
    return plan


def _merged(base: dict, changes: dict) -> dict:
    """`base` with parts replaced; a part that has named parts itself is merged.

    A list of arms keeps only those; an arm that is null is left out.
    """
    merged = dict(base)
    for key, value in changes.items():
        if key == "arms" and isinstance(value, list):
            if unknown := [arm for arm in value if arm not in base[key]]:
                raise ValueError(f"a section names the arm '{unknown[0]}'{nearest(unknown[0], list(base[key]))}")
            merged[key] = {arm: base[key][arm] for arm in value}
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = {**base[key], **value}
            if key == "arms":
                merged[key] = {arm: options for arm, options in merged[key].items() if value.get(arm, {}) is not None}
        else:
            merged[key] = value
    if "arms" in changes:  # a contrast of arms that this section leaves out cannot be asked
        merged["contrasts"] = [
            c
            for c in merged.get("contrasts", ())
            if set(_names(c["treatment"]) + _names(c["control"])) <= set(merged["arms"])
        ]
    return merged


def _names(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _arm_of(options: dict) -> Arm:
    return Arm(**{{"from": "taken_from"}.get(key, key): value for key, value in options.items()})


def _annotator_of(options: dict) -> Arm:
    if other := set(options) - {"model", "recipe"}:
        raise ValueError(f"the annotator has '{min(other)}', which does nothing; it has a model and a recipe")
    return _arm_of(options)


def _contrast_of(options: dict, arms: dict[str, Arm]) -> Contrast:
    treatment, control = _names(options["treatment"]), _names(options["control"])
    for arm in (*treatment, *control):
        if arm not in arms:
            raise ValueError(f"the contrast '{options['name']}' names the arm '{arm}', which there is not")
    levels = tuple(options.get("levels", ()))
    if len(treatment) != len(control) or len(treatment) != (len(levels) or 1):
        raise ValueError(f"the contrast '{options['name']}' needs one control and, for a slope, one level a treatment")
    return Contrast(options["name"], treatment, control, levels, options.get("primary", False))


def _check_plan(plan: Plan) -> None:
    if plan.annotator is not None:
        _check_arm(plan, ANNOTATOR)
    for options in (plan.data, *(arm.data for arm in plan.arms.values())):
        if unknown := sorted(set(options) - set(DATA_OPTIONS)):
            raise ValueError(f"data has no option '{unknown[0]}'{nearest(unknown[0], list(DATA_OPTIONS))}")
        if not 0 <= options.get("moved_to_test", 0) < 1:
            raise ValueError(f"moved_to_test is {options['moved_to_test']}; it is a share, from 0 to below 1")
    if ANNOTATOR in plan.arms:
        raise ValueError(f"an arm is named '{ANNOTATOR}', as the plan's part of that name; choose another name")
    for name, arm in plan.arms.items():
        if arm.tuned_as is not None and arm.tuned_as not in plan.arms:
            raise ValueError(f"the arm '{name}' is tuned as '{arm.tuned_as}', which there is not")
        if arm.tuned_as is not None and plan.arms[arm.tuned_as].tuned_as is not None:
            raise ValueError(
                f"the arm '{name}' is tuned as '{arm.tuned_as}', which is not tuned itself; name one that is"
            )
        if arm.annotated and plan.annotator is None:
            raise ValueError(f"the arm '{name}' is annotated, and the plan has no annotator")
        if arm.annotated and plan.tuning and arm.tuned_as is None:
            raise ValueError(f"the arm '{name}' is annotated and cannot be tuned; say which arm it is tuned_as")
        if arm.taken_from is None:
            _check_arm(plan, name)


def _check_arm(plan: Plan, name: str) -> None:
    recipe, config = arm_recipe(plan, Job(name, plan.seeds[0]), None), arm_config(plan, name, num_classes=2)
    with torch.device("meta"):  # a wrong option is found now, not after hours
        VisionTransformer(replace(config, depth=2))
    if recipe.token_weight and not config.dense_head:
        raise ValueError(
            f"the arm '{name}' has a token_weight and no head on its tokens; add dense_head: true to its model"
        )
    if _arm(plan, name).annotated and not recipe.token_weight:
        raise ValueError(f"the arm '{name}' is annotated and makes nothing of it; add a token_weight to its recipe")


def arm_config(plan: Plan, arm: str, num_classes: int) -> ViTConfig:
    """The configuration of an arm's model; the annotator's where the arm is ANNOTATOR."""
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in arm_model(plan, arm).items()}
    return model_config(options.pop("name"), num_classes=num_classes, **options)


def arm_model(plan: Plan, arm: str) -> dict:
    """What an arm declares of its model: the name, and the options that differ from the named one's."""
    return {**plan.model, **_arm(plan, arm).model}


def arm_data(plan: Plan, arm: str) -> dict:
    """What an arm declares of its images."""
    return {**plan.data, **_arm(plan, arm).data}


def _arm(plan: Plan, name: str) -> Arm:
    return plan.annotator if name == ANNOTATOR else plan.arms[name]


def arm_recipe(plan: Plan, job: Job, learning_rate: float | None) -> Recipe:
    """The recipe of a run."""
    options = {**plan.recipe, **_arm(plan, job.arm).recipe, "seed": job.seed}
    if job.learning_rate:
        options.update(plan.tuning.get("recipe", {}))
    if learning_rate:
        options["learning_rate"] = learning_rate
    return Recipe(**options)


def all_jobs(plan: Plan) -> list[Job]:
    """Every run of a plan, the most important first: tuning, then seed by seed, so that pairs come early."""
    own = [name for name, arm in plan.arms.items() if arm.taken_from is None]
    jobs = []
    for priority in sorted({plan.arms[name].priority for name in own}):
        arms = [name for name in own if plan.arms[name].priority == priority]
        jobs += [
            Job(name, seed, rate)
            for name in arms
            if plan.tuning and plan.arms[name].tuned_as is None
            for rate in plan.tuning["learning_rates"]
            for seed in plan.tuning["seeds"]
        ]
        jobs += [Job(name, seed) for seed in plan.seeds for name in arms]
    return jobs
