"""A Sphinx extension: what it took to build the book. `{build-report}` becomes a table of minutes and memory by page.

What the pages took is noted by `tools.book.execution`.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from deepvit_edu.records import describe_commit, describe_hardware, describe_versions, hardware_of
from deepvit_edu.tiers import tier
from tools.book.execution import TAKEN
from tools.book.metadata import citation
from tools.contents import pages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sphinx.application import Sphinx

BOOK_PACKAGES = ("jupyter-book", "sphinx", "myst-nb")


class build_report(nodes.General, nodes.Element):
    """Stands for the report until all pages have been executed."""


class BuildReport(SphinxDirective):
    """`{build-report}`: when, on what and from what the book was built, and what each page took."""

    def run(self) -> list[nodes.Node]:
        """Its place."""
        self.env.note_reread()  # what it shows is another thing after each build
        return [build_report()]


def facts(now: datetime) -> list[tuple[str, str]]:
    """When, from what and on what the book was built."""
    versions = {**describe_versions(), **{name: version(name) for name in BOOK_PACKAGES}}
    return [
        ("built", f"{now:%d %B %Y, %H:%M} UTC"),
        ("version", citation()["version"]),
        ("commit", describe_commit()),
        ("machine", hardware_of({"hardware": describe_hardware(torch.device("cpu"))})),
        ("tier", tier()),
        *versions.items(),
    ]


def rows(taken: Mapping[str, Mapping], titles: Mapping[str, nodes.title]) -> list[tuple[str, str, str, str]]:
    """Title, minutes, memory and day of each executed page, in the book's order, and what they come to."""
    found, seconds = [], 0.0
    for page in (page for page in pages() if page in taken):
        run = taken[page]
        seconds += run["seconds"]
        day = f"{datetime.fromtimestamp(run['ended'], timezone.utc):%d %B %Y}"
        held = f"{run['memory'] / 2**30:.1f} GiB" if run["memory"] else "not seen"
        found.append((titles[page].astext(), f"{run['seconds'] / 60:.1f}", held, day))
    return [*found, ("all of them", f"{seconds / 60:.1f}", "", "")]


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> nodes.table:
    """A table of texts."""

    def row(cells: Sequence[str]) -> nodes.row:
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", cell)) for cell in cells))

    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
    group += [nodes.thead("", row(head)), nodes.tbody("", *map(row, body))]
    return nodes.table("", group)


def write_report(app: Sphinx, doctree: nodes.document, _page: str) -> None:
    """Put the report in its place."""
    for stand_in in list(doctree.findall(build_report)):
        taken = json.loads(TAKEN.read_text()) if TAKEN.is_file() else {}
        stand_in.replace_self(
            [
                table(("what", "value"), facts(datetime.now(timezone.utc))),
                table(("page", "minutes", "memory at most", "executed"), rows(taken, app.env.titles)),
            ]
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_node(build_report)
    app.add_directive("build-report", BuildReport)
    app.connect("doctree-resolved", write_report)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
