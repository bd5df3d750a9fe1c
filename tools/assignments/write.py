"""Write a course's assignments from a seed: for each chapter what students get, and what only the instructor sees.

    python -m tools.assignments.write SEED [--chapters 2 4] [--out FOLDER]

Another seed gives other questions, so that neither the book's solutions nor those of last year answer them. Keep the
seed to yourself: whoever has it can make the answers, too.
"""

import argparse
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools.assignments.question import CHAPTERS, Question, Test, imports_for, load_templates
from tools.book.notebooks import KERNEL, setup_cells
from tools.contents import ROOT, repository_url
from tools.exercises.bank import chapter_files

BEGIN_HIDDEN, END_HIDDEN = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
WORDS = "*Write your answer here, in place of this line.*"


@dataclass(frozen=True)
class Asked:
    """A question of an assignment, with its place in it."""

    number: int
    name: str
    question: Question

    @property
    def marker(self) -> str:
        """The first line of the answer's cell: by it the cell is known again when a notebook has lost its metadata."""
        return f"answer {self.number}: {self.name}"


def asked(chapter: int, seed: str) -> list[Asked]:
    """The questions of a chapter for a seed."""
    return [
        Asked(number, found.name, found.draw(seed)) for number, found in enumerate(load_templates(chapter), start=1)
    ]


def assignment_name(chapter: int) -> str:
    """`chapter_4`: the name of the assignment, its folder and its notebook."""
    return f"chapter_{chapter}"


def source_notebook(chapter: int, seed: str) -> NotebookNode:
    """What nbgrader keeps: the students' stubs, and the hidden tests behind the visible ones."""
    return _notebook(chapter, seed, answers=False)


def instructor_notebook(chapter: int, seed: str) -> NotebookNode:
    """Answers, model answers with rubrics, and all tests. It runs from top to bottom."""
    return _notebook(chapter, seed, answers=True)


def student_notebook(chapter: int, seed: str) -> NotebookNode:
    """What students get: stubs and visible tests."""
    notebook = source_notebook(chapter, seed)
    for cell in notebook.cells:
        cell.source = re.sub(rf"\n*{BEGIN_HIDDEN}.*?{END_HIDDEN}", "", cell.source, flags=re.S)
    return notebook


def _notebook(chapter: int, seed: str, answers: bool) -> NotebookNode:
    questions = asked(chapter, seed)
    title = re.search(r"^# (.+)$", chapter_files()[chapter].read_text(encoding="utf-8"), re.M)
    points = sum(entry.question.total for entry in questions)
    intro = (
        f"# Assignment: {title[1] if title else ''}\n\n{len(questions)} questions, {points} points. Write in the cells "
        "whose first line says *answer*, and keep that line. Tests below them say what they try; more is tried when "
        "the work is graded. Before you hand in, restart the kernel and run everything."
    )
    cells = [_cell("markdown", "intro", intro, readonly=True)]
    setup = setup_cells(repository_url(), f"book/{chapter_files()[chapter].stem}")[1]
    cells += [_cell("code", "setup", setup.source, readonly=True)]
    cells += [_cell("code", "imports", imports_for(chapter).strip(), readonly=True)]
    for entry in questions:
        cells += _cells_of(entry, answers)
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    notebook.metadata["deepvit_edu"] = {"chapter": chapter, "edition": hashlib.sha256(seed.encode()).hexdigest()[:8]}
    nbformat.validate(notebook)
    return notebook


def _cells_of(entry: Asked, answers: bool) -> Iterator[NotebookNode]:
    question, name = entry.question, entry.name
    points = f"{question.total} point{'s' if question.total > 1 else ''}"
    heading = f"## Question {entry.number} ({points}, after exercise {question.exercise} of the book)"
    yield _cell("markdown", f"{name}-text", f"{heading}\n\n{question.text}", readonly=True)
    if not question.tests:
        rubric = "\n".join(f"- {line}" for line in question.rubric)
        written = f"{question.solution}\n\n**Rubric**\n\n{rubric}" if answers else WORDS
        source = f"<!-- {entry.marker} -->\n{written}"
        yield _cell("markdown", f"{name}-answer", source, solution=True, grade=True, points=question.points)
        return
    code = (question.solution if answers else question.stub).strip()
    yield _cell("code", f"{name}-answer", f"# {entry.marker}\n{code}", solution=True)
    for count, test in enumerate(question.tests, start=1):
        yield _cell("code", f"{name}-test-{count}", _test_source(test), grade=True, points=test.points)


def _test_source(test: Test) -> str:
    visible = test.visible.strip()
    if all(line.startswith("#") for line in visible.splitlines()):
        visible = f"# Nothing is tried here now: this cell is graded later.\n{visible}"
    return f"{visible}\n{BEGIN_HIDDEN}\n{test.hidden.strip()}\n{END_HIDDEN}"


def _cell(
    kind: str,
    name: str,
    source: str,
    *,
    readonly: bool = False,
    solution: bool = False,
    grade: bool = False,
    points: int | None = None,
) -> NotebookNode:
    """A cell with nbgrader's metadata and an id that is the same for every seed."""
    about = {
        "schema_version": 3,
        "grade_id": name.replace("_", "-"),
        "grade": grade,
        "solution": solution,
        "locked": readonly or (grade and not solution),
        "task": False,
        "cell_type": kind,
    }
    if points is not None:
        about["points"] = points
    new = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
    cell = new(source, metadata={"nbgrader": about, "deletable": False, "editable": not about["locked"]})
    cell["id"] = hashlib.sha256(name.encode()).hexdigest()[:12]
    return cell


def write_assignments(seed: str, out: Path, chapters: Sequence[int] = CHAPTERS) -> list[Path]:
    """Writes `student/`, `instructor/` and `course/source/` (for nbgrader) below `out`; returns the files.

    Raises:
        ValueError: the seed is empty.
    """
    if not seed.strip():
        raise ValueError("the seed is empty: choose some words that students will not guess, such as autumn-26-maple")
    written = []
    for chapter in chapters:
        name = assignment_name(chapter)
        editions = {
            out / "student" / f"{name}.ipynb": student_notebook(chapter, seed),
            out / "instructor" / f"{name}.ipynb": instructor_notebook(chapter, seed),
            out / "course" / "source" / name / f"{name}.ipynb": source_notebook(chapter, seed),
        }
        for path, notebook in editions.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, path)
            written.append(path)
    return written


def main() -> None:
    """Writes the assignments and says where they are."""
    parser = argparse.ArgumentParser(
        prog="tools.assignments.write", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seed", help="any words; others give other questions")
    parser.add_argument("--chapters", type=int, nargs="+", choices=CHAPTERS, default=list(CHAPTERS), metavar="N")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="assignments/SEED unless given")
    options = parser.parse_args()
    out = options.out or ROOT / "assignments" / re.sub(r"[^\w.-]+", "-", options.seed)
    try:
        write_assignments(options.seed, out, options.chapters)
    except (ValueError, OSError) as error:
        parser.exit(1, f"tools.assignments.write: {error}\n")
    print(f"{len(options.chapters)} assignments in {out}: hand out student/, keep instructor/ and course/ to yourself.")


if __name__ == "__main__":
    main()
