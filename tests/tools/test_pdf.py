"""The PDF of the whole book, made from two small pages that stand for it."""

import shutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from tools.book import pdf
from tools.book.browser import find_chromium

FIRST = """<html><head><link rel="stylesheet" href="../_static/book.css?v=1"></head><body><article>
<section id="one"><h1>1. One<a class="headerlink" href="#one">#</a></h1><p>See <a href="two.html#part">the part</a>,
<a href="#below">below</a>, <a href="https://example.org">a site</a> and <a href="../downloads/x.zip">a file</a>.</p>
<svg aria-labelledby="t"><title id="t">drawing</title><rect clip-path="url(#c)"/><use href="#c"/></svg>
<details class="figure-data"><summary>numbers</summary></details>
<noscript><img src="first.webp"></noscript>
<details><summary>folded</summary><p>what was folded</p></details><button>Copy</button>
<section id="below"><h2>1.1. Below</h2><img src="../_images/a.png" loading="lazy">
</section></section></article></body></html>"""
SECOND = """<html><head></head><body><article><section id="two"><h1>2. Two</h1><section id="part"><h2>2.1. Part</h2>
<p>the end</p></section></section></article></body></html>"""


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of two built pages, in the place of the book's."""
    html = tmp_path / "html"
    (html / "book").mkdir(parents=True)
    (html / "index.html").write_text("")
    (html / "book" / "one.html").write_text(FIRST)
    (html / "book" / "two.html").write_text(SECOND)
    monkeypatch.setattr(pdf, "HTML", html)
    monkeypatch.setattr(pdf, "JOINED", html / "whole_book.html")
    monkeypatch.setattr(pdf, "PDF", tmp_path / "book.pdf")
    monkeypatch.setattr(pdf, "pages", lambda: ["book/one", "book/two", "book/not_built"])
    return html


def test_an_article_is_made_ready_for_paper(book: Path) -> None:
    article = pdf.article_of("book/one", {"book/one", "book/two"})
    assert [link.get("href") for link in article.find_all("a")] == [
        "#book-two--part",
        "#book-one--below",
        "https://example.org",
        None,  # a file that is not in the PDF; its place on a disk is nobody's business
    ]
    (fold,) = article.find_all("details")  # but for the table behind a figure
    assert fold.has_attr("open")
    assert not article.find_all(["button", "script", "noscript"])
    assert "#" not in article.find("h1").get_text()
    still, lazy = article.find_all("img")
    assert still["src"] == "book/first.webp"  # what stands where a live figure would run
    assert lazy["src"] == "_images/a.png"
    assert lazy["loading"] == "eager"


def test_anchors_of_a_page_are_its_own(book: Path) -> None:
    article = pdf.article_of("book/one", {"book/one"})
    assert article.find("title")["id"] == article.find("svg")["aria-labelledby"] == "book-one--t"
    assert article.find("rect")["clip-path"] == "url(#book-one--c)"
    assert article.find("use")["href"] == "#book-one--c"


def test_contents_have_the_numbers_that_are_known(book: Path) -> None:
    articles = [pdf.article_of(page, {"book/one", "book/two"}) for page in ("book/one", "book/two")]
    lines = BeautifulSoup(pdf.contents(articles, {"book-one": 3, "book-two--part": 5}), "html.parser").find_all("p")
    assert [line.get_text(" ") for line in lines] == ["1. One 3", "1.1. Below 000", "2. Two 000", "2.1. Part 5"]


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium or Chrome is installed")
def test_the_pdf_has_all_pages_and_links_within(book: Path, tmp_path: Path) -> None:
    from pypdf import PdfReader

    shutil.rmtree(tmp_path / "book.pdf", ignore_errors=True)
    numbers = pdf.make_pdf()
    assert numbers["book-one"] == 3  # behind the title and the contents
    assert numbers["book-two"] == numbers["book-two--part"] == 4
    reader = PdfReader(tmp_path / "book.pdf")
    text = [page.extract_text() for page in reader.pages]
    assert "what was folded" in text[2]
    assert "1.1. Below" in text[1]
    assert "4" in text[1].split("2.1. Part")[1]
    assert len(reader.outline) > 0
    assert not (book / "whole_book.html").exists()
    assert not [link for page in reader.pages for link in page.get("/Annots", ()) if "file:" in str(link.get_object())]
