"""Grade what came back: mend lost metadata, run nbgrader with limits, write marks and feedback.

    python -m tools.assignments.grading COURSE SUBMISSIONS [--chapters 2 4] [--seconds 60]

COURSE is the folder that `python -m tools.assignments.write` wrote. SUBMISSIONS holds a folder for each student, with
the notebooks that were handed out, under their names: SUBMISSIONS/ada/chapter_4.ipynb.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools.assignments.question import CHAPTERS
from tools.assignments.write import assignment_name
from tools.contents import ROOT

NBGRADER = ROOT / ".venv-instructor" / "bin" / "nbgrader"
KERNEL = "deepvit-graded"
COLUMNS = ("student", "assignment", "points", "of", "in words", "remarks")


class GradingError(RuntimeError):
    """Grading cannot go on; the message says what to do."""


@dataclass
class Submission:
    """A student's notebook of one assignment, and what was remarked about it."""

    student: str
    assignment: str
    path: Path
    remarks: list[str] = field(default_factory=list)
    is_readable: bool = True


# What was handed in


def find_submissions(folder: Path, chapters: list[int]) -> list[Submission]:
    """The notebooks of a folder of submissions.

    Raises:
        GradingError: the folder is not there, or holds no notebook of these chapters.
    """
    names = {assignment_name(chapter) for chapter in chapters}
    if not folder.is_dir():
        raise GradingError(f"there is no folder {folder}; it should hold a folder for each student")
    found = [
        Submission(path.parent.name, path.stem, path) for path in sorted(folder.glob("*/*.ipynb")) if path.stem in names
    ]
    if not found:
        wanted = ", ".join(f"{name}.ipynb" for name in sorted(names))
        raise GradingError(f"{folder} holds no STUDENT/NOTEBOOK with one of the names {wanted}")
    return found


def mend(handed_in: NotebookNode, source: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """A submission with the cells of what was handed out, each filled with the student's answer as far as it is found.

    A cell is known by nbgrader's metadata; where that is lost, an answer by its first line, others by their source.
    What the student added stays where it was. Returns the notebook and remarks.
    """
    remarks, taken = [], set()
    by_id = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell for cell in handed_in.cells}
    by_id.pop(None, None)
    mended = nbformat.v4.new_notebook(metadata=source.metadata)
    partner: dict[int, NotebookNode] = {}  # of the cells handed out, which cell came back
    for number, cell in enumerate(source.cells):
        name = cell.metadata.nbgrader.grade_id
        back = by_id.get(name) or _same_cell(cell, handed_in)
        if back is None or id(back) in taken:
            if cell.metadata.nbgrader.solution:
                remarks.append(f"the cell {name} is missing: it counts as not answered")
            continue
        if name not in by_id and cell.metadata.nbgrader.solution:
            remarks.append(f"{name} had lost its metadata and was found by its first line")
        partner[number] = back
        taken.add(id(back))
    position = {id(cell): place for place, cell in enumerate(handed_in.cells)}
    extra = [cell for cell in handed_in.cells if id(cell) not in taken]
    done = -1
    for number, cell in enumerate(source.cells):
        if number in partner:
            place = position[id(partner[number])]
            mended.cells += [_plain(other) for other in extra if done < position[id(other)] < place]
            done = max(done, place)
        new = nbformat.from_dict(cell)
        if cell.metadata.nbgrader.solution and number in partner:
            new.source = partner[number].source
        mended.cells.append(new)
    mended.cells += [_plain(other) for other in extra if position[id(other)] > done]
    return mended, remarks


def _same_cell(cell: NotebookNode, notebook: NotebookNode) -> NotebookNode | None:
    about = cell.metadata.nbgrader
    first = cell.source.split("\n")[0]
    for other in notebook.cells:
        if other.cell_type == cell.cell_type and "nbgrader" not in other.metadata:
            begins_alike = other.source.lstrip().split("\n")[0].strip() == first
            if begins_alike if about.solution else other.source.strip() == cell.source.strip():
                return other
    return None


def _plain(cell: NotebookNode) -> NotebookNode:
    new = nbformat.v4.new_markdown_cell if cell.cell_type == "markdown" else nbformat.v4.new_code_cell
    return new(cell.source)


def read_sources(course: Path, names: set[str]) -> dict[str, NotebookNode]:
    """The notebooks of a course's assignments, as they were made.

    Raises:
        GradingError: the course lacks one of them.
    """
    paths = {name: course / "source" / name / f"{name}.ipynb" for name in sorted(names)}
    for name, path in paths.items():
        if not path.is_file():
            raise GradingError(f"{course} has no assignment {name}; write it with tools.assignments.write")
    return {name: nbformat.read(path, as_version=4) for name, path in paths.items()}


def collect(submissions: list[Submission], course: Path, sources: dict[str, NotebookNode]) -> None:
    """Puts submissions, mended, where nbgrader looks for them. Those that cannot be read get a remark."""
    shutil.rmtree(course / "submitted", ignore_errors=True)
    for entry in submissions:
        source = sources[entry.assignment]
        try:
            handed_in = nbformat.read(entry.path, as_version=4)
            entry.remarks = _edition_remarks(handed_in, source)
            mended, remarks = mend(handed_in, source)
        except (ValueError, KeyError, AttributeError, OSError, nbformat.ValidationError) as error:
            entry.is_readable = False
            entry.remarks = [f"the file is no notebook that can be read ({type(error).__name__})"]
            continue
        entry.remarks += remarks
        target = course / "submitted" / entry.student / entry.assignment / f"{entry.assignment}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(mended, target)


def _edition_remarks(handed_in: NotebookNode, source: NotebookNode) -> list[str]:
    theirs = handed_in.metadata.get("deepvit_edu", {}).get("edition")
    ours = source.metadata["deepvit_edu"]["edition"]
    return ["it was made from another seed than this course's"] if theirs not in (None, ours) else []


# nbgrader


def write_configuration(course: Path, seconds: int) -> None:
    """nbgrader's configuration, and the kernel with its limits."""
    (course / "nbgrader_config.py").write_text(
        "c = get_config()\n"
        'c.CourseDirectory.course_id = "deepvit"\n'
        f"c.ExecutePreprocessor.timeout = {seconds}\n"
        "c.ExecutePreprocessor.startup_timeout = 300\n"
        f"c.ExecutePreprocessor.iopub_timeout = {seconds}\n"  # a busy machine is slow to tell what it printed
        f'c.ExecutePreprocessor.kernel_name = "{KERNEL}"\n'
        "c.ClearSolutions.enabled = False  # the source holds stubs, no solutions\n",
        encoding="utf-8",
    )
    kernel = course / "jupyter" / "kernels" / KERNEL / "kernel.json"
    kernel.parent.mkdir(parents=True, exist_ok=True)
    program = [sys.executable, str(Path(__file__).with_name("limited_kernel.py")), "-f", "{connection_file}"]
    about = {"argv": program, "display_name": "Graded", "language": "python"}
    kernel.write_text(json.dumps(about), encoding="utf-8")


def run_nbgrader(course: Path, *arguments: str, may_fail: bool = False) -> str:
    """One command of nbgrader in the course's folder; what it said.

    Raises:
        GradingError: nbgrader is not installed, or the command failed.
    """
    if not NBGRADER.is_file():
        raise GradingError("nbgrader is not installed; `make grade` installs it into .venv-instructor")
    programs = f"{NBGRADER.parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic by its name
    variables = {**os.environ, "PATH": programs, "JUPYTER_PATH": str(course.resolve() / "jupyter")}
    done = subprocess.run(
        [NBGRADER, *arguments], cwd=course, env=variables, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    if done.returncode and not may_fail:
        raise GradingError(f"nbgrader {' '.join(arguments)} failed:\n{said[-3000:]}")
    return said


def grade(course: Path, submissions: list[Submission], seconds: int) -> list[dict]:
    """Runs nbgrader's cycle; a row of marks for every submission, those that could not be run included."""
    if not (course / "source").is_dir():
        raise GradingError(f"{course.parent} holds no assignments; write them with make assignments SEED=some-words")
    sources = read_sources(course, {entry.assignment for entry in submissions})
    write_configuration(course, seconds)
    collect(submissions, course, sources)
    for name in sources:
        run_nbgrader(course, "generate_assignment", name, "--create", "--force")
        if not any(entry.is_readable for entry in submissions if entry.assignment == name):
            continue
        run_nbgrader(course, "autograde", name, "--create", "--force", may_fail=True)
        run_nbgrader(course, "generate_feedback", name, "--force", may_fail=True)
    run_nbgrader(course, "export", "--to", "nbgrader.csv")
    with (course / "nbgrader.csv").open(encoding="utf-8", newline="") as file:
        exported = {(row["student_id"], row["assignment"]): row for row in csv.DictReader(file)}
    rows = []
    for entry in submissions:
        was_run = (course / "autograded" / entry.student / entry.assignment).is_dir()
        marks = exported.get((entry.student, entry.assignment)) if was_run else None
        rows.append(_row(entry, sources[entry.assignment], marks, was_run))
    return rows


def _row(entry: Submission, source: NotebookNode, marks: dict | None, was_run: bool) -> dict:
    graded = [cell.metadata.nbgrader for cell in source.cells if cell.metadata.nbgrader.grade]
    to_read = sum(about.points for about in graded if about.solution)
    remarks = list(entry.remarks)
    if entry.is_readable and not was_run:
        remarks.append("it could not be run within the limits: look at it by hand")
    points = float(marks["score"] or 0) if marks else 0.0
    total = sum(about.points for about in graded)
    values = (entry.student, entry.assignment, f"{points:g}", total, to_read if was_run else 0, "; ".join(remarks))
    return dict(zip(COLUMNS, values, strict=True))


def write_marks(rows: list[dict], path: Path) -> None:
    """The marks as CSV, a line a submission."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def describe(rows: list[dict]) -> Iterator[str]:
    """The marks for the terminal."""
    for row in rows:
        remarks = f"  ({row['remarks']})" if row["remarks"] else ""
        yield f"{row['student']:<16} {row['assignment']}  {row['points']:>4} of {row['of']}{remarks}"


def main() -> None:
    """Grades a folder of submissions."""
    parser = argparse.ArgumentParser(
        prog="tools.assignments.grading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("course", type=Path, help="the folder of the assignments, assignments/SEED")
    parser.add_argument("submissions", type=Path, help="the folder with a folder for each student")
    parser.add_argument("--chapters", type=int, nargs="+", choices=CHAPTERS, default=list(CHAPTERS), metavar="N")
    parser.add_argument("--seconds", type=int, default=60, help="how long one cell may run (default: 60)")
    options = parser.parse_args()
    course = options.course / "course"
    try:
        rows = grade(course, find_submissions(options.submissions, options.chapters), options.seconds)
        write_marks(rows, options.course / "marks.csv")
    except (GradingError, OSError) as error:
        parser.exit(1, f"tools.assignments.grading: {error}\n")
    print("\n".join(describe(rows)))
    print(f"Marks: {options.course / 'marks.csv'}. Feedback to hand out: {course / 'feedback'}.")
    if any(row["in words"] for row in rows):
        lab = NBGRADER.with_name("jupyter")
        print(f"Answers in words are marked by hand: cd {course} && {lab} lab, menu Nbgrader, Formgrader.")
        print("Then grade again.")


if __name__ == "__main__":
    main()
