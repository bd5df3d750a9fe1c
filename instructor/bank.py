"""The bank of exercises, read from the chapters: what each is, its stub, hints and solution."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("implement", "repair", "measure", "derive", "explain", "project")

_EXERCISE = re.compile(r"^````\{exercise\} (?P<title>.+?)\n:label: (?P<label>\S+)\n(?P<body>.*?)^````$", re.M | re.S)
_FACTS = re.compile(
    r"^\*(?P<number>\d+\.\d+) · (?P<kind>\w+) · difficulty (?P<difficulty>[1-5]) of 5 · importance "
    r"(?P<importance>[1-5]) of 5 · (?P<minutes>\d+) minutes · practises (?P<practises>[^*]+)\*$"
)
_HINT = re.compile(r"^```\{admonition\} Hint (?P<number>\d+)\n:class: dropdown\n(?P<text>.*?)^```$", re.M | re.S)
_CELL = re.compile(
    r"^```\{code-cell\} ipython3\n(?::tags: \[(?P<tags>[\w, -]+)\]\n)?\n?(?P<code>.*?)^```$", re.M | re.S
)
_SOLUTION = re.compile(
    r"^````\{solution-start\} (?P<label>\S+)\n.*?^````$(?P<body>.*?)^````\{solution-end\}", re.M | re.S
)
_CHECK = re.compile(r"check\(\"(?P<number>[\d.]+)\"(?:, (?P<answers>[^)]*))?\)")


@dataclass(frozen=True)
class Exercise:
    """An exercise as the chapter has it. `answers` are the names that its stub hands to `check`."""

    number: str
    label: str
    title: str
    kind: str
    difficulty: int
    importance: int
    minutes: int
    practises: str
    statement: str
    hints: tuple[str, ...]
    stub: str
    answers: tuple[str, ...]
    solution: str
    solution_code: tuple[str, ...]


def chapter_files() -> dict[int, Path]:
    """The chapters by number."""
    return {int(path.name[:2]): path for path in sorted((ROOT / "book").glob("[0-9][0-9]_*.md"))}


def load_chapter(chapter: int) -> list[Exercise]:
    """The exercises of a chapter, in order.

    Raises:
        ValueError: an exercise is not written as CONTRIBUTING.md says.
    """
    path = chapter_files()[chapter]
    text = path.read_text(encoding="utf-8")
    text = text[text.index("\n## Exercises") :]
    found = list(_EXERCISE.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)]
    return [_exercise(match, text[match.end() : end], path.name) for match, end in zip(found, ends, strict=True)]


def load_bank() -> list[Exercise]:
    """The exercises of all chapters."""
    return [exercise for chapter in chapter_files() for exercise in load_chapter(chapter)]


def imports_of(chapter: int) -> str:
    """The import statements of a chapter's cells, as code: what its solutions may rely on."""
    text = chapter_files()[chapter].read_text(encoding="utf-8")
    return "\n".join(ast.unparse(node) for code in _codes(text) for node in ast.parse(code).body if _imports(node))


def definitions(code: str) -> str:
    """The functions, classes and imports of a cell, without what it computes or prints."""
    kept = [
        node for node in ast.parse(code).body if _imports(node) or isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    return "\n\n".join(map(ast.unparse, kept))


def _imports(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _codes(text: str) -> Iterator[str]:
    return (match["code"] for match in _CELL.finditer(text))


def _exercise(match: re.Match, rest: str, page: str) -> Exercise:
    place = f"{page}, exercise “{match['title']}”"
    first, _, statement = match["body"].strip().partition("*\n")
    facts = _FACTS.match(" ".join(first.split()) + "*")
    if not facts:
        raise ValueError(f"{place}: its first line does not have the form that CONTRIBUTING.md gives")
    if facts["kind"] not in KINDS:
        raise ValueError(f"{place}: the kind {facts['kind']} is none of {', '.join(KINDS)}")
    solution = next((found for found in _SOLUTION.finditer(rest) if found["label"] == match["label"]), None)
    if solution is None:
        raise ValueError(f"{place} has no solution")
    stub = next(_codes(rest[: solution.start()]), "")
    called = _CHECK.search(stub)
    answers = tuple(name.strip() for name in called["answers"].split(",")) if called and called["answers"] else ()
    return Exercise(
        number=facts["number"],
        label=match["label"],
        title=match["title"],
        kind=facts["kind"],
        difficulty=int(facts["difficulty"]),
        importance=int(facts["importance"]),
        minutes=int(facts["minutes"]),
        practises=facts["practises"].strip(),
        statement=statement[: hint.start()].strip() if (hint := _HINT.search(statement)) else statement.strip(),
        hints=tuple(hint["text"].strip() for hint in _HINT.finditer(match["body"])),
        stub=stub.strip(),
        answers=answers,
        solution=solution["body"].strip(),
        solution_code=tuple(_codes(solution["body"])),
    )
