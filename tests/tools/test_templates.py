"""Graded questions: right answers pass, stubs and the answers of other seeds do not, and chance comes from the seed."""

from pathlib import Path

import pytest

from tools.assignments.check_templates import main as check_templates
from tools.assignments.check_templates import outcome as outcome_of
from tools.assignments.question import CHAPTERS, Question, Template, imports_for, load_templates
from tools.assignments.write import student_notebook, write_assignments
from tools.contents import ROOT
from tools.exercises.bank import load_bank

SEEDS = [str(seed) for seed in range(6)]
TEMPLATES = [found for chapter in CHAPTERS for found in load_templates(chapter)]
each = pytest.mark.parametrize("found", TEMPLATES, ids=lambda t: f"{t.chapter}-{t.name}")
in_code = pytest.mark.parametrize(
    "found", [t for t in TEMPLATES if t.draw("0").tests], ids=lambda t: f"{t.chapter}-{t.name}"
)


def outcome(found: Template, answer: str, tests: list[str]) -> str:
    return outcome_of(imports_for(found.chapter), answer, tests)


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


# Templates of an instructor's own, outside the repository

EXAMPLE = ROOT / "tools" / "assignments" / "templates" / "example"


def copied(folder: Path, old: str = "", new: str = "") -> Path:
    """A copy of the worked example, with something changed."""
    folder.mkdir()
    text = (EXAMPLE / "chapter_4.py").read_text(encoding="utf-8")
    assert old in text
    (folder / "chapter_4.py").write_text(text.replace(old, new), encoding="utf-8")
    return folder


def test_the_worked_example_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert check_templates([str(copied(tmp_path / "own"))]) == 0
    assert capsys.readouterr().out.count("complete") == 2


def test_own_templates_take_the_place_of_the_books(tmp_path: Path) -> None:
    own = copied(tmp_path / "own")
    assert [found.name for found in load_templates(4, own)] == ["mixed_heads", "what_mixing_keeps"]
    assert load_templates(3, own) == load_templates(3)
    assert len(load_templates(4)) >= 4  # the book's are as they were
    written = write_assignments("maple", tmp_path / "out", [4], own)
    assert len(written) == 3
    assert "mixed(maps)" in "".join(cell.source for cell in student_notebook(4, "maple", own).cells)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("{weight} * maps +", "{weight} * maps -", "its solution fails its own tests"),
        ('"def mixed(maps):\\n    ..."', '"def mixed(maps):\\n    return maps"', "to a stub that nobody touched"),
        ("points=3", "points=4", "its rubric's points are not 4"),
        ('exercise="4.1"', 'exercise="4.99"', "the book has no exercise 4.99"),
        ('variant=f"{heads} heads, {keep}, {weight}"', 'variant="one"', "all seeds give one question"),
        ("points=3,", 'points=3, secrets=("three sentences",),', "students see a part of the answer"),
    ],
)
def test_what_is_wrong_with_a_template_is_told(tmp_path, capsys, old, new, fault) -> None:
    assert check_templates([str(copied(tmp_path / "own", old, new))]) == 1
    assert fault in capsys.readouterr().out


def test_files_that_cannot_be_run_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"chapter_4\.py cannot be run: NameError"):
        load_templates(4, copied(tmp_path / "a", "from random import Random", ""))
    with pytest.raises(ValueError, match="holds no template of chapter 4"):
        load_templates(4, copied(tmp_path / "b", "@template(4)", "@template(5)"))
