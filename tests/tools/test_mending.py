"""Submissions that come back changed: what is mended, and what is only told."""

import nbformat
import pytest

from deepvit_edu.files import only_process_in
from tools.assignments.grading import (
    COLUMNS,
    GradingError,
    find_submissions,
    grade,
    main,
    mend,
    read_marks,
    write_marks,
)
from tools.assignments.write import source_notebook, student_notebook

CHAPTER, SEED = 4, "maple"


def ids(notebook) -> list[str]:
    return [cell.metadata.nbgrader.grade_id for cell in notebook.cells if "nbgrader" in cell.metadata]


def test_untouched_notebook_stays_and_gets_its_hidden_tests_back() -> None:
    source = source_notebook(CHAPTER, SEED)
    mended, remarks = mend(student_notebook(CHAPTER, SEED), source)
    assert remarks == []
    assert [cell.source for cell in mended.cells] == [cell.source for cell in source.cells]


def test_added_cells_stay_where_they_were() -> None:
    back = student_notebook(CHAPTER, SEED)
    back.cells.insert(4, nbformat.v4.new_code_cell("helper = 1"))
    back.cells.append(nbformat.v4.new_markdown_cell("The end."))
    mended, _ = mend(back, source_notebook(CHAPTER, SEED))
    assert mended.cells[4].source == "helper = 1"
    assert mended.cells[-1].source == "The end."
    assert ids(mended) == ids(source_notebook(CHAPTER, SEED))


def test_deleted_cells_come_back_and_answers_are_remarked() -> None:
    back = student_notebook(CHAPTER, SEED)
    gone = [cell.metadata.nbgrader.grade_id for cell in back.cells[3:6]]
    del back.cells[3:6]
    mended, remarks = mend(back, source_notebook(CHAPTER, SEED))
    assert ids(mended) == ids(source_notebook(CHAPTER, SEED))
    assert [name in " ".join(remarks) for name in gone] == [name.endswith("answer") for name in gone]


def test_lost_metadata_is_found_again_by_first_lines() -> None:
    back = student_notebook(CHAPTER, SEED)
    for cell in back.cells:
        if cell.source.startswith("# answer 1"):
            cell.source += "\nmine = 5"
        cell.metadata = nbformat.from_dict({})
    mended, remarks = mend(back, source_notebook(CHAPTER, SEED))
    assert ids(mended) == ids(source_notebook(CHAPTER, SEED))
    assert sum("mine = 5" in cell.source for cell in mended.cells) == 1
    assert len(remarks) == 4


@pytest.mark.parametrize("above", ["#@title My answer\n", "%%time\n", "\n", "# ANSWER 1:  Norm_of_maps \n"])
def test_an_answer_is_found_whatever_stands_above_its_marker(above: str) -> None:
    back = student_notebook(CHAPTER, SEED)
    for cell in back.cells:
        if cell.source.startswith("# answer 1"):
            marker, _, rest = cell.source.partition("\n")
            cell.source = f"{above}{'' if 'ANSWER' in above else marker}\n{rest}\nmine = 5"
        cell.metadata = nbformat.from_dict({})
    mended, remarks = mend(back, source_notebook(CHAPTER, SEED))
    assert not any("is missing" in remark for remark in remarks)
    assert sum("mine = 5" in cell.source for cell in mended.cells) == 1


@pytest.mark.parametrize("tests_changed", [False, True])
@pytest.mark.parametrize("keeps_metadata", [True, False])
def test_a_helper_below_the_answer_runs_before_the_tests(keeps_metadata: bool, tests_changed: bool) -> None:
    back = student_notebook(CHAPTER, SEED)
    answer = next(i for i, cell in enumerate(back.cells) if cell.source.startswith("# answer 1"))
    back.cells.insert(answer + 1, nbformat.v4.new_code_cell("helper = 1"))
    for cell in back.cells:
        if tests_changed and cell.metadata.get("nbgrader", {}).get("grade") and cell.cell_type == "code":
            cell.source = "assert True"
        if not keeps_metadata:
            cell.metadata = nbformat.from_dict({})
    mended, remarks = mend(back, source_notebook(CHAPTER, SEED))
    order = [cell.metadata.get("nbgrader", {}).get("grade_id", cell.source) for cell in mended.cells]
    assert order.index("norm-of-maps-answer") < order.index("helper = 1") < order.index("norm-of-maps-test-1")
    assert any("yours were put back" in remark for remark in remarks) == tests_changed


@pytest.mark.parametrize("grade_id", [[], {}, 3, None])
def test_metadata_of_another_kind_counts_as_lost(grade_id) -> None:
    back = student_notebook(CHAPTER, SEED)
    for cell in back.cells:
        cell.metadata["nbgrader"] = nbformat.from_dict({"grade_id": grade_id})
    mended, remarks = mend(back, source_notebook(CHAPTER, SEED))
    assert ids(mended) == ids(source_notebook(CHAPTER, SEED))
    assert any("had lost its metadata" in remark for remark in remarks)


def test_an_answer_that_is_there_twice_is_told_and_the_changed_one_taken() -> None:
    back, source = student_notebook(CHAPTER, SEED), source_notebook(CHAPTER, SEED)
    answer = next(i for i, cell in enumerate(back.cells) if cell.source.startswith("# answer 1"))
    back.cells.insert(answer + 1, nbformat.from_dict(back.cells[answer]))
    back.cells[answer].source += "\nmine = 5"
    mended, remarks = mend(back, source)
    assert any("is there twice" in remark for remark in remarks)
    assert sum("mine = 5" in cell.source for cell in mended.cells) == 1
    assert sum(cell.source.startswith("# answer 1") for cell in mended.cells) == 1


def test_lost_metadata_and_lost_first_line_is_told() -> None:
    back = student_notebook(CHAPTER, SEED)
    for cell in back.cells:
        cell.metadata = nbformat.from_dict({})
        cell.source = cell.source.replace("# answer 1", "# mine 1")
    mended, remarks = mend(back, source_notebook(CHAPTER, SEED))
    assert any("is missing" in remark for remark in remarks)
    assert any("# mine 1" in cell.source for cell in mended.cells), "nothing that a student wrote is lost"


def test_no_course_is_a_clear_error(tmp_path) -> None:
    with pytest.raises(GradingError, match="holds no assignments"):
        grade(tmp_path / "course", [], 10)


def test_no_submissions_is_a_clear_error(tmp_path) -> None:
    with pytest.raises(GradingError, match="there is no folder"):
        find_submissions(tmp_path / "none", [4])
    with pytest.raises(GradingError, match=r"holds no STUDENT/NOTEBOOK.*chapter_4.ipynb"):
        find_submissions(tmp_path, [4])


ROW = {"student": "ada", "assignment": "chapter_4", "points": "3", "of": "13", "in words": "2", "remarks": "a; b"}


@pytest.mark.parametrize("how", [{"encoding": "utf-8-sig"}, {"separator": ";"}, {"separator": ";", "newline": "\r\n"}])
def test_marks_that_a_spreadsheet_program_saved_are_joined(tmp_path, how) -> None:
    separator, newline = how.get("separator", ","), how.get("newline", "\n")
    lines = [separator.join(COLUMNS), separator.join(f'"{value}"' for value in ROW.values())]
    path = tmp_path / "marks.csv"
    path.write_bytes((newline.join(lines) + newline).encode(how.get("encoding", "utf-8")))
    assert read_marks(path) == [ROW]
    write_marks([{**ROW, "student": "ben"}], path)
    assert [row["student"] for row in read_marks(path)] == ["ada", "ben"]
    assert [file.name for file in tmp_path.iterdir()] == ["marks.csv"]


@pytest.mark.parametrize(
    "content", [b"student,assignment\nada,chapter_4\n", b"\xff\xfeS", "stud\u00e9nt\n".encode("latin-1"), b"a\n\x00\n"]
)
def test_marks_that_cannot_be_joined_are_told_before_the_work(tmp_path, content, capsys) -> None:
    (tmp_path / "course").mkdir()
    (tmp_path / "in" / "ada").mkdir(parents=True)
    nbformat.write(student_notebook(CHAPTER, SEED), tmp_path / "in" / "ada" / "chapter_4.ipynb")
    (tmp_path / "marks.csv").write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), str(tmp_path / "in"), "--no-sandbox"])
    assert stop.value.code == 1
    assert "mend it or move it away" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "marks.csv").read_bytes() == content


def test_a_second_grading_of_one_course_waits_for_nobody_and_is_told(tmp_path, capsys) -> None:
    (tmp_path / "in" / "ada").mkdir(parents=True)
    nbformat.write(student_notebook(CHAPTER, SEED), tmp_path / "in" / "ada" / "chapter_4.ipynb")
    with only_process_in(tmp_path / "course"), pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "course"), str(tmp_path / "in"), "--no-sandbox"])
    assert stop.value.code == 1
    assert "another process works in" in capsys.readouterr().err
