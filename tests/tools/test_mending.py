"""Submissions that come back changed: what is mended, and what is only told."""

import nbformat
import pytest

from tools.assignments.grading import GradingError, find_submissions, grade, mend
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
