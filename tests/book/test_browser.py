"""The built pages in a browser, opened from their files with the network blocked: what a reader sees offline."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

SERIOUS = ("serious", "critical")
FIRST_VIEW_BYTES = 600_000  # what a page may ask for before a reader scrolls, compressed as servers do
COMPRESSED = (".woff", ".woff2", ".png", ".jpg", ".webp")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_needs_no_network_and_complains_of_nothing(visit: Callable, page: str, scheme: str) -> None:
    visited = visit(page, scheme)
    assert visited.requests == []
    assert visited.missing == []
    assert visited.errors == []
    assert visited.page.evaluate("document.documentElement.dataset.theme") == scheme


def sent(file: Path) -> int:
    """Bytes of a file on its way to a reader."""
    content = file.read_bytes()
    return len(content if file.suffix in COMPRESSED else gzip.compress(content))


def test_first_view_is_light(visit: Callable, page: str) -> None:
    visited = visit(page)
    visited.page.evaluate("document.fonts.ready.then(() => true)")
    weights = {file.name: sent(file) for file in visited.files}
    assert f"{page.rpartition('/')[2]}.html" in weights
    heaviest = sorted(weights.items(), key=lambda item: -item[1])[:8]
    assert sum(weights.values()) <= FIRST_VIEW_BYTES, heaviest


def test_scripts_come_only_where_they_are_used(visit: Callable, page: str) -> None:
    opened = visit(page)
    names = {file.name for file in opened.files}
    assert not [name for name in names if "thebe" in name or "fontawesome" in name]
    assert not names & {"searchtools.js", "searchindex.js", "language_data.js"}
    assert ("katex.min.css" in names) == (opened.page.locator("article .math").count() > 0)
    assert "katex.min.js" not in names


def test_maths_is_typeset(read_page: Callable, page: str) -> None:
    formulas = read_page(page).find("article").select(".math")
    assert [formula for formula in formulas if not formula.select(".katex-html") or not formula.select("math")] == []


def test_page_fits_a_phone(visit: Callable, page: str) -> None:
    opened = visit(page, width=390).page
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_accessible(visit: Callable, page: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    if scheme == "dark" and page.startswith("book/reference/") and page != "book/reference/models":
        pytest.skip("pages of the reference look alike: in the dark one of them is judged")
    opened = visit(page, scheme).page
    if scheme == "light" or page == "book/04_re_attention":  # what is folded takes long to judge
        opened.evaluate("document.querySelectorAll('article details').forEach(folded => folded.open = true)")
        opened.wait_for_function("document.getAnimations().every(it => it.playState != 'running')")  # it fades in
    violations = Axe().run(opened).response["violations"]
    found = [
        f"{violation['id']} ({violation['impact']}): {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
        for violation in violations
        if violation["impact"] in SERIOUS
        for node in violation["nodes"]
    ]
    assert found == []


def test_quiz_is_answered_by_keyboard(visit: Callable) -> None:
    opened = visit("book/04_re_attention", width=1000).page  # a page that no other test has opened folds of
    answers = opened.locator("#quiz details")
    assert answers.count() >= 15
    first = answers.nth(1)
    assert not first.locator("text=Right.").is_visible()
    first.locator("summary").focus()
    opened.keyboard.press("Enter")
    assert first.locator("text=Right.").is_visible()
    assert opened.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_page_reads_without_javascript(visit: Callable, page: str) -> None:
    opened = visit(page, javascript=False).page
    assert len(opened.locator("article").inner_text()) > 20


def test_wide_page_has_readable_figures(visit: Callable, page: str) -> None:
    """No picture that failed to load, and none that sticks out of its column."""
    opened = visit(page).page
    broken = opened.evaluate(
        """async () => {
            const article = document.querySelector('article');
            const late = [...article.querySelectorAll('img[loading=lazy]')];
            late.forEach(image => { image.loading = 'eager'; });
            await Promise.allSettled(late.map(image => image.decode()));
            return [...article.querySelectorAll('img, svg[role=img]')]
                .filter(image => image.naturalWidth === 0 || image.clientWidth > article.clientWidth)
                .map(image => image.alt || image.getAttribute('aria-label'));
        }"""
    )
    assert broken == []
