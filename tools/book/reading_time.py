"""A Sphinx extension: under the title of a chapter, how long reading it takes, and what waits at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docutils import nodes
from sphinx_exercise.nodes import exercise_enumerable_node

from tools.book.front import minutes_to_read

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def line_of(doctree: nodes.document) -> str:
    """The time and the exercises of a chapter in words."""
    exercises = len(list(doctree.findall(exercise_enumerable_node)))
    return f"{minutes_to_read(doctree)} minutes to read · {exercises} exercises"


def add_time(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Say it on the pages that are numbered as chapters."""
    if app.builder.format == "html" and app.env.toc_secnumbers.get(page, {}).get(""):
        title = next(doctree.findall(nodes.title))
        line = nodes.paragraph("", line_of(app.env.get_doctree(page)), classes=["reading-time"])
        title.parent.insert(title.parent.index(title) + 1, line)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-resolved", add_time)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
