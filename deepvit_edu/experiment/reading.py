"""Reading a plan from its file: what it may say, and a sentence for each mistake in it."""

import re
from collections.abc import Callable, Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from ..nn.model import VisionTransformer
from ..old_options import current_options
from ..options import LARGEST_SEED, check_number, is_number
from ..reading import reason
from ..training import Recipe
from ..training.recipe_files import recipe_options
from ..words import nearest, one_line
from ..yaml_files import read_yaml
from .plan import (
    ANNOTATOR,
    Arm,
    Contrast,
    Job,
    Plan,
    all_jobs,
    arm_config,
    arm_data,
    arm_recipe,
    declared_arm,
    reads_files,
)  # fmt: skip

DATA_OPTIONS = ("name", "train_images", "test_images", "moved_to_test", "label_maps")
"""What a plan may say of its images: the set, limits, the fraction of the training images that become test images, and
the folder of the label maps of images from files."""
ARM_OPTIONS = ("model", "recipe", "data", "annotated", "tuned_as", "from", "priority")
CONTRAST_OPTIONS = ("name", "treatment", "control", "levels", "primary")
TUNING_OPTIONS = ("learning_rates", "seeds", "held_out", "train_images", "recipe")
LONGEST_NAME = 100
"""Bytes of the name of an arm or section, of which names of files are made."""
RECIPE_DEFAULTS = {option.name: option.default for option in fields(Recipe)}


def load_plan(path: str | Path, section: str | None = None) -> Plan:
    """Reads a plan, or the section of it that is named.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not a plan; the message names the file and what is wrong.
    """
    path = Path(path)
    try:
        declared = read_yaml(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"there is no plan at {path}; plans are .yml files, as in book/experiments") from error
    try:
        return _plan_of(path.stem, declared, section)
    except KeyError as error:
        raise ValueError(f"{path} is not a plan that can be run: a part of it lacks {error}") from error
    except Exception as error:  # a declared value can be anything, and so can what it breaks
        raise ValueError(f"{path} is not a plan that can be run: {reason(error)}") from error


def sections_of(path: str | Path) -> list[Plan]:
    """A plan and its sections, the whole first; errors as for `load_plan`."""
    whole = load_plan(path)
    declared = read_yaml(path)
    return [whole, *(load_plan(path, section) for section in declared.get("sections") or ())]


def experiments_in(folder: str | Path) -> list[Path]:
    """The plans of a folder that compare something, that is, declare contrasts; `e2` comes before `e10`."""
    return [path for path in sorted(Path(folder).glob("*.yml"), key=_natural_order) if _has_contrasts(path)]


def _natural_order(path: Path) -> list[tuple[str, int]]:
    return [(text, int(number or -1)) for text, number in re.findall(r"(\D+)(\d*)", path.stem)]


def _has_contrasts(path: Path) -> bool:
    declared = read_yaml(path)
    return isinstance(declared, dict) and bool(declared.get("contrasts"))


def _plan_of(name: str, declared: Any, section: str | None) -> Plan:
    if not isinstance(declared, dict):
        raise ValueError("it has no named parts")
    declared = dict(declared)
    sections = _parts("sections", declared.pop("sections", None))
    for each in sections:
        _check_name("a section", each)
    if "full" in sections:
        raise ValueError("a section is named 'full', as the plan without changes is; choose another name")
    if section not in (None, "full"):
        if section not in sections:
            raise ValueError(f"it has no section '{section}'{nearest(section, list(sections))}")
        declared = _merged(declared, _parts(f"the section '{section}'", sections[section]))
    _check_parts(declared)
    declared = {key: value for key, value in declared.items() if value is not None}
    tuned = bool(declared.get("tuning"))
    arms = {name: _arm_of(f"the arm '{name}'", options, tuned) for name, options in declared.pop("arms").items()}
    for key in ("data", "model", "recipe"):
        declared[key] = _parts(key, declared[key])
    declared["recipe"] = _recipe_of("the recipe", declared["recipe"], tuned)
    declared["contrasts"] = tuple(_contrast_of(options, arms) for options in declared.get("contrasts", ()))
    declared["seeds"] = _seeds_of("seeds", declared["seeds"])
    declared["tuning"] = _tuning_of(declared.get("tuning"))
    if "annotator" in declared:
        declared["annotator"] = _annotator_of(declared["annotator"])
    plan = Plan(name=name, section=section or "full", arms=arms, **declared)
    _check_plan(plan)
    return plan


def _check_parts(declared: dict) -> None:
    known = set(Plan.__dataclass_fields__) - {"name", "section"}
    for key in declared:
        if key not in known:
            raise ValueError(f"unknown part '{key}'{nearest(str(key), sorted(known))}")
    needed = ("title", "question", "decision", "data", "model", "recipe", "seeds", "arms")
    if missing := [key for key in needed if declared.get(key) is None]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    for key in ("title", "question", "decision"):
        if not isinstance(declared[key], str):
            raise ValueError(f"{key} is {one_line(repr(declared[key]))}; it is said in words")
    for name in _parts("arms", declared["arms"]):
        _check_name("an arm", name)


def _check_name(what: str, name: Any) -> None:
    """ValueError for what cannot name a file or folder of records."""
    if not isinstance(name, str) or "/" in name or not name.strip() or not name.isprintable() or name.startswith("."):
        raise ValueError(
            f"{what} is named {one_line(repr(name))}; its records are named after it, so take a word without '/'"
        )
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"{what} is named {name[:30]}…, {len(name)} characters; take at most {LONGEST_NAME}")


def _parts(what: str, options: Any, known: Collection[str] | None = None) -> dict:
    """`options` as named parts; ValueError if they are not, or if a name is not among the known ones, if given."""
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise ValueError(f"{what} is {options!r}, which has no named parts; write NAME: VALUE for each")
    for key in options:
        if known is not None and key not in known:
            raise ValueError(f"{what} has no option '{key}'{nearest(str(key), sorted(known))}")
    return options


def _merged(base: dict, changes: dict) -> dict:
    """`base` with parts replaced; a part that has named parts itself is merged.

    A list of arms keeps only those; an arm that is null is left out.
    """
    merged = dict(base)
    for key, value in changes.items():
        if key == "arms":
            merged[key] = _merged_arms(_parts("arms", base.get("arms")), value)
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = {**base[key], **value}
        else:
            merged[key] = value
    if "arms" in changes and "contrasts" not in changes:  # contrasts of arms that are left out are left out, too
        left_out = set(base["arms"]) - set(merged["arms"])
        merged["contrasts"] = [
            options for options in merged.get("contrasts") or () if not left_out.intersection(_arms_of(options))
        ]
    return merged


def _merged_arms(arms: dict, changes: Any) -> dict:
    if isinstance(changes, list):
        _check_named(changes, arms)
        return {arm: arms[arm] for arm in changes}
    left_out = [arm for arm, options in _parts("arms", changes).items() if options is None]
    _check_named(left_out, arms)
    return {arm: options for arm, options in {**arms, **(changes or {})}.items() if arm not in left_out}


def _check_named(names: list, arms: dict) -> None:
    if unknown := [arm for arm in names if arm not in arms]:
        raise ValueError(f"a section names the arm '{unknown[0]}'{nearest(str(unknown[0]), list(arms))}")


def _arms_of(contrast: Any) -> tuple[str, ...]:
    """Treatments and controls of a contrast as declared."""
    name = contrast.get("name") if isinstance(contrast, dict) else None
    options = _parts(f"the contrast '{name}'" if name else "a contrast", contrast, CONTRAST_OPTIONS)
    return _names(options["treatment"]) + _names(options["control"])


def _names(value: str | list[str]) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _arm_of(what: str, options: Any, tuned: bool = False) -> Arm:
    options = dict(_parts(what, options, ARM_OPTIONS))
    for key in {"model", "recipe", "data"} & set(options):
        options[key] = _parts(f"the {key} of {what}", options[key])
    if "recipe" in options:
        options["recipe"] = _recipe_of(f"the recipe of {what}", options["recipe"], tuned)
    if not isinstance(options.get("annotated", False), bool):
        raise ValueError(f"{what} has annotated {options['annotated']!r}; it is true or false")
    if not _is_whole(priority := options.get("priority", 1)) or priority < 1:
        raise ValueError(f"{what} has the priority {priority!r}; it is a whole number from 1, and 1 runs first")
    lender = options.pop("from", None)
    if lender is not None and not re.fullmatch(r"[^/]+/[^/]+", str(lender)):
        raise ValueError(f"{what} is from {lender!r}; write PLAN/ARM, such as e1_which_part/plain")
    return Arm(taken_from=lender, **options)


def _recipe_of(what: str, options: Any, tuned: bool = False) -> dict:
    """The options of a recipe, upon those of the file that it inherits from, if any."""
    options = current_options(_parts(what, options))
    if "inherits" not in options:
        return options
    inherited = recipe_options(str(options.pop("inherits")))
    if tuned:
        inherited.pop("learning_rate", None)
    return {**inherited, **options}


def _annotator_of(options: Any) -> Arm:
    if other := set(_parts("the annotator", options)) - {"model", "recipe"}:
        raise ValueError(f"the annotator has '{min(other)}', which has no effect; it takes a model and a recipe")
    return _arm_of("the annotator", options)


def _contrast_of(options: Any, arms: dict[str, Arm]) -> Contrast:
    for arm in _arms_of(options):
        if arm not in arms:
            raise ValueError(f"the contrast '{options['name']}' names an unknown arm '{arm}'")
    if not isinstance(options["name"], str) or not options["name"].strip():
        raise ValueError(f"a contrast is named {one_line(repr(options['name']))}; give it a name in words")
    what = f"the contrast '{options['name']}'"
    treatment, control = _names(options["treatment"]), _names(options["control"])
    levels = _levels_of(what, options.get("levels"))
    if len(treatment) != len(control) or len(treatment) not in ((len(levels),) if levels else (1, 2)):
        raise ValueError(
            f"{what} has {len(treatment)} treatments, {len(control)} controls and {len(levels)} levels; it needs one "
            "control a treatment: one pair, two for a difference of differences, or, for a slope, one a level"
        )
    if not isinstance(primary := options.get("primary", False), bool):
        raise ValueError(f"{what} has primary {primary!r}; it is true or false")
    return Contrast(options["name"], treatment, control, levels, primary)


def _levels_of(what: str, levels: Any) -> tuple[float, ...]:
    if levels is None:
        return ()
    if not isinstance(levels, list) or not all(_is_positive(level) for level in levels) or len(set(levels)) < 2:
        raise ValueError(f"{what} has the levels {levels!r}; they are numbers above 0, two different ones at least")
    return tuple(levels)


def _tuning_of(options: Any) -> dict:
    options = dict(_parts("tuning", options, TUNING_OPTIONS))
    if not options:
        return {}
    if missing := [key for key in ("learning_rates", "seeds") if options.get(key) is None]:
        raise ValueError(f"tuning lacks {', '.join(missing)}")
    rates = options["learning_rates"]
    _check_list("learning_rates of tuning", rates, _is_positive, "numbers above 0, such as [0.001, 0.002]")
    if len({f"{rate:g}" for rate in rates}) < len(rates):
        raise ValueError(f"learning_rates of tuning is {rates!r}, of which two differ too little for names of records")
    _seeds_of("seeds of tuning", options["seeds"])
    if "held_out" in options and not (_is_positive(options["held_out"]) and options["held_out"] < 1):
        raise ValueError(f"held_out of tuning is {options['held_out']!r}; it is a fraction, above 0 and below 1")
    if "train_images" in options and not (isinstance(options["train_images"], int) and options["train_images"] > 0):
        raise ValueError(f"train_images of tuning is {options['train_images']!r}; it is a number of images, 1 or more")
    if "recipe" in options:
        options["recipe"] = current_options(_parts("the recipe of tuning", options["recipe"]))
    return options


def _seeds_of(what: str, seeds: Any) -> tuple[int, ...]:
    _check_list(
        what,
        seeds,
        lambda seed: _is_whole(seed) and 0 <= seed <= LARGEST_SEED,
        "whole numbers from 0, such as [0, 1, 2]",
    )
    return tuple(seeds)


def _check_list(what: str, values: Any, fits: Callable[[Any], bool], wanted: str) -> None:
    if not isinstance(values, list) or not values or not all(map(fits, values)) or len(set(values)) < len(values):
        raise ValueError(f"{what} is {values!r}; it is a list of different {wanted}")


def _is_whole(value: Any) -> bool:
    return is_number(value, whole=True)


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def _check_plan(plan: Plan) -> None:
    _check_contrasts(plan)
    _check_data(plan)
    _check_recipes(plan)
    if not isinstance(plan.keep_weights, bool):
        raise ValueError(f"keep_weights is {plan.keep_weights!r}; it is true or false")
    if not isinstance(plan.scope, str):
        raise ValueError(f"scope is {plan.scope!r}; it is what the verdicts hold for, in words")
    if ANNOTATOR in plan.arms:
        raise ValueError(f"an arm is named '{ANNOTATOR}', as the plan's part of that name; choose another name")
    if plan.annotator is not None:
        _check_arm(plan, ANNOTATOR)
    for name in plan.arms:
        _check_ties(plan, name)
        _check_arm(plan, name)


def _check_data(plan: Plan) -> None:
    if "name" not in plan.data:
        raise ValueError("data lacks name")
    for options in (plan.data, *(arm.data for arm in plan.arms.values())):
        _parts("data", options, DATA_OPTIONS)
        if not isinstance(options.get("name", ""), str):
            raise ValueError(f"the data's name is {one_line(repr(options['name']))}; it is a word")
        for limit in {"train_images", "test_images"} & set(options):
            check_number(limit, options[limit], whole=True, at_least=1)
        check_number("moved_to_test", options.get("moved_to_test", 0), at_least=0, below=1)


def _check_ties(plan: Plan, name: str) -> None:
    """ValueError where an arm refers to another arm, or to the annotator, that is missing or unsuitable."""
    arm = plan.arms[name]
    if arm.tuned_as is not None and arm.tuned_as not in plan.arms:
        raise ValueError(f"the arm '{name}' is tuned as an unknown arm '{arm.tuned_as}'")
    if arm.tuned_as is not None and plan.arms[arm.tuned_as].tuned_as is not None:
        raise ValueError(f"the arm '{name}' is tuned as '{arm.tuned_as}', which is not tuned itself; name one that is")
    if arm.annotated and plan.annotator is None:
        raise ValueError(f"the arm '{name}' is annotated, and the plan has no annotator")
    if arm.annotated and plan.tuning and arm.tuned_as is None:
        raise ValueError(f"the arm '{name}' is annotated and cannot be tuned; say which arm it is tuned_as")


def _check_contrasts(plan: Plan) -> None:
    names = [contrast.name for contrast in plan.contrasts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two contrasts are named '{twice[0]}'; claims ask for them by name, so rename one")
    primary, number = sum(contrast.primary for contrast in plan.contrasts), plan.primary_contrasts
    if not _is_whole(number) or number < 1:
        raise ValueError(f"primary_contrasts is {number!r}; it is a whole number from 1")
    if number < primary:
        raise ValueError(
            f"{primary} contrasts are primary and primary_contrasts is {number}; set it to {primary}, or to more where "
            "contrasts of other plans are corrected with them"
        )
    if not is_number(plan.margin) or plan.margin < 0:
        raise ValueError(f"margin is {plan.margin!r}; it is a number from 0, such as 0.005 for half a point")


def _check_recipes(plan: Plan) -> None:
    _check_recipe("the recipe", plan.recipe)
    _check_recipe("the recipe of tuning", plan.tuning.get("recipe", {}), tuned=True)
    for name, arm in plan.arms.items():
        _check_recipe(f"the recipe of the arm '{name}'", arm.recipe, tuned=bool(plan.tuning))
    if plan.annotator is not None:
        _check_recipe("the recipe of the annotator", plan.annotator.recipe)


def _check_recipe(what: str, options: dict, tuned: bool = False) -> None:
    """ValueError for an unknown option, a value of the wrong type, or an option that the plan sets elsewhere."""
    for key, value in _parts(what, options, RECIPE_DEFAULTS).items():
        kind = type(RECIPE_DEFAULTS[key])
        if not (is_number(value) if kind is float else _is_whole(value) if kind is int else isinstance(value, kind)):
            raise ValueError(f"{what} has {key} {value!r}, of another type than its default, {RECIPE_DEFAULTS[key]!r}")
    if "seed" in options:
        raise ValueError(f"{what} has a seed; leave it out, the plan's seeds are taken")
    if tuned and "learning_rate" in options:
        raise ValueError(f"{what} has a learning_rate; leave it out, one of tuning's learning_rates is taken")


def _check_images(plan: Plan, name: str) -> None:
    """ValueError where an arm's images come from files, or from memory, and something else asks for the other."""
    images, arm, files = arm_data(plan, name), declared_arm(plan, name), reads_files(plan, name)
    if files and (images.get("moved_to_test") or arm.annotated):
        what = "moved_to_test" if images.get("moved_to_test") else "annotated"
        raise ValueError(f"the arm '{name}' has {what}, which is for images from memory; leave it out")
    token_weight = {**plan.recipe, **arm.recipe}.get("token_weight", 0)
    if files and bool(token_weight) != bool(images.get("label_maps")):
        raise ValueError(f"the arm '{name}' needs both a token_weight and label_maps in its data, or neither")
    if not files and images.get("label_maps"):
        raise ValueError(f"the arm '{name}' has label_maps in its data, which are for images from files; leave it out")


def _check_arm(plan: Plan, name: str) -> None:
    _check_images(plan, name)
    config = arm_config(plan, name, num_classes=2)
    with torch.device("meta"):  # a wrong option is found now, not after hours
        VisionTransformer(replace(config, depth=2) if config.selection == "none" else config)
    jobs = [job for job in all_jobs(plan) if job.arm == name] or [Job(name, plan.seeds[0])]
    for recipe in (arm_recipe(plan, job, job.learning_rate) for job in jobs):  # tuning has recipes of its own
        if recipe.drop_path not in (0, config.drop_path_rate):
            raise ValueError(
                f"the arm '{name}' has drop_path {recipe.drop_path} and its model drop_path_rate "
                f"{config.drop_path_rate}; leave drop_path_rate out"
            )
        if recipe.token_weight and not config.dense_head:
            raise ValueError(
                f"the arm '{name}' has a token_weight and no head on its tokens; add dense_head: true to its model"
            )
        if declared_arm(plan, name).annotated and not (recipe.token_weight or recipe.class_from_maps):
            raise ValueError(
                f"the arm '{name}' is annotated and its recipe has no use for it; add a token_weight or class_from_maps"
            )
