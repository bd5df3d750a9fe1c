"""What search engines, shared links and browsers read of the pages, and the files around them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from PIL import Image, ImageFont

from tools.book import metadata
from tools.book.cards import SANS, SIZE, wrap, write_card
from tools.contents import is_placeholder, pages, repository_url

Reader = Callable[[str], BeautifulSoup]


def content(soup: BeautifulSoup, name: str) -> str:
    tag = soup.find("meta", attrs={"name": name}) or soup.find("meta", attrs={"property": name})
    return tag["content"] if tag else ""


def test_page_says_what_it_is(read_page: Reader, page: str) -> None:
    soup = read_page(page)
    assert 20 <= len(content(soup, "description")) <= metadata.DESCRIPTION
    assert content(soup, "og:description") == content(soup, "description")
    assert content(soup, "og:title")
    assert soup.html["lang"] == "en"
    assert len(soup.find_all("meta", attrs={"name": "viewport"})) == 1
    data = json.loads(soup.find("script", type="application/ld+json").string)
    assert data["@context"] == "https://schema.org"
    assert data["name"] == content(soup, "og:title")


def test_titles_and_descriptions_tell_pages_apart(read_page: Reader) -> None:
    titles = [read_page(page).title.get_text() for page in pages()]
    descriptions = [content(read_page(page), "description") for page in pages()]
    assert len(set(titles)) == len(set(descriptions)) == len(pages())


def test_page_has_a_card_and_an_icon(read_page: Reader, html: Path, page: str) -> None:
    soup = read_page(page)
    card = html / metadata.CARDS / f"{page.replace('/', '_')}.png"
    assert content(soup, "og:image").endswith(f"{metadata.CARDS}/{card.name}")
    assert Image.open(card).size == SIZE
    icon = soup.find("link", rel="icon")["href"].partition("?")[0]
    assert (html / f"{page}.html").parent.joinpath(icon).resolve().is_file()


def test_addresses_in_full_are_there_when_the_site_is_known(read_page: Reader, html: Path, page: str) -> None:
    canonical = read_page(page).find("link", rel="canonical")
    site = metadata.site_address(repository_url(), None)
    assert bool(site) != is_placeholder(repository_url())
    assert (html / "sitemap.xml").is_file() == (html / "versions.json").is_file() == bool(site)
    assert bool(read_page(page).find("script", attrs={"data-list": True})) == bool(site)
    assert (canonical and canonical["href"]) == (f"{site}{page}.html" if site else None)


def test_files_around_the_pages(html: Path) -> None:
    start = BeautifulSoup((html / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert start.title.get_text()
    assert start.html["lang"] == "en"
    assert start.find("a")["href"] == f"{pages()[0]}.html"
    assert (html / ".nojekyll").exists()
    assert "No such page" in (html / "404.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("repository", "baseurl", "address"),
    [
        ("https://github.com/OWNER/book", None, ""),
        ("https://github.com/Someone/book", None, "https://someone.github.io/book/"),
        ("https://github.com/OWNER/book", "https://example.org/vit", "https://example.org/vit/"),
        ("/some/wheel.whl", None, ""),
    ],
)
def test_site_follows_from_the_repository(repository: str, baseurl: str | None, address: str) -> None:
    assert metadata.site_address(repository, baseurl) == address


def test_description_ends_with_a_sentence_or_a_word() -> None:
    assert metadata.shorten("One two. Three four five.", 20) == "One two."
    assert metadata.shorten("One two three four five six", 15) == "One two three…"
    assert metadata.shorten("Short\n  enough.", 20) == "Short enough."


def test_description_is_the_first_paragraph_outside_boxes() -> None:
    doctree, section, box = nodes.document(None, None), nodes.section(), nodes.note()
    box += nodes.paragraph("", "A box that says a good deal, but is not what the page is about at all.")
    section += [nodes.title("", "Title"), box, nodes.paragraph("", "What the page is about, in one sentence or two.")]
    doctree += section
    assert metadata.describe(doctree) == "What the page is about, in one sentence or two."
    assert metadata.describe(None) == ""
    promise = nodes.container(
        "", nodes.paragraph("", "What the whole book promises to whoever opens it."), classes=["promise"]
    )
    section.insert(1, promise)
    assert metadata.describe(doctree) == "What the whole book promises to whoever opens it."


def test_structured_data_cannot_end_their_script() -> None:
    title = "</script><b>"
    context = {"docstitle": "Book", "pagetitle": title, "description": "…"}
    text = json.dumps(metadata.structured(context, "book/01_x", "")).replace("<", "\\u003c")
    assert "<" not in text
    assert json.loads(text)["name"] == title


def test_moved_page_leads_to_the_new_one(tmp_path: Path) -> None:
    config = SimpleNamespace(
        html_theme_options={"repository_url": "https://github.com/someone/book"},
        html_baseurl=None,
        html_title="Book",
        book_moved_pages={"book/old/name": "book/new"},
        book_older_versions=[],
    )
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=str(tmp_path), config=config)
    metadata.write_files(app, None)
    moved = (tmp_path / "book/old/name.html").read_text(encoding="utf-8")
    assert 'url=../../book/new.html"' in moved
    assert f"<loc>https://someone.github.io/book/{pages()[0]}.html</loc>" in (tmp_path / "sitemap.xml").read_text()
    assert "Sitemap: https://someone.github.io/book/sitemap.xml" in (tmp_path / "robots.txt").read_text()


def test_bibtex_names_title_authors_and_version() -> None:
    entry = metadata.bibtex("https://someone.github.io/book/")
    assert re.match(r"@book\{[\w]+,\n", entry)
    for key in ("title", "author", "year", "note", "url"):
        assert re.search(rf"^  {key} *= \{{.+\}},$", entry, re.MULTILINE), key
    assert entry.count("{") == entry.count("}")


def test_long_titles_are_wrapped_and_cut(tmp_path: Path) -> None:
    letters = ImageFont.truetype(str(SANS), 60)
    lines = wrap("a rather long title " * 20, letters, 600, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert all(letters.getlength(line) <= 700 for line in lines)
    write_card(tmp_path / "card.png", "title " * 60, "words " * 300, "Book")
    assert Image.open(tmp_path / "card.png").size == SIZE
