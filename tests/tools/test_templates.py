"""Graded questions: right answers pass, stubs and the answers of other seeds do not, and chance comes from the seed."""

import contextlib
import io

import pytest

from tools.assignments.question import CHAPTERS, Question, Template, imports_for, load_templates
from tools.exercises.bank import load_bank

SEEDS = [str(seed) for seed in range(6)]
TEMPLATES = [found for chapter in CHAPTERS for found in load_templates(chapter)]
each = pytest.mark.parametrize("found", TEMPLATES, ids=lambda t: f"{t.chapter}-{t.name}")
in_code = pytest.mark.parametrize(
    "found", [t for t in TEMPLATES if t.draw("0").tests], ids=lambda t: f"{t.chapter}-{t.name}"
)


def outcome(found: Template, answer: str, tests: list[str]) -> str:
    """ "passed", or how an answer fails the tests: each runs after the answer, in one namespace, as in a notebook."""
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(imports_for(found.chapter), names)
        try:
            for code in (answer, *tests):
                exec(code, names)
        except Exception as error:
            return type(error).__name__
    return "passed"


def all_tests(question: Question) -> list[str]:
    return [test.visible + test.hidden for test in question.tests]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_has_code_and_words(chapter: int) -> None:
    questions = [found.draw("0") for found in load_templates(chapter)]
    assert len(questions) >= 4
    assert any(not question.tests for question in questions), "a question in words"
    assert sum(bool(question.tests) for question in questions) >= 3
    assert all(question.exercise.startswith(f"{chapter}.") for question in questions)


@each
def test_question_is_whole(found: Template) -> None:
    numbers = {exercise.number for exercise in load_bank()}
    for seed in SEEDS:
        question = found.draw(seed)
        assert question == found.draw(seed), "another chance than the seed's is at work"
        assert question.exercise in numbers
        assert question.total > 0
        assert "{cite" not in question.text
        if not question.tests:
            assert question.points == sum(int(line.split(":")[0]) for line in question.rubric)


@each
def test_seeds_make_different_questions(found: Template) -> None:
    assert len({found.draw(str(seed)).variant for seed in range(30)}) >= 4


@in_code
def test_solution_passes_and_stub_does_not(found: Template) -> None:
    for seed in SEEDS:
        question = found.draw(seed)
        assert outcome(found, question.solution, all_tests(question)) == "passed", question.variant
        assert outcome(found, question.stub, all_tests(question)) != "passed", question.variant


@in_code
def test_an_untouched_stub_earns_nothing(found: Template) -> None:
    for seed in SEEDS:
        question = found.draw(seed)
        for test in question.tests:
            assert outcome(found, question.stub, [test.visible + "\n" + test.hidden]) != "passed", question.variant


@in_code
def test_anothers_solution_does_not_pass(found: Template) -> None:
    mine = found.draw("0")
    others = [found.draw(seed) for seed in SEEDS if found.draw(seed).variant != mine.variant]
    if mine.stub.rstrip().endswith("...") or mine.solution != others[0].solution:
        results = [outcome(found, other.solution, all_tests(mine)) for other in others]
        assert any(result != "passed" for result in results)
    else:  # a repair: the mended code is the same for all, what is handed out is not
        assert len({other.stub for other in [mine, *others]}) > 1
