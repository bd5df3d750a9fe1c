"""A Sphinx extension: what search engines, shared links and browsers read of a page, and the files around the pages.

Each page gets a description (its first paragraph), a card with a picture, and structured data. Addresses in full are
possible only where the site's is known: `html: baseurl` of _config.yml, else the one of GitHub's pages for the
repository. While that is the placeholder, there are no canonical addresses and no sitemap.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from tools.book.cards import write_card
from tools.book.versions import LIST, versions
from tools.contents import ROOT, is_placeholder, load_yaml, pages

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DESCRIPTION = 200  # characters
CARDS = "_cards"
LICENCE = "https://creativecommons.org/licenses/by/4.0/"
VIEWPORT = re.compile(r'<meta [^>]*name="viewport"[^>]*>')
MOVED = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<meta http-equiv="refresh" content="0; url={target}">
<link rel="canonical" href="{target}">
</head>
<body><p>This page is now at <a href="{target}">{target}</a>.</p></body>
</html>
"""


def site_address(repository: str, baseurl: str | None) -> str:
    """The address of the published pages with a slash at its end; empty where it is not known."""
    if baseurl:
        return baseurl.rstrip("/") + "/"
    if is_placeholder(repository) or not repository.startswith("https://github.com/"):
        return ""
    owner, name = repository.rstrip("/").split("/")[-2:]
    return f"https://{owner.lower()}.github.io/{name}/"


def shorten(text: str, length: int = DESCRIPTION) -> str:
    """Whole sentences while they fit; where the first does not, whole words and an ellipsis."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    end = text.rfind(". ", 0, length)
    return text[: end + 1] if end > 0 else text[: text.rfind(" ", 0, length - 1)] + "…"


def describe(doctree: nodes.document | None) -> str:
    """The first paragraph of a page that is not in a box, in short; empty where there is none. A promise is no box."""
    for paragraph in doctree.findall(nodes.paragraph) if doctree else ():
        within = paragraph.parent
        in_the_open = isinstance(within, nodes.section) or "promise" in within.get("classes", ())
        if in_the_open and len(paragraph.astext()) > 40:
            return shorten(paragraph.astext())
    return ""


def citation() -> dict:
    """What CITATION.cff says of the book."""
    return load_yaml(ROOT / "CITATION.cff")


def bibtex(address: str = "") -> str:
    """How to cite the book, for BibTeX."""
    book = citation()
    author = " and ".join(f"{{{one['name']}}}" if "name" in one else str(one) for one in book["authors"])
    year = load_yaml(ROOT / "_config.yml")["copyright"]
    fields = {"title": f"{{{book['title']}}}", "author": author, "year": year, "note": f"Version {book['version']}"}
    fields |= {"url": address} if address else {}
    lines = [f"  {key:7}= {{{value}}}," for key, value in fields.items()]
    return "\n".join(["@book{deepvit_step_by_step,", *lines, "}"])


class Citation(SphinxDirective):
    """`{citation}`: how to cite the book, in a block that can be copied."""

    def run(self) -> list[nodes.Node]:
        """The block."""
        address = site_address(self.config.html_theme_options["repository_url"], self.config.html_baseurl)
        entry = bibtex(address)
        return [nodes.literal_block(entry, entry, language="bibtex")]


def structured(context: dict, page: str, address: str) -> dict:
    """The page as schema.org sees it: the book itself, a chapter to learn from, or a page of the book."""
    book = {"@type": "Book", "name": context["docstitle"], "license": LICENCE} | ({"url": address} if address else {})
    about = {"@context": "https://schema.org", "name": context["pagetitle"], "description": context["description"]}
    about |= {"inLanguage": "en", "license": LICENCE, "isAccessibleForFree": True}
    if page == pages()[0]:
        authors = [{"@type": "Organization", "name": one["name"]} for one in citation()["authors"]]
        return about | book | {"author": authors, "bookFormat": "https://schema.org/EBook"}
    chapter = page.rpartition("/")[2][:2].isdigit()
    kind = {"@type": ["LearningResource", "Chapter"], "learningResourceType": "chapter with exercises"}
    return about | (kind if chapter else {"@type": "WebPage"}) | {"isPartOf": book}


def add_metadata(app: Sphinx, page: str, _template: str, context: dict, doctree: nodes.document | None) -> None:
    """Give the template what it writes into the page's head."""
    address = site_address(app.config.html_theme_options["repository_url"], app.config.html_baseurl)
    context |= {"site": address, "release_of_book": citation()["version"], "root_page": page == pages()[0]}
    if page not in app.env.titles:
        return
    # The theme says this once for all pages; docutils says it again for each.
    context["metatags"] = VIEWPORT.sub("", context.get("metatags") or "")
    context["description"] = describe(doctree) or context["docstitle"]
    card = f"{CARDS}/{page.replace('/', '_')}.png"
    write_card(Path(app.outdir) / card, context["pagetitle"], context["description"], context["docstitle"])
    context["card"] = card
    # "<" could end the script that the data stand in.
    context["structured"] = json.dumps(structured(context, page, address)).replace("<", "\\u003c")
    context["page_address"] = f"{address}{page}.html" if address else ""


def write_moved(path: Path, target: str, title: str) -> None:
    """Writes a page that leads to another address, relative to its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MOVED.format(target=html.escape(target), title=html.escape(title)), encoding="utf-8")


def write_files(app: Sphinx, error: Exception | None) -> None:
    """Write what stands around the pages: the start, pages that moved, what crawlers and hosts look for."""
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    write_moved(out / "index.html", f"{pages()[0]}.html", app.config.html_title)
    for old, new in app.config.book_moved_pages.items():
        up = "../" * old.count("/")
        write_moved(out / f"{old}.html", f"{up}{new}.html", app.config.html_title)
    (out / ".nojekyll").touch()  # else GitHub's pages leave out the folders that begin with an underscore
    address = site_address(app.config.html_theme_options["repository_url"], app.config.html_baseurl)
    if address:
        entries = "".join(f"<url><loc>{html.escape(address)}{page}.html</loc></url>\n" for page in pages())
        names = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
        sitemap = f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset {names}>\n{entries}</urlset>\n'
        (out / "sitemap.xml").write_text(sitemap, encoding="utf-8")
        online = versions(citation()["version"], list(map(str, app.config.book_older_versions)), address)
        (out / LIST).write_text(json.dumps(online, indent=1), encoding="utf-8")
        (out / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {address}sitemap.xml\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_config_value("book_moved_pages", {}, "html")
    app.add_config_value("book_older_versions", [], "html")
    app.add_directive("citation", Citation)
    app.connect("html-page-context", add_metadata, priority=650)
    app.connect("build-finished", write_files, priority=900)  # after the extension that writes the start page
    return {"parallel_read_safe": True, "parallel_write_safe": True}
