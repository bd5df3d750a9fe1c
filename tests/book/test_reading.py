"""What helps a reader along: notes beside words and papers, links there and back, marks, a score, and ticks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHAPTER, PHONE, WIDE = "book/04_re_attention", 390, 1440
WORD = "article a.internal:has(.std-term)"
PAPER = "article a.internal[href*='bibliography.html#id']"


@pytest.fixture
def tab(browser, html: Path) -> Iterator[Callable]:
    """A function that opens a page afresh, without network; in one test the browser keeps what it keeps."""
    contexts = {}

    def opened(page: str = CHAPTER, width: int = WIDE, touch: bool = False):
        if (width, touch) not in contexts:
            contexts[width, touch] = browser.new_context(
                offline=True, viewport={"width": width, "height": 800}, has_touch=touch
            )
        tab = contexts[width, touch].new_page()
        tab.set_default_timeout(30_000)
        tab.goto((html / f"{page}.html").as_uri())
        return tab

    yield opened
    for context in contexts.values():
        context.close()


@pytest.mark.parametrize(("link", "leads"), [(WORD, "Glossary"), (PAPER, "Bibliography")])
def test_a_word_and_a_paper_say_what_they_are(tab: Callable, link: str, leads: str) -> None:
    opened = tab()
    first = opened.locator(link).first
    first.hover()
    card = opened.locator("#note-card")
    card.get_by_role("link", name=leads).wait_for()
    assert len(card.inner_text().split()) > 8
    card.hover()  # it stays while one reads it
    opened.wait_for_timeout(600)
    assert card.is_visible()
    opened.keyboard.press("Escape")
    card.wait_for(state="hidden")


def test_notes_come_by_keyboard(tab: Callable) -> None:
    opened = tab()
    first = opened.locator(WORD).first
    first.focus()
    card = opened.locator("#note-card")
    card.wait_for(state="visible")
    assert first.get_attribute("aria-describedby") == "note-card"
    opened.keyboard.press("Tab")
    opened.wait_for_function(
        "document.activeElement.getAttribute('aria-describedby') || "
        "!document.querySelector('#note-card').matches(':popover-open')"
    )
    assert first.get_attribute("aria-describedby") is None


def test_on_a_phone_the_first_tap_shows_and_the_second_leads(tab: Callable) -> None:
    opened = tab(width=PHONE, touch=True)
    first = opened.locator(WORD).first
    first.tap()
    card = opened.locator("#note-card")
    card.wait_for(state="visible")
    box = card.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE
    first.tap()
    opened.wait_for_url("**/glossary.html#term-*")


@pytest.mark.parametrize(("place", "entry"), [("book/glossary", "dd .places a"), ("book/bibliography", ".places a")])
def test_entries_lead_back_to_their_sections(tab: Callable, place: str, entry: str) -> None:
    opened = tab(place)
    link = opened.locator(f"article {entry}").first
    title = link.get_attribute("title")
    link.click()
    opened.wait_for_url(lambda address: place not in address)
    assert title in opened.locator("article").inner_text()


def test_index_leads_to_words_and_names(tab: Callable) -> None:
    opened = tab("book/word_index")
    assert opened.locator(".index-letter").count() > 15
    entry = opened.locator(".index-letter .places", has_text="soft split").first
    assert entry.get_by_role("link").count() >= 2
    entry.get_by_role("link", name="2", exact=False).last.click()
    opened.wait_for_url("**/book/*.html*")


def test_a_name_in_code_type_leads_to_the_reference_and_back(tab: Callable) -> None:
    opened = tab()
    opened.locator("article a.package-name", has_text="ReAttention").first.click()
    opened.wait_for_url("**/book/reference/*.html#*")
    opened.locator("dl:has(> dt[id$=ReAttention]) .places a").first.click()
    opened.wait_for_url(lambda address: "/reference/" not in address)


def answer(opened, number: int, right: bool) -> None:
    """Open an answer of a question of the quiz."""
    answers = opened.locator(f"#quiz > p:has-text('Question {number}.') ~ details")
    told = answers.filter(has_text="Right." if right else "No.")
    told.first.locator("summary").click()


def test_quiz_marks_answers_and_keeps_the_score(tab: Callable) -> None:
    opened = tab()
    answer(opened, 1, right=True)
    assert opened.locator("#quiz details.quiz-right").count() == 1
    opened.locator("text=1 of 5 answered, 1 right at the first try.").wait_for()
    answer(opened, 2, right=False)
    assert opened.locator("#quiz details.quiz-wrong").count() == 1
    answer(opened, 2, right=True)  # the second try does not count
    again = tab()
    again.locator("text=2 of 5 answered, 1 right at the first try.").wait_for()
    assert again.locator(".bd-sidebar-primary a.current .progress-tick").inner_text() == "1/5"
    again.get_by_role("button", name="Start again").click()
    assert again.locator("#quiz details:is(.quiz-right, .quiz-wrong)").count() == 0


@pytest.mark.parametrize("width", [PHONE, WIDE])
def test_the_end_of_a_page_ticks_it_and_a_reader_may_differ(tab: Callable, width: int) -> None:
    opened = tab("book/notation", width)
    tick = opened.get_by_label("I have read this page")
    opened.evaluate("scrollTo({top: document.documentElement.scrollHeight, behavior: 'instant'})")
    opened.wait_for_function("document.querySelector('.page-read input').checked")
    contents = tab("book/glossary", width).locator(".bd-sidebar-primary a", has_text="Notation")
    assert contents.locator(".progress-tick").text_content() == "✓"
    tick.uncheck()
    again = tab("book/notation", width)
    again.evaluate("scrollTo({top: document.documentElement.scrollHeight, behavior: 'instant'})")
    again.wait_for_timeout(500)
    assert not again.get_by_label("I have read this page").is_checked()


def test_what_is_kept_can_be_forgotten(tab: Callable) -> None:
    opened = tab()
    answer(opened, 1, right=True)
    opened.get_by_role("button", name="Forget all ticks and scores").click()
    assert opened.locator("#quiz .quiz-right").count() == 0
    assert tab("book/glossary").locator(".progress-tick").count() == 0


def test_page_works_where_nothing_can_be_kept(browser, html: Path) -> None:
    context = browser.new_context(offline=True)
    context.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('closed'); }})")
    opened = context.new_page()
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto((html / f"{CHAPTER}.html").as_uri())
    answer(opened, 1, right=True)
    opened.locator("text=1 of 5 answered, 1 right at the first try.").wait_for()
    assert [error for error in errors if "closed" not in error] == []
    context.close()


def test_chapter_says_how_long_it_takes(tab: Callable) -> None:
    assert "minutes to read" in tab().locator("h1 + .reading-time").inner_text()
