"""A Sphinx extension: facts of exercises become chips, verdicts badges, and claims places that links lead to.

In tables a hyphen before a number becomes a minus. Names in code break between their parts, and short ones nowhere.

A chapter says "*4.1 · implement · difficulty 2 of 5 · …*" as the first line of an exercise, and a table says
"inconclusive" in a column headed *verdict*. Both stay words, for all who read, search, copy or listen; here they get
the classes by which web/book.css sets them apart.

Each line of a box "What we found" has an anchor (`ledger.findings`); `{ref}`words <04_re_attention:claim-…>``
leads to it.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx_exercise.nodes import exercise_enumerable_node, exercise_node

from deepvit_edu.experiment.ledger import VERDICTS
from deepvit_edu.words import minus

if TYPE_CHECKING:
    from collections.abc import Callable

    from sphinx.application import Sphinx

SEPARATOR = " · "
# What a column headed "verdict" may say: of a claim, and of a contrast.
WORDS = (*VERDICTS, "higher", "lower", "no difference that matters", "too few runs")
WHOLE = 22
"""Characters up to which a name in code fits a phone's line, or the column of a table there."""
PARTS = re.compile(r"(?<=[_/.=])(?=\w)")
NAME = re.compile(r'<span class="pre">(?P<text>[^<]+)</span>')
ANCHOR = re.compile(r'<a id="(claim-[\w-]+)">')


def split_facts(line: nodes.emphasis) -> None:
    """Make a chip of each fact in a line, and keep the line's words."""
    facts = line.astext().split(SEPARATOR)
    line.children = []
    line["classes"].append("facts")
    for fact in facts:
        kind = re.sub(r"\W.*", "", fact, flags=re.DOTALL)
        line += [nodes.inline("", fact, classes=["fact", f"fact-{kind}"]), nodes.Text(SEPARATOR)]
    line.pop()


def mark_facts(doctree: nodes.document) -> None:
    """Find the line of facts of each exercise."""
    for kind in (exercise_node, exercise_enumerable_node):
        for exercise in doctree.findall(kind):
            line = next(exercise.findall(nodes.emphasis), None)
            if line is not None and SEPARATOR in line.astext():
                split_facts(line)


def mark_verdict(cell: nodes.entry) -> None:
    """Make a badge of the verdict with which a cell begins."""
    # Before bold words stands an empty text.
    text = next((text for text in cell.findall(nodes.Text) if text.astext()), None)
    verdict = next((word for word in WORDS if text and text.startswith(word)), None)
    if verdict:
        badge = nodes.inline("", verdict, classes=["verdict", f"verdict-{verdict.replace(' ', '-')}"])
        text.parent.replace(text, [badge, nodes.Text(text[len(verdict) :])])


def mark_verdicts(doctree: nodes.document) -> None:
    """Find the columns of verdicts."""
    for table in doctree.findall(nodes.table):
        rows = [list(row.children) for row in table.findall(nodes.row)]
        heads = [cell.astext().lower() for cell in rows[0]]
        for row in rows[1:]:
            for head, cell in zip(heads, row, strict=False):
                if "verdict" in head:
                    mark_verdict(cell)


def set_numbers(doctree: nodes.document) -> None:
    """Give numbers in tables a true minus sign, and keep them together with their errors; code and formulas stay."""
    for cell in doctree.findall(nodes.entry):
        reword(cell, lambda text: unbroken(minus(text)))


def hold_signs(doctree: nodes.document) -> None:
    """Let no line begin with a percent sign or with the digits of a power of ten; code and formulas stay."""
    reword(doctree, held)


def reword(within: nodes.Element, change: Callable[[str], str]) -> None:
    """Change the words below a node; code and formulas stay."""
    for text in list(within.findall(nodes.Text)):
        if not isinstance(text.parent, nodes.literal | nodes.literal_block | nodes.math | nodes.raw):
            changed = change(text)
            if changed != text:
                text.parent.replace(text, nodes.Text(changed))


def held(text: str) -> str:
    """Text in which no line ends before a percent sign or within a power of ten."""
    text = re.sub(r"(?<=\de)-(?=\d)", "\N{NON-BREAKING HYPHEN}", text)
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", text)


def unbroken(text: str) -> str:
    """Text in which no line ends between a number and its error, or within an interval."""
    text = re.sub(r"(?<=\S) ± (?=\S)", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}", text)
    return re.sub(r"\[[-−+\d., ]+\]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def hold_name(found: re.Match[str]) -> str:
    """A name in code: whole if it is short, else with places where a line may end (`web/book.css`, phones)."""
    text = found["text"]
    if len(html.unescape(text)) <= WHOLE:
        return f'<span class="pre whole">{text}</span>'
    return f'<span class="pre">{PARTS.sub("<wbr>", text)}</span>'


def hold_names(_app: Sphinx, _page: str, _template: str, context: dict, _doctree: nodes.document | None) -> None:
    """Hold the names of a page's text together."""
    context["body"] = NAME.sub(hold_name, context.get("body") or "")


def note_claims(app: Sphinx, doctree: nodes.document) -> None:
    """Let Sphinx know the anchors of a page's claims, as `PAGE:ANCHOR`."""
    page, standard = app.env.docname, app.env.get_domain("std")
    for raw in doctree.findall(nodes.raw):
        for anchor in ANCHOR.findall(raw.astext()):
            standard.note_hyperlink_target(f"{page.rpartition('/')[2]}:{anchor}", page, anchor)


def mark(app: Sphinx, doctree: nodes.document, _page: str) -> None:
    """Mark what a page of the book has."""
    if app.builder.format == "html":
        mark_facts(doctree)
        mark_verdicts(doctree)
        set_numbers(doctree)
        hold_signs(doctree)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-read", note_claims)
    app.connect("doctree-resolved", mark)
    app.connect("html-page-context", hold_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
