"""Check templates of your own before a class sees them: python -m tools.assignments.check_templates FOLDER

Each is drawn with several seeds: its solution passes all tests, its stub none, its points add up, seeds differ, and
nothing of an answer is in what students get.
"""

import argparse
import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.assignments.question import CHAPTERS, Question, Template, imports_for, load_templates
from tools.exercises.bank import load_bank

SEEDS = tuple(str(seed) for seed in range(6))


def outcome(imports: str, answer: str, tests: Sequence[str]) -> str:
    """ "passed", or how an answer fails the tests: each runs after the answer, in one namespace, as in a notebook."""
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(imports, names)
        try:
            for code in (answer, *tests):
                exec(code, names)
        except Exception as error:
            return type(error).__name__
    return "passed"


def faults(found: Template, imports: str, seeds: Sequence[str] = SEEDS) -> Iterator[str]:
    """What is wrong with a template, a sentence each."""
    numbers = {exercise.number for exercise in load_bank()}
    questions = [found.draw(seed) for seed in seeds]
    if questions != [found.draw(seed) for seed in seeds]:
        yield "one seed gives two questions: draw from `draw` alone"
    if len({question.variant for question in questions}) < 2:
        yield "all seeds give one question: let more depend on `draw`, and say it in `variant`"
    for question in questions:
        yield from (f"{fault} (variant {question.variant})" for fault in _faults_of(question, imports, numbers))


def _faults_of(question: Question, imports: str, exercises: set[str]) -> Iterator[str]:
    if question.exercise not in exercises:
        yield f"the book has no exercise {question.exercise}"
    if question.total <= 0:
        yield "it gives no points"
    if not question.tests and question.points != _points_of(question.rubric):
        yield f"its rubric's points are not {question.points}; begin each line with its points, as in '2: …'"
    shown = "\n".join([question.text, question.stub, *(test.visible for test in question.tests)])
    for secret in (*question.secrets, *question.rubric, question.solution):
        if secret.strip() and secret.strip() in shown:
            yield f"students see a part of the answer: {secret.strip()[:40]!r}"
    if not question.tests:
        return
    whole = [f"{test.visible}\n{test.hidden}" for test in question.tests]
    if (how := outcome(imports, question.solution, whole)) != "passed":
        yield f"its solution fails its own tests ({how})"
    for number, test in enumerate(whole, start=1):
        if outcome(imports, question.stub, [test]) == "passed":
            yield f"test {number} gives its points to a stub that nobody touched"


def _points_of(rubric: Sequence[str]) -> int:
    heads = [line.split(":")[0] for line in rubric]
    return sum(int(head) for head in heads if head.isdigit())


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks all templates of a folder; 1 where one has a fault."""
    parser = argparse.ArgumentParser(prog="tools.assignments.check_templates", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds chapter_N.py for each chapter of yours")
    folder = parser.parse_args(arguments).folder
    own = [chapter for chapter in CHAPTERS if (folder / f"chapter_{chapter}.py").is_file()]
    if not own:
        parser.exit(1, f"tools.assignments.check_templates: {folder} holds no chapter_N.py\n")
    bad = False
    for chapter in own:
        try:
            found, imports = load_templates(chapter, folder), imports_for(chapter, folder)
        except ValueError as error:
            parser.exit(1, f"tools.assignments.check_templates: {error}\n")
        for each in found:
            told = list(dict.fromkeys(faults(each, imports)))
            bad |= bool(told)
            print(f"chapter {chapter}, {each.name}: {'; '.join(told) or 'complete'}")
    return int(bad)


if __name__ == "__main__":
    raise SystemExit(main())
