"""What was handed in: every folder and file is looked at, and gets a line, whatever a browser or platform named it."""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath

import nbformat
from nbformat import NotebookNode

from deepvit_edu.reading import check_ends, reason
from tools.assignments.write import assignment_name

LARGEST = 20 * 2**20
"""Bytes of a notebook, and of one file in a zip; no answer to our questions needs more."""
ENDINGS = (".ipynb", ".ipynb.json", ".ipynb.txt")
"""Of a notebook; some browsers add the second or third half."""
LARGEST_ZIP = 200 * 2**20
IN_A_NAME = re.compile(r"chapter[\s_.-]*(\d+)", re.IGNORECASE)


class GradingError(RuntimeError):
    """Grading cannot go on; the message says what to do."""


@dataclass
class Submission:
    """A student's notebook of one assignment, and what was remarked about it.

    `assignment` is empty, and `notebook` None, where there is nothing that can be graded; the remarks say why.
    """

    student: str
    assignment: str = ""
    notebook: NotebookNode | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def is_readable(self) -> bool:
        """Whether it can be graded."""
        return self.notebook is not None


@dataclass(frozen=True)
class _File:
    """A file that came back: its name as it was handed in, its bytes, and when it was changed last."""

    name: str
    content: bytes
    changed: float


def find_submissions(folder: Path, chapters: Sequence[int]) -> list[Submission]:
    """What a folder of submissions holds: a notebook for each student and chapter, and a line for all that is none.

    A student is a folder (with notebooks or zips, however deep), a zip, or a notebook whose name holds the student's,
    as platforms write it. Which chapter a notebook is of says its metadata, or else its name.

    Raises:
        GradingError: the folder is not there, or holds no notebook of these chapters.
    """
    if not folder.is_dir():
        raise GradingError(f"there is no folder {folder}; it should hold a folder for each student")
    students: dict[str, list[_File]] = {}
    remarks: dict[str, list[str]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        student = student_of(entry)
        files = students.setdefault(student, [])
        for path, name in _paths(entry):
            try:
                files += _files(path, name)
            except Exception as error:  # one bad file must not take the good ones beside it along
                remarks.setdefault(student, []).append(f"{name} cannot be read ({reason(error)})")
    found = [
        entry
        for student in sorted({*students, *remarks})
        for entry in _of_student(student, students.get(student, []), remarks.get(student, []), chapters)
    ]
    if not any(entry.assignment for entry in found):
        wanted = ", ".join(f"{assignment_name(chapter)}.ipynb" for chapter in chapters)
        raise GradingError(f"{folder} holds no STUDENT/NOTEBOOK with one of the names {wanted}")
    return found


def student_of(entry: Path) -> str:
    """The student's name: the folder's, or what a file's name holds beside the chapter."""
    stem = next((entry.name[: -len(end)] for end in ENDINGS if entry.name.lower().endswith(end)), entry.stem)
    name = entry.name if entry.is_dir() else IN_A_NAME.sub("", stem)
    name = re.sub(r"[^\w.@ -]+", "_", name).strip(" ._-@")
    return name or "unnamed"


def _paths(entry: Path) -> list[tuple[Path, str]]:
    """All files of a student's folder, or a file that was handed in as it is, each with its name."""
    if not entry.is_dir():
        return [(entry, entry.name)]
    named = ((path, path.relative_to(entry).as_posix()) for path in sorted(entry.rglob("*")) if not path.is_dir())
    return [(path, name) for path, name in named if not _is_beside_the_point(name)]


def _files(path: Path, name: str) -> list[_File]:
    """A file, or those in a zip."""
    check_ends(path)
    if path.suffix.lower() == ".zip":
        return list(_unzipped(path, name))
    size, changed = path.stat().st_size, path.stat().st_mtime
    return [_File(name, path.read_bytes() if size <= LARGEST and _is_notebook(name) else b"", changed)]


def _unzipped(path: Path, name: str) -> Iterator[_File]:
    if path.stat().st_size > LARGEST_ZIP:
        raise ValueError("it is too large")
    with zipfile.ZipFile(path) as archive:
        for about in archive.infolist():
            if about.is_dir() or _is_beside_the_point(about.filename):
                continue
            wanted = _is_notebook(about.filename) and about.file_size <= LARGEST
            with archive.open(about) as file:
                content = file.read(LARGEST + 1) if wanted else b""  # what it says of its size may be wrong
            changed = _seconds(about.date_time)
            yield _File(f"{name}/{about.filename}", content if len(content) <= LARGEST else b"", changed)


def _seconds(date_time: tuple[int, ...]) -> float:
    """When a file in a zip was changed, as of a file beside it; 0 where the zip says nothing that is a time."""
    try:
        return datetime(*date_time).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _is_notebook(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def _is_beside_the_point(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _of_student(student: str, files: list[_File], remarks: list[str], chapters: Sequence[int]) -> Iterator[Submission]:
    by_chapter: dict[int, list[tuple[_File, NotebookNode | None]]] = {}
    others = []
    for file in files:
        notebook, chapter = _notebook_of(file)
        if chapter in chapters:
            by_chapter.setdefault(chapter, []).append((file, notebook))
        else:
            others.append(file.name)
    for chapter, candidates in sorted(by_chapter.items()):
        yield _chosen(student, chapter, candidates)
    if not by_chapter:
        what = f"found {', '.join(sorted(others)[:3])}" if others else "nothing was handed in"
        remarks = [*remarks, f"not graded: no notebook of these chapters; {what}"]
    elif others:
        remarks = [*remarks, f"not graded: {', '.join(sorted(others)[:5])}"]
    if remarks:
        yield Submission(student, remarks=remarks)


def _chosen(student: str, chapter: int, candidates: list[tuple[_File, NotebookNode | None]]) -> Submission:
    """The one of several notebooks that is graded: one that can be read, of the very name, the newest."""
    name = assignment_name(chapter)

    def rank(candidate: tuple[_File, NotebookNode | None]) -> tuple[bool, bool, float]:
        file, notebook = candidate
        return notebook is not None, PurePosixPath(file.name).name == f"{name}.ipynb", file.changed

    file, notebook = max(candidates, key=rank)
    entry = Submission(student, name, notebook)
    if notebook is None:
        entry.remarks.append("the file is no notebook that can be read")
    if len(candidates) > 1:
        entry.remarks.append(f"{len(candidates)} notebooks of this chapter were handed in; {file.name} is graded")
    return entry


def _notebook_of(file: _File) -> tuple[NotebookNode | None, int | None]:
    """The notebook in a file, if it is one, and the chapter that its metadata or else its name tells."""
    if not _is_notebook(file.name):
        return None, None
    in_name = [int(number) for number in IN_A_NAME.findall(PurePosixPath(file.name).stem)]
    chapter = in_name[0] if len(in_name) == 1 else None
    try:
        raw = json.loads(file.content)  # which knows UTF-8 and UTF-16 apart, with a mark and without
        notebook = nbformat.read(io.StringIO(json.dumps(raw)), as_version=4)
        notebook.cells = [cell for cell in notebook.cells if isinstance(cell.source, str)]
        in_metadata = notebook.metadata.get("deepvit_edu", {}).get("chapter")
    except Exception:  # a file from anywhere breaks what reads it in any way
        return None, chapter
    return notebook, in_metadata if isinstance(in_metadata, int) else chapter
