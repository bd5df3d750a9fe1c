"""Every control of the built pages is pressed, as on a phone, a tablet, a laptop and a wide screen, and does its work.

A control that is absent fails its test: nothing here is skipped because a selector finds nothing.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

from tools.book.header import NOTEBOOKS
from tools.contents import ROOT, is_placeholder, notebook_pages, repository_url

PHONE, TABLET, LAPTOP, WIDE = 390, 820, 1024, 1440
WIDTHS = (PHONE, TABLET, LAPTOP, WIDE)
CHAPTER = "book/04_re_attention"
MILLISECONDS = 30_000  # a page may wait for a machine that does other work


@pytest.fixture
def tab(browser, html: Path) -> Iterator[Callable]:
    """A function that opens a page afresh at a width, without network, and gives Playwright's page."""
    contexts = []

    def opened(width: int, page: str = CHAPTER):
        context = browser.new_context(offline=True, viewport={"width": width, "height": 800}, accept_downloads=True)
        context.set_default_timeout(MILLISECONDS)
        contexts.append(context)
        tab = context.new_page()
        tab.goto((html / f"{page}.html").as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()


def press(tab, selector: str) -> None:
    """Press the one control that a reader sees under this selector."""
    control = tab.locator(selector).locator("visible=true")
    assert control.count() == 1, f"{control.count()} controls are shown for {selector}"
    control.click()


def in_view(tab, selector: str) -> bool:
    """Whether an element is shown within the width of the window."""
    box = tab.locator(selector).first.bounding_box()
    if not box or box["width"] <= 0:
        return False
    return box["x"] > -1 and box["x"] + box["width"] <= tab.viewport_size["width"] + 1


def wait_until(tab, selector: str, shown: bool) -> None:
    """Wait for an element to come into the window's width, or to leave it: drawers slide."""
    script = """([selector, shown]) => {
        const element = document.querySelector(selector);
        const box = element.getBoundingClientRect();
        const there = element.checkVisibility({visibilityProperty: true}) && box.width > 1
            && box.x > -1 && box.right <= innerWidth + 1;
        return there === shown;
    }"""
    tab.wait_for_function(script, arg=[selector, shown])


@pytest.mark.parametrize("width", WIDTHS)
def test_menu_opens_and_leads_to_another_chapter(tab: Callable, width: int) -> None:
    opened = tab(width)
    if in_view(opened, ".bd-sidebar-primary"):  # on a desktop the button folds it first
        press(opened, ".primary-toggle")
        wait_until(opened, ".bd-sidebar-primary", shown=False)
    press(opened, ".primary-toggle")
    wait_until(opened, ".bd-sidebar-primary", shown=True)
    opened.get_by_role("link", name="5. Refiner").locator("visible=true").first.click()
    opened.wait_for_url("**/05_refiner.html")


@pytest.mark.parametrize("width", WIDTHS)
def test_contents_lead_to_a_section(tab: Callable, width: int) -> None:
    opened = tab(width)
    if not in_view(opened, ".bd-sidebar-secondary"):
        press(opened, ".secondary-toggle")
        wait_until(opened, ".bd-sidebar-secondary", shown=True)
    opened.locator(".bd-sidebar-secondary").get_by_role("link", name="Quiz").click()
    opened.wait_for_url("**#quiz")
    opened.wait_for_function("Math.abs(document.querySelector('#quiz h2').getBoundingClientRect().y) < innerHeight")


def test_the_buttons_of_a_phones_drawers_say_what_they_open(tab: Callable) -> None:
    opened = tab(PHONE)
    said = "button => getComputedStyle(button, '::after').content"
    assert [
        opened.locator(f".bd-header-article .{button}-toggle").locator("visible=true").evaluate(said)
        for button in ("primary", "secondary")
    ] == ['"Menu"', '"Contents"']


@pytest.mark.parametrize("side", ["primary", "secondary"])
def test_menu_and_contents_of_a_phone_come_and_go_without_moving_the_page(tab: Callable, side: str) -> None:
    opened = tab(PHONE)
    opened.evaluate("scrollTo({ top: 5000, behavior: 'instant' })")
    for shown in (True, False):
        if shown:
            press(opened, f".{side}-toggle")
        else:
            opened.keyboard.press("Escape")
        wait_until(opened, f".bd-sidebar-{side}", shown=shown)
        assert opened.evaluate("scrollY") == 5000


def test_contents_of_a_phone_close_when_a_section_is_chosen(tab: Callable) -> None:
    opened = tab(PHONE)
    press(opened, ".secondary-toggle")
    wait_until(opened, ".bd-sidebar-secondary", shown=True)
    opened.locator(".bd-sidebar-secondary").get_by_role("link", name="Quiz").click()
    wait_until(opened, ".bd-sidebar-secondary", shown=False)


def test_contents_mark_where_one_is_after_a_jump(tab: Callable) -> None:
    opened = tab(WIDE)
    contents = opened.locator(".bd-toc-nav")
    assert contents.locator(".toc-h3 a").locator("visible=true").count() > 3
    for target in ("#quiz", "#summary", "#exercises"):
        # Into the middle of a section, where no heading is in sight.
        opened.evaluate(
            "id => scrollTo(0, document.querySelector(id + ' :is(h2, h3)').getBoundingClientRect().y + scrollY)", target
        )
        contents.locator(f"a[href='{target}'].active").wait_for()
        assert contents.locator("a.active").count() == 1


def test_wide_table_says_that_it_goes_on(tab: Callable) -> None:
    opened = tab(PHONE, "book/claims")
    table = opened.locator(".pst-scrollable-table-container.goes-on").first.element_handle()
    first = table.query_selector("tbody tr > *")
    before = first.bounding_box()["x"]
    table.focus()  # it is reached by the keyboard
    assert opened.evaluate("box => document.activeElement === box", table)
    table.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
    opened.wait_for_function("box => !box.classList.contains('goes-on')", arg=table)
    assert abs(first.bounding_box()["x"] - before) < 2  # its first column stays


@pytest.mark.parametrize("width", WIDTHS)
def test_theme_goes_round_and_is_remembered(tab: Callable, width: int) -> None:
    opened = tab(width)
    seen = set()
    for _ in range(3):
        press(opened, ".theme-switch-button")
        seen.add(opened.evaluate("document.documentElement.dataset.mode"))
    assert seen == {"auto", "dark", "light"}
    while opened.evaluate("document.documentElement.dataset.mode") != "dark":
        press(opened, ".theme-switch-button")
    assert opened.evaluate("document.documentElement.dataset.theme") == "dark"
    opened.reload()
    assert opened.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.parametrize("width", WIDTHS)
def test_full_screen_is_entered_and_left(tab: Callable, width: int) -> None:
    opened = tab(width)
    press(opened, ".btn-fullscreen-button")
    opened.wait_for_function("document.fullscreenElement !== null")
    press(opened, ".btn-fullscreen-button")
    opened.wait_for_function("document.fullscreenElement === null")


@pytest.mark.parametrize("width", WIDTHS)
def test_search_is_opened_and_finds_a_section(tab: Callable, width: int) -> None:
    opened = tab(width)
    press(opened, ".search-button, .search-button-field")
    field = opened.locator("#search-input").locator("visible=true")
    field.fill("re-attention norm")
    field.press("Enter")
    opened.wait_for_url("**/search.html?q=*")
    opened.locator("#search-results li a").first.wait_for()
    assert opened.get_by_role("link", name=re.compile("Re-attention")).count() >= 1


@pytest.mark.parametrize("width", WIDTHS)
def test_launch_buttons_are_there_when_the_repository_is(tab: Callable, width: int) -> None:
    opened = tab(width)
    if is_placeholder(repository_url()):
        assert opened.locator("a[href*='OWNER']").count() == 0
        assert opened.locator(".dropdown-launch-buttons").count() == 0
        assert "repository.url" in opened.locator(".repository-missing").inner_text()
        return
    press(opened, ".dropdown-launch-buttons > button")
    for name in ("Colab", "Binder"):
        assert opened.locator(".dropdown-launch-buttons").get_by_role("link", name=name).is_visible()
    opened.keyboard.press("Escape")
    press(opened, ".dropdown-source-buttons > button")
    assert opened.locator(".btn-source-issues-button").is_visible()


@pytest.mark.parametrize("width", WIDTHS)
def test_download_gives_the_learners_notebook(tab: Callable, width: int) -> None:
    opened = tab(width)
    press(opened, ".dropdown-download-buttons > button")
    link = opened.locator(".btn-download-notebook-button")
    link.wait_for(state="visible")
    target = link.evaluate("link => link.href")
    assert Path(target.removeprefix("file://")).read_bytes() == (ROOT / f"{CHAPTER}.ipynb").read_bytes()
    assert opened.locator(".btn-download-pdf-button").is_visible()
    link.hover()  # a page from a folder may not save: its tooltip says what it does
    assert "save it from there" in opened.locator(".tooltip").inner_text()


def test_a_notebook_is_saved_and_not_opened(browser, html: Path, serve: Callable[[Path], str]) -> None:
    context = browser.new_context(accept_downloads=True, viewport={"width": PHONE, "height": 800})
    opened = context.new_page()
    opened.goto(f"{serve(html)}/{CHAPTER}.html")
    press(opened, ".dropdown-download-buttons > button")
    with opened.expect_download() as saved:
        opened.locator(".btn-download-notebook-button").click()
    assert saved.value.suggested_filename == f"{Path(CHAPTER).name}.ipynb"
    assert Path(saved.value.path()).read_bytes() == (ROOT / f"{CHAPTER}.ipynb").read_bytes()
    context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_print_is_asked_for(tab: Callable, width: int) -> None:
    opened = tab(width)
    opened.evaluate("window.print = () => { window.printed = true; }")
    press(opened, ".dropdown-download-buttons > button")
    press(opened, ".btn-download-pdf-button")
    assert opened.evaluate("window.printed")


@pytest.mark.parametrize("width", WIDTHS)
def test_code_is_copied(tab: Callable, width: int) -> None:
    opened = tab(width)
    opened.evaluate(
        "document.addEventListener('copy', () => { window.copied = document.activeElement.value ?? ''; }, true)"
    )
    block = opened.locator("div.highlight:has(button.copybtn)").locator("visible=true").first
    block.hover()
    block.locator("button.copybtn").click()
    opened.wait_for_function("window.copied !== undefined")
    assert opened.evaluate("window.copied").strip() == block.locator("pre").inner_text().strip()


@pytest.mark.parametrize("width", WIDTHS)
def test_quiz_answer_opens(tab: Callable, width: int) -> None:
    answer = tab(width).locator("#quiz details").nth(1)
    assert not answer.locator("text=Right.").is_visible()
    answer.locator("summary").click()
    assert answer.locator("text=Right.").is_visible()


@pytest.mark.parametrize("width", WIDTHS)
def test_folded_code_opens(tab: Callable, width: int) -> None:
    fold = tab(width).locator("details.hide:has(pre)").first
    assert not fold.locator("pre").first.is_visible()
    fold.locator("summary").first.click()
    assert fold.locator("pre").first.is_visible()


@pytest.mark.parametrize("width", WIDTHS)
def test_hint_and_solution_open(tab: Callable, width: int) -> None:
    opened = tab(width)
    for kind in (".solution.dropdown", ".admonition.hint.dropdown, .admonition.tip.dropdown, .exercise .dropdown"):
        box = opened.locator(kind).first
        box.scroll_into_view_if_needed()
        body = box.locator(":scope > :not(.admonition-title)").first
        assert body.evaluate("body => getComputedStyle(body).visibility") == "hidden" or not body.is_visible()
        box.locator("button.toggle-button, summary").first.click()
        body.wait_for(state="visible")


@pytest.mark.parametrize("width", WIDTHS)
def test_figure_is_enlarged_and_closed(tab: Callable, width: int) -> None:
    opened = tab(width)
    picture = opened.locator("figure > svg.drawing, figure > svg.figure-picture").locator("visible=true").first
    picture.click()
    dialog = opened.locator("dialog.figure-large[open]")
    dialog.wait_for()
    dialog.get_by_role("button", name="Close").click()
    dialog.wait_for(state="detached")


@pytest.mark.parametrize("width", WIDTHS)
def test_explorer_follows_its_slider(tab: Callable, width: int) -> None:
    root = tab(width).locator(".deepvit-explorer").first
    root.scroll_into_view_if_needed()  # it is loaded when a reader comes near
    slider = root.get_by_role("slider", name="Block")
    heard = root.locator(".explorer-heard")
    before = heard.inner_text()
    slider.focus()
    slider.press("ArrowLeft")
    assert heard.inner_text() != before


@pytest.mark.parametrize("width", WIDTHS)
def test_networks_of_the_front_page_answer(tab: Callable, width: int) -> None:
    figure = tab(width, "book/index").locator(".live-on")
    figure.get_by_label("patch in row 1, column 4", exact=True).click()
    heard = figure.locator(".live-heard", has_text="From row 1, column 4")
    heard.wait_for(state="attached")
    assert "Re-attention: Block 12" in heard.inner_text()
    figure.get_by_role("button", name="Ask the class token").click()
    figure.locator(".live-heard", has_text="From the class token").wait_for(state="attached")


@pytest.mark.parametrize("width", WIDTHS)
def test_networks_of_a_chapter_answer_to_a_replaced_map(tab: Callable, width: int) -> None:
    figure = tab(width, "book/03_attention_collapse").locator(".live-on")
    figure.get_by_role("combobox", name="Replace its map by").select_option(label="no map at all, zeros")
    figure.locator(".live-answer", has_text="divergence").last.wait_for()


@pytest.mark.parametrize("width", WIDTHS)
def test_networks_of_a_chapter_answer_without_patches(tab: Callable, width: int) -> None:
    figure = tab(width, "book/07_what_attention_costs").locator(".live-on")
    figure.get_by_role("button", name="Drop them").click()
    figure.locator(".live-panel figcaption", has_text="of 16 patches").last.wait_for()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("chapter", ["book/02_tokens_to_token", "book/07_what_attention_costs"])
def test_a_live_figure_gives_a_link(tab: Callable, width: int, chapter: str) -> None:
    opened = tab(width, chapter)
    opened.locator(".live-on").get_by_role("button", name="Link to this view").click()
    opened.wait_for_function("location.hash.startsWith('#live-')")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_epochs_of_an_explorer_play(tab: Callable, width: int) -> None:
    root = tab(width, "book/03_attention_collapse").locator(".deepvit-explorer").first
    root.scroll_into_view_if_needed()  # it is loaded when a reader comes near
    root.get_by_role("button", name="Play").click()
    root.get_by_role("button", name="Pause").click()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("chapter", "slider"),
    [("book/01_vision_transformer", "Angle of the query"), ("book/02_tokens_to_token", "Window k")],
)
def test_small_live_figure_follows_its_slider(tab: Callable, width: int, chapter: str, slider: str) -> None:
    figure = tab(width, chapter).locator(".live-on")
    before = figure.locator(".live-heard").inner_text()
    figure.get_by_role("slider", name=slider).press("ArrowRight")
    assert figure.locator(".live-heard").inner_text() != before


@pytest.mark.parametrize("width", WIDTHS)
def test_kernel_is_moved_over_its_map(tab: Callable, width: int) -> None:
    figure = tab(width, "book/05_refiner").locator(".live-on")
    figure.get_by_label("query 2, key 7", exact=True).click()
    assert "Query 2, key 7" in figure.locator(".live-heard").inner_text()


@pytest.mark.parametrize("width", WIDTHS)
def test_next_chapter_is_reached(tab: Callable, width: int) -> None:
    opened = tab(width)
    opened.locator(".prev-next-area .right-next").click()
    opened.wait_for_url("**/05_refiner.html")


def test_top_is_reached_on_a_phone(tab: Callable) -> None:  # wider windows have the page's contents beside it
    opened = tab(PHONE)
    opened.evaluate("scrollTo({top: 5000, behavior: 'instant'})")
    opened.wait_for_function("scrollY > 4000")
    opened.wait_for_timeout(500)  # two scrolls at once would be one to the theme
    opened.evaluate("scrollBy({top: -600, behavior: 'instant'})")  # the button comes when one scrolls up
    opened.locator("#pst-back-to-top").wait_for(state="visible")
    button, bar = (opened.locator(which).bounding_box() for which in ("#pst-back-to-top", ".bd-header-article"))
    assert button["y"] + button["height"] <= bar["y"] + bar["height"]  # it covers nothing that is read
    press(opened, "#pst-back-to-top")
    opened.wait_for_function("scrollY < 50")


@pytest.mark.parametrize("notebook_page", notebook_pages())
def test_downloads_are_plain_notebooks(html: Path, notebook_page: str) -> None:
    file = html / NOTEBOOKS / f"{notebook_page.rpartition('/')[2]}.ipynb"
    notebook = nbformat.read(file, as_version=4)
    assert notebook.cells
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert re.findall(r"\{[\w:-]+\}`|```\{|:::\{", text) == []
