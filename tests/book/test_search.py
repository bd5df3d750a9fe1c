"""Search finds sections and shows excerpts, from a folder, and fetches no page for it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docutils import nodes
from sphinx import addnodes

from tools.book.front import HIGHEST, minutes_to_read, picture, whole_height
from tools.book.search import INDEX, plain_formula, sections_of

MILLISECONDS = 30_000  # a page may wait for a machine that does other work


def section(anchor: str, title: str, *inside: nodes.Node) -> nodes.section:
    return nodes.section("", nodes.title("", title), *inside, ids=[anchor])


@pytest.fixture
def doctree() -> nodes.document:
    """A page of two sections, with a box that Sphinx makes of a section without a title."""
    untitled = nodes.section("", nodes.paragraph("", "In a box."), ids=["exercise-content"])
    inner = section("inner", "Inner", nodes.paragraph("", "Second words."), nodes.note("", untitled))
    code = nodes.literal_block("", "code = 1")
    page = section("page", "Page", nodes.paragraph("", "First", nodes.emphasis("", " words.")), code, inner)
    return nodes.document(None, None, "", page)


def test_sections_have_titles_numbers_addresses_and_their_own_words(doctree: nodes.document) -> None:
    page, inner = sections_of(doctree, "book/page.html", {"": (4,), "#inner": (4, 1)})
    assert page == {"title": "4 Page", "address": "book/page.html", "text": "First words.", "page": "4 Page"}
    assert inner["title"] == "4.1 Inner"
    assert inner["address"] == "book/page.html#inner"
    assert inner["text"] == "Second words. In a box."


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"P \times P", "P × P"),
        (r"\varepsilon_{\mathrm{LN}}", "ε_LN"),
        (r"\Lambda\,\lambda", "Λλ"),
        (r"\frac{a}{\sqrt{D}} \le \operatorname{range}(x)", "a/√D ≤ range(x)"),
        ("x^2", "x^2"),
        (r"A^{\top} e^{q \cdot k}", "A^T e^(q · k)"),
    ],
)
def test_formulas_are_plain_text(latex: str, text: str) -> None:
    assert plain_formula(latex) == text


def test_signatures_keep_their_words_apart() -> None:
    parameters = [addnodes.desc_parameter("", "", nodes.Text(word)) for word in ("depth: int = 24", "padding: int")]
    inside = (addnodes.desc_name("", "make"), addnodes.desc_parameterlist("", "", *parameters))
    described = addnodes.desc("", addnodes.desc_signature("", "", *inside), nodes.paragraph("", "Makes."))
    (found,) = sections_of(nodes.document(None, None, "", section("a", "A", described)), "a.html", {})
    assert found["text"] == "make(depth: int = 24, padding: int) Makes."


def test_minutes_are_those_of_the_words(doctree: nodes.document) -> None:
    assert minutes_to_read(doctree) == 5  # the least that is said
    doctree[0] += nodes.paragraph("", "word " * 4000)
    assert minutes_to_read(doctree) == 20


def test_picture_of_a_chapter_has_ids_of_its_own() -> None:
    svg = picture("book/01_vision_transformer", "vit")
    assert 'aria-hidden="true"' in svg
    assert "<title>" not in svg
    assert 'id="vit-' in svg or "id=" not in svg
    assert picture("book/glossary", "glossary") == ""


def test_pictures_cut_no_box_and_no_word() -> None:
    assert whole_height('<rect x="1" y="20" width="9" height="60"/><rect x="1" y="120" width="9" height="200"/>') == 118
    assert whole_height('<rect y="20" height="60"/><text x="1" y="104">words</text><rect y="110" height="200"/>') == 90
    assert whole_height("<svg></svg>") == HIGHEST


@pytest.fixture
def results(browser, html: Path) -> Iterator[Callable]:
    """A function that searches in a page opened from its file, and gives Playwright's page and what it asked for."""
    contexts = []

    def search(words: str, width: int = 1280):
        context = browser.new_context(offline=True, viewport={"width": width, "height": 900})
        context.set_default_timeout(MILLISECONDS)
        contexts.append(context)
        tab, asked = context.new_page(), []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((html / "search.html").as_uri())
        tab.locator(".book-search input").fill(words)
        tab.wait_for_function("document.querySelector('#search-status').textContent !== ''")
        return tab, asked

    yield search
    for context in contexts:
        context.close()


def test_index_leads_to_places_that_are_there(html: Path) -> None:
    text = (html / INDEX).read_text(encoding="utf-8")
    sections = json.loads(text.removeprefix("window.bookSections = ").rstrip(";\n"))
    assert len(sections) > 100
    for one in sections:
        page, _, anchor = one["address"].partition("#")
        assert (html / page).is_file()
        assert not anchor or f'id="{anchor}"' in (html / page).read_text(encoding="utf-8"), one["address"]


@pytest.mark.parametrize("width", [390, 1280])
def test_results_are_sections_with_excerpts(results: Callable, width: int) -> None:
    tab, asked = results("norm re-attention", width)
    first = tab.locator("#search-results li").first
    assert tab.locator("#search-results a[href*='#']").count() >= 5
    assert first.locator("mark").count() >= 1
    assert len(first.locator("p").inner_text()) > 40
    assert [address for address in asked if "/book/" in address] == []
    first.locator("a").click()
    tab.wait_for_url("**/book/**")


def test_chapters_come_before_the_reference(results: Callable) -> None:
    tab, _ = results("batch size")
    kinds = ["/reference/" in link.get_attribute("href") for link in tab.locator("#search-results a").all()]
    assert True in kinds
    assert kinds == sorted(kinds)


def test_back_from_a_result_the_list_is_where_it_was(results: Callable) -> None:
    tab, _ = results("attention", 390)
    for result in (12, 14):  # again after one Back
        tab.evaluate("window.scrollTo(0, 1500)")
        tab.locator("#search-results a").nth(result).click()
        tab.wait_for_url("**/book/**")
        tab.go_back()
        tab.wait_for_function("window.scrollY > 1000")
        assert tab.locator(".book-search input").input_value() == "attention"


IN_WINDOW = """(word) => {
  const all = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT);
  while (all.nextNode()) {
    const at = all.currentNode.textContent.toLowerCase().indexOf(word);
    if (at < 0) continue;
    const range = document.createRange();
    range.setStart(all.currentNode, at);
    range.setEnd(all.currentNode, at + word.length);
    const { width, top, bottom } = range.getBoundingClientRect();
    if (width && top >= 0 && bottom <= innerHeight) return true;
  }
  return false;
}"""


def test_a_result_leads_to_the_word_within_its_section(results: Callable) -> None:
    """Most sections are longer than a window. In a closed fold or beside a formula a word stays unseen: one may."""
    shown = []
    for result in range(4):
        tab, _ = results("temperature", 390)
        tab.locator("#search-results a").nth(result).click()
        tab.wait_for_url("**/book/**")
        tab.wait_for_timeout(300)  # a jump tells of no end
        shown.append(tab.evaluate(IN_WINDOW, "temperature"))
    assert sum(shown) >= 3


def test_every_word_has_to_be_there(results: Callable) -> None:
    tab, _ = results("attention zzzzqq")
    assert tab.locator("#search-results li").count() == 0
    assert "No section" in tab.locator("#search-status").inner_text()


def test_query_is_text_and_no_markup(results: Callable) -> None:
    tab, _ = results("<img src=x onerror=window.broken=1>")
    assert tab.evaluate("window.broken") is None
