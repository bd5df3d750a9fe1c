"""How answers are taken: what a learner is told, and that nothing a learner writes breaks the check."""

import subprocess
import sys
import threading
import time

import pytest
import torch

from deepvit_edu.check import check, engine
from deepvit_edu.check.engine import Result, are_close, exercise, require, require_tensor


@pytest.fixture
def doubling(monkeypatch: pytest.MonkeyPatch) -> str:
    """An exercise of our own: double a number."""
    monkeypatch.setattr(engine, "_EXERCISES", {})
    monkeypatch.setattr(engine, "_PASSED", set())

    @exercise("9.1", seconds=0.5)
    def double(answer) -> None:
        x = torch.randn(4)
        out = answer(x)
        require_tensor(out, (4,), "the result")
        require(are_close(out, x + x), "not twice as large.")

    @exercise("9.2", num_answers=2)
    def pair(first, second) -> None:
        require(first + second == 5, "they do not add up.")

    engine.by_hand("9.3", "Read it aloud.")
    return "9.1"


def test_right_answer_is_right_and_counted(doubling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = check(doubling, lambda x: 2 * x)
    assert result
    assert result.status == "right"
    assert "1 of 2 passed: 9.1" in repr(result)
    monkeypatch.setenv("DEEPVIT_EDU_SCORE", "0")
    assert "passed" not in repr(result)


def test_what_was_found_is_printed_once(doubling: str, capsys: pytest.CaptureFixture) -> None:
    from IPython.core.formatters import DisplayFormatter

    result = check(doubling, lambda x: 3 * x)
    assert capsys.readouterr().out == f"{result!r}\n"
    assert DisplayFormatter().format(result) == ({}, {})  # what a notebook shows of the last line of a cell


def test_wrong_answer_is_told_in_one_paragraph(doubling: str) -> None:
    result = check(doubling, lambda x: 3 * x)
    assert not result
    assert result.message == "not twice as large."
    assert "passed" not in repr(result)  # no score for who has not scored


@pytest.mark.parametrize("answer", [None, ..., lambda x: None, lambda x: ...])
def test_stub_is_not_begun(doubling: str, answer) -> None:
    assert check(doubling, answer).status == "not begun"


def test_a_stub_that_raises_is_not_begun(doubling: str) -> None:
    def stub(x):
        raise NotImplementedError

    assert check(doubling, stub).status == "not begun"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda x: [1, 2], "should be a tensor, and is of type list"),
        (lambda x: x[:2], "should have the shape (4,), and has (2,)"),
        (lambda x: x / 0, "infinite numbers or NaN"),
    ],
)
def test_wrong_kinds_of_results_are_told(doubling: str, answer, says: str) -> None:
    assert says in check(doubling, answer).message


def test_error_shows_the_learners_lines_only(doubling: str) -> None:
    def mine(x):
        return helper(x)

    def helper(x):
        return torch.cat([x, torch.ones(2, 2)])

    message = check(doubling, mine).message
    assert "RuntimeError" in message
    assert "of mine: return helper(x)" in message
    assert "of helper: return torch.cat([x, torch.ones(2, 2)])" in message
    assert "engine.py" not in message


def test_wrong_number_of_arguments_is_told(doubling: str) -> None:
    assert "TypeError" in check(doubling, lambda: 1).message


def test_endless_loop_is_stopped(doubling: str) -> None:
    def endless(x):
        while True:
            try:
                x = x + 1
            except Exception:
                continue

    began = time.perf_counter()
    result = check(doubling, endless)
    assert time.perf_counter() - began < 5
    assert "never ends" in result.message


def test_endless_loop_is_stopped_in_a_thread(doubling: str) -> None:
    def endless(x):
        while True:
            x = x + 1

    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(check(doubling, endless)), daemon=True)
    thread.start()
    thread.join(10)
    assert results
    assert "never ends" in results[0].message


def test_time_limit_leaves_no_alarm_behind(doubling: str) -> None:
    check(doubling, lambda x: 2 * x)
    time.sleep(0.7)


@pytest.mark.parametrize("number", ["9.10", "1", "", 9.1])
def test_unknown_exercise_is_an_error_that_names_the_known(doubling: str, number) -> None:
    with pytest.raises(ValueError, match="unknown exercise"):
        check(number, 1)


def test_wrong_number_of_answers_is_an_error(doubling: str) -> None:
    with pytest.raises(ValueError, match="wants 2"):
        check("9.2", 1)
    with pytest.raises(ValueError, match="no answer"):
        check("9.1")


def test_exercise_for_a_person(doubling: str) -> None:
    result = check("9.3", "my words")
    assert result.status == "by hand"
    assert "Read it aloud." in repr(result)
    assert not result


def test_checks_need_no_file_and_no_network() -> None:
    """In an empty folder, with sockets and the opening of files cut after the import."""
    code = """
import builtins, io, socket, torch
from deepvit_edu.check import check
def cut(*_, **__): raise AssertionError("a check reached for a file or the network")
socket.socket = builtins.open = io.open = cut
def wrong(query, key, value, *rest): return value
assert check("4.1", wrong).status == "wrong"
assert check("4.3", lambda attn: None).status == "not begun"
"""
    subprocess.run([sys.executable, "-c", code], cwd="/", check=True, timeout=120)
