"""The exercises' checks: `check("4.2", my_function)` says in a paragraph whether it is right, and what is wrong if not.

A check needs no file and no network. It tries a function on fresh random inputs and compares with an independent
formulation; it never looks at the source. One file holds the checks of one chapter.
"""

from . import (  # noqa: F401  they register their checks
    chapter_1,
    chapter_2,
    chapter_3,
    chapter_4,
    chapter_5,
    chapter_6,
    chapter_7,
)
from .engine import Result, check, exercise_ids

__all__ = ["Result", "check", "exercise_ids"]
