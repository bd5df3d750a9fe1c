"""A Sphinx extension: where words of the glossary, papers and names of the package stand, and links there and back.

In the prose of a page, the first use of a glossary's word leads to the glossary, and a name of the package in code type
to the reference. Back lead: in the glossary and the bibliography the sections that use an entry, in the reference the
sections that build or import a name. `{word-index}` lists words and names with all of their places.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

from tools.book.search import is_titled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

FRONT, GLOSSARY, BIBLIOGRAPHY, INDEX = "book/index", "book/glossary", "book/bibliography", "book/word_index"
REFERENCE = "book/reference/"
# Words of the glossary that mean something else as often: they lead there only where the source says `{term}`.
COMMON = frozenset(
    (
        "arm",
        "branch",
        "contrast",
        "excess",
        "head",
        "key",
        "ledger",
        "plan",
        "query",
        "record",
        "rung",
        "seed",
        "tier",
        "value",
    )
)
# Where a word is not explained: in what cells print, tables, and what a reader is to work out first.
APART = frozenset(
    (
        *("CellNode", "cell", "dropdown", "entry", "exercise", "solution"),
        *("exercise_node", "exercise_enumerable_node", "solution_node", "solution_start_node"),
    )
)
DEFINED = re.compile(r"^(?:class|def) (\w+)", re.MULTILINE)
IMPORTED = re.compile(r"^from (deepvit_edu[\w.]*) import (\([^)]*\)|.+)$", re.MULTILINE)
NAMED = re.compile(r"^((?:\w+\.)*\w+)(?:\(.*\))?$", re.DOTALL)
PLUMBING = f"{REFERENCE}foundations"  # its names are common words, and no chapter is about them


@dataclass(frozen=True)
class Place:
    """A section of the book: its page, its anchor there, and what a link to it says."""

    page: str
    anchor: str
    label: str
    title: str


Places = dict[tuple[str, str], list[Place]]
"""Sections by (kind, name). Kinds: "term", "cite", "builds" and "imports", these two by whole names."""


def is_prose(page: str) -> bool:
    """Whether a page is there to be read, not to invite or to look something up."""
    return page not in (FRONT, GLOSSARY, BIBLIOGRAPHY, INDEX) and not page.startswith(REFERENCE)


def section_of(node: nodes.Node) -> nodes.section:
    """The section with a title that a node stands in."""
    while not is_titled(node):
        node = node.parent
    return node


def place_of(env: BuildEnvironment, page: str, section: nodes.section) -> Place:
    """A section as a place: its label is its number, or the page's title where it has none."""
    anchor = "" if isinstance(section.parent, nodes.document) else section["ids"][0]
    number = env.toc_secnumbers.get(page, {}).get(f"#{anchor}" if anchor else "")
    label = ".".join(map(str, number)) if number else env.titles[page].astext()
    return Place(page, anchor, label, section[0].astext())


def paragraphs(doctree: nodes.document) -> Iterator[nodes.paragraph]:
    """The paragraphs that a page itself says: not those that cells print, nor answers to be opened."""
    for paragraph in doctree.findall(nodes.paragraph):
        above, node = set(), paragraph.parent
        while node.parent is not None:
            above |= {type(node).__name__, *node.get("classes", ())}
            node = node.parent
        if not above & APART:
            yield paragraph


def plain_text(paragraph: nodes.paragraph) -> list[nodes.Text]:
    """The words of a paragraph that are neither code nor links nor titles of boxes."""
    inline = (nodes.literal, nodes.reference, nodes.math, addnodes.pending_xref, nodes.target)

    def within(node: nodes.Node) -> Iterator[nodes.Text]:
        for child in node.children:
            if isinstance(child, nodes.Text):
                yield child
            elif not isinstance(child, inline):
                yield from within(child)

    return list(within(paragraph))


def glossary_words(env: BuildEnvironment) -> dict[str, tuple[str, str]]:
    """The glossary's words, each with its page and anchor."""
    objects = env.get_domain("std").objects
    return {name: place for (kind, name), place in objects.items() if kind == "term"}


def pattern_of(words: list[str]) -> re.Pattern:
    """Finds words, longest first, in the singular or plural, with a capital where a sentence begins."""
    forms = (f"[{word[0].upper()}{word[0]}]{re.escape(word[1:])}" for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<![\w-])(?:{'|'.join(forms)})(?:s|es)?(?![\w-])")


def word_of(found: str, words: dict) -> str:
    """The glossary's form of a word that was found in the text."""
    forms = (found, found.removesuffix("s"), found.removesuffix("es"))
    return next(
        one for form in forms for one in (form, form[0].lower() + form[1:], form[0].upper() + form[1:]) if one in words
    )


def first_words(env: BuildEnvironment, doctree: nodes.document) -> Iterator[tuple[nodes.Text, re.Match, str]]:
    """The first use of each of the glossary's words in a page's prose: the text, the match in it, the word."""
    words = glossary_words(env)
    pattern, seen = pattern_of([word for word in words if word not in COMMON]), set()
    for paragraph in paragraphs(doctree):
        for text in plain_text(paragraph):
            for match in pattern.finditer(text):
                word = word_of(match[0], words)
                if word not in seen:
                    seen.add(word)
                    yield text, match, word


def names_in(doctree: nodes.document) -> Iterator[tuple[str, str, nodes.Node]]:
    """What a page as it was read mentions: (kind, name, node)."""
    for mention in doctree.findall(addnodes.pending_xref):
        if mention.get("reftype") == "term":
            yield "term", mention["reftarget"], mention
        elif mention.get("refdomain") == "cite":
            yield from (("cite", key.strip(), mention) for key in mention["reftarget"].split(","))
    for code in doctree.findall(nodes.literal_block):
        for name in DEFINED.findall(code.astext()):
            yield "builds", name, code
        for module, names in IMPORTED.findall(code.astext()):
            bare = (name.split(" as ")[0].strip(" ()\n") for name in names.split(","))
            yield from (("imports", origin(module, name), code) for name in bare if name)


def origin(module: str, name: str) -> str:
    """The whole name of what a module gives: that of the module it was written in, which the reference knows."""
    given = getattr(importlib.import_module(module), name, None)
    return f"{getattr(given, '__module__', module)}.{name}"


def built_in(
    found: list[tuple[str, str, nodes.Node]], mentioned: set[str], plumbing: set[str]
) -> Iterator[tuple[str, str, nodes.Node]]:
    """What a page has, with whole names for what it builds: those of the package that it imports or mentions.

    A helper of the page's own that only has the name of something in the package is left out.
    """
    known = ({name for kind, name, _ in found if kind == "imports"} | mentioned) - plumbing
    for kind, name, node in found:
        if kind != "builds":
            yield kind, name, node
            continue
        yield from ((kind, whole, node) for whole in sorted(known) if whole.rpartition(".")[2] == name)


def find_places(env: BuildEnvironment) -> Places:
    """Reads all pages of prose for what stands where; a section counts once."""
    places: Places = {}
    names = package_names(env)
    plumbing = {name for name, entry in env.get_domain("py").objects.items() if entry.docname == PLUMBING}
    for page in filter(is_prose, sorted(env.found_docs)):
        doctree = env.get_doctree(page)
        literals = (named_in(code.astext(), names) for code in doctree.findall(nodes.literal))
        mentioned = {names[name][2] for name in literals if name}
        found = [*built_in(list(names_in(doctree)), mentioned, plumbing)]
        found += [("term", word, text) for text, _, word in first_words(env, doctree)]
        for kind, name, node in found:
            here, known = place_of(env, page, section_of(node)), places.setdefault((kind, name), [])
            if here not in known:
                known.append(here)
    return {key: sorted(found, key=in_order) for key, found in places.items()}


def in_order(place: Place) -> tuple[str, list[int]]:
    """Sorts places as they follow each other in the book."""
    return place.page, [int(number) for number in re.findall(r"\d+", place.label)]


def link(app: Sphinx, page: str, place: Place, text: str | None = None) -> nodes.reference:
    """A link from a page to a place."""
    address = app.builder.get_relative_uri(page, place.page) + (f"#{place.anchor}" if place.anchor else "")
    return nodes.reference("", text or place.label, refuri=address, internal=True, reftitle=place.title)


def links(app: Sphinx, page: str, before: str, places: list[Place]) -> nodes.paragraph:
    """A line of links to places: "Used in 1.2, 4.3"."""
    line = nodes.paragraph(classes=["places"])
    line += nodes.Text(f"{before} ")
    unique = {(place.page, place.label): place for place in reversed(places)}
    for i, place in enumerate(reversed(unique.values())):
        line += [nodes.Text(", ")] * bool(i) + [link(app, page, place)]
    return line


# From the text to where a word is explained


def link_words(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Make the first use of each word of the glossary a link to it, as `{term}` does."""
    words = glossary_words(app.env)
    found: dict[nodes.Text, list] = {}
    for text, match, word in first_words(app.env, doctree):
        found.setdefault(text, []).append((match, word))
    for text, matches in found.items():
        parts, end = [], 0
        for match, word in matches:
            target, anchor = words[word]
            address = f"{app.builder.get_relative_uri(page, target)}#{anchor}"
            inner = nodes.inline("", match[0], classes=["xref", "std", "std-term"])
            parts += [
                nodes.Text(text[end : match.start()]),
                nodes.reference("", "", inner, refuri=address, internal=True),
            ]
            end = match.end()
        text.parent.replace(text, [*parts, nodes.Text(text[end:])])


def package_names(env: BuildEnvironment) -> dict[str, tuple[str, str, str]]:
    """The package's classes and functions that have one meaning, by their short names: (page, anchor, whole name)."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for name, entry in env.get_domain("py").objects.items():
        kinds = ("class", "function", "exception")
        if entry.objtype in kinds and entry.docname != PLUMBING and not entry.aliased:
            found.setdefault(name.rpartition(".")[2], []).append((entry.docname, entry.node_id, name))
    return {name: places[0] for name, places in found.items() if len(places) == 1}


def named_in(code: str, names: dict[str, tuple[str, str, str]]) -> str | None:
    """The name of the package that a piece of code is: `f`, `f(x)` or `nn.f`, but not `self.f` or `other.f`."""
    match = NAMED.match(code)
    short = match[1].rpartition(".")[2] if match else ""
    return short if short in names and f".{names[short][2]}".endswith(f".{match[1]}") else None


def link_names(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Make a name of the package in code type a link to its entry, once a section."""
    names, seen = package_names(app.env), set()
    for literal in list(doctree.findall(nodes.literal)):
        name = named_in(literal.astext(), names)
        if not name or not isinstance(literal.parent, nodes.paragraph | nodes.emphasis):
            continue
        section = section_of(literal)["ids"][0]
        if (section, name) not in seen:
            seen.add((section, name))
            target, anchor, _ = names[name]
            address = f"{app.builder.get_relative_uri(page, target)}#{anchor}"
            reference = nodes.reference("", "", refuri=address, internal=True, classes=["package-name"])
            literal.replace_self(reference)
            reference += literal


# And back


def link_back(app: Sphinx, doctree: nodes.document, page: str, places: Places) -> None:
    """Under each entry of a page to look things up in, the sections that it stands in."""
    for term in doctree.findall(nodes.term) if page == GLOSSARY else ():
        found = places.get(("term", term.astext()))
        if found:
            term.parent[-1].append(links(app, page, "In", found))
    for citation in doctree.findall(nodes.citation) if page == BIBLIOGRAPHY else ():
        found = places.get(("cite", citation_key(app.env, citation)))
        if found:
            citation.append(links(app, page, "Cited in", found))
    for entry in doctree.findall(addnodes.desc) if page.startswith(REFERENCE) else ():
        name = f"{entry[0].get('module')}.{entry[0].get('fullname')}"
        for before, found in (("Built in", places.get(("builds", name))), ("Used in", places.get(("imports", name)))):
            if found and entry["domain"] == "py":
                entry[-1].insert(1, links(app, page, before, found))  # behind what it is


def citation_key(env: BuildEnvironment, citation: nodes.citation) -> str:
    """The key in references.bib of an entry of the bibliography."""
    for known in env.get_domain("cite").citations:
        if known.citation_id in citation["ids"]:
            return known.key
    return ""


class word_index(nodes.General, nodes.Element):
    """Stands for the index until all pages have been read."""


class WordIndex(SphinxDirective):
    """`{word-index}`: the glossary's words and the package's names with the sections that they stand in."""

    def run(self) -> list[nodes.Node]:
        """Its place."""
        return [word_index()]


def entries(env: BuildEnvironment, places: Places) -> dict[str, list[Place]]:
    """The index: words and names, each with its places, the place that explains it first."""
    found: dict[str, list[Place]] = {}
    for word, (page, anchor) in glossary_words(env).items():
        found[word] = [Place(page, anchor, "glossary", word), *places.get(("term", word), ())]
    for name, (page, anchor, whole) in package_names(env).items():
        used = [place for kind in ("builds", "imports") for place in places.get((kind, whole), ())]
        if used:  # the reference lists the others
            found[name] = [Place(page, anchor, "reference", name), *used]
    return found


def write_word_index(app: Sphinx, doctree: nodes.document, page: str, places: Places) -> None:
    """Put the index, letter by letter, in its place."""
    found = entries(app.env, places)
    names = package_names(app.env)
    for stand_in in list(doctree.findall(word_index)):
        letters: dict[str, nodes.section] = {}
        for word in sorted(found, key=lambda word: (word.lower(), word)):
            letter = word[0].upper()
            if letter not in letters:
                letters[letter] = nodes.section("", nodes.rubric("", letter), classes=["index-letter"])
            item = links(app, page, "", found[word])
            item.insert(
                0,
                nodes.literal("", word)
                if word in names and word not in glossary_words(app.env)
                else nodes.strong("", word),
            )
            letters[letter] += item
        stand_in.replace_self(
            [nodes.container("", *letter.children, classes=letter["classes"]) for letter in letters.values()]
        )


# Sphinx


def pages_of_places(_app: Sphinx, env: BuildEnvironment) -> list[str]:
    """When pages have been read: the pages that list places are written again."""
    return [page for page in sorted(env.found_docs) if not is_prose(page)]


def places_of(app: Sphinx) -> Places:
    """The places of all pages, found once in a build, when sections have their numbers."""
    if not hasattr(app, "book_places"):
        app.book_places = find_places(app.env)
    return app.book_places


def link_places(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Put the links into a page that is about to be written."""
    if app.builder.format != "html":
        return
    if is_prose(page):
        link_words(app, doctree, page)
    else:
        link_back(app, doctree, page, places_of(app))
        write_word_index(app, doctree, page, places_of(app))
    link_names(app, doctree, page)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_node(word_index)
    app.add_directive("word-index", WordIndex)
    app.connect("env-updated", pages_of_places)
    app.connect("doctree-resolved", link_places)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
