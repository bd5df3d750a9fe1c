"""Facts of exercises and verdicts get classes, and keep their words."""

import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.utils import new_document

from tools.book.marks import (
    NAME,
    SEPARATOR,
    WORDS,
    hold_name,
    hold_signs,
    mark_verdicts,
    note_claims,
    set_numbers,
    split_facts,
)
from tools.contents import notebook_pages

Reader = Callable[[str], BeautifulSoup]


def table(head: str, *cells: str) -> nodes.table:
    """A table of one column."""
    rows = [nodes.row("", nodes.entry("", nodes.paragraph("", cell))) for cell in (head, *cells)]
    return nodes.table("", nodes.tgroup("", nodes.thead("", rows[0]), nodes.tbody("", *rows[1:])))


def test_facts_keep_their_words() -> None:
    line = nodes.emphasis("", "4.1 · implement · difficulty 2 of 5 · practises the order\nof norms")
    before = line.astext()
    split_facts(line)
    assert line.astext() == before
    kinds = [child["classes"] for child in line.findall(nodes.inline)]
    assert kinds == [["fact", f"fact-{kind}"] for kind in ("4", "implement", "difficulty", "practises")]


@pytest.mark.parametrize("verdict", WORDS)
def test_verdict_becomes_a_badge(verdict: str) -> None:
    page = nodes.document(None, None, "", table("verdict", f"{verdict} (cpu-study)"))
    mark_verdicts(page)
    (badge,) = page.findall(nodes.inline)
    assert badge.astext() == verdict
    assert badge["classes"] == ["verdict", f"verdict-{verdict.replace(' ', '-')}"]
    assert f"{verdict} (cpu-study)" in page.astext()


def test_a_verdict_in_bold_is_a_badge_too() -> None:
    page = nodes.document(None, None, "", table("verdict", ""))
    entry = list(page.findall(nodes.entry))[-1]
    entry[:] = [nodes.paragraph("", "", nodes.Text(""), nodes.strong("", "not decided yet"))]
    mark_verdicts(page)
    assert [badge.astext() for badge in page.findall(nodes.inline)] == ["not decided yet"]


def test_other_columns_stay() -> None:
    page = nodes.document(None, None, "", table("when", "reproduced"))
    mark_verdicts(page)
    assert list(page.findall(nodes.inline)) == []


def test_numbers_below_zero_have_a_minus_in_tables() -> None:
    page = nodes.document(None, None, "", table("loss", "-0.5", "re-0.02"), nodes.paragraph("", "-1"))
    code = nodes.entry("", nodes.paragraph("", "", nodes.literal("", "roll(-1)")))
    page[0][0][1] += nodes.row("", code)
    set_numbers(page)
    assert [cell.astext() for cell in page.findall(nodes.entry)] == ["loss", "−0.5", "re-0.02", "roll(-1)"]
    assert page[1].astext() == "-1"


def test_a_number_stays_with_its_error_and_an_interval_in_one_line() -> None:
    page = nodes.document(
        None, None, "", table("accuracy", "36.3 ± 0.9", "+1.2 points [-0.5, +2.9]", "[Li et al., 2021]")
    )
    set_numbers(page)
    _, error, interval, words = (cell.astext() for cell in page.findall(nodes.entry))
    assert error == "36.3\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.9"
    assert interval == "+1.2 points [−0.5,\N{NO-BREAK SPACE}+2.9]"
    assert words == "[Li et al., 2021]"


def test_no_line_begins_with_a_percent_sign_or_the_power_of_a_number() -> None:
    page = new_document("page")
    page += nodes.paragraph("", "", nodes.Text("below 15 %, "), nodes.literal("", "15 %"))
    page += nodes.entry("", nodes.paragraph("", "1.0e-05"))
    hold_signs(page)
    assert page[0].astext() == "below 15\N{NO-BREAK SPACE}%, 15 %"
    assert page[1].astext() == "1.0e\N{NON-BREAKING HYPHEN}05"


@pytest.mark.parametrize(
    ("name", "marked"),
    [
        ("--grad-checkpointing", '<span class="pre whole">--grad-checkpointing</span>'),
        ("refiner_vit_l_token_labels", '<span class="pre">refiner_<wbr>vit_<wbr>l_<wbr>token_<wbr>labels</span>'),
        ("a &lt;b&gt; &amp; &lt;c&gt; &amp; &lt;d&gt;", None),  # 19 characters for who reads it
    ],
)
def test_names_end_a_line_between_their_parts_only(name: str, marked: str | None) -> None:
    marked = marked or f'<span class="pre whole">{name}</span>'
    assert NAME.sub(hold_name, f'<code><span class="pre">{name}</span></code>') == f"<code>{marked}</code>"


def test_every_exercise_has_chips(read_page: Reader) -> None:
    boxes = [box for page in notebook_pages() for box in read_page(page).select("div.exercise")]
    assert boxes
    for box in boxes:
        facts = [fact.get_text() for fact in box.select(".facts .fact")]
        assert re.fullmatch(r"\d+\.\d+", facts[0])
        assert len(facts) >= 4, SEPARATOR.join(facts)


def test_claims_are_places_that_links_lead_to() -> None:
    noted = []
    standard = SimpleNamespace(note_hyperlink_target=lambda *place: noted.append(place))
    env = SimpleNamespace(docname="book/04_re_attention", get_domain=lambda _name: standard)
    page = nodes.document(None, None, "", nodes.raw("", '<a id="claim-a">', format="html"), nodes.raw("", "<a id=b>"))
    note_claims(SimpleNamespace(env=env), page)
    assert noted == [("04_re_attention:claim-a", "book/04_re_attention", "claim-a")]
