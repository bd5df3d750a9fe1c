"""A Sphinx extension: what it took to build the book. `{build-report}` becomes a table of minutes and memory by page.

MyST-NB notes how long the cells of a page took. Their memory is watched here: a thread adds up, twice a second, what
the processes hold that execute the page. Both are kept with the pages, so a page that did not change keeps its numbers.
"""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from importlib.metadata import version
from typing import TYPE_CHECKING

import psutil
import torch
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from deepvit_edu.records import describe_commit, describe_hardware, describe_versions
from deepvit_edu.tiers import tier
from tools.book.metadata import citation
from tools.contents import pages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

SECONDS_BETWEEN = 0.5
BOOK_PACKAGES = ("jupyter-book", "sphinx", "myst-nb")


def memory_of_children() -> int:
    """Bytes that the processes started by this one hold."""
    held = 0
    for process in psutil.Process().children(recursive=True):
        try:
            held += process.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return held


class Watch(threading.Thread):
    """Notes the most memory that was held while each page was read."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.page = ""
        self.most: dict[str, int] = {}
        self.over = threading.Event()

    def run(self) -> None:
        """Watch until it is over."""
        while not self.over.wait(SECONDS_BETWEEN):
            page = self.page
            if page:
                self.most[page] = max(self.most.get(page, 0), memory_of_children())


def begin(app: Sphinx) -> None:
    """Start watching."""
    app.memory_watch = Watch()
    app.memory_watch.start()


def next_page(app: Sphinx, page: str, _source: list[str]) -> None:
    """What is held from here on belongs to this page."""
    app.memory_watch.page = page


def end(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Keep what was seen, and write the page that shows it again."""
    app.memory_watch.over.set()
    env.memory_of_pages = {**getattr(env, "memory_of_pages", {}), **app.memory_watch.most}
    return list(getattr(env, "build_report_pages", ()))


# The report


class build_report(nodes.General, nodes.Element):
    """Stands for the report until all pages have been executed."""


class BuildReport(SphinxDirective):
    """`{build-report}`: when, on what and from what the book was built, and what each page took."""

    def run(self) -> list[nodes.Node]:
        """Its place."""
        self.env.build_report_pages = {*getattr(self.env, "build_report_pages", ()), self.env.docname}
        return [build_report()]


def facts(now: datetime) -> list[tuple[str, str]]:
    """When, from what and on what the book was built."""
    versions = {**describe_versions(), **{name: version(name) for name in BOOK_PACKAGES}}
    return [
        ("built", f"{now:%d %B %Y, %H:%M} UTC"),
        ("version", citation()["version"]),
        ("commit", describe_commit()),
        ("machine", describe_hardware(torch.device("cpu"))),
        ("tier", tier()),
        *versions.items(),
    ]


def rows(env: BuildEnvironment) -> list[tuple[str, str, str, str]]:
    """Title, minutes, memory and day of each executed page, in the book's order, and what they come to."""
    found, seconds, memory = [], 0.0, getattr(env, "memory_of_pages", {})
    for page in pages():
        run = getattr(env, "nb_metadata", {}).get(page, {}).get("exec_data")
        if run:
            seconds += run["runtime"]
            day = f"{datetime.fromtimestamp(run['mtime'], timezone.utc):%d %B %Y}"
            held = f"{memory[page] / 2**30:.1f} GiB" if memory.get(page) else "not seen"
            found.append((env.titles[page].astext(), f"{run['runtime'] / 60:.1f}", held, day))
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
        stand_in.replace_self(
            [
                table(("what", "value"), facts(datetime.now(timezone.utc))),
                table(("page", "minutes", "memory at most", "executed"), rows(app.env)),
            ]
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_node(build_report)
    app.add_directive("build-report", BuildReport)
    app.connect("builder-inited", begin)
    app.connect("source-read", next_page)
    app.connect("env-updated", end)
    app.connect("doctree-resolved", write_report)
    return {"parallel_read_safe": False, "parallel_write_safe": True}  # one page at a time, or memory has no page
