"""The whole book as one PDF, from pages that are built already: `make pdf` after `make book`.

The pages become one: articles in the order of the contents, everything unfolded, each page's anchors under a name of
their own, links between pages within the file. Chromium prints it twice: the first time tells on which pages the
sections begin, the second has these numbers in the contents. The tables
behind figures stay on the pages: they would fill sheets.
"""

from __future__ import annotations

import html
import posixpath
import re
import sys
from datetime import datetime, timezone
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

from tools.book.browser import find_chromium
from tools.book.metadata import citation
from tools.contents import BUILD, HTML, pages

PDF = BUILD / "deeper-vision-transformers.pdf"
JOINED = HTML / "whole_book.html"  # beside the pages, so that it reaches their styles and pictures; removed again
MINUTES = 10
# What has no use on paper: buttons, marks to copy links, what runs.
NOT_ON_PAPER = (
    "script, button, .headerlink, .toggle-button, .copybtn, nav.contents, .buttons, .explorer-live, .reading-time, "
    ".figure-data"
)
IDS = ("id", "for", "aria-labelledby", "aria-describedby", "aria-controls", "name")


def name_of(page: str, anchor: str = "") -> str:
    """An anchor that is unique in the whole book."""
    return page.replace("/", "-") + (f"--{anchor}" if anchor else "")


def resolve(page: str, address: str) -> str:
    """An address on a page, as of the folder of the built pages."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(address)))


def mend_link(tag: Tag, page: str, known: set[str]) -> None:
    """Let a link lead within the PDF, or to the web; what leads to other files stays as words."""
    parts = urlsplit(tag["href"])
    if parts.scheme in ("http", "https", "mailto"):
        return
    target = resolve(page, parts.path).removesuffix(".html") if parts.path else page
    if target in known:
        tag["href"] = f"#{name_of(target, parts.fragment)}"
    else:
        del tag["href"]


def mend_anchors(article: Tag, page: str) -> None:
    """Put a page's anchors, and all that names them, under the page's own name."""
    for tag in article.find_all(True):
        for key, value in list(tag.attrs.items()):
            if key in IDS and isinstance(value, str):
                tag[key] = " ".join(name_of(page, word) for word in value.split())
            elif isinstance(value, str) and "#" in value and tag.name != "a":
                tag[key] = re.sub(r"(url\(\s*['\"]?#|^#)", rf"\g<1>{name_of(page)}--", value)


def article_of(page: str, known: set[str]) -> Tag:
    """The article of a built page, ready for paper."""
    soup = BeautifulSoup((HTML / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    article = soup.find("article")
    for tag in article.select(NOT_ON_PAPER):
        tag.decompose()
    for still in article.select("noscript"):  # a live figure's picture: nothing runs on paper
        still.unwrap()
    for fold in article.find_all("details"):
        fold["open"] = ""
    for box in article.select(".dropdown"):
        box["class"] = [name for name in box["class"] if name not in ("dropdown", "toggle")]
    mend_anchors(article, page)
    for link in article.find_all("a", href=True):
        mend_link(link, page, known)
    for picture in article.find_all("img", src=True):
        picture["loading"] = "eager"
        if not urlsplit(picture["src"]).scheme:
            picture["src"] = resolve(page, picture["src"])
    article["id"] = name_of(page)
    article["class"] = ["bd-article", "whole-book"]
    return article


def heads(known: list[str]) -> str:
    """The styles of all pages, once each."""
    found: dict[str, None] = {}
    for page in known:
        soup = BeautifulSoup((HTML / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
        for tag in soup.select("head link[rel=stylesheet]"):
            tag["href"] = resolve(page, urlsplit(tag["href"]).path)
            found[str(tag)] = None
    return "\n".join(found)


def title_of(heading: Tag) -> str:
    """The words of a heading."""
    return " ".join(heading.get_text().split())


def contents(articles: list[Tag], numbers: dict[str, int]) -> str:
    """The table of contents: pages and their sections, with the numbers that are known."""
    lines = []
    for article in articles:
        for heading in article.find_all(["h1", "h2"]):
            anchor = article["id"] if heading.name == "h1" else heading.find_parent("section")["id"]
            number = numbers.get(anchor, "000")
            link = f'<a href="#{anchor}">{html.escape(title_of(heading))}</a>'
            lines.append(f'<p class="line-{heading.name}">{link}<span>{number}</span></p>')
    return "\n".join(lines)


def running_heads(articles: list[Tag]) -> str:
    """Styles that put each page's title at the top of its sheets."""
    rules = []
    for article in articles:
        title = title_of(article.find("h1")).replace("\\", "").replace('"', "'")
        name = re.sub(r"\W", "-", article["id"])
        rules.append(f'@page {name} {{ @top-right {{ content: "{title}"; }} }} #{article["id"]} {{ page: {name}; }}')
    return "\n".join(rules)


STYLE = """
@page { size: A4; margin: 22mm 20mm; font: 8.5pt "Source Sans 3", sans-serif; color: #56606d;
        @bottom-center { content: counter(page); font: inherit; } @top-right { font: inherit; } }
@page front { @bottom-center { content: none; } }
html { font-size: 12.5px; background: #fff; }
body { margin: 0; padding: 0; background: #fff; }
.title-page { page: front; height: 240mm; display: flex; flex-direction: column; justify-content: center; }
.title-page h1 { font-size: 40pt; line-height: 1.1; font-family: var(--sans); }
.title-page p { font-family: var(--sans); font-size: 11pt; color: #56606d; }
.book-contents { break-before: page; font-family: var(--sans); }
.book-contents p { display: flex; justify-content: space-between; gap: 2rem; margin: 0; font-size: 9.5pt; }
.book-contents .line-h1 { margin-top: 0.6rem; font-weight: 650; }
.book-contents .line-h2 { padding-left: 1.5rem; color: #56606d; }
.book-contents a { color: inherit; text-decoration: none; }
.book-contents span { min-width: 2.5rem; text-align: right; font-variant-numeric: tabular-nums; }
.whole-book { break-before: page; padding: 0 !important; font-size: 10.5pt; }
.whole-book div.highlight pre { font-size: 8.2pt; }
.whole-book { --text: 100%; }
.whole-book :is(svg, img) { max-width: 100%; max-height: 150mm; }
.whole-book svg.drawing { max-width: 115mm; margin: 0 auto; }
.whole-book .chapter-cards > ul { grid-template-columns: repeat(3, 1fr); }
.whole-book .chapter-card { break-inside: avoid; }
"""


def whole_book(articles: list[Tag], numbers: dict[str, int]) -> str:
    """All pages as one."""
    book = citation()
    day = f"{datetime.now(timezone.utc):%d %B %Y}"
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light" data-mode="light">
<head><meta charset="utf-8"><title>{html.escape(book["title"])}</title>
{heads([article["data-page"] for article in articles])}
<style>{STYLE}{running_heads(articles)}</style></head>
<body>
<div class="title-page"><h1>{html.escape(book["title"])}</h1><p>Version {book["version"]}, {day}</p>
<p>Text: CC BY 4.0. Code: MIT licence.</p></div>
<div class="book-contents"><h2>Contents</h2>{contents(articles, numbers)}</div>
{"".join(map(str, articles))}
</body></html>"""


def print_pdf(page: object, text: str) -> None:
    """Print the book with Chromium, when its pictures and fonts are there."""
    JOINED.write_text(text, encoding="utf-8")
    try:
        page.goto(JOINED.as_uri(), wait_until="load")
        page.evaluate("Promise.allSettled([...document.images].map((image) => image.decode()))")
        page.evaluate("document.fonts.ready")
        page.pdf(path=PDF, prefer_css_page_size=True, print_background=True, outline=True, tagged=True)
    finally:
        JOINED.unlink()


def page_numbers() -> dict[str, int]:
    """The sheet of the printed book on which each anchor stands, from 1."""
    from pypdf import PdfReader

    reader = PdfReader(PDF)
    return {
        name.lstrip("/"): reader.get_destination_page_number(place) + 1
        for name, place in reader.named_destinations.items()
    }


def make_pdf() -> dict[str, int]:
    """Write the PDF; returns the sheets of its anchors."""
    from playwright.sync_api import sync_playwright

    known = [page for page in pages() if (HTML / f"{page}.html").is_file()]
    articles = []
    for page in known:
        article = article_of(page, set(known))
        article["data-page"] = page
        articles.append(article)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        page = browser.new_page(color_scheme="light", viewport={"width": 800, "height": 1100})
        page.set_default_timeout(MINUTES * 60_000)
        page.emulate_media(media="print")
        print_pdf(page, whole_book(articles, {}))
        print_pdf(page, whole_book(articles, page_numbers()))
        browser.close()
    return page_numbers()


def main() -> None:
    """Write it, and say where it is."""
    if not (HTML / "index.html").is_file():
        sys.exit("The book is not built: run `make book` first.")
    make_pdf()
    print(f"Wrote {PDF} ({PDF.stat().st_size / 1e6:.1f} MB).")


if __name__ == "__main__":
    main()
