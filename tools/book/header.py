"""A Sphinx extension: the buttons above a page lead where they say.

"Download" hands out the learner's notebook (no raw markup, no solutions, a cell that installs the package), and never
the page's source, which the book does not carry. While the repository's address is the placeholder, the buttons that
need it are not shown, and the footer says how to set it. Nor are words that need it: `{div} with-repository` holds
those of a book with an address, in whose code ADDRESS stands for it, and `{div} without-repository` those of a copy
without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from docutils import nodes

from tools.contents import is_placeholder

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# The theme's names of the groups whose links need the repository.
OF_REPOSITORY = ("launch-buttons", "source-buttons")
SOURCE = "download-source-button"
NOTEBOOKS = "downloads/notebooks"  # below the built pages; tools.book.downloads fills it


def mend_buttons(app: Sphinx, page: str, _template: str, context: dict, _doctree: nodes.document | None) -> None:
    """Give the template the buttons that work on this page."""
    context["repository_missing"] = is_placeholder(app.config.html_theme_options["repository_url"])
    buttons = context["header_buttons"]
    if context["repository_missing"]:
        buttons[:] = [button for button in buttons if button.get("label") not in OF_REPOSITORY]
    for group in (button for button in buttons if "buttons" in button):
        group["buttons"] = [button for button in group["buttons"] if button.get("label") != SOURCE]
    for button in (inner for group in buttons for inner in group.get("buttons", [])):
        if button.get("label") == "download-notebook-button":
            button["url"] = context["pathto"](f"{NOTEBOOKS}/{page.rpartition('/')[2]}.ipynb", 1)
        elif button.get("label") == "source-issues-button":
            button["url"] = button["url"].partition("&body=")[0]


def choose_words(app: Sphinx, doctree: nodes.document, _page: str) -> None:
    """Keep the words that fit the repository's address, or its absence."""
    url = app.config.html_theme_options["repository_url"].rstrip("/")
    wrong = "with-repository" if is_placeholder(url) else "without-repository"
    for container in list(doctree.findall(nodes.container)):
        if wrong in container["classes"]:
            container.parent.remove(container)
        elif "with-repository" in container["classes"]:
            for code in container.findall(nodes.literal_block):
                address = code.astext().replace("ADDRESS", url)
                code.rawsource = address
                code[:] = [nodes.Text(address)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-resolved", choose_words)
    app.connect("html-page-context", mend_buttons, priority=600)  # after the theme, which makes the buttons at 501
    return {"parallel_read_safe": True, "parallel_write_safe": True}
