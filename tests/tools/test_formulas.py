"""Formulas typeset while the book is built."""

from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.utils import new_document

pytest.importorskip("sphinx", reason="Only the book's environment has Sphinx.")
pytest.importorskip("py_mini_racer", reason="Only the book's environment has a JavaScript engine.")

from tools.book.formulas import in_lines, keep_stops, typeset, with_breaks


def test_formula_is_there_for_the_eye_and_for_screen_readers() -> None:
    formula = BeautifulSoup(typeset(r"\frac{q^\top k}{\sqrt D}"), "html.parser")
    assert formula.select_one("math annotation").get_text() == r"\frac{q^\top k}{\sqrt D}"
    assert formula.select("math mfrac msqrt")
    assert formula.select_one(".katex-html")["aria-hidden"] == "true"
    assert "⊤" in formula.select_one(".katex-html").get_text()


def test_display_stands_in_its_own_line() -> None:
    assert "katex-display" in typeset("x = y", display=True)
    assert "katex-display" not in typeset("x = y")


def test_mistake_is_named_with_its_reason() -> None:
    with pytest.raises(ValueError, match=r"softmx.* cannot be typeset: .*Undefined control sequence"):
        typeset(r"\softmx(S)")


@pytest.mark.parametrize(
    ("tex", "rows"), [("a = b", 0), (r"a &= b \\ c &= d", 2), ("a = b\n\nc = d\n", 2), ("a = b\n", 0)]
)
def test_lines_of_a_display_are_rows(tex: str, rows: int) -> None:
    formula = BeautifulSoup(typeset(in_lines(tex), display=True), "html.parser")
    assert len(formula.select("math mtable mtr")) == rows


@pytest.mark.parametrize(
    ("before", "tex", "after", "kept"),
    [
        ("of ", "N", "). Next", "N)."),
        ("of ", "N", " tokens.", None),
        ("numbers (", "N", " tokens)", "(N"),
        ("of (", r"\frac{q^\top k}{\sqrt D} + \frac12", "). Next", r"(\frac{q^\top k}{\sqrt D} + \frac12)."),
    ],
)
def test_formula_stays_with_its_bracket_and_its_stop(before: str, tex: str, after: str, kept: str | None) -> None:
    paragraph = nodes.paragraph("", "", nodes.Text(before), nodes.math("", tex), nodes.Text(after))
    document = new_document("page")
    document += paragraph
    words = paragraph.astext()
    keep_stops(SimpleNamespace(builder=SimpleNamespace(format="html")), document, "page")
    unbroken = [one.astext() for one in paragraph.findall(nodes.inline) if "unbroken" in one["classes"]]
    assert unbroken == ([kept] if kept else [])
    assert paragraph.astext() == words


def test_long_formula_may_break_between_its_parts() -> None:
    formula = typeset(r"\Theta_1 + \Theta_2 + \Theta_3")
    parts = BeautifulSoup(with_breaks(formula), "html.parser").select(".katex-html > *")
    assert [part.name for part in parts] == ["span", "wbr", "span", "wbr", "span"]
    assert with_breaks(formula).replace("<wbr>", "") == formula
    assert with_breaks("<code>x</code>") == "<code>x</code>"
