"""The built pages in a browser, opened from their files with the network blocked: what a reader sees offline."""

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

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


CUT_OFF = """() => [...document.querySelectorAll('article div.highlight pre')]
  .filter(code => code.clientWidth && code.scrollWidth > code.clientWidth + 1)
  .map(code => code.textContent.split("\\n").sort((one, other) => other.length - one.length)[0])"""


@pytest.mark.parametrize("width", [1300, 1440])
def test_code_is_as_wide_as_its_column(visit: Callable, page: str, width: int) -> None:
    opened = visit(page, width=width).page
    opened.evaluate("document.fonts.ready.then(() => true)")
    assert opened.evaluate(CUT_OFF) == []


# Lines of code that go on in a next line, and where: ems to the right of the first column.
CONTINUED = """() => [...document.querySelectorAll('article div.highlight pre')].flatMap(code => {
  const texts = document.createTreeWalker(code, NodeFilter.SHOW_TEXT), style = getComputedStyle(code);
  const edge = code.getBoundingClientRect().left + parseFloat(style.paddingLeft) + parseFloat(style.borderLeftWidth);
  const range = document.createRange(), found = [];
  let text, top = null;
  while ((text = texts.nextNode())) for (const part of text.data.matchAll(/\\n|[^\\n]+/g)) {
    if (part[0] === '\\n') { top = null; continue; }
    range.setStart(text, part.index);
    range.setEnd(text, part.index + part[0].length);
    for (const box of range.getClientRects()) {
      if (top !== null && box.top > top + 8) found.push((box.left - edge) / parseFloat(style.fontSize));
      top = box.top;
    }
  }
  return found;
})"""


@pytest.mark.parametrize("name", ["book/06_token_labeling", "book/appendix/in_the_page"])
def test_a_wrapped_line_of_code_does_not_go_on_where_statements_begin(visit: Callable, name: str) -> None:
    opened = visit(name, width=820).page
    opened.evaluate("document.fonts.ready.then(() => true)")
    continued = opened.evaluate(CONTINUED)
    assert continued
    assert min(continued) > 2


@pytest.mark.parametrize("name", ["book/01_vision_transformer", "book/04_re_attention", "book/appendix/model_zoo"])
def test_names_in_tables_are_not_broken_into_letters(visit: Callable, name: str) -> None:
    opened = visit(name, width=390).page
    broken = opened.evaluate(
        """() => {
            const names = [...document.querySelectorAll('.pst-scrollable-table-container td code')];
            const lines = name => name.getClientRects().length;
            const letters = name => name.textContent.length;
            return names.filter(name => lines(name) > Math.max(1, letters(name) / 5)).map(name => name.textContent);
        }"""
    )
    assert broken == []


def test_a_formula_shows_its_beginning(visit: Callable) -> None:
    opened = visit("book/appendix/bound", width=320).page
    starts = opened.evaluate(
        """() => [...document.querySelectorAll('div.math')].map(box => {
            const long = document.createElement('span');
            long.style.cssText = 'display: inline-block; width: 900px';
            const formula = box.querySelector('.katex-display');
            formula.append(long);
            return formula.getBoundingClientRect().left - box.getBoundingClientRect().left;
        })"""
    )
    assert starts
    assert all(abs(start) <= 1 for start in starts)


LINES_BEGUN_BY_A_STOP = """() => [...document.querySelectorAll('article .unbroken')].filter((kept) => {
  const stop = document.createRange(), parts = kept.querySelectorAll('.katex-base'), last = parts[parts.length - 1];
  if (!parts.length || !kept.offsetParent || kept.lastChild.nodeType !== Node.TEXT_NODE) return false;
  stop.setStart(kept.lastChild, 0);
  stop.setEnd(kept.lastChild, 1);
  return stop.getBoundingClientRect().right < last.getBoundingClientRect().left;
}).map((kept) => kept.textContent)"""


def test_no_line_begins_with_the_stop_after_a_formula(visit: Callable) -> None:
    opened = visit("book/01_vision_transformer", width=389).page  # a page of its own: it changes its width

    def begun() -> list[str]:
        found = []
        for width in range(320, 440, 10):  # which formula comes to a line's end is luck
            opened.set_viewport_size({"width": width, "height": 800})
            found += opened.evaluate(LINES_BEGUN_BY_A_STOP)
        return found

    assert begun() == []
    opened.add_style_tag(content=".bd-article .unbroken { white-space: normal !important; }")
    assert begun()  # the test can see such lines


def test_outputs_are_marked_and_folds_leave_no_gap(visit: Callable) -> None:
    opened = visit("book/01_vision_transformer").page
    unmarked, gaps = opened.evaluate(
        """() => {
            const thin = output => getComputedStyle(output).borderLeftWidth !== '3px';
            const gap = fold => fold.clientHeight - fold.querySelector('.admonition-title').offsetHeight;
            return [
                [...document.querySelectorAll('.output:is(.stream, .text_plain)')].filter(thin).length,
                [...document.querySelectorAll('.admonition.toggle-hidden')].map(gap).filter(height => height > 2),
            ];
        }"""
    )
    assert (unmarked, gaps) == (0, [])


MARK_SEEN = """() => {
    const looks = new Map(), seen = new Set();
    const look = element => {  // what its text looks like: the colours behind it, and its own
        if (!element) return '';
        if (!looks.has(element)) {
            const {backgroundColor, backgroundImage, opacity} = getComputedStyle(element);
            const own = [backgroundColor, backgroundImage, opacity].join();
            looks.set(element, look(element.parentElement) + (own === 'rgba(0, 0, 0, 0),none,1' ? '' : '/' + own));
        }
        return looks.get(element);
    };
    for (const element of document.body.querySelectorAll('*')) {
        const style = getComputedStyle(element);
        if (element.closest('svg') || !element.checkVisibility({visibilityProperty: true})) continue;
        if (![...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim())) continue;
        const key = [look(element), style.color, style.fontSize, style.fontWeight, style.textShadow].join();
        if (seen.has(key)) element.dataset.seen = '';
        seen.add(key);
    }
}"""
"""Marks text that looks as an earlier one does: judging the contrast of each of 20,000 words takes most of a minute."""


RULES_OF_COLOUR = ["color-contrast", "link-in-text-block"]


def violations_of(opened, rules: Sequence[str] = ()) -> list[str]:
    """What axe finds on an opened page, a small thing too, by all of its rules unless some are named.

    Contrast is judged once for each look of text.
    """
    from axe_playwright_python.base import AXE_SCRIPT

    opened.evaluate(MARK_SEEN)
    opened.evaluate(AXE_SCRIPT)
    opened.evaluate("axe.configure({rules: [{id: 'color-contrast', selector: '*:not([data-seen])'}]})")
    options = {"runOnly": list(rules)} if rules else {}
    violations = opened.evaluate("async options => (await axe.run(options)).violations", options)
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
        for violation in violations
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_accessible(visit: Callable, page: str, scheme: str) -> None:
    if scheme == "dark" and page.startswith("book/reference/") and page != "book/reference/models":
        pytest.skip("pages of the reference look alike: in the dark one of them is judged")
    opened = visit(page, scheme).page
    opened.evaluate("document.querySelectorAll('article details').forEach(folded => folded.open = true)")
    opened.wait_for_function("document.getAnimations().every(it => it.playState != 'running')")  # it fades in
    # In the dark nothing but the colours is another.
    assert violations_of(opened, RULES_OF_COLOUR if scheme == "dark" else ()) == []


PALE = '<p style="color: #bbb">pale</p>'


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("<p>dark</p>" + PALE + PALE, 1),
        ("<p>dark</p>" + PALE + PALE.replace("bbb", "ccc"), 2),
        (PALE.replace("bbb", "777") + '<div style="background: #999">' + PALE.replace("bbb", "777") + "</div>", 2),
        (PALE.replace("bbb", "000") + '<div style="opacity: 0.3">' + PALE.replace("bbb", "000") + "</div>", 1),
        ('<p style="color: #767676">grey</p><p style="color: #767676; background: #eee">grey</p>', 1),
        ('<p>dark</p><img src="data:image/png;base64,">', 1),
    ],
)
def test_contrast_is_judged_for_each_look_of_text(browser, body: str, found: int) -> None:
    opened = browser.new_page()
    opened.set_content(f"<html lang=en><title>t</title><main><h1>title</h1>{body}</main>")
    assert len(violations_of(opened)) == found
    opened.close()


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


def test_a_copy_carries_no_file_that_no_page_asks_for(html: Path) -> None:
    brought_along = [*html.rglob("*.map"), *html.rglob("*thebe*"), *html.rglob("fontawesome*")]
    assert [str(file.relative_to(html)) for file in brought_along] == []


def test_code_has_elements_only_for_what_is_set_apart(visit: Callable) -> None:
    """Each name and bracket in an element of its own doubles what a browser has to lay out."""
    opened = visit("book/03_attention_collapse").page
    assert opened.locator(".highlight span.k").count() > 100
    assert opened.locator(".highlight span:is(.n, .nn, .p, .w)").count() == 0


@pytest.mark.parametrize("width", [390, 1280])
def test_a_wrapped_line_of_code_goes_on_where_no_statement_begins(visit: Callable, width: int) -> None:
    opened = visit("book/01_vision_transformer", width=width).page
    inset, wraps = opened.evaluate(
        """() => {
            const style = getComputedStyle(document.querySelector('.cell_input pre'));
            return [parseFloat(style.textIndent) / parseFloat(style.fontSize), style.whiteSpace];
        }"""
    )
    assert inset > 6  # twelve characters
    assert wraps == "pre-wrap"


def test_quiz_answer_is_no_heading(visit: Callable) -> None:
    title = visit("book/04_re_attention", width=1000).page.locator("#quiz details .sd-summary-title").first
    assert title.evaluate("one => getComputedStyle(one).fontWeight") == "400"


def test_page_reads_without_javascript(visit: Callable, page: str) -> None:
    opened = visit(page, javascript=False).page
    assert len(opened.locator("article").inner_text()) > 20
    accent = "getComputedStyle(document.documentElement).getPropertyValue('--accent')"
    assert opened.evaluate(accent), "the page has no colours of its own"


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


@pytest.mark.parametrize("name", ["book/index", "book/claims"])
def test_on_a_phone_an_answer_has_the_whole_width_and_its_verdict_stands_below(visit: Callable, name: str) -> None:
    row = visit(name, width=390).page.locator("article tr:has(td:nth-child(2) .verdict)").first
    answer, verdict = (row.locator(f"td:nth-child({place})").bounding_box() for place in (1, 2))
    assert answer["width"] > 300
    assert verdict["y"] >= answer["y"] + answer["height"]


FOLDED = "document.querySelectorAll('article details:not([open], .hide, .figure-data)').length"


@pytest.mark.parametrize("name", ["book/02_tokens_to_token", "book/claims"])
def test_nothing_stays_folded_on_paper(visit: Callable, name: str) -> None:
    opened = visit(name).page
    before = opened.evaluate(FOLDED)
    assert before > 0
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate(FOLDED) == 0
    title, printed = (opened.locator(each).first.text_content() for each in ("article h1", "#jb-print-docs-body h1"))
    assert printed.strip() == title.rstrip("#").strip()
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.evaluate(FOLDED) == before


@pytest.mark.parametrize("name", ["book/index", "book/03_attention_collapse", "book/07_what_attention_costs"])
def test_pictures_keep_their_colours_in_the_dark(visit: Callable, name: str) -> None:
    opened = visit(name, "dark").page
    picture = opened.locator(".live-image img").first
    opened.locator(".live-figure").first.scroll_into_view_if_needed()
    picture.wait_for()
    filters = (
        "() => [...document.querySelectorAll('article :is(img, canvas)')].map(each => getComputedStyle(each).filter)"
    )
    assert set(opened.evaluate(filters)) == {"none"}
    assert picture.evaluate("image => getComputedStyle(image).backgroundColor") == "rgba(0, 0, 0, 0)"


def test_the_first_column_behind_a_figure_stays(visit: Callable) -> None:
    opened = visit("book/01_vision_transformer", width=390).page
    cells = "[...document.querySelectorAll('.figure-data tbody :is(th, td):first-child')]"
    assert set(opened.evaluate(f"{cells}.map(each => getComputedStyle(each).position)")) == {"sticky"}


SHIFTS = """() => new Promise((done) => {
    let sum = 0;
    const add = (entry) => { sum += entry.hadRecentInput ? 0 : entry.value; };
    const observer = new PerformanceObserver((list) => list.getEntries().forEach(add));
    observer.observe({ type: "layout-shift", buffered: true });
    setTimeout(() => done(sum), 500);
})"""


@pytest.mark.parametrize("name", ["book/index", "book/01_vision_transformer", "book/04_re_attention"])
def test_no_line_jumps_on_a_first_visit_over_a_slow_line(
    browser, html: Path, serve: Callable[[Path], str], name: str
) -> None:
    context = browser.new_context(viewport={"width": 1300, "height": 800})
    opened = context.new_page()
    line = opened.context.new_cdp_session(opened)
    slow = {"offline": False, "latency": 150, "downloadThroughput": 200_000, "uploadThroughput": 90_000}  # 1.6 Mbit/s
    line.send("Network.enable")
    line.send("Network.emulateNetworkConditions", slow)
    opened.goto(f"{serve(html)}/{name}.html", wait_until="networkidle")
    assert opened.evaluate(SHIFTS) < 0.1
    context.close()
