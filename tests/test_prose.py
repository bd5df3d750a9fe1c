"""The chapters' prose: measured numbers come from records and claims from sources, never from a keyboard."""

import re

import jupytext
import pytest

from tools.contents import ROOT, pages

PERCENTAGE = re.compile(r"\d\*{0,2}(?:\s|&nbsp;)?(?:%|per ?cent\b|(?:percentage )?points?\b)")
# The level of an interval is a convention and the points of a rubric are marks, not results.
CONVENTIONS = re.compile(r"\b9[05] %(?=\s(?:interval|confidence))|say 95 %|\*\*Rubric\*\* \(\d+ points\)")


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a page, without code, front matter and mathematics."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^(`{3,}|~{3,})\{code-cell\}.*?^\1\s*$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```\w*\n.*?^```\s*$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(
        r"\$\$.*?\$\$|`[^`\n]+`(?!`)", lambda found: found[0] if "{cite" in found[0] else "", text, flags=re.DOTALL
    )
    return re.split(r"\n\s*\n", text)


def typed_percentages(text: str) -> list[str]:
    return [
        paragraph
        for paragraph in paragraphs(text)
        if PERCENTAGE.search(CONVENTIONS.sub("", paragraph)) and "{cite" not in paragraph
    ]


@pytest.mark.parametrize("page", pages(), ids=str)
def test_no_percentage_is_typed_by_hand_without_a_source(page):
    assert typed_percentages((ROOT / f"{page}.md").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", pages(), ids=str)
def test_no_line_of_text_is_a_comment(page):
    # MyST takes a line that begins with a percent sign for a comment, and leaves it out in silence.
    lines = "\n".join(paragraphs((ROOT / f"{page}.md").read_text(encoding="utf-8"))).split("\n")
    assert [line for line in lines if line.startswith("%")] == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("It reaches 74.9 % here.", 1),
        ("It gains 2 percentage points.", 1),
        ("It gains 4.2 points.", 1),
        ("It reaches **74.9** %, or 75&nbsp;%.", 1),
        ("**Rubric** (6 points): something.", 0),
        ("It reaches 81.5 % {cite:p}`yuan2021`.", 0),
        ("A 95 % interval.", 0),
        ("A 95 %\ninterval.", 0),
        ("```{code-cell} python\nprint('75 %')\n```\n", 0),
        ("Fine.\n\nBut 12 percent is typed.\n\nCited 3 % {cite}`a`.", 1),
    ],
)
def test_the_rule_itself(text, count):
    assert len(typed_percentages(text)) == count


def predictions_without_an_answer(text: str) -> list[str]:
    """The questions that readers are asked to predict, and that no folded text takes up before the next one."""
    _, *asked = text.partition("\n## Pitfalls")[0].split("{admonition} Predict, then run")
    folded = re.compile(r"^`+\{admonition\}[^\n]+\n:class: dropdown$", re.MULTILINE)
    return [part.split("```")[0] for part in asked if not folded.search(part)]


@pytest.mark.parametrize("page", [page for page in pages() if re.match(r"book/\d", page)], ids=str)
def test_every_prediction_has_an_answer_to_unfold(page):
    assert predictions_without_an_answer((ROOT / f"{page}.md").read_text(encoding="utf-8")) == []


def test_a_missing_answer_is_noticed():
    asked = "```{admonition} Predict, then run\n:class: tip\nHow many?\n```\n\n"
    answered = asked + "````{admonition} Answer\n:class: dropdown\nFour.\n````\n\n"
    assert predictions_without_an_answer(answered + answered) == []
    assert len(predictions_without_an_answer(asked + answered + asked)) == 2


def open_drawing_cells(page: str) -> list[str]:
    """The cells of a page that draw a figure in many lines, and that no tag folds."""
    cells = jupytext.read(ROOT / f"{page}.md").cells
    return [
        cell.source
        for cell in cells
        if cell.cell_type == "code"
        and "plot.show(" in cell.source
        and cell.source.count("\n") > 6
        and not {"hide-input", "remove-input", "solution"} & set(cell.metadata.get("tags", []))
    ]


@pytest.mark.parametrize("page", pages(), ids=str)
def test_a_cell_that_only_draws_is_folded(page):
    assert open_drawing_cells(page) == []


@pytest.mark.parametrize("page", pages(), ids=str)
def test_every_column_of_a_table_is_named(page):
    # A reader who listens to a cell hears its column's name.
    text = (ROOT / f"{page}.md").read_text(encoding="utf-8")
    assert re.findall(r"^\|[^\n]*\|\s*\|[^\n]*\n\|[-: |]+\|$|^\|\s*\|[^\n]*\n\|[-: |]+\|$", text, re.MULTILINE) == []
