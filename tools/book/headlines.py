"""A Sphinx extension: a chapter's findings, each in a line, stand in its box "What we found", with the way to them.

`plot.in_short` tells a finding where it is measured, so only the executed page knows it. Here it moves to the page's
head; what it is short for stays in its place. A notebook that a learner runs has it there, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util import logging

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

MARK, BOX = "In short.", "What we found"
logger = logging.getLogger(__name__)


def headlines(doctree: nodes.document) -> Iterator[nodes.list_item]:
    """What the page's cells told in short, each with a link to its section."""
    for paragraph in list(doctree.findall(nodes.paragraph)):
        mark, *words = [node for node in paragraph.children if node.astext()] or [nodes.Text("")]
        if not isinstance(mark, nodes.strong) or mark.astext() != MARK:
            continue
        section = paragraph.parent
        while not isinstance(section, nodes.section):
            section = section.parent
        title = section.next_node(nodes.title).astext()
        link = nodes.reference("", title, refid=section["ids"][0], internal=True)
        told = [word.deepcopy() for word in words]
        quote = paragraph.parent
        quote.parent.remove(quote)
        yield nodes.list_item("", nodes.paragraph("", "", *told, nodes.Text(" ("), link, nodes.Text(")")))


def move_headlines(app: Sphinx, doctree: nodes.document) -> None:
    """Put them first in the box."""
    found = list(headlines(doctree))
    if not found:
        return
    boxes = [box for box in doctree.findall(nodes.admonition) if box.next_node(nodes.title).astext() == BOX]
    if not boxes:
        logger.warning('it tells something in short and has no box "%s"', BOX, location=app.env.docname)
        return
    boxes[0].insert(1, nodes.bullet_list("", *found))  # after its title


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-read", move_headlines)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
