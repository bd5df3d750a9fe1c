"""What other programs and students do to a notebook, undone: every cell is found again, as far as that can be told."""

import re

import nbformat
from nbformat import NotebookNode

from tools.assignments.write import visible_part


def mend(handed_in: NotebookNode, source: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """A submission with the cells of what was handed out, each filled with the student's answer as far as it is found.

    A cell is known by nbgrader's metadata; where that is lost, an answer by its marker, others by what students see of
    them. What the student added stays where it was, but before the tests that follow it. Returns the notebook and
    remarks.
    """
    remarks: list[str] = []
    partners = _partners(handed_in, source, remarks)
    _remark_on_tests(partners, source, remarks)
    position = {id(cell): place for place, cell in enumerate(handed_in.cells)}
    taken = {id(cell) for cell in partners.values()}
    extra = [cell for cell in handed_in.cells if id(cell) not in taken and id(cell) not in _copies(handed_in, partners)]
    mended = nbformat.v4.new_notebook(metadata=source.metadata)
    done = -1
    for number, cell in enumerate(source.cells):
        place = _place(number, partners, source, position)
        if place is not None:
            mended.cells += [_plain(other) for other in extra if done < position[id(other)] < place]
            done = max(done, place)
        new = nbformat.from_dict(cell)
        if cell.metadata.nbgrader.solution and number in partners:
            new.source = partners[number].source
        mended.cells.append(new)
    mended.cells += [_plain(other) for other in extra if position[id(other)] > done]
    return mended, remarks


def _partners(handed_in: NotebookNode, source: NotebookNode, remarks: list[str]) -> dict[int, NotebookNode]:
    """Of the cells that were handed out, by number, which cell came back."""
    partners: dict[int, NotebookNode] = {}
    taken: set[int] = set()
    for number, cell in enumerate(source.cells):
        about = cell.metadata.nbgrader
        back = [other for other in _named(about.grade_id, handed_in) if id(other) not in taken]
        kept_metadata = bool(back)
        back = back or [other for other in _alike(cell, handed_in) if id(other) not in taken]
        if about.solution and not back:
            remarks.append(f"the cell {about.grade_id} is missing: it counts as not answered")
        if not back:
            continue
        chosen = _most_changed(back, cell) if about.solution else back[0]
        if about.solution and len(back) > 1:
            remarks.append(f"{about.grade_id} is there twice or more; the one that was changed is graded")
        if about.solution and not kept_metadata:
            remarks.append(f"{about.grade_id} had lost its metadata and was found by its first line")
        partners[number] = chosen
        taken.add(id(chosen))
    return partners


def _named(name: str, notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if _about(cell).get("grade_id") == name]


def _about(cell: NotebookNode) -> dict:
    about = cell.metadata.get("nbgrader", {})
    return about if isinstance(about, dict) and isinstance(about.get("grade_id"), str) else {}


def _alike(cell: NotebookNode, notebook: NotebookNode) -> list[NotebookNode]:
    """Cells without metadata that are what this one was: an answer with its marker, another with what students saw."""
    if cell.metadata.nbgrader.solution:
        marker = _plain_words(cell.source.split("\n")[0])
        fits = lambda source: any(marker in _plain_words(line) for line in source.split("\n"))  # noqa: E731
    else:
        seen = _plain_words(visible_part(cell.source))
        fits = lambda source: _plain_words(source) == seen  # noqa: E731
    return [
        other
        for other in notebook.cells
        if other.cell_type == cell.cell_type and not _about(other) and fits(other.source)
    ]


def _plain_words(text: str) -> str:
    """Text as it is compared: in small letters, without marks of comments, and with single blanks."""
    return " ".join(re.sub(r"<!--|-->|#", " ", text).lower().split())


def _most_changed(candidates: list[NotebookNode], stub: NotebookNode) -> NotebookNode:
    changed = [cell for cell in candidates if _plain_words(cell.source) != _plain_words(stub.source)]
    return (changed or candidates)[0]


def _copies(handed_in: NotebookNode, partners: dict[int, NotebookNode]) -> set[int]:
    """Cells that are copies of answers' cells: they do not run, since they would undo the answer that is graded."""
    names = {_about(cell).get("grade_id") for cell in partners.values()} - {None}
    chosen = {id(cell) for cell in partners.values()}
    return {id(c) for c in handed_in.cells if _about(c).get("grade_id") in names and id(c) not in chosen}


def _remark_on_tests(partners: dict[int, NotebookNode], source: NotebookNode, remarks: list[str]) -> None:
    tests = [n for n, cell in enumerate(source.cells) if _is_test(cell)]
    missing = [n for n in tests if n not in partners]
    changed = [
        n
        for n in tests
        if n in partners and _plain_words(partners[n].source) != _plain_words(visible_part(source.cells[n].source))
    ]
    for what, numbers in (("were deleted or changed", missing), ("were changed", changed)):
        if numbers:
            remarks.append(f"{len(numbers)} of {len(tests)} tests {what}; yours were put back")


def _is_test(cell: NotebookNode) -> bool:
    about = cell.metadata.nbgrader
    return about.grade and not about.solution


def _place(number: int, partners: dict[int, NotebookNode], source: NotebookNode, position: dict) -> int | None:
    """Where in what came back a cell stood; a test that is not there stands before the next cell that is."""
    if number in partners:
        return position[id(partners[number])]
    if not _is_test(source.cells[number]):
        return None
    following = [position[id(partners[n])] for n in range(number + 1, len(source.cells)) if n in partners]
    return following[0] if following else len(position)


def _plain(cell: NotebookNode) -> NotebookNode:
    new = nbformat.v4.new_markdown_cell if cell.cell_type == "markdown" else nbformat.v4.new_code_cell
    return new(cell.source)
