"""Write a course's assignments from a seed: for each chapter what students get, and what only the instructor sees.

    python -m tools.assignments.write SEED [--chapters 2 4] [--out FOLDER] [--templates FOLDER]

Another seed gives other questions, so that neither the book's solutions nor those of last year answer them. Keep the
seed to yourself: whoever has it can make the answers, too. The book's templates are public: whoever draws seeds until
the questions agree has the answers as well. Templates of your own (`--templates`, see `templates/example`) are not.
"""

import argparse
import hashlib
import json
import re
import secrets
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


def asked(chapter: int, seed: str, templates: str | Path | None = None) -> list[Asked]:
    """The questions of a chapter for a seed, from the book's templates or from those in a folder of one's own."""
    found = enumerate(load_templates(chapter, templates), start=1)
    return [Asked(number, each.name, each.draw(seed)) for number, each in found]


def assignment_name(chapter: int) -> str:
    """`chapter_4`: the name of the assignment, its folder and its notebook."""
    return f"chapter_{chapter}"


def source_notebook(chapter: int, seed: str, templates: str | Path | None = None) -> NotebookNode:
    """What nbgrader keeps: the students' stubs, and the hidden tests behind the visible ones."""
    return _notebook(chapter, seed, templates, answers=False)


def instructor_notebook(chapter: int, seed: str, templates: str | Path | None = None) -> NotebookNode:
    """Answers, model answers with rubrics, and all tests. It runs from top to bottom."""
    return _notebook(chapter, seed, templates, answers=True)


def student_notebook(chapter: int, seed: str, templates: str | Path | None = None) -> NotebookNode:
    """What students get: stubs and visible tests."""
    notebook = source_notebook(chapter, seed, templates)
    for cell in notebook.cells:
        cell.source = visible_part(cell.source)
    return notebook


def visible_part(source: str) -> str:
    """A cell's source without its hidden tests."""
    return re.sub(rf"\n*{BEGIN_HIDDEN}.*?{END_HIDDEN}", "", source, flags=re.S)


def _notebook(chapter: int, seed: str, templates: str | Path | None, answers: bool) -> NotebookNode:
    questions = asked(chapter, seed, templates)
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
    cells += [_cell("code", "imports", imports_for(chapter, templates).strip(), readonly=True)]
    for entry in questions:
        cells += _cells_of(entry, answers)
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    notebook.metadata["deepvit_edu"] = {"chapter": chapter}
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


def write_assignments(
    seed: str, out: Path, chapters: Sequence[int] = CHAPTERS, templates: str | Path | None = None
) -> list[Path]:
    """Writes `student/`, `instructor/` and `course/source/` (for nbgrader) below `out`; returns the files.

    Raises:
        ValueError: the seed is empty, the folder holds another seed's assignments, or a template of one's own fails.
    """
    if not seed.strip():
        raise ValueError("the seed is empty: choose some words that students will not guess, such as autumn-26-maple")
    if templates is not None and not Path(templates).is_dir():
        raise ValueError(f"there is no folder of templates {templates}; templates/example is one")
    edition = _edition(seed, out)
    written = []
    for chapter in chapters:
        name = assignment_name(chapter)
        editions = {
            out / "student" / f"{name}.ipynb": student_notebook(chapter, seed, templates),
            out / "instructor" / f"{name}.ipynb": instructor_notebook(chapter, seed, templates),
            out / "course" / "source" / name / f"{name}.ipynb": source_notebook(chapter, seed, templates),
        }
        for path, notebook in editions.items():
            notebook.metadata["deepvit_edu"]["edition"] = edition
            path.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, path)
            written.append(path)
    return written


def _edition(seed: str, out: Path) -> str:
    """The mark by which a course's notebooks are known again: a random number, so that it tells nothing of the seed."""
    path = out / "course" / "edition.json"
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["seed"] != seed:
            raise ValueError(f"{out} holds the assignments of another seed; name another folder with --out")
        return known["edition"]
    if (out / "course" / "source").exists():
        raise ValueError(f"{out} holds assignments that do not say of which seed; name another folder with --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    edition = secrets.token_hex(8)
    path.write_text(json.dumps({"seed": seed, "edition": edition}), encoding="utf-8")
    return edition


def folder_of(seed: str) -> Path:
    """The folder of a seed's assignments unless another is given.

    Raises:
        ValueError: the seed has nothing that could name one.
    """
    name = re.sub(r"[^\w-]+", "-", seed).strip("-")
    if not name:
        raise ValueError(f"no folder can be named after the seed '{seed}': add a word, or name one with --out")
    return ROOT / "assignments" / name


def main() -> None:
    """Writes the assignments and says where they are."""
    parser = argparse.ArgumentParser(
        prog="tools.assignments.write", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seed", help="any words; others give other questions")
    parser.add_argument("--chapters", type=int, nargs="+", choices=CHAPTERS, default=list(CHAPTERS), metavar="N")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="assignments/SEED unless given")
    parser.add_argument("--templates", type=Path, metavar="FOLDER", help="your own templates, chapter_N.py")
    options = parser.parse_args()
    try:
        out = options.out or folder_of(options.seed)
        write_assignments(options.seed, out, options.chapters, options.templates)
    except (ValueError, OSError) as error:
        parser.exit(1, f"tools.assignments.write: {error}\n")
    print(f"{len(options.chapters)} assignments in {out}: hand out student/, keep instructor/ and course/ to yourself.")


if __name__ == "__main__":
    main()
