"""A Sphinx extension: KaTeX typesets the formulas while the book is built, so no page waits for a typesetter.

A formula stands in the page twice, as KaTeX writes it: as HTML for the eye, and as MathML for screen readers, which
also keeps the TeX. A browser needs only KaTeX's styles and fonts. mini-racer is the engine that runs KaTeX here.
"""

from __future__ import annotations

import html
import re
from functools import cache
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

from tools.contents import ROOT

if TYPE_CHECKING:
    from py_mini_racer import MiniRacer
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

KATEX = ROOT / "web" / "vendor" / "katex" / "katex.min.js"
CLASSES = "math notranslate nohighlight"
SHORT = 24  # characters of TeX: such a formula fits a line of any screen
PART = '<span class="katex-base">'  # what KaTeX never breaks
STOP = re.compile(r"[.,;:!?)\]”’]+")
logger = logging.getLogger(__name__)


@cache
def engine() -> MiniRacer:
    """A JavaScript engine that has read KaTeX."""
    from py_mini_racer import MiniRacer

    racer = MiniRacer()
    racer.eval(KATEX.read_text(encoding="utf-8"))
    return racer


@cache
def typeset(tex: str, display: bool = False) -> str:
    r"""A formula as HTML.

    Args:
        tex: without the dollars around it, `"\\frac{1}{N}"`.
        display: in a line of its own.

    Raises:
        ValueError: when KaTeX does not understand the formula, with its reason.
    """
    from py_mini_racer import JSEvalException

    try:
        return engine().call("katex.renderToString", tex, {"displayMode": display, "strict": "ignore"})
    except JSEvalException as error:
        reason = str(error).partition("ParseError: ")[2].partition("\n")[0] or str(error)
        raise ValueError(f"{tex!r} cannot be typeset: {reason}") from error


def in_lines(tex: str) -> str:
    r"""TeX of a display with its lines, as Sphinx takes it: an empty line divides equations, `\\` the lines of one."""
    equations = [part for part in tex.split("\n\n") if part.strip()]
    lines = [rf"\begin{{split}}{part}\end{{split}}" if r"\\" in part else part for part in equations]
    return lines[0] if len(lines) == 1 else r"\begin{aligned}" + r"\\".join(lines) + r"\end{aligned}"


def typeset_node(node: nodes.Element, display: bool) -> str:
    """The formula of a node; where it has a mistake, a warning, which ends a strict build, and its TeX."""
    tex = node.astext()
    try:
        return typeset(in_lines(tex) if display and not node["nowrap"] else tex, display)
    except ValueError as error:
        logger.warning("%s", error, location=node)
        return f"<code>{html.escape(tex)}</code>"


def with_breaks(formula: str) -> str:
    """A typeset formula whose line may end between its parts even where the words around it stay together."""
    before, *parts = formula.split(PART)
    return before + PART + f"<wbr>{PART}".join(parts) if parts else formula


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    formula = typeset_node(node, display=False)
    if len(node.astext()) > SHORT:
        formula = with_breaks(formula)
    self.body.append(self.starttag(node, "span", "", CLASS=CLASSES) + formula + "</span>")
    raise nodes.SkipNode


def visit_display(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula in a line of its own, with its number where it has one."""
    self.body.append(self.starttag(node, "div", CLASS=CLASSES))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(typeset_node(node, display=True) + "</div>\n")
    raise nodes.SkipNode


def keep_stops(app: Sphinx, doctree: nodes.document, _page: str) -> None:
    """Keep a formula, the bracket before it and the stop after it together: browsers would divide them between lines.

    A short formula does not break either; a long one may between its parts.
    """
    if app.builder.format != "html":
        return
    for formula in list(doctree.findall(nodes.math)):
        around, place = formula.parent, formula.parent.index(formula)
        before = around[place - 1] if place else None
        after = around[place + 1] if place + 1 < len(around) else None
        bracket = "(" if isinstance(before, nodes.Text) and before.endswith("(") else ""
        stop = STOP.match(after) if isinstance(after, nodes.Text) else None
        if not (bracket or stop):
            continue
        kept = nodes.inline("", "", nodes.Text(bracket), formula, classes=["unbroken"])
        around[place] = kept
        if bracket:
            around[place - 1] = nodes.Text(before[:-1])
        if stop:
            around[place + 1] = nodes.Text(after[stop.end() :])
            kept += nodes.Text(stop[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-resolved", keep_stops)
    app.add_html_math_renderer("katex", (visit_inline, None), (visit_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
