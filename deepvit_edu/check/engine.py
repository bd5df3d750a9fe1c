"""What all checks share: the register of exercises, the time limit, and the message that a learner gets."""

import ctypes
import functools
import linecache
import math
import signal
import sysconfig
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor

from ..environment import variable
from ..words import nearest

SECONDS = 20.0
"""How long an answer may take, unless its exercise says otherwise."""


SCORE = "DEEPVIT_EDU_SCORE"
"""Set to 0 where nobody solves anything, as in the build of the pages: no count of what has been passed."""


class WrongAnswer(Exception):
    """What is wrong with an answer, in the learner's terms."""


class NoAnswer(Exception):
    """The stub is still as it was."""


class _TimeIsUp(BaseException):
    """No Exception: a learner's `except Exception` must not swallow it."""


@dataclass(frozen=True)
class Result:
    """What a check found. True where the answer is right; its `repr` is the paragraph that the learner was shown.

    `status` is "right", "wrong", "not begun" or "by hand".
    """

    exercise: str
    status: str
    message: str

    def __bool__(self) -> bool:
        return self.status == "right"

    def __repr__(self) -> str:
        marks = {"right": "✓", "wrong": "✗"}
        text = f"{marks.get(self.status, '·')} {self.exercise}: {self.message}"
        lines = [line for part in text.split("\n") for line in (textwrap.wrap(part, 76) if len(part) > 76 else [part])]
        scored = self and variable(SCORE) != "0"
        return "\n".join([*lines, _progress(self.exercise)] if scored else lines)

    def _ipython_display_(self) -> None:
        """Nothing: `check` has printed it, so that it is shown wherever in a cell the call stands."""


@dataclass(frozen=True)
class _Exercise:
    examine: Callable[..., None] | None  # None: a person judges
    num_answers: int
    returns: bool
    seconds: float
    note: str


_EXERCISES: dict[str, _Exercise] = {}
_PASSED: set[str] = set()


def exercise(
    number: str, *, num_answers: int = 1, returns: bool = True, seconds: float = SECONDS
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers the function below it as the check of an exercise. It gets the answers, and raises by `require`.

    Args:
        number: the number printed in the book, "4.2".
        num_answers: how many answers `check` is given.
        returns: False for functions that change their argument instead of returning something.
        seconds: the time limit.
    """

    def register(examine: Callable[..., None]) -> Callable[..., None]:
        _EXERCISES[number] = _Exercise(examine, num_answers, returns, seconds, "")
        return examine

    return register


def by_hand(number: str, note: str) -> None:
    """Registers an exercise that a person judges; `note` says what to look at."""
    _EXERCISES[number] = _Exercise(None, 1, True, SECONDS, note)


def exercise_ids() -> list[str]:
    """The numbers of all exercises, in the order of the book."""
    return sorted(_EXERCISES, key=lambda number: [int(part) for part in number.split(".")])


def check(number: str, *answers: Any) -> Result:
    """Prints whether an answer to an exercise is right, and if not, what is wrong; returns the same.

    The random numbers of the notebook stay as they are.

    Args:
        number: the exercise's number as printed, "4.2".
        answers: a function (without parentheses behind it), a number, a tensor: what the exercise asks for.

    Raises:
        ValueError: for an unknown exercise, or another number of answers than it takes.
    """
    result = _judge(number, answers)
    print(result)
    return result


def _judge(number: str, answers: tuple[Any, ...]) -> Result:
    if number not in _EXERCISES:
        raise ValueError(f"unknown exercise {number!r}{nearest(str(number), exercise_ids())}")
    task = _EXERCISES[number]
    if len(answers) != task.num_answers:
        given = "no answer" if not answers else f"{len(answers)} answers"
        raise ValueError(f"exercise {number} wants {task.num_answers}, and was given {given}")
    if any(answer is None or answer is ... for answer in answers):
        return Result(number, "not begun", "nothing here yet. Put your answer in the place of the dots.")
    if task.examine is None:
        return Result(number, "by hand", f"no program can judge this one. {task.note}")
    try:
        with _fresh_numbers(), _time_limit(task.seconds):
            task.examine(*(_watched(answer, task.returns) for answer in answers))
    except WrongAnswer as wrong:
        return Result(number, "wrong", str(wrong))
    except NoAnswer as stub:
        return Result(number, "not begun", str(stub))
    except _TimeIsUp:
        limit = f"your code ran for {task.seconds:g} seconds and was stopped."
        return Result(number, "wrong", f"{limit} Is there a loop that never ends?")
    except Exception as error:  # whatever a learner's code may raise
        if isinstance(error, TypeError) and "not callable" in str(error) and not all(map(callable, answers)):
            message = "give the function itself, as the stub does: its name, without quotes and parentheses."
            return Result(number, "wrong", message)
        return Result(number, "wrong", _error_message(error))
    _PASSED.add(number)
    return Result(number, "right", "right.")


def require(condition: bool, message: str) -> None:
    """Ends the check with `message` unless the condition holds."""
    if not condition:
        raise WrongAnswer(message)


def require_tensor(value: Any, shape: tuple[int, ...], what: str) -> None:
    """Requires a tensor of finite numbers of this shape; `what` names it: "the map"."""
    require(isinstance(value, Tensor), f"{what} should be a tensor, and is of type {type(value).__name__}.")
    found = tuple(value.shape)
    require(found == shape, f"{what} should have the shape {shape}, and has {found}.")
    require(bool(value.isfinite().all()), f"{what} holds infinite numbers or NaN.")


def require_number(value: Any, what: str) -> float:
    """Requires a finite number, or a tensor of one; returns it as a float. `what` names it: "the cosine"."""
    if isinstance(value, Tensor):
        require(value.numel() == 1, f"{what} should be one number, and is a tensor of shape {tuple(value.shape)}.")
        value = value.item()
    require(isinstance(value, Real), f"{what} should be a number, and is of type {type(value).__name__}.")
    require(math.isfinite(value), f"{what} is infinite or no number.")
    return float(value)


def are_close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors of the same shape agree to within `tolerance` of the larger one's largest entry."""
    size = max(a.abs().max().item(), b.abs().max().item(), 1e-12)
    return (a.double() - b.double()).abs().max().item() <= tolerance * size


def _watched(answer: Any, returns: bool) -> Any:
    """A learner's function that says so when it is still the stub, and that gets copies of its tensors.

    It may write into them, and the check goes on with its own. `__wrapped__` is the function as it was given.
    """
    if not callable(answer) or isinstance(answer, (type, torch.nn.Module)):
        return answer
    name = getattr(answer, "__name__", "your function")

    @functools.wraps(answer)
    def call(*arguments: Any, **options: Any) -> Any:
        arguments = tuple(part.clone() if isinstance(part, Tensor) else part for part in arguments)
        try:
            out = answer(*arguments, **options)
        except NotImplementedError:
            out = None
        if returns and (out is None or out is ...):
            raise NoAnswer(
                f"{name} returns nothing yet. Write its body in the place of the dots, and return the result."
            )
        return out

    return call


def _progress(number: str) -> str:
    """How many of the chapter's exercises that a program judges have been passed."""
    chapter = number.split(".")[0]
    every = [n for n in exercise_ids() if n.split(".")[0] == chapter and _EXERCISES[n].examine]
    done = [n for n in every if n in _PASSED]
    passed = f": {', '.join(done)}" if done else ""
    return f"  Chapter {chapter}: {len(done)} of {len(every)} passed{passed}."


# Errors in the learner's code ----------------------------------------------------------------------------------------


def _error_message(error: Exception) -> str:
    """An error as the learner's own lines tell it."""
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    lines = [f"  line {number} of {name}: {text}" for number, name, text in _own_lines(error.__traceback__)]
    if len(lines) > 6:  # a recursion without an end
        lines = [*lines[:2], "  …", *lines[-3:]]
    if lines:
        return "\n".join([f"your code stopped with {said}", *lines])
    return f"your answer could not be tried: {said}. Are its arguments and its type those of the stub?"


def _own_lines(traceback: TracebackType | None) -> Iterator[tuple[int, str, str]]:
    """Line number, function and text of those steps of a traceback that are the learner's."""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not _is_library(code.co_filename):
            text = linecache.getline(code.co_filename, traceback.tb_lineno).strip()
            yield traceback.tb_lineno, code.co_name, text
        traceback = traceback.tb_next


def _is_library(file: str) -> bool:
    folders = [Path(__file__).parents[1], *(sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib"))]
    return file.startswith("<frozen") or any(Path(folder) in Path(file).parents for folder in folders)


# Time and chance -----------------------------------------------------------------------------------------------------


@contextmanager
def _fresh_numbers() -> Iterator[None]:
    """New random numbers inside; those of the notebook go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.seed()
        yield


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises _TimeIsUp inside when the time is up."""
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        with _alarm(seconds):
            yield
        return
    thread = threading.get_ident()  # Windows, or a thread: stopped at the next line of Python
    raise_there = ctypes.pythonapi.PyThreadState_SetAsyncExc
    timer = threading.Timer(seconds, lambda: raise_there(ctypes.c_ulong(thread), ctypes.py_object(_TimeIsUp)))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
