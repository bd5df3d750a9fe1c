"""Reading what others wrote: whatever goes wrong becomes one sentence that names the file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from .words import one_line


class UnreadableError(ValueError):
    """A file that is not what it should be; the message names it and says why."""


@contextmanager
def reading(path: str | Path, advice: str = "") -> Iterator[None]:
    """Context manager: any error inside becomes "PATH cannot be read: why".

    Args:
        path: the file that is read.
        advice: what to do about it, added to the sentence.

    Raises:
        OSError: as the system gives it: no such file, no right to read it.
        UnreadableError: for everything else, and at once for a device or a pipe, whose end may never come.
    """
    try:
        check_ends(path)
        yield
    except UnreadableError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise UnreadableError(_sentence(path, error, advice)) from error
    except Exception as error:  # what is damaged or hostile fails in any way
        raise UnreadableError(_sentence(path, error, advice)) from error


def check_ends(path: str | Path) -> None:
    """UnreadableError for a device, a pipe or a socket: whoever reads one may wait, or read on, for ever."""
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UnreadableError(f"{path} is a device or a pipe; name a file")


def _sentence(path: str | Path, error: Exception, advice: str) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"{path} is not UTF-8 text; save it as UTF-8"
    return f"{path} cannot be read: {reason(error)}" + (f"; {advice}" if advice else "")


def reason(error: BaseException) -> str:
    """What an exception says, short and on one line; for those that say little, what they mean."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, KeyError):
        return f"it lacks {one_line(error)}"
    return one_line(error) or type(error).__name__


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: when it cannot be opened.
        UnreadableError: when it is no JSON, holds NaN or infinity, which JSON has not, or says something twice.
    """
    with reading(path):
        text = Path(path).read_text(encoding="utf-8-sig")
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_without_doubles)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' is there twice")
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")
