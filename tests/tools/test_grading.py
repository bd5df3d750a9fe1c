"""nbgrader's whole cycle on one chapter, with submissions as they come back (`make assignments-smoke`)."""

import csv
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tools.assignments import grading
from tools.assignments.write import END_HIDDEN, asked, instructor_notebook, student_notebook, write_assignments

SEED, CHAPTER = "tests-maple", 4
QUESTIONS = asked(CHAPTER, SEED)
IN_CODE = sum(test.points for entry in QUESTIONS for test in entry.question.tests)

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(not grading.NBGRADER.is_file(), reason="nbgrader is not installed: make assignments-smoke"),
]


def answer_cell(notebook: NotebookNode, number: int) -> NotebookNode:
    return next(cell for cell in notebook.cells if re.match(rf"(# |<!-- )answer {number}:", cell.source))


def answered(notebook: NotebookNode, numbers: list[int]) -> NotebookNode:
    """A student's notebook with the right answers to some questions."""
    for number in numbers:
        answer_cell(notebook, number).source = answer_cell(instructor_notebook(CHAPTER, SEED), number).source
    return notebook


def right() -> NotebookNode:
    return answered(student_notebook(CHAPTER, SEED), [1, 2, 3, 4])


def partly_right() -> NotebookNode:
    return answered(student_notebook(CHAPTER, SEED), [2])


def endless() -> NotebookNode:
    notebook = answered(student_notebook(CHAPTER, SEED), [2, 3])
    answer_cell(notebook, 1).source += "\n\nwhile True:\n    pass"
    return notebook


def greedy() -> NotebookNode:
    notebook = answered(student_notebook(CHAPTER, SEED), [2])
    answer_cell(notebook, 1).source += "\nhoard = bytearray(40 * 2**30)"
    return notebook


def without_cells() -> NotebookNode:
    """The first answer was deleted, and the tests of the second."""
    notebook = right()
    second = QUESTIONS[1].name.replace("_", "-")
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell is not answer_cell(notebook, 1) and not cell.metadata.nbgrader.grade_id.startswith(f"{second}-test")
    ]
    return notebook


def without_metadata() -> NotebookNode:
    """As when another program has written the file: no metadata, no ids, a cell more."""
    notebook = right()
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"id": "abc"})
    notebook.cells.insert(3, nbformat.v4.new_code_cell("scratch = 1"))
    return notebook


def meddled_with() -> NotebookNode:
    """The tests were changed so that they pass."""
    notebook = student_notebook(CHAPTER, SEED)
    for cell in notebook.cells:
        if cell.metadata.nbgrader.grade and cell.cell_type == "code":
            cell.source = "assert True"
    return notebook


STUDENTS = [right, partly_right, endless, greedy, without_cells, without_metadata, meddled_with]


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """The row of marks of each student."""
    out = tmp_path_factory.mktemp("course")
    write_assignments(SEED, out, [CHAPTER])
    for make in STUDENTS:
        path = out / "in" / make.__name__ / f"chapter_{CHAPTER}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(make(), path)
    torn = out / "in" / "torn" / f"chapter_{CHAPTER}.ipynb"
    torn.parent.mkdir()
    torn.write_text('{"cells": [', encoding="utf-8")
    rows = grading.grade(out / "course", grading.find_submissions(out / "in", [CHAPTER]), seconds=15)
    grading.write_marks(rows, out / "marks.csv")
    with (out / "marks.csv").open(encoding="utf-8", newline="") as file:
        found = {row["student"]: {**row, "folder": str(out / "course")} for row in csv.DictReader(file)}
    assert len(found) == len(STUDENTS) + 1
    return found


def test_right_answers_get_every_point_that_a_program_gives(graded: dict[str, dict]) -> None:
    assert float(graded["right"]["points"]) == IN_CODE
    assert graded["right"]["remarks"] == ""
    assert int(graded["right"]["in words"]) == sum(entry.question.points for entry in QUESTIONS)


def test_partly_right_gets_its_part(graded: dict[str, dict]) -> None:
    of_second = sum(test.points for test in QUESTIONS[1].question.tests)
    assert of_second <= float(graded["partly_right"]["points"]) < IN_CODE


@pytest.mark.parametrize("student", ["endless", "greedy"])
def test_runaway_answers_cost_themselves_only(graded: dict[str, dict], student: str) -> None:
    of_second = sum(test.points for test in QUESTIONS[1].question.tests)
    assert of_second <= float(graded[student]["points"]) < IN_CODE


def test_deleted_cells_are_told_and_tests_come_back(graded: dict[str, dict]) -> None:
    first = sum(test.points for test in QUESTIONS[0].question.tests)
    assert float(graded["without_cells"]["points"]) == IN_CODE - first
    assert "is missing" in graded["without_cells"]["remarks"]


def test_lost_metadata_is_told_and_mended(graded: dict[str, dict]) -> None:
    assert float(graded["without_metadata"]["points"]) == IN_CODE
    assert "lost its metadata" in graded["without_metadata"]["remarks"]


def test_changed_tests_do_not_count(graded: dict[str, dict]) -> None:
    assert float(graded["meddled_with"]["points"]) == 0


def test_a_torn_file_is_told_and_stops_nobody(graded: dict[str, dict]) -> None:
    assert graded["torn"]["points"] == "0"
    assert "no notebook" in graded["torn"]["remarks"]


def test_feedback_is_written_for_those_who_were_run(graded: dict[str, dict]) -> None:
    folder = Path(graded["right"]["folder"]) / "feedback"
    assert {path.name for path in folder.iterdir()} == {make.__name__ for make in STUDENTS}


def test_release_of_nbgrader_is_what_we_hand_out(graded: dict[str, dict]) -> None:
    name = f"chapter_{CHAPTER}"
    release = nbformat.read(Path(graded["right"]["folder"]) / "release" / name / f"{name}.ipynb", as_version=4)
    ours = student_notebook(CHAPTER, SEED)
    assert [cell.source.strip() for cell in release.cells] == [cell.source.strip() for cell in ours.cells]
    assert END_HIDDEN not in nbformat.writes(release)
