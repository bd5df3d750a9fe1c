"""Options of recipes and models: a field says what it means and what fits, and one check holds all of them to it."""

import math
from dataclasses import MISSING, field, fields
from typing import Any, get_origin

from .words import one_line

LARGEST_SEED = 2**64 - 1
"""PyTorch's random numbers take no larger one."""
LARGEST_COUNT = 10**12
"""Of epochs, images and whatever else is counted: products of two of them are still numbers of a machine."""
LARGEST = 10**100
"""No number that anybody means is larger, and the largest floats are."""


def option(
    default: object = MISSING,
    text: str = "",
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of a dataclass with its help and its range; `check_options` applies the range.

    Args:
        default: its value unless given.
        text: what it means, for `--help`.
        at_least, above, at_most, below: the range of a number.
        choices: the words that fit.
    """
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    return field(default=default, metadata={"help": text, "limits": limits, "choices": choices})


def check_options(options: object) -> None:
    """Raises ValueError, naming it, for the first option of a dataclass that is of another kind or out of its range."""
    for each in fields(options):
        value = getattr(options, each.name)
        if each.type in (int, float):
            limits = each.metadata.get("limits", {})
            if each.type is int and not limits.get("at_most", math.inf) < math.inf:
                limits = {**limits, "at_most": LARGEST_COUNT}
            check_number(each.name, value, whole=each.type is int, **limits)
        elif each.type is bool and not isinstance(value, bool):
            raise ValueError(f"{each.name} is {value!r}; it must be true or false")
        choices = each.metadata.get("choices")
        if choices and value not in choices:
            raise ValueError(f"{each.name} is '{value}'; choose one of {', '.join(choices)}")


KINDS = {
    tuple: ("a list", (tuple, list)),
    dict: ("a table of options and their values", dict),
    bool: ("true or false", bool),
}


def check_kinds(options: object) -> None:
    """Raises ValueError, naming it, for a dataclass's first list, table or switch whose value is something else."""
    for each in fields(options):
        words, fitting = KINDS.get(get_origin(each.type) or each.type, ("", object))
        value = getattr(options, each.name)
        if not isinstance(value, fitting):
            raise ValueError(f"{each.name} is {value!r}; it must be {words}")


def is_number(value: object, whole: bool = False) -> bool:
    """Whether something is a finite number; a whole one may be larger than any float, so that it is none."""
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return False
    return abs(value) <= LARGEST if isinstance(value, int) else math.isfinite(value)


def check_number(
    name: str,
    value: object,
    *,
    whole: bool = False,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Raises ValueError, naming the option, for NaN, infinity, words, fractions of whole numbers, and out of range."""
    if not is_number(value, whole):
        what = f"a {'whole' if whole else 'finite'} number" + (f" up to {LARGEST:g}" if isinstance(value, int) else "")
        raise ValueError(f"{name} is {one_line(repr(value))}; it must be {what}")
    if not (at_least <= value <= at_most and above < value < below):
        raise ValueError(f"{name} is {value}; it must be {_range(at_least, above, at_most, below)}")


def _range(at_least: float, above: float, at_most: float, below: float) -> str:
    limits = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    return " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))
