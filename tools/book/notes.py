"""A Sphinx extension: what the glossary and the bibliography say, as a script that shows it at a link in the text.

web/notes.js loads _static/notes_data.js when a reader first points at such a link: a page opened from a folder may load
scripts, but not fetch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes

from tools.book.places import BIBLIOGRAPHY, GLOSSARY

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DATA = "_static/notes_data.js"


def words_of(element: nodes.Element) -> str:
    """The text of an entry, without its list of places."""
    paragraphs = [one for one in element.findall(nodes.paragraph) if "places" not in one["classes"]]
    return " ".join(" ".join(one.astext() for one in paragraphs).split())


def glossary_notes(doctree: nodes.document) -> dict[str, dict[str, str]]:
    """The words of the glossary by their anchors: title and text."""
    terms = [term for term in doctree.findall(nodes.term) if term["ids"]]
    return {term["ids"][0]: {"title": term.astext(), "text": words_of(term.parent[-1])} for term in terms}


def bibliography_notes(doctree: nodes.document) -> dict[str, dict[str, str]]:
    """The works of the bibliography by their anchors: text, and the address of a copy where there is one."""
    found = {}
    for work in doctree.findall(nodes.citation):
        addresses = [link["refuri"] for link in work.findall(nodes.reference) if "://" in link.get("refuri", "")]
        found[work["ids"][0]] = {"text": words_of(work)} | ({"address": addresses[0]} if addresses else {})
    return found


def write_notes(app: Sphinx, error: Exception | None) -> None:
    """Write the script when the pages are there."""
    if error is not None or app.builder.format != "html":
        return
    notes = {}
    for page, read in ((GLOSSARY, glossary_notes), (BIBLIOGRAPHY, bibliography_notes)):
        if page in app.env.found_docs:
            address = app.builder.get_target_uri(page)
            found = read(app.env.get_and_resolve_doctree(page, app.builder))
            notes |= {f"{address}#{anchor}": note for anchor, note in found.items()}
    script = f"window.bookNotes = {json.dumps(notes, ensure_ascii=False)};\n"
    Path(app.outdir, DATA).write_text(script, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("build-finished", write_notes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
