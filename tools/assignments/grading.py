"""Grade what came back: mend it, run it in a sandbox, let nbgrader count, write marks and feedback.

    python -m tools.assignments.grading COURSE SUBMISSIONS [--chapters 2 4] [--seconds 60] [--deadline 900]

COURSE is the folder that `python -m tools.assignments.write` wrote. SUBMISSIONS holds a folder, a zip or a notebook for
each student: SUBMISSIONS/ada/chapter_4.ipynb, or whatever a browser or a learning platform made of that.

Students' code runs in the sandbox alone. The gradebook, the marks and the feedback are written outside of it, from what
the notebooks printed: so a notebook can fake its own marks (as any notebook can), and nobody else's.
"""

import argparse
import csv
import io
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from deepvit_edu.files import atomic_path, check_output, only_process_in
from deepvit_edu.reading import UnreadableError, reading
from tools.assignments.execution import Executed, execute, shown_to_students, without_tags
from tools.assignments.mending import mend
from tools.assignments.question import CHAPTERS
from tools.assignments.sandbox import Sandbox, find_sandbox, hidden_folders
from tools.assignments.submissions import GradingError, Submission, find_submissions
from tools.contents import ROOT

__all__ = ["GradingError", "Submission", "find_submissions", "grade", "mend", "write_marks"]

NBGRADER = ROOT / ".venv-instructor" / "bin" / "nbgrader"
COLUMNS = ("student", "assignment", "points", "of", "in words", "remarks")
HAND_BACK = "hand_back"


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


def run_submissions(
    submissions: list[Submission],
    course: Path,
    sources: dict[str, NotebookNode],
    sandbox: Sandbox | None,
    seconds: float = 60,
    deadline: float = 900,
    jobs: int = 1,
) -> None:
    """Mends and runs each submission, and puts it, with what it printed, where nbgrader looks for it."""

    def run(entry: Submission) -> Executed | None:
        source = sources[entry.assignment]
        entry.remarks += _edition_remarks(entry.notebook, source)
        try:
            mended, remarks = mend(entry.notebook, source)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            entry.notebook = None
            entry.remarks.append(f"the file is no notebook that can be read ({type(error).__name__})")
            return None
        entry.remarks += remarks
        return execute(mended, sandbox, hidden_folders(course.parent), seconds, deadline)

    graded = [entry for entry in submissions if entry.is_readable]
    with ThreadPoolExecutor(jobs) as pool:
        for entry, done in zip(graded, pool.map(run, graded), strict=True):
            folder = course / "submitted" / entry.student / entry.assignment
            shutil.rmtree(folder, ignore_errors=True)
            if done is None:
                continue
            entry.remarks += done.remarks
            _clean_words(done.notebook)
            folder.mkdir(parents=True)
            nbformat.write(done.notebook, folder / f"{entry.assignment}.ipynb")


def _clean_words(notebook: NotebookNode) -> None:
    """What students wrote is shown in the browser of whoever marks, so no HTML of theirs is left in it."""
    for cell in notebook.cells:
        about = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "markdown" and (not about or about.get("solution")):
            cell.source = without_tags(cell.source)


def _edition_remarks(handed_in: NotebookNode, source: NotebookNode) -> list[str]:
    theirs = handed_in.metadata.get("deepvit_edu", {}).get("edition")
    ours = source.metadata["deepvit_edu"].get("edition")
    return ["it was made from another seed than this course's"] if theirs not in (None, ours) else []


# nbgrader


def write_configuration(course: Path) -> None:
    """nbgrader's configuration: notebooks come to it as they have run, so it runs none and keeps their outputs."""
    (course / "nbgrader_config.py").write_text(
        "c = get_config()\n"
        'c.CourseDirectory.course_id = "deepvit"\n'
        "c.Execute.enabled = False  # students' code runs in the sandbox alone, before\n"
        "c.ClearOutput.enabled = False\n"
        "c.OverwriteKernelspec.enabled = False\n"
        "c.ClearSolutions.enabled = False  # the source holds stubs, no solutions\n",
        encoding="utf-8",
    )


def run_nbgrader(course: Path, *arguments: str, may_fail: bool = False) -> str:
    """One command of nbgrader in the course's folder; what it said.

    Raises:
        GradingError: nbgrader is not installed, or the command failed.
    """
    if not NBGRADER.is_file():
        raise GradingError("nbgrader is not installed; `make grade` installs it into .venv-instructor")
    programs = f"{NBGRADER.parent}{os.pathsep}{os.environ['PATH']}"  # nbgrader calls alembic by its name
    done = subprocess.run(
        [NBGRADER, *arguments], cwd=course, env={**os.environ, "PATH": programs}, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    if done.returncode and not may_fail:
        raise GradingError(f"nbgrader {' '.join(arguments)} failed:\n{said[-3000:]}")
    return said


def grade(
    course: Path,
    submissions: list[Submission],
    seconds: float = 60,
    deadline: float = 900,
    sandbox: Sandbox | None = None,
    jobs: int = 1,
) -> list[dict]:
    """Runs all submissions and nbgrader's cycle; a row of marks for each, those that could not be run included.

    Args:
        course: the folder `course` of what `tools.assignments.write` wrote.
        submissions: as of `find_submissions`.
        seconds, deadline: how long one cell, and a whole notebook, may run.
        sandbox: where their code runs; None for right here, as you.
        jobs: notebooks at once.
    """
    if not (course / "source").is_dir():
        raise GradingError(f"{course.parent} holds no assignments; write them with make assignments SEED=some-words")
    sources = read_sources(course, {entry.assignment for entry in submissions if entry.assignment})
    write_configuration(course)
    run_submissions(submissions, course, sources, sandbox, seconds, deadline, jobs)
    for name in sources:
        run_nbgrader(course, "generate_assignment", name, "--create", "--force")
        if not any(entry.is_readable for entry in submissions if entry.assignment == name):
            continue
        run_nbgrader(course, "autograde", name, "--create", "--force", may_fail=True)
        run_nbgrader(course, "generate_feedback", name, "--force", may_fail=True)
        _write_hand_back(course, name)
    run_nbgrader(course, "export", "--to", "nbgrader.csv")
    with (course / "nbgrader.csv").open(encoding="utf-8", newline="") as file:
        exported = {(row["student_id"], row["assignment"]): row for row in csv.DictReader(file)}
    return [_row(entry, sources.get(entry.assignment), exported, course) for entry in submissions]


def _write_hand_back(course: Path, name: str) -> None:
    """Feedback without hidden tests, from copies of the graded notebooks that have none."""
    for path in sorted((course / "autograded").glob(f"*/{name}/{name}.ipynb")):
        copy = course / "without_hidden" / path.relative_to(course / "autograded")
        copy.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(shown_to_students(nbformat.read(path, as_version=4)), copy)
    folders = (
        "--CourseDirectory.autograded_directory=without_hidden",
        f"--CourseDirectory.feedback_directory={HAND_BACK}",
    )
    run_nbgrader(course, "generate_feedback", name, "--force", *folders, may_fail=True)
    shutil.rmtree(course / "without_hidden", ignore_errors=True)


def _row(entry: Submission, source: NotebookNode | None, exported: dict, course: Path) -> dict:
    remarks = list(entry.remarks)
    if source is None:
        return dict(zip(COLUMNS, (entry.student, "", "0", 0, 0, "; ".join(remarks)), strict=True))
    graded = [cell.metadata.nbgrader for cell in source.cells if cell.metadata.nbgrader.grade]
    to_read, total = (sum(about.points for about in graded if about.solution or every) for every in (False, True))
    was_run = entry.is_readable and (course / "autograded" / entry.student / entry.assignment).is_dir()
    marks = exported.get((entry.student, entry.assignment)) if was_run else None
    if entry.is_readable and not was_run:
        remarks.append("it could not be graded: look at it by hand")
    points = float(marks["score"] or 0) if marks else 0.0
    if not 0 <= points <= total:
        remarks.append(f"{points:g} points of {total} cannot be, and count as 0: look at it by hand")
        points = 0.0
    values = (entry.student, entry.assignment, f"{points:g}", total, to_read if was_run else 0, "; ".join(remarks))
    return dict(zip(COLUMNS, values, strict=True))


def read_marks(path: Path) -> list[dict]:
    """The lines of earlier gradings; none where there is no such file.

    Raises:
        GradingError: when it is another file, or what a spreadsheet program made of it.
    """
    if not path.exists():
        return []
    try:
        with reading(path):
            text = path.read_text(encoding="utf-8-sig")
            separator = ";" if ";" in text.split("\n", 1)[0] else ","  # a spreadsheet program's, in much of the world
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator))
    except (OSError, UnreadableError) as error:
        raise GradingError(f"{error}; new marks would join it, so mend it or move it away") from error
    if any(not set(COLUMNS) <= set(row) or None in row.values() for row in rows):
        raise GradingError(
            f"{path} has not the columns {', '.join(COLUMNS)} in every line; new marks would join it, so mend it or "
            "move it away"
        )
    return [{name: row[name] for name in COLUMNS} for row in rows]


def write_marks(rows: list[dict], path: Path) -> None:
    """The marks as CSV, a line a submission; lines of earlier gradings stay unless they were graded again.

    Raises:
        GradingError: as of `read_marks`.
    """
    new = {(row["student"], row["assignment"]): row for row in rows}
    now_graded = {row["student"] for row in rows if row["assignment"]}
    earlier = [row for row in read_marks(path) if row["assignment"] or row["student"] not in now_graded]
    merged = {(row["student"], row["assignment"]): row for row in earlier} | new
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({key: _no_formula(value) for key, value in merged[name].items()} for name in sorted(merged))


def _no_formula(value: object) -> object:
    """A cell that no spreadsheet takes for a formula, whatever a student's folder is named."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def describe(rows: list[dict]) -> Iterator[str]:
    """The marks for the terminal."""
    for row in rows:
        remarks = f"  ({row['remarks']})" if row["remarks"] else ""
        name = row["assignment"] or "–"
        yield f"{row['student']:<16} {name}  {row['points']:>4} of {row['of']}{remarks}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Grades a folder of submissions."""
    parser = argparse.ArgumentParser(
        prog="tools.assignments.grading", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("course", type=Path, help="the folder of the assignments, assignments/SEED")
    parser.add_argument("submissions", type=Path, help="the folder with what was handed in")
    parser.add_argument("--chapters", type=int, nargs="+", choices=CHAPTERS, default=list(CHAPTERS), metavar="N")
    parser.add_argument("--seconds", type=int, default=60, help="how long one cell may run (default: 60)")
    parser.add_argument("--deadline", type=int, default=900, help="how long a whole notebook may run (default: 900)")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="notebooks at once")
    parser.add_argument("--no-sandbox", action="store_true", help="run students' code as you, with all that you may do")
    options = parser.parse_args(arguments)
    course = options.course / "course"
    try:
        if min(options.seconds, options.deadline, options.jobs) < 1:
            raise GradingError("--seconds, --deadline and --jobs are 1 or more")
        submissions = find_submissions(options.submissions, options.chapters)
        read_marks(check_output(options.course / "marks.csv"))  # before the work, not after it
        sandbox = None if options.no_sandbox else _needed_sandbox()
        with only_process_in(options.course):
            rows = grade(course, submissions, options.seconds, options.deadline, sandbox, options.jobs)
            write_marks(rows, options.course / "marks.csv")
    except (GradingError, OSError, ValueError) as error:
        parser.exit(1, f"tools.assignments.grading: {error}\n")
    print("\n".join(describe(rows)))
    where = "without a sandbox" if sandbox is None else f"in a sandbox of {sandbox.name}"
    count = sum(bool(row["assignment"]) for row in rows)
    ran = "1 notebook was" if count == 1 else f"{count} notebooks were"
    print(f"{ran} run {where}. Marks: {options.course / 'marks.csv'}.")
    print(f"To hand back: {course / HAND_BACK}. For you alone, with the hidden tests: {course / 'feedback'}.")
    if any(row["in words"] for row in rows):
        lab = NBGRADER.with_name("jupyter")
        print(f"Answers in words are marked by hand: cd '{course}' && '{lab}' lab, menu Nbgrader, Formgrader.")
        print("Then grade again.")


def _needed_sandbox() -> Sandbox:
    sandbox = find_sandbox()
    if sandbox is None:
        raise GradingError(
            "this machine has no sandbox (bubblewrap, unshare with user namespaces, or docker), and students' code "
            "would run as you; install one, or add --no-sandbox for a class that you trust"
        )
    return sandbox


if __name__ == "__main__":
    main()
