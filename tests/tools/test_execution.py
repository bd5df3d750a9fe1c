"""What is kept of what a notebook printed, and what the sandbox keeps in."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.assignments.execution import _cleaned, execute, shown_to_students, without_tags
from tools.assignments.sandbox import find_sandbox, hidden_folders, needed_folders
from tools.assignments.write import BEGIN_HIDDEN, END_HIDDEN

SANDBOX = find_sandbox()
confined = pytest.mark.skipif(SANDBOX is None, reason="this machine has no sandbox")


def graded(*sources: str) -> nbformat.NotebookNode:
    """A notebook of code, in which a cell that begins with "assert" is a test."""
    cells = []
    for number, source in enumerate(sources):
        about = {"grade_id": f"cell-{number}", "grade": source.startswith("assert"), "solution": False}
        cells.append(new_code_cell(source, metadata={"nbgrader": about}))
    return new_notebook(cells=cells)


def failed(notebook: nbformat.NotebookNode) -> list[bool]:
    """Of each test, whether it failed."""
    tests = [cell for cell in notebook.cells if cell.metadata.nbgrader.grade]
    return [any(output.output_type == "error" for output in cell.outputs) for cell in tests]


@confined
def test_tests_pass_and_fail_and_the_rest_of_a_notebook_goes_on_after_a_loop() -> None:
    notebook = graded("x = 1", "assert x == 1", "assert x == 2, 'two'", "while True:\n    pass", "assert x == 1")
    done = execute(notebook, SANDBOX, hidden_folders(), seconds=4, deadline=120)
    assert failed(done.notebook) == [False, True, False]
    assert done.remarks == ["cell-3 was stopped after 4 s"]
    assert [cell.source for cell in done.notebook.cells] == [cell.source for cell in notebook.cells]


@confined
@pytest.mark.parametrize(
    ("code", "remark"),
    [
        ("import os; os._exit(1)", "its kernel died"),
        (
            "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass",
            "cell-1 was stopped after 4 s",
        ),
    ],
)
@pytest.mark.slow
def test_a_kernel_that_dies_or_does_not_listen_earns_nothing_from_there_on(code: str, remark: str) -> None:
    notebook = graded("assert True", code, "assert True")
    done = execute(notebook, SANDBOX, hidden_folders(), seconds=4, deadline=40)
    assert failed(done.notebook) == [False, True]
    assert any(remark in told for told in done.remarks)


SWARMS = {
    "processes": "import subprocess\nkept = [subprocess.Popen(['sleep', '987']) for _ in range(1000)]",
    "processes_of_a_moment": "import subprocess\nkept = [subprocess.Popen(['sleep', '987']) for _ in range(200)]",
    "threads": "import threading, time\nkept = [threading.Thread(target=time.sleep, args=(987,), daemon=True) "
    "for _ in range(1000)]\nfor each in kept:\n    each.start()",
}


@confined
@pytest.mark.slow
@pytest.mark.parametrize("swarm", SWARMS.values(), ids=SWARMS)
def test_processes_and_threads_without_end_are_stopped_and_told_for_root_too(swarm: str) -> None:
    done = execute(graded(swarm, "assert len(kept) > 100"), SANDBOX, hidden_folders(), seconds=60, deadline=240)
    assert failed(done.notebook) == [True]
    assert "it started more processes than the limit" in done.remarks
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in running if b"987" in command]


def test_only_text_and_pictures_are_kept() -> None:
    html = new_output("display_data", data={"text/html": "<script>", "application/javascript": "alert(1)"})
    both = new_output("execute_result", data={"text/html": "<b>", "text/plain": "shown"})
    assert _cleaned(html, of_test=False) is None
    assert _cleaned(both, of_test=False).data == {"text/plain": "shown"}
    assert _cleaned(both, of_test=True) is None  # nbgrader would take a number for points


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a < b and x<3", "a < b and x<3"),
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("[x](javascript:alert(1))", "[x](no-alert(1))"),
        ("<!-- answer 4: reading_arms -->\nMine <img src=x>", "<!-- answer 4: reading_arms -->\nMine &lt;img src=x>"),
        ("<!-- other -->", "&lt;!-- other -->"),
    ],
)
def test_markdown_of_students_holds_no_html(text: str, expected: str) -> None:
    assert without_tags(text) == expected


def test_what_is_handed_back_shows_messages_of_visible_tests_alone() -> None:
    source = f"assert x, 'seen'\n{BEGIN_HIDDEN}\nassert y == 0.37, 'secret 0.37'\n{END_HIDDEN}"
    told = {}
    for line, value in ((1, "seen"), (3, "secret 0.37")):
        notebook = graded(source)
        traceback = [
            "\x1b[31mAssertionError\x1b[39m",
            f"\x1b[32m----> {line}\x1b[39m assert",
            f"AssertionError: {value}",
        ]
        error = new_output("error", ename="AssertionError", evalue=value, traceback=traceback)
        notebook.cells[0].outputs = [error, new_output("stream", name="stdout", text="0.37")]
        told[line] = nbformat.writes(shown_to_students(notebook))
    assert "seen" in told[1]
    assert "a test that is not shown failed" in told[3]
    assert all("0.37" not in text and "HIDDEN" not in text for text in told.values())


def test_cells_in_words_stay_as_they_are() -> None:
    notebook = new_notebook(cells=[new_markdown_cell("words", metadata={"nbgrader": {"grade": True}})])
    assert shown_to_students(notebook).cells[0].source == "words"


@confined
def test_no_power_is_left_to_undo_the_sandbox(tmp_path) -> None:
    work = tmp_path.resolve() / "w"
    work.mkdir()
    attempts = (
        "mount -o remount,rw / 2>/dev/null; umount /tmp 2>/dev/null; "
        "unshare -r -m sh -c 'mount -o remount,rw /; mount -o remount,bind,rw /' 2>/dev/null; "
        f"touch /etc/x 2>/dev/null && echo WROTE; touch {needed_folders()[0]}/x 2>/dev/null && echo WROTE; "
        f"ls {tmp_path.parent}; touch {work}/fine"
    )
    command = SANDBOX.wrap(work, hidden_folders(), ["sh", "-c", attempts])
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "WROTE" not in done.stdout
    assert (work / "fine").exists()
    assert not (needed_folders()[0] / "x").exists()


@confined
def test_a_hidden_folder_within_what_is_needed_is_not_seen(tmp_path) -> None:
    inner, work = needed_folders()[0] / "tests" / "book", tmp_path.resolve() / "w"
    work.mkdir()
    command = SANDBOX.wrap(
        work, hidden_folders(inner), [sys.executable, "-c", f"import os; print(os.listdir('{inner}'))"]
    )
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip() == "[]"
