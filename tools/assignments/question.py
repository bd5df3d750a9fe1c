"""What a graded question is: made by a template from a seed, with its points, its answer and its hidden tests."""

import importlib
import importlib.util
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.exercises.bank import chapter_files

CHAPTERS = tuple(chapter_files())


@dataclass(frozen=True)
class Test:
    """A cell of asserts. Students see `visible`; `hidden` is for grading, and follows it in the same cell."""

    __test__ = False  # no test of ours, whatever pytest makes of the name

    points: int
    visible: str
    hidden: str


def all_or_nothing(*tests: Test) -> Test:
    """One cell of several tests, for repairs: what runs before it is mended must not earn a part of the points."""
    hidden = "\n".join(test.hidden for test in tests)
    return Test(sum(test.points for test in tests), "\n".join(test.visible for test in tests), hidden)


def number_test(points: int, name: str, hidden: str) -> Test:
    """A cell for an answer that is a number; what is hidden compares it."""
    begun = f"assert isinstance({name}, (int, float)), 'assign a Python number in the place of the dots, no tensor'\n"
    return Test(points, begun, hidden)


@dataclass(frozen=True)
class Question:
    """A graded question. One with `tests` is graded by them; one without, in words, by a person with its rubric.

    Args:
        exercise: number of the public exercise that it varies.
        variant: what the seed chose, in a few words; two seeds with one variant give the same question.
        text: what is asked, in plain Markdown (Colab shows it).
        stub: code that the student starts from; empty for an answer in words.
        solution: code that takes its place in the instructor's notebook, or the model answer in words.
        tests: cells that grade the code.
        points: of an answer in words.
        rubric: lines that say what the points are given for.
        secrets: words or numbers that give the answer away; none may stand in the student's notebook.
    """

    exercise: str
    variant: str
    text: str
    stub: str
    solution: str
    tests: tuple[Test, ...] = ()
    points: int = 0
    rubric: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Points of the whole question."""
        return self.points + sum(test.points for test in self.tests)


@dataclass(frozen=True)
class Template:
    """A function from a source of chance to a question; `name` is the same for all seeds."""

    chapter: int
    name: str
    make: Callable[[random.Random], Question]

    def draw(self, seed: str) -> Question:
        """The question of a seed: the same words give the same question on every machine."""
        return self.make(random.Random(f"{seed}/{self.chapter}/{self.name}"))


_TEMPLATES: list[Template] = []


def template(chapter: int) -> Callable[[Callable], Callable]:
    """Registers the function below it as a template of a chapter; its name becomes the question's."""

    def register(make: Callable[[random.Random], Question]) -> Callable:
        _TEMPLATES.append(Template(chapter, make.__name__, make))
        return make

    return register


def load_templates(chapter: int, folder: str | Path | None = None) -> list[Template]:
    """The templates of a chapter, in the order of its file.

    Args:
        chapter: its number.
        folder: where an instructor's own are; a chapter without a file there has the book's.

    Raises:
        ValueError: when the instructor's file cannot be run, or holds no template of its chapter.
    """
    return _load(chapter, str(Path(folder).resolve()) if folder else None)[0]


def imports_for(chapter: int, folder: str | Path | None = None) -> str:
    """The import statements that every question of a chapter may rely on."""
    return _load(chapter, str(Path(folder).resolve()) if folder else None)[1]


@cache
def _load(chapter: int, folder: str | None) -> tuple[list[Template], str]:
    path = Path(folder, f"chapter_{chapter}.py") if folder else None
    before = len(_TEMPLATES)
    if path is None or not path.is_file():
        module = importlib.import_module(f"tools.assignments.templates.chapter_{chapter}")
        found = [each for each in _TEMPLATES if each.make.__module__ == module.__name__]
        return found, module.IMPORTS
    spec = importlib.util.spec_from_file_location(f"own_templates_{abs(hash(folder))}_chapter_{chapter}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        imports = module.IMPORTS
    except Exception as error:  # the instructor's own code fails in any way
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    found = [each for each in _TEMPLATES[before:] if each.chapter == chapter]
    if not found:
        raise ValueError(f"{path} holds no template of chapter {chapter}; begin each with @template({chapter})")
    return found, imports
