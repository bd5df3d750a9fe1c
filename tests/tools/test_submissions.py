"""What comes back from browsers and learning platforms: every folder and file gets a line."""

import io
import os
import zipfile
from pathlib import Path

import nbformat
import pytest

from tools.assignments.submissions import GradingError, Submission, find_submissions
from tools.assignments.write import student_notebook

BYTES = nbformat.writes(student_notebook(4, "maple")).encode()
NAMELESS = BYTES.replace(b'"chapter": 4', b'"chapter": null')


def hand_in(folder: Path, **files: bytes) -> list[Submission]:
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return find_submissions(folder, [1, 2, 3, 4, 5, 6])


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name",
    [
        "chapter_4.ipynb",
        "chapter_4 (1).ipynb",
        "Chapter_4.ipynb",
        "Copy of chapter_4.ipynb",
        "chapter_4-1.ipynb",
        "chapter_4_ada.ipynb",
        "CHAPTER 4.IPYNB",
        "week/one/chapter_4.ipynb",
        "chapter_4.ipynb.txt",
        "chapter_4.ipynb.json",
    ],
)
@pytest.mark.parametrize("content", [BYTES, NAMELESS, b"\xef\xbb\xbf" + BYTES, BYTES.decode().encode("utf-16")])
def test_notebooks_are_found_whatever_a_browser_or_platform_named_them(tmp_path, name, content) -> None:
    (entry,) = hand_in(tmp_path, **{f"ada/{name}": content})
    assert (entry.student, entry.assignment, entry.is_readable, entry.remarks) == ("ada", "chapter_4", True, [])


def test_a_notebook_that_was_renamed_is_known_by_its_metadata(tmp_path) -> None:
    (entry,) = hand_in(tmp_path, **{"ada/final version.ipynb": BYTES})
    assert entry.assignment == "chapter_4"


def test_flat_downloads_and_zips(tmp_path) -> None:
    found = hand_in(
        tmp_path,
        **{
            "rita_1234_chapter_4.ipynb": BYTES,
            "uma_chapter_4.ipynb.txt": BYTES,
            "sam.zip": zipped(**{"work/chapter_4.ipynb": BYTES, "__MACOSX/._chapter_4.ipynb": b"x"}),
            "tom/hand-in.zip": zipped(**{"chapter_4.ipynb": BYTES}),
        },
    )
    assert [(entry.student, entry.assignment) for entry in found] == [
        ("rita_1234", "chapter_4"),
        ("sam", "chapter_4"),
        ("tom", "chapter_4"),
        ("uma", "chapter_4"),
    ]


def test_every_folder_and_file_gets_a_line_with_a_remark(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.ipynb")
    found = hand_in(
        tmp_path,
        **{
            "ada/chapter_4.ipynb": BYTES,
            "ada/notes.docx": b"",
            "ben/chapter4.pdf": b"",
            "torn/chapter_4.ipynb": b"{",
            "bad.zip": b"no zip",
            "other/plot.ipynb": NAMELESS,
        },
    )
    remarks = {(entry.student, entry.assignment): "; ".join(entry.remarks) for entry in found}
    assert remarks["ada", "chapter_4"] == ""
    assert remarks["ada", ""] == "not graded: notes.docx"
    assert "found chapter4.pdf" in remarks["ben", ""]
    assert "no notebook that can be read" in remarks["torn", "chapter_4"]
    assert "bad.zip cannot be read" in remarks["bad", ""]
    assert "pipe.ipynb is a device or a pipe" in remarks["pipe", ""]
    assert "found plot.ipynb" in remarks["other", ""]
    assert "nothing was handed in" in remarks["empty", ""]


def test_a_damaged_zip_takes_nothing_along_that_is_beside_it(tmp_path) -> None:
    good = zipped(**{"chapter_3.ipynb": BYTES.replace(b'"chapter": 4', b'"chapter": 3')})
    files = {"a.zip": b"no zip", "cut.zip": good[: len(good) // 2], "chapter_4.ipynb": BYTES, "z.zip": good}
    found = hand_in(tmp_path, **{f"ada/{name}": content for name, content in files.items()})
    assert {entry.assignment for entry in found if entry.is_readable} == {"chapter_3", "chapter_4"}
    (rest,) = (entry for entry in found if not entry.assignment)
    assert [remark.split(" (")[0] for remark in rest.remarks] == ["a.zip cannot be read", "cut.zip cannot be read"]


def test_of_several_notebooks_one_is_graded_and_it_is_said_which(tmp_path) -> None:
    hand_in(tmp_path, **{"ada/chapter_4 (1).ipynb": BYTES, "ada/chapter_4 (2).ipynb": BYTES})
    os.utime(tmp_path / "ada" / "chapter_4 (1).ipynb", (2e9, 2e9))
    (entry,) = find_submissions(tmp_path, [4])
    assert entry.remarks == ["2 notebooks of this chapter were handed in; chapter_4 (1).ipynb is graded"]
    (entry,) = hand_in(tmp_path, **{"ada/chapter_4.ipynb": BYTES})
    assert "; chapter_4.ipynb is graded" in entry.remarks[0]


@pytest.mark.parametrize(("year", "chosen"), [(1999, "chapter_4 (1).ipynb"), (2060, "all.zip/chapter_4 (2).ipynb")])
def test_a_notebook_in_a_zip_is_as_old_as_it_says(tmp_path, year, chosen) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo("chapter_4 (2).ipynb", (year, 1, 1, 0, 0, 0)), BYTES)
        archive.writestr(zipfile.ZipInfo("note.txt", (1980, 0, 0, 31, 0, 0)), b"")
    (tmp_path / "in" / "ada").mkdir(parents=True)
    (tmp_path / "all.zip").rename(tmp_path / "in" / "ada" / "all.zip")
    entry, *_ = hand_in(tmp_path / "in", **{"ada/chapter_4 (1).ipynb": BYTES})
    assert entry.remarks == [f"2 notebooks of this chapter were handed in; {chosen} is graded"]


def test_names_of_students_are_names_of_folders(tmp_path) -> None:
    found = hand_in(tmp_path, **{"Zoë O'Neill_77_assign\n/chapter_4.ipynb": BYTES, "=cmd()/chapter_4.ipynb": BYTES})
    assert {entry.student for entry in found} == {"Zoë O_Neill_77_assign", "cmd"}


def test_notebooks_of_other_chapters_are_told(tmp_path) -> None:
    hand_in(tmp_path, **{"ada/chapter_4.ipynb": BYTES, "ben/chapter_3.ipynb": NAMELESS})
    found = {entry.student: entry for entry in find_submissions(tmp_path, [4])}
    assert "found chapter_3.ipynb" in found["ben"].remarks[0]
    with pytest.raises(GradingError, match="holds no STUDENT/NOTEBOOK"):
        find_submissions(tmp_path, [6])
