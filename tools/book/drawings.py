"""A Sphinx extension: the drawings of book/drawings stand in the page itself, so that they follow its light and dark.

An SVG that a page shows as an image cannot take the page's colours. So `{figure} drawings/NAME.svg` becomes the SVG,
with the figure's :alt: text as its name for those who do not see it. Elsewhere (a notebook, say) the same file is an
image with light colours of its own.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDER = "book/drawings/"


def inline_svg(svg: str, alt: str) -> str:
    """The drawing as a part of a page: one picture with one text; its title would only be a tooltip."""
    untitled = re.sub(r"\s*<title>.*?</title>", "", svg, flags=re.DOTALL)
    return untitled.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)


def inline_drawings(app: Sphinx, doctree: nodes.document, _page: str) -> None:
    """Put each drawing of a page in the place of its image.

    Raises:
        ValueError: when a drawing has no text alternative.
    """
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        uri = image["uri"]
        if uri.startswith(FOLDER) and uri.endswith(".svg"):
            if not image.get("alt", "").strip():
                raise ValueError(f"{uri} has no text alternative; say in :alt: what is to be seen in it.")
            svg = (Path(app.srcdir) / uri).read_text(encoding="utf-8")
            image.replace_self(nodes.raw("", inline_svg(svg, image["alt"]), format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-resolved", inline_drawings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
