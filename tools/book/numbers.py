"""A Sphinx extension: the figures that cells draw are numbered with the drawings, in the order of the page.

Sphinx numbers the figure nodes that it finds on a page; what a cell shows is raw HTML to it. So each of plot.py's
figures is put into such a node while the page is read, and when the page is written the node gives its number and
its anchor to the HTML. A figure that `plot.show` gave a name is named so by `{numref}` too; the others have their
number as an anchor. In a notebook, which is not built, figures have no number. A page that is no chapter counts its
figures from 1; Sphinx would go on from page to page.

A live figure is a figure too, for readers with and without scripts: its block is put into a node with a caption.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.transforms import SphinxTransform

from tools.book.captions import live_caption

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

FIGURE = re.compile(r'<figure class="(?P<classes>book-figure[^"]*)"(?: id="(?P<name>[^"]*)")?>')
CAPTION = re.compile(r"<figcaption>(?P<text>.*?)</figcaption>", re.DOTALL)


class WrapFigures(SphinxTransform):
    """Let Sphinx know the figures of cells, and the live ones."""

    default_priority = 200  # before Sphinx lists what it numbers

    def apply(self, **_options: object) -> None:
        """Wrap the figures of a page that has been read."""
        for block in [node for node in self.document.findall(nodes.container) if "live-figure" in node["classes"]]:
            kind = next(name for name in block["classes"] if name.startswith("live-") and name != "live-figure")
            figure = nodes.figure("", classes=["live-numbered"], ids=[kind])
            self.document.ids[kind] = figure
            block.parent.replace(block, figure)  # replace_self would give it the block's classes, too
            figure += [block, nodes.caption("", live_caption(kind))]
        for raw in list(self.document.findall(nodes.raw)):
            start = FIGURE.match(raw.astext())
            if start is None or raw.get("format") != "html":
                continue
            figure = nodes.figure("", classes=["cell-figure"])
            raw.replace_self(figure)
            caption = CAPTION.search(raw.astext())
            text = html.unescape(caption["text"]) if caption else "Figure"  # Sphinx numbers no node without a caption
            figure += [raw, nodes.caption("", text)]
            if start["name"]:
                figure["names"] = [nodes.fully_normalize_name(start["name"])]
                self.document.note_explicit_target(figure)
            else:
                self.document.set_id(figure)


def numbered(figure: str, number: str, anchor: str) -> str:
    """The HTML of a figure with its number before its caption, and an anchor that leads to it."""
    link = f'<a class="headerlink" href="#{anchor}" title="Link to this figure">#</a>'
    label = f'<span class="caption-number">Figure {number} </span>'
    figure = FIGURE.sub(rf'<figure class="\g<classes>" id="{anchor}">', figure, count=1)
    if CAPTION.search(figure):
        return CAPTION.sub(rf"<figcaption>{label}\g<text>{link}</figcaption>", figure, count=1)
    below = r'(?=<details class="figure-data">|</figure>)'
    return re.sub(below, f"<figcaption>{label}{link}</figcaption>", figure, count=1)


def number_figures(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Put the HTML of each cell's figure in the place of its node, with the number that Sphinx gave it."""
    numbers = app.env.toc_fignumbers.get(page, {}).get("figure", {})
    for figure in [node for node in doctree.findall(nodes.figure) if "cell-figure" in node["classes"]]:
        raw = figure[0]
        (identifier,) = figure["ids"]
        if identifier in numbers and app.builder.format == "html":
            number = ".".join(map(str, numbers[identifier]))
            anchor = identifier if figure["names"] else f"figure-{number.replace('.', '-')}"
            raw = nodes.raw("", numbered(raw.astext(), number, anchor), **raw.attributes)
        figure.parent.replace(figure, raw)  # replace_self would leave its anchor on both


def count_from_one(_app: Sphinx, env: BuildEnvironment) -> None:
    """Number what stands on pages without a chapter's number page by page."""
    for kinds in env.toc_fignumbers.values():
        for numbers in kinds.values():
            alone = sorted((number, identifier) for identifier, number in numbers.items() if len(number) == 1)
            numbers.update({identifier: (place,) for place, (_, identifier) in enumerate(alone, start=1)})


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_transform(WrapFigures)
    app.connect("env-check-consistency", count_from_one)  # Sphinx has numbered them by then
    app.connect("doctree-resolved", number_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
