"""The bank of exercises: what each chapter must offer, and how answers, wrong answers and stubs fare."""

import ast
from collections import Counter
from functools import cache

import pytest
import torch

from deepvit_edu.check import check, exercise_ids
from tools.exercises.bank import Exercise, chapter_files, definitions, imports_of, load_bank, load_chapter
from tools.exercises.mutants import Mutant, load_mutants

BANK = {exercise.number: exercise for exercise in load_bank()}
MUTANTS = load_mutants()
TRIES = 5  # a check draws new numbers each time; none may pass or fail by luck


@cache
def names_of(number: str) -> dict:
    """What the functions of a solution may rely on: the chapter's imports."""
    names: dict = {"check": lambda *_: True}
    exec(imports_of(int(number.split(".")[0])), names)
    return names


def defined(exercise: Exercise, code: str) -> tuple:
    """The answers that a stub or solution hands to `check`."""
    names = dict(names_of(exercise.number))
    exec(definitions(code), names)
    return tuple(names[name] for name in exercise.answers)


def with_functions() -> list[str]:
    """Exercises whose answers are functions or classes: only they can be tried without running the chapter."""

    def made(e):
        return {node.name for node in ast.parse(e.stub).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}

    return [number for number, exercise in BANK.items() if exercise.answers and set(exercise.answers) <= made(exercise)]


# The bank


def test_there_are_thirty_or_more() -> None:
    assert len(BANK) >= 30
    assert {exercise.kind for exercise in BANK.values()} == {
        "implement", "repair", "measure", "derive", "explain", "project"
    }  # fmt: skip


@pytest.mark.parametrize("chapter", chapter_files())
def test_chapter_offers_five_in_order_and_one_project(chapter: int) -> None:
    exercises = load_chapter(chapter)
    assert len(exercises) >= 5
    assert [exercise.number for exercise in exercises] == [f"{chapter}.{n}" for n in range(1, len(exercises) + 1)]
    assert Counter(exercise.kind for exercise in exercises)["project"] == 1
    assert len({exercise.kind for exercise in exercises}) >= 4


@pytest.mark.parametrize("number", BANK)
def test_exercise_is_whole(number: str) -> None:
    exercise = BANK[number]
    assert len(exercise.hints) >= 2
    assert len(exercise.statement) > 80
    assert exercise.minutes >= 5
    prose = exercise.solution
    for code in exercise.solution_code:
        prose = prose.replace(code, "")
    assert len(prose.split()) >= 15, "the solution discusses nothing"
    if exercise.kind in ("explain", "project"):
        assert "**Rubric**" in exercise.solution
    if exercise.kind == "explain":
        assert "**Model answer.**" in exercise.solution
    assert f'check("{number}", ' in exercise.stub
    if exercise.kind not in ("explain", "project"):
        assert f'assert check("{number}", ' in "".join(exercise.solution_code), "the solution is not checked"


def test_every_exercise_has_a_check_and_every_check_an_exercise() -> None:
    assert exercise_ids() == list(BANK)


# Answers


@pytest.mark.parametrize("number", with_functions())
def test_solution_passes(number: str) -> None:
    answers = defined(BANK[number], "\n".join(BANK[number].solution_code))
    for _ in range(TRIES):
        result = check(number, *answers)
        assert result, result


@pytest.mark.parametrize("number", BANK)
def test_stub_fails_kindly(number: str) -> None:
    exercise = BANK[number]
    answers = defined(exercise, exercise.stub) if number in with_functions() else (None,) * len(exercise.answers)
    result = check(number, *answers)
    assert not result
    wanted = ("wrong",) if exercise.kind == "repair" else ("not begun",)
    assert result.status in wanted, result
    assert "stopped with" not in result.message


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.number}-{m.mistake[:40]}")
def test_mutant_fails_and_is_told_why(mutant: Mutant) -> None:
    for _ in range(TRIES):
        result = check(mutant.number, *mutant.answers)
        assert result.status == "wrong", result
        assert mutant.says in result.message, result


@pytest.mark.parametrize("number", [n for n, e in BANK.items() if e.kind in ("implement", "repair")])
def test_exercise_ships_wrong_answers_each_told_apart(number: str) -> None:
    found = [mutant for mutant in MUTANTS if mutant.number == number]
    assert len(found) >= 2
    assert len({mutant.says for mutant in found}) == len(found)
    assert all(mutant.mistake for mutant in found)


def test_a_check_leaves_the_random_numbers_of_the_notebook_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.randn(3)
    torch.manual_seed(5)
    check("4.1", lambda *parts: parts[2])
    assert torch.equal(torch.randn(3), wanted)
