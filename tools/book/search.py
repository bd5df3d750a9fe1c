"""A Sphinx extension: an index of the book's sections, so that search shows sections and excerpts, from a folder too.

The index is a script, search_sections.js, that the search page alone loads: a page opened from a folder may load
scripts, but not fetch. web/search.js searches in it; no page of the book is fetched for its excerpt.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx import addnodes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

INDEX = "_static/search_sections.js"
# What a reader does not search for, or what is not prose.
SILENT = (nodes.literal_block, nodes.raw, nodes.comment, nodes.math_block, nodes.title)

BRACED = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
FRACTION = re.compile(rf"\\[dt]?frac{BRACED}{BRACED}")
LONG_POWER = re.compile(r"\^\{(?!\\[A-Za-z]+\})([^{}]{2,})\}")  # more than a sign: it keeps its brackets
COMMAND = re.compile(r"\\(?:(?P<name>[A-Za-z]+)|.)|[{}&]", re.DOTALL)
SIGNS = {
    **{"times": "×", "cdot": "·", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "approx": "≈"},
    **{"to": "→", "rightarrow": "→", "mapsto": "↦", "in": "∈", "infty": "∞", "sum": "∑", "prod": "∏", "sqrt": "√"},
    **{"top": "T", "odot": "⊙", "circ": "∘", "propto": "∝", "pm": "±", "ldots": "…", "dots": "…", "cdots": "…"},
    **{"mid": "|", "partial": "∂", "nabla": "∇", "ell": "ℓ", "ll": "≪", "gg": "≫", "equiv": "≡", "otimes": "⊗"},
    **{"lVert": "‖", "rVert": "‖", "lfloor": "⌊", "rfloor": "⌋", "langle": "⟨", "rangle": "⟩", "int": "∫"},
}
FUNCTIONS = ("max", "min", "exp", "log", "ln", "det", "tanh", "sin", "cos", "arg", "argmax", "argmin", "Pr")


def plain_formula(latex: str) -> str:
    """A formula of a sentence as text: letters and signs instead of commands; what only shapes it is left out."""

    def sign(command: re.Match) -> str:
        name = command["name"] or ""
        if name in FUNCTIONS or name in SIGNS:
            return SIGNS.get(name, name)
        letter = name.removeprefix("var")
        size = "CAPITAL" if letter[:1].isupper() else "SMALL"
        try:
            return unicodedata.lookup(f"GREEK {size} LETTER {letter.upper().replace('LAMBDA', 'LAMDA')}")
        except KeyError:
            return ""

    return COMMAND.sub(sign, FRACTION.sub(r"\1/\2", LONG_POWER.sub(r"^(\1)", latex)))


def is_titled(node: nodes.Node) -> bool:
    """Whether a node is a section that a reader knows as one; exercises have some without a title."""
    return isinstance(node, nodes.section) and isinstance(node.children[0], nodes.title)


def own_text(section: nodes.section) -> str:
    """The words of a section, without those of the sections within."""

    def words(node: nodes.Node) -> Iterator[str]:
        for child in node.children:
            if isinstance(child, nodes.Text):
                yield child.astext()
            elif isinstance(child, nodes.math):
                yield plain_formula(child.astext())
            elif isinstance(child, addnodes.desc_signature):
                yield f"{child.astext()} "
            elif not isinstance(child, SILENT) and not is_titled(child):
                yield from words(child)
                if not isinstance(child, nodes.Inline):
                    yield " "

    return " ".join("".join(words(section)).split())


def sections_of(doctree: nodes.document, address: str, numbers: dict[str, tuple[int, ...]]) -> list[dict[str, str]]:
    """The sections of a page: title with its number, address, the page's title, words.

    Args:
        doctree: the page, resolved.
        address: the page's, as of the root.
        numbers: the sections' numbers by anchor, as Sphinx keeps them.
    """
    found = []
    for section in filter(is_titled, doctree.findall(nodes.section)):
        title = section[0].astext()
        anchor = f"#{section['ids'][0]}" if found else ""  # the first is the page itself
        number = ".".join(map(str, numbers.get(anchor) or ()))
        found.append({"title": f"{number} {title}".strip(), "address": address + anchor, "text": own_text(section)})
    return [{**section, "page": found[0]["title"]} for section in found]


def write_index(app: Sphinx, error: Exception | None) -> None:
    """Write the index of all pages beside them."""
    if error is not None or app.builder.format != "html":
        return
    sections = []
    for page in sorted(app.env.found_docs):
        doctree = app.env.get_and_resolve_doctree(page, app.builder)
        address = app.builder.get_target_uri(page)
        sections += sections_of(doctree, address, app.env.toc_secnumbers.get(page, {}))
    script = f"window.bookSections = {json.dumps(sections, ensure_ascii=False)};\n"
    Path(app.outdir, INDEX).write_text(script, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("build-finished", write_index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
