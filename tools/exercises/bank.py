"""The bank of exercises, read from the chapters: what each is, its stub, hints and solution."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.book.notebooks import Block, Directive, Line, read_lines, split_blocks
from tools.contents import ROOT

KINDS = ("implement", "repair", "measure", "derive", "explain", "project")

_FACTS = re.compile(
    r"^\*(?P<number>\d+\.\d+) · (?P<kind>\w+) · difficulty (?P<difficulty>[1-5]) of 5 · importance "
    r"(?P<importance>[1-5]) of 5 · (?P<minutes>\d+) minutes · practises (?P<practises>[^*]+)\*$"
)
_CHECK = re.compile(r"check\(\"[\d.]+\"(?:, (?P<answers>[^)]*))?\)")


@dataclass(frozen=True)
class Exercise:
    """An exercise of a chapter. `answers` are the names that its stub passes to `check`."""

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
    blocks = _blocks(path)
    starts = [i for i, block in enumerate(blocks) if isinstance(block, Directive) and block.name == "exercise"]
    ends = [*starts[1:], len(blocks)]
    return [
        _exercise(blocks[start], blocks[start + 1 : end], path.name) for start, end in zip(starts, ends, strict=True)
    ]


def load_bank() -> list[Exercise]:
    """The exercises of all chapters."""
    return [exercise for chapter in chapter_files() for exercise in load_chapter(chapter)]


def imports_of(chapter: int) -> str:
    """The import statements of a chapter's cells, as code: what its solutions may rely on."""
    codes = _codes(_blocks(chapter_files()[chapter]))
    return "\n".join(ast.unparse(node) for code in codes for node in ast.parse(code).body if _imports(node))


def definitions(code: str) -> str:
    """The functions, classes and imports of a cell, without what it computes or prints."""
    kept = [
        node for node in ast.parse(code).body if _imports(node) or isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    return "\n\n".join(map(ast.unparse, kept))


def _imports(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _blocks(path: Path) -> list[Block]:
    return split_blocks(read_lines(path.read_text(encoding="utf-8")), path.stem)


def _text(blocks: Sequence[Block]) -> str:
    """Blocks as they stand in the source."""
    lines = (line for block in blocks for line in ([block] if isinstance(block, Line) else block.lines))
    return "\n".join(line.text for line in lines).strip()


def _codes(blocks: Sequence[Block]) -> Iterator[str]:
    """The code of the cells among blocks."""
    cells = (block for block in blocks if isinstance(block, Directive) and block.name == "code-cell")
    return (_text(cell.body) for cell in cells)


def _is_hint(block: Block) -> bool:
    return isinstance(block, Directive) and block.name == "admonition" and block.argument.startswith("Hint ")


def _exercise(box: Directive, rest: list[Block], page: str) -> Exercise:
    place = f"{page}, exercise “{box.argument}”"
    inside = split_blocks(box.body, page)
    first, _, statement = _text([block for block in inside if not _is_hint(block)]).partition("*\n")
    facts = _FACTS.match(" ".join(first.split()) + "*")
    if not facts:
        raise ValueError(f"{place}: its first line does not have the form that CONTRIBUTING.md gives")
    if facts["kind"] not in KINDS:
        raise ValueError(f"{place}: the kind {facts['kind']} is not one of {', '.join(KINDS)}")
    names = [block.name if isinstance(block, Directive) else "" for block in rest]
    if "solution-start" not in names or "solution-end" not in names:
        raise ValueError(f"{place} has no solution")
    start, end = names.index("solution-start"), names.index("solution-end")
    if rest[start].argument != box.options["label"]:
        raise ValueError(f"{place} is followed by the solution of another, {rest[start].argument}")
    stub, solution = next(_codes(rest[:start]), ""), rest[start + 1 : end]
    called = _CHECK.search(stub)
    return Exercise(
        number=facts["number"],
        label=box.options["label"],
        title=box.argument,
        kind=facts["kind"],
        difficulty=int(facts["difficulty"]),
        importance=int(facts["importance"]),
        minutes=int(facts["minutes"]),
        practises=facts["practises"].strip(),
        statement=statement.strip(),
        hints=tuple(_text(block.body) for block in inside if _is_hint(block)),
        stub=stub,
        answers=tuple(name.strip() for name in (called["answers"] or "").split(",") if name) if called else (),
        solution=_text(solution),
        solution_code=tuple(_codes(solution)),
    )
