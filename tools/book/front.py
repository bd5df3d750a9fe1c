"""A Sphinx extension: the front page's list of chapters becomes cards with a picture and the time that reading takes.

The source has a plain list, `- {doc}`1 The Vision Transformer <01_vision_transformer>`: a question`, within
`{div} chapter-cards`: so the learner's notebook has it, too. The picture is the chapter's first drawing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docutils import nodes

from tools.book.search import is_titled, own_text
from tools.contents import ROOT, source_of

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

CARDS = "chapter-cards"
WORDS_A_MINUTE = 200
ROUNDED_TO = 5  # minutes
SHAPE = re.compile(r'<(?P<kind>rect|text)\b[^>]*? y="(?P<y>[\d.]+)"(?:[^>]*? height="(?P<height>[\d.]+)")?')
HIGHEST = 215  # of a picture, in the units of drawings, which are 360 wide
ABOVE, BELOW = 12, 5  # a line of text around its y
EDGE, SPACE = 2, 5  # what stays free above and below a shape
DRAWING = re.compile(r"\{figure\} (drawings/\w+\.svg)")


def minutes_to_read(doctree: nodes.document) -> int:
    """How long the words of a page take, without its code."""
    words = sum(len(own_text(section).split()) for section in filter(is_titled, doctree.findall(nodes.section)))
    return max(ROUNDED_TO, ROUNDED_TO * round(words / WORDS_A_MINUTE / ROUNDED_TO))


def whole_height(svg: str) -> int:
    """How much of a drawing, from its top, is a picture that cuts no box and no line of text."""
    spans = []
    for shape in SHAPE.finditer(svg):
        y = float(shape["y"])
        top, bottom = (y - ABOVE, y + BELOW) if shape["kind"] == "text" else (y, y + float(shape["height"] or 0))
        spans.append((top - EDGE, bottom + SPACE))
    clear = (height for height in range(HIGHEST, 0, -1) if not any(top < height < bottom for top, bottom in spans))
    return next(clear, HIGHEST)


def picture(page: str, prefix: str) -> str:
    """The first drawing of a page as SVG, for the eye only; empty where it has none.

    Ids within it get the prefix: several drawings stand in one page.
    """
    found = DRAWING.search(source_of(page).read_text(encoding="utf-8"))
    if not found:
        return ""
    svg = (ROOT / "book" / found[1]).read_text(encoding="utf-8")
    svg = re.sub(r"\s*<title>.*?</title>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([\w-]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{prefix}-", svg)
    height = whole_height(svg)
    shape = rf'viewBox="0 0 \1 {height}" style="--shape: \1 / {height}"'
    svg = re.sub(r'viewBox="0 0 (\d+) \d+"', shape, svg, count=1)
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)


def page_of(link: nodes.reference) -> str:
    """The page that a link of the front page leads to: `book/NAME`."""
    return f"book/{link['refuri'].partition('#')[0].rpartition('/')[2].removesuffix('.html')}"


def make_card(item: nodes.list_item, env: BuildEnvironment) -> None:
    """Add the picture and the time to a chapter's item; in a card the question stands on a line of its own."""
    link = next(item.findall(nodes.reference))
    question = link.next_node(nodes.Text, descend=False, siblings=True)
    link.parent.replace(question, nodes.Text(question.removeprefix(": ")))
    page = page_of(link)
    item["classes"].append("chapter-card")
    svg = picture(page, page.rpartition("/")[2])
    if svg:
        item.insert(0, nodes.raw("", f'<div class="card-picture">{svg}</div>', format="html"))
    minutes = minutes_to_read(env.get_doctree(page))
    item += nodes.paragraph("", f"{minutes} minutes to read", classes=["card-minutes"])


def make_cards(app: Sphinx, doctree: nodes.document, _page: str) -> None:
    """Find the lists of chapters on a page."""
    if app.builder.format != "html":
        return
    for container in doctree.findall(nodes.container):
        if CARDS in container["classes"]:
            for item in container.findall(nodes.list_item):
                make_card(item, app.env)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-resolved", make_cards)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
