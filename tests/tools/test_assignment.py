"""Assignments: the same for one seed, others for another, and nothing of the answers in what students get."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools.assignments.question import CHAPTERS
from tools.assignments.write import (
    BEGIN_HIDDEN,
    asked,
    folder_of,
    instructor_notebook,
    source_notebook,
    student_notebook,
    write_assignments,
)
from tools.contents import ROOT

SEEDS = ["autumn", "maple", "7"]


def telling_lines(text: str) -> set[str]:
    """The lines of an answer that could give it away: not blank, not a bracket, not a word or two."""
    return {line.strip() for line in text.splitlines() if len(line.strip()) >= 12}


@pytest.mark.parametrize("chapter", CHAPTERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_of_the_answers_is_in_the_students_notebook(chapter: int, seed: str) -> None:
    notebook = student_notebook(chapter, seed)
    shown = "\n".join(cell.source for cell in notebook.cells)
    assert "HIDDEN" not in nbformat.writes(notebook)
    assert seed.isdigit() or seed not in nbformat.writes(notebook)
    questions = [entry.question for entry in asked(chapter, seed)]
    handed_out = [part for q in questions for part in (q.text, q.stub, *(test.visible for test in q.tests))]
    given = telling_lines("\n".join(handed_out))
    for question in questions:
        kept = telling_lines("\n".join([question.solution, *(test.hidden for test in question.tests)]))
        assert not (kept - given) & telling_lines(shown), question.variant
        whole = (*question.rubric, *question.secrets, *([] if question.tests else [question.solution]))
        assert [part for part in whole if part in shown] == [], question.variant


def test_the_search_finds_a_leak() -> None:
    chapter, seed = 4, "autumn"
    shown = "\n".join(cell.source for cell in instructor_notebook(chapter, seed).cells)
    found = [line for entry in asked(chapter, seed) for line in telling_lines(entry.question.solution) if line in shown]
    assert len(found) > 5


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_one_seed_gives_one_assignment_and_another_another(chapter: int) -> None:
    assert student_notebook(chapter, "maple") == student_notebook(chapter, "maple")
    texts = {"\n".join(cell.source for cell in student_notebook(chapter, seed).cells) for seed in SEEDS}
    assert len(texts) == len(SEEDS)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_notebooks_are_in_nbgraders_format(chapter: int) -> None:
    for notebook in (source_notebook(chapter, "maple"), instructor_notebook(chapter, "maple")):
        nbformat.validate(notebook)
        about = [cell.metadata.nbgrader for cell in notebook.cells]
        assert all(entry.schema_version == 3 for entry in about)
        assert len({entry.grade_id for entry in about}) == len(about)
        assert all((entry.points > 0) == entry.grade for entry in about if "points" in entry)
        assert sum(entry.get("points", 0) for entry in about) == sum(e.question.total for e in asked(chapter, "maple"))
        assert any(BEGIN_HIDDEN in cell.source for cell in notebook.cells)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_cells_are_told_apart_without_their_metadata(chapter: int) -> None:
    firsts = [
        cell.source.split("\n")[0] for cell in student_notebook(chapter, "maple").cells if "answer" in cell.source[:12]
    ]
    assert len(set(firsts)) == len(firsts) == len(asked(chapter, "maple"))


def test_command_writes_three_editions(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.assignments.write", "maple", "--chapters", "4", "--out", str(tmp_path)]
    variables = {"PATH": ""}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True)
    assert "keep instructor/ and course/ to yourself" in done.stdout
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.ipynb")} == {
        "student",
        "instructor",
        "course",
    }


def test_empty_seed_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the seed is empty"):
        write_assignments("  ", tmp_path)


def test_a_folder_belongs_to_one_seed(tmp_path: Path) -> None:
    write_assignments("a b", tmp_path, [4])
    before = (tmp_path / "student" / "chapter_4.ipynb").read_bytes()
    write_assignments("a b", tmp_path, [4])  # once more is no harm
    assert (tmp_path / "student" / "chapter_4.ipynb").read_bytes() == before
    with pytest.raises(ValueError, match="holds the assignments of another seed"):
        write_assignments("a-b", tmp_path, [4])
    assert (tmp_path / "student" / "chapter_4.ipynb").read_bytes() == before


def test_the_mark_of_an_edition_tells_nothing_of_the_seed(tmp_path: Path) -> None:
    marks = []
    for name in ("one", "two"):
        write_assignments("maple", tmp_path / name, [4])
        notebook = nbformat.read(tmp_path / name / "student" / "chapter_4.ipynb", as_version=4)
        marks.append(notebook.metadata["deepvit_edu"]["edition"])
    assert marks[0] != marks[1]


@pytest.mark.parametrize("seed", [".", "..", "/", "-"])
def test_a_seed_that_names_no_folder_is_told(seed: str) -> None:
    with pytest.raises(ValueError, match="no folder can be named after"):
        folder_of(seed)


def test_folders_of_seeds_are_below_assignments() -> None:
    assert folder_of("../a b/.c").relative_to(ROOT / "assignments").as_posix() == "a-b-c"
