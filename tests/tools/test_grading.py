"""nbgrader's whole cycle on one chapter, with submissions as they come back (`make assignments-smoke`)."""

import csv
import io
import re
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tools.assignments import grading
from tools.assignments.sandbox import find_sandbox
from tools.assignments.write import END_HIDDEN, asked, instructor_notebook, student_notebook, write_assignments

SEED, CHAPTER = "tests-maple", 4
QUESTIONS = asked(CHAPTER, SEED)
IN_CODE = sum(test.points for entry in QUESTIONS for test in entry.question.tests)

pytestmark = [
    pytest.mark.timeout(1800),
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


def with_cell(code: str) -> NotebookNode:
    """Right answers, and a cell of the student's own before the first of them."""
    notebook = right()
    notebook.cells.insert(3, nbformat.v4.new_code_cell(code))
    return notebook


def silencer() -> NotebookNode:
    """Wrong answers, and a transformer that takes all asserts out."""
    notebook = student_notebook(CHAPTER, SEED)
    code = (
        "import ast\n"
        "class NoAsserts(ast.NodeTransformer):\n"
        "    def visit_Assert(self, node):\n"
        "        return ast.Pass()\n"
        "get_ipython().ast_transformers.append(NoAsserts())"
    )
    notebook.cells.insert(3, nbformat.v4.new_code_cell(code))
    return notebook


def intruder() -> NotebookNode:
    """Looks for the gradebook, the hidden tests and a network, and says what it found."""
    return with_cell(
        "import glob, os, socket, sqlite3, sys\n"
        "places = ['/root', '/home', '/tmp', os.path.dirname(sys.prefix), os.getcwd()]\n"
        "found = [p for place in places for p in glob.glob(place + '/**/gradebook.db', recursive=True)]\n"
        "for path in found:\n"
        "    with sqlite3.connect(path) as database:\n"
        "        database.execute('update grade set manual_score = 99')\n"
        "try:\n"
        "    socket.create_connection(('1.1.1.1', 53), timeout=2)\n"
        "    found.append('a network')\n"
        "except OSError:\n"
        "    pass\n"
        "try:\n"
        "    open(os.path.join(sys.prefix, 'intruder'), 'w').close()\n"
        "    found.append('a way to write')\n"
        "except OSError:\n"
        "    pass\n"
        "print('FOUND', found)"
    )


def leaves_children() -> NotebookNode:
    """Processes that outlive it, each in a session of its own."""
    return with_cell(
        "import subprocess\n"
        "for _ in range(3):\n"
        "    subprocess.Popen(['sleep', '4321'], start_new_session=True)\n"
        "print('left')"
    )


def scripted() -> NotebookNode:
    """Output and text that would run in the browser of whoever marks."""
    notebook = with_cell(
        "from IPython.display import HTML, Javascript, display\n"
        "display(HTML('<script>alert(1)</script>'), Javascript('alert(2)'))"
    )
    notebook.cells.append(nbformat.v4.new_markdown_cell("<script>alert(3)</script> [x](javascript:alert(4))"))
    return notebook


def endless_printer() -> NotebookNode:
    return with_cell("while True:\n    print('x' * 10000)")


STUDENTS = [right, partly_right, endless, greedy, without_cells, without_metadata, meddled_with]
ATTACKERS = [silencer, intruder, leaves_children, scripted, endless_printer]
SANDBOX = find_sandbox()


def _packed(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"work/chapter_{CHAPTER}.ipynb", text)
        archive.writestr(f"__MACOSX/work/._chapter_{CHAPTER}.ipynb", b"x")
    return buffer.getvalue()


FORMS = {
    "as_text": (f"chapter_{CHAPTER}.ipynb.txt", lambda text: text.encode("utf-16")),
    "nested": (f"week/one/Copy of chapter_{CHAPTER}.ipynb", lambda text: text.encode("utf-8-sig")),
    "renamed": ("final version.ipynb", str.encode),
    "packed": ("hand-in.zip", _packed),
}
"""Of right answers: under which name they come back, and in which bytes."""


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """The row of marks of each student."""
    out = tmp_path_factory.mktemp("course")
    write_assignments(SEED, out, [CHAPTER])
    for make in [*STUDENTS, *(ATTACKERS if SANDBOX else [])]:
        path = out / "in" / make.__name__ / f"chapter_{CHAPTER} (1).ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(make(), path)
    for student, (name, written) in FORMS.items():
        path = out / "in" / student / name
        path.parent.mkdir(parents=True)
        path.write_bytes(written(nbformat.writes(right())))
    torn = out / "in" / "torn" / f"chapter_{CHAPTER}.ipynb"
    torn.parent.mkdir()
    torn.write_text('{"cells": [', encoding="utf-8")
    (out / "in" / "nothing").mkdir()
    how = {"seconds": 15, "deadline": 240, "sandbox": SANDBOX}
    rows = grading.grade(out / "course", grading.find_submissions(out / "in", [CHAPTER]), **how)
    grading.write_marks(rows, out / "marks.csv")
    with (out / "marks.csv").open(encoding="utf-8", newline="") as file:
        found = {row["student"]: {**row, "folder": str(out / "course")} for row in csv.DictReader(file)}
    assert len(found) == len(STUDENTS) + len(FORMS) + (len(ATTACKERS) if SANDBOX else 0) + 2
    return found


def test_right_answers_get_every_point_that_a_program_gives(graded: dict[str, dict]) -> None:
    assert float(graded["right"]["points"]) == IN_CODE
    assert graded["right"]["remarks"] == ""
    assert int(graded["right"]["in words"]) == sum(entry.question.points for entry in QUESTIONS)


@pytest.mark.parametrize("student", FORMS)
def test_right_answers_count_in_whatever_form_they_come_back(graded: dict[str, dict], student: str) -> None:
    assert (float(graded[student]["points"]), graded[student]["remarks"]) == (IN_CODE, "")


def test_partly_right_gets_its_part(graded: dict[str, dict]) -> None:
    of_second = sum(test.points for test in QUESTIONS[1].question.tests)
    assert of_second <= float(graded["partly_right"]["points"]) < IN_CODE


@pytest.mark.parametrize("student", ["endless", "greedy"])
def test_runaway_answers_cost_themselves_only(graded: dict[str, dict], student: str) -> None:
    of_second = sum(test.points for test in QUESTIONS[1].question.tests)
    assert of_second <= float(graded[student]["points"]) < IN_CODE
    told = {"endless": "was stopped after 15 s", "greedy": "more memory than the limit"}
    assert told[student] in graded[student]["remarks"]


def test_deleted_cells_are_told_and_tests_come_back(graded: dict[str, dict]) -> None:
    first = sum(test.points for test in QUESTIONS[0].question.tests)
    assert float(graded["without_cells"]["points"]) == IN_CODE - first
    assert "is missing" in graded["without_cells"]["remarks"]


def test_lost_metadata_is_told_and_mended(graded: dict[str, dict]) -> None:
    assert float(graded["without_metadata"]["points"]) == IN_CODE
    assert "lost its metadata" in graded["without_metadata"]["remarks"]


def test_changed_tests_do_not_count(graded: dict[str, dict]) -> None:
    assert float(graded["meddled_with"]["points"]) == 0
    assert "tests were changed; yours were put back" in graded["meddled_with"]["remarks"]


def test_a_torn_file_is_told_and_stops_nobody(graded: dict[str, dict]) -> None:
    assert graded["torn"]["points"] == "0"
    assert "no notebook" in graded["torn"]["remarks"]


def test_a_folder_without_a_notebook_gets_a_line(graded: dict[str, dict]) -> None:
    assert (graded["nothing"]["points"], graded["nothing"]["assignment"]) == ("0", "")
    assert "nothing was handed in" in graded["nothing"]["remarks"]


def pages(graded: dict[str, dict], kind: str) -> dict[str, str]:
    """The pages of feedback by student."""
    folder = Path(graded["right"]["folder"]) / kind
    return {path.parent.parent.name: path.read_text(encoding="utf-8") for path in folder.glob("*/*/*.html")}


def test_feedback_is_written_for_those_who_were_run_and_only_the_teachers_has_hidden_tests(graded) -> None:
    hidden = QUESTIONS[0].question.tests[0].hidden.strip().splitlines()[-1][:30]
    escaped = hidden.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for_teacher, to_hand_back = pages(graded, "feedback"), pages(graded, grading.HAND_BACK)
    run = {name for name, row in graded.items() if row["assignment"] and name != "torn"}
    assert set(for_teacher) == set(to_hand_back) == run
    assert all("HIDDEN TESTS" in page for page in for_teacher.values())
    for student, page in to_hand_back.items():
        plain = re.sub(r"<[^>]+>", "", page)
        assert "HIDDEN TESTS" not in page, student
        assert escaped not in plain, student
    assert "a test that is not shown failed" in to_hand_back["meddled_with"]


def test_late_work_joins_the_marks(graded: dict[str, dict], tmp_path: Path) -> None:
    late = {**dict.fromkeys(grading.COLUMNS, ""), "student": "late", "assignment": "chapter_4", "points": "3"}
    marks = tmp_path / "marks.csv"
    grading.write_marks([{name: graded["right"][name] for name in grading.COLUMNS}], marks)
    grading.write_marks([late], marks)
    grading.write_marks([{**late, "points": "4"}], marks)
    with marks.open(encoding="utf-8", newline="") as file:
        assert [(row["student"], row["points"]) for row in csv.DictReader(file)] == [
            ("late", "4"),
            ("right", graded["right"]["points"]),
        ]


# What the sandbox keeps in

confined = pytest.mark.skipif(SANDBOX is None, reason="this machine has no sandbox")


@confined
def test_asserts_that_were_switched_off_earn_nothing_and_are_told(graded: dict[str, dict]) -> None:
    assert float(graded["silencer"]["points"]) == 0
    assert "asserts were switched off" in graded["silencer"]["remarks"]


@confined
def test_no_notebook_reaches_anothers_marks_or_the_network(graded: dict[str, dict]) -> None:
    assert "FOUND []" in pages(graded, "feedback")["intruder"]
    assert all(float(row["points"]) <= IN_CODE for row in graded.values())


@confined
def test_what_a_notebook_leaves_running_ends_with_it(graded: dict[str, dict]) -> None:
    assert float(graded["leaves_children"]["points"]) == IN_CODE
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in running if b"4321" in command]


@confined
def test_nothing_of_a_student_runs_in_the_teachers_browser(graded: dict[str, dict]) -> None:
    for kind in ("feedback", grading.HAND_BACK):
        page = pages(graded, kind)["scripted"]
        assert "<script>alert" not in page
        assert "alert(1)</script>" not in page.replace("&lt;", "")
        assert 'href="javascript' not in page


@confined
def test_printing_without_end_is_stopped_and_told(graded: dict[str, dict]) -> None:
    assert "printed more than the limit" in graded["endless_printer"]["remarks"]
    assert float(graded["endless_printer"]["points"]) == 0


def test_without_a_sandbox_grading_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "find_sandbox", lambda: None)
    with pytest.raises(grading.GradingError, match="would run as you; install one, or add --no-sandbox"):
        grading._needed_sandbox()


def test_release_of_nbgrader_is_what_we_hand_out(graded: dict[str, dict]) -> None:
    name = f"chapter_{CHAPTER}"
    release = nbformat.read(Path(graded["right"]["folder"]) / "release" / name / f"{name}.ipynb", as_version=4)
    ours = student_notebook(CHAPTER, SEED)
    assert [cell.source.strip() for cell in release.cells] == [cell.source.strip() for cell in ours.cells]
    assert END_HIDDEN not in nbformat.writes(release)
