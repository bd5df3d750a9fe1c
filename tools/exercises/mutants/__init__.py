"""Plausible wrong answers to the exercises: each must fail its check, with a message of its own.

One file a chapter. The docstring of a mutant says what is wrong with it; the instructor's guide lists them as common
mistakes.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.exercises.bank import chapter_files


@dataclass(frozen=True)
class Mutant:
    """A wrong answer to an exercise: `answers` as `check` gets them, and words that its message must hold."""

    number: str
    answers: tuple[Any, ...]
    mistake: str
    says: str


_MUTANTS: list[Mutant] = []


def mutant(number: str, *, says: str) -> Callable[[Callable], Callable]:
    """Registers the function below it as a wrong answer to an exercise."""

    def register(answer: Callable) -> Callable:
        _MUTANTS.append(Mutant(number, (answer,), " ".join((answer.__doc__ or "").split()), says))
        return answer

    return register


def wrong_value(number: str, *answers: Any, mistake: str, says: str) -> None:
    """Registers a wrong answer that is not a function: a number, a tensor."""
    _MUTANTS.append(Mutant(number, answers, mistake, says))


def load_mutants() -> list[Mutant]:
    """The mutants of all chapters."""
    for chapter in chapter_files():
        importlib.import_module(f"{__name__}.chapter_{chapter}")
    return list(_MUTANTS)
