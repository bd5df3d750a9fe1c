"""Write the learner's notebook beside each chapter: book/NN_name.ipynb from book/NN_name.md.

Colab and Binder open notebooks only, and show directives and roles of MyST as raw text. So directives become plain
Markdown, solutions are left out, one set-up cell comes first, and there are no outputs. Cell ids are hashes of the
cells' contents: an edit of one cell changes that cell's lines only. A directive or role that has no plain form here is
an error that names the chapter and the line: raw text is never shipped.

    python -m tools.book.notebooks           write them
    python -m tools.book.notebooks --check   write nothing; exit 1 if one is stale
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import nbformat
import yaml
from pybtex.database import BibliographyData, Entry, parse_file

from deepvit_edu.words import fold
from tools.contents import (
    ROOT,
    is_notebook,
    is_placeholder,
    load_yaml,
    notebook_pages,
    pages,
    repository_url,
    source_of,
)

FENCE = re.compile(r"^(?P<indent>\s*)(?P<mark>`{3,}|~{3,}|:{3,})(?:\{(?P<name>[\w:.+-]+)\})?\s*(?P<rest>.*)$")
TARGET = re.compile(r"^\s*\((?P<label>[^()\s]+)\)=\s*$")
HEADING = re.compile(r"^#{1,6}\s+(?P<title>.+?)\s*$")
OPTION = re.compile(r"^\s*:(?P<key>[\w-]+):\s*(?P<value>.*)$")
SHOWN = re.compile(
    r"\b(?:plot\.show|explorer\.(?:attention|collapse)_explorer)\((?P<arguments>(?:(?!\bplot\.show\().)*)", re.DOTALL
)
FIGURE_NAME = re.compile(r'\bname="(?P<name>fig:[\w-]+)"')
LABELLED_MATH = re.compile(r"^\s*\$\$\s*\((?P<label>[^()\s]+)\)\s*$")
CLAIM = re.compile(r"^(?P<page>\w+):claim-")  # a line of a box "What we found": tools/book/marks.py
TITLED_ROLE = re.compile(r"^(?P<text>.+?)\s*<(?P<target>[^<>]+)>$", re.DOTALL)
INLINE = re.compile(
    r"\{(?P<role>[\w:.+-]+)\}`(?P<content>[^`]+)`"
    r"|(?P<code>(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`))"
    r"|(?P<math>\$\$.*?\$\$|(?<!\\)\$[^$]+\$)"
    r"|(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^()\s]+)\)"
    r"|(?P<unknown>\{\{|\[\^[^\]]+\])",
    re.DOTALL,
)
CITATIONS = ("cite", "cite:p", "cite:t", "cite:ps", "cite:ts")
CODE_ROLES = ("func", "class", "meth", "mod", "attr", "py:func", "py:class", "py:meth", "py:mod", "py:attr")
ADMONITIONS = ("note", "tip", "warning", "important", "hint", "caution", "danger", "attention", "error", "seealso")
CONTAINERS = ("grid", "tab-set", "card-carousel", "div", "container")
LEFT_OUT = ("solution", "solution-end", "exercise-end", "contents", "tableofcontents", "index")
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
HIDDEN_TAGS = {"hide-input", "remove-input", "remove-cell", "hide-cell"}
LEFT_OUT_TAGS = {"book-only", "solution"}


class ConversionError(ValueError):
    """A chapter holds something that has no plain form in a notebook."""


class Line(NamedTuple):
    """A line of a source and its number in the file."""

    number: int
    text: str


@dataclass
class Literal:
    """Lines that are copied as they are: a block of code or of maths."""

    lines: list[Line]


@dataclass
class Directive:
    """A MyST directive, its body not yet parsed; `lines` is all of it as it stands."""

    lines: list[Line]
    name: str
    argument: str
    options: dict[str, str]
    body: list[Line]
    number: int
    indent: str


Block = Line | Literal | Directive


@dataclass
class Reference:
    """What a label stands for: `kind` is heading, Figure, Table, Exercise, Equation or solution."""

    kind: str
    text: str
    page: str
    number: int = 0


@dataclass
class Book:
    """What conversion needs to know beyond one page."""

    url: str
    bibliography: BibliographyData = field(default_factory=BibliographyData)
    labels: dict[str, Reference] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)


# Reading -------------------------------------------------------------------------------------------------------------


def read_lines(text: str) -> list[Line]:
    """The lines of a source after its front matter."""
    lines = [Line(number, line) for number, line in enumerate(text.splitlines(), 1)]
    if lines and lines[0].text == "---":
        end = next(i for i, line in enumerate(lines[1:], 1) if line.text == "---")
        return lines[end + 1 :]
    return lines


def split_blocks(lines: list[Line], page: str) -> list[Block]:
    """Lines to prose lines, literal blocks and directives; directives are not entered."""
    found: list[Block] = []
    i = 0
    while i < len(lines):
        fence = FENCE.match(lines[i].text)
        if lines[i].text.strip() == "$$":
            end = next((j for j in range(i + 1, len(lines)) if lines[j].text.strip().startswith("$$")), None)
        elif fence and (fence["name"] or fence["mark"][0] != ":"):
            end = closing_fence(lines, i, fence["mark"])
        else:
            found.append(lines[i])
            i += 1
            continue
        if end is None:
            raise ConversionError(f"{page}.md:{lines[i].number}: this block is never closed.")
        found.append(directive(lines[i : end + 1], fence) if fence and fence["name"] else Literal(lines[i : end + 1]))
        i = end + 1
    return found


def closing_fence(lines: list[Line], start: int, mark: str) -> int | None:
    """The index of the line that closes the fence at `start`, None if there is none."""
    depth = 1
    for index in range(start + 1, len(lines)):
        text = lines[index].text.strip()
        if set(text) == {mark[0]} and len(text) >= len(mark):
            depth -= 1
            if depth == 0:
                return index
        elif mark[0] == ":" and re.match(rf":{{{len(mark)},}}\{{", text):
            depth += 1  # colon fences of the same length nest
    return None


def directive(lines: list[Line], fence: re.Match) -> Directive:
    """The directive that the lines hold, from its opening to its closing fence."""
    body = [Line(line.number, line.text.removeprefix(fence["indent"])) for line in lines[1:-1]]
    options: dict[str, str] = {}
    if body and body[0].text == "---":
        end = next(i for i, line in enumerate(body[1:], 1) if line.text == "---")
        loaded = yaml.safe_load("\n".join(line.text for line in body[1:end])) or {}
        options = {key: str(value) for key, value in loaded.items()}
        body = body[end + 1 :]
    while body and (option := OPTION.match(body[0].text)):
        options[option["key"]] = option["value"].strip()
        body = body[1:]
    return Directive(lines, fence["name"], fence["rest"].strip(), options, body, lines[0].number, fence["indent"])


def read_book(root: Path = ROOT) -> Book:
    """The labels, titles and bibliography of the pages that exist."""
    config = load_yaml(root / "_config.yml")
    book = Book(repository_url(root))
    for file in config.get("bibtex_bibfiles", []):
        if (root / file).is_file():
            book.bibliography.add_entries(parse_file(str(root / file)).entries.items())
    for page in pages(root):
        if source_of(page, root).is_file():
            add_labels(book, page, source_of(page, root).read_text(encoding="utf-8"))
    return book


def add_labels(book: Book, page: str, text: str) -> None:
    """Note the page's title and what each of its labels stands for; number figures, tables, exercises, equations."""
    counts: Counter[str] = Counter()

    def numbered(kind: str, label: str | None) -> None:
        counts[kind] += 1
        if label:
            shown = f"{chapter_prefix(page)}{counts[kind]}" if kind in ("Exercise", "Figure") else counts[kind]
            book.labels[label] = Reference(kind, f"{kind} {shown}", page, counts[kind])

    def walk(blocks: list[Block]) -> None:
        waiting: list[str] = []
        for block in blocks:
            if isinstance(block, Line):
                if target := TARGET.match(block.text):
                    waiting.append(target["label"])
                elif heading := HEADING.match(block.text):
                    book.titles.setdefault(page, heading["title"])
                    book.labels.update({label: Reference("heading", heading["title"], page) for label in waiting})
                    waiting = []
            elif isinstance(block, Literal):
                if labelled := LABELLED_MATH.match(block.lines[-1].text):
                    numbered("Equation", labelled["label"])
            else:
                label = block.options.get("name") or block.options.get("label")
                if block.name.startswith("solution"):
                    if label:
                        book.labels[label] = Reference("solution", "the solution in the book", page)
                    continue
                for name in cell_figures(block):
                    numbered("Figure", name)
                if kind := numbered_kind(block):
                    numbered(kind, label)
                    book.labels.update({target: book.labels[label] for target in waiting if label})
                walk(split_blocks(block.body, page))

    walk(split_blocks(read_lines(text), page))


def chapter_prefix(page: str) -> str:
    """`"4."` for a page of chapter 4: exercises and figures carry their chapter's number, as in the book."""
    number = re.match(r"\d+", Path(page).name)
    return f"{int(number[0])}." if number else ""


def cell_figures(block: Directive) -> list[str | None]:
    """The figures that a cell shows, each by its name if it has one: the book numbers them with the drawings."""
    if block.name != "code-cell":
        return []
    source = "\n".join(line.text for line in block.body)
    names = [FIGURE_NAME.search(shown["arguments"]) for shown in SHOWN.finditer(source)]
    return [name["name"] if name else None for name in names]


def numbered_kind(block: Directive) -> str | None:
    """The kind under which a directive is numbered, None for one that is not."""
    kinds = {"figure": "Figure", "exercise": "Exercise", "exercise-start": "Exercise"}
    if block.name in ("table", "list-table") and block.argument:
        return "Table"
    if block.name == "math" and "label" in block.options:
        return "Equation"
    if "live-figure" in block.argument.split():
        return "Figure"
    return kinds.get(block.name)


# Inline markup -------------------------------------------------------------------------------------------------------


def short_citation(entry: Entry) -> tuple[str, str]:
    """`("Vaswani et al.", "2017")` of an entry of the bibliography."""
    people = entry.persons.get("author") or entry.persons.get("editor") or []
    names = [" ".join(person.prelast_names + person.last_names).replace("{", "").replace("}", "") for person in people]
    if len(names) > 2:
        return f"{names[0]} et al.", entry.fields.get("year", "")
    return " and ".join(names), entry.fields.get("year", "")


def citation_url(entry: Entry) -> str | None:
    """Where the cited work is to be found, as far as its entry says."""
    if "url" in entry.fields:
        return entry.fields["url"]
    if "doi" in entry.fields:
        return f"https://doi.org/{entry.fields['doi']}"
    return f"https://arxiv.org/abs/{entry.fields['eprint']}" if "eprint" in entry.fields else None


@dataclass
class Converter:
    """Turns the blocks of one page into plain Markdown."""

    book: Book
    page: str
    counts: Counter[str] = field(default_factory=Counter)

    def error(self, number: int, what: str) -> ConversionError:
        """An error that names the chapter and the line."""
        return ConversionError(f"{self.page}.md:{number}: {what}")

    def inline(self, text: str, number: int) -> str:
        """Prose with its roles and links in plain Markdown; `number` is the line on which it starts."""

        def replace(match: re.Match) -> str:
            line = number + text[: match.start()].count("\n")
            if match["role"]:
                return self.role(match["role"], " ".join(match["content"].split()), line)
            if match["target"]:
                return self.link(match["text"], match["target"], line)
            if match["unknown"]:
                raise self.error(
                    line, f"{match['unknown']} (a substitution or footnote) has no plain form: write it out."
                )
            return match[0]

        return INLINE.sub(replace, text)

    def role(self, name: str, content: str, number: int) -> str:
        """A role in plain Markdown."""
        titled = TITLED_ROLE.match(content)
        text, target = (titled["text"], titled["target"]) if titled else ("", content)
        if name in CITATIONS:
            return self.cite(name, content, number)
        if name in ("ref", "numref", "prf:ref"):
            return self.reference(text, target, number)
        if name == "eq":
            return f"({self.find(target, number).number})"
        if name == "doc":
            title = self.title(target, number)
            return f"[{text or title}]({self.address(self.page_of(target))})"
        if name == "term" and "book/glossary" in self.book.titles and self.page != "book/glossary":
            return f"[{text or target}]({self.address('book/glossary')})"
        if name in CODE_ROLES:
            return f"`{text or target.removeprefix('~')}`"
        plain: dict[str, Callable[[], str]] = {
            "term": lambda: text or target,
            "math": lambda: f"${content}$",
            "abbr": lambda: content.split(" (")[0],
            "kbd": lambda: f"`{content}`",
            "sub": lambda: f"<sub>{content}</sub>",
            "sup": lambda: f"<sup>{content}</sup>",
        }
        if name not in plain:
            raise self.error(number, f"the role {{{name}}} has no plain form: use another, or teach this script one.")
        return plain[name]()

    def cite(self, name: str, keys: str, number: int) -> str:
        """Citations as author and year, linked."""
        parts = []
        for key in (key.strip() for key in keys.split(",")):
            if key not in self.book.bibliography.entries:
                raise self.error(number, f"the bibliography has no entry {key}.")
            entry = self.book.bibliography.entries[key]
            (authors, year), url = short_citation(entry), citation_url(entry)
            label = f"{authors} ({year})" if name.startswith("cite:t") else f"{authors}, {year}"
            parts.append(f"[{label}]({url})" if url else label)
        return ", ".join(parts) if name.startswith("cite:t") else f"({'; '.join(parts)})"

    def find(self, label: str, number: int) -> Reference:
        """What a label stands for."""
        if claim := CLAIM.match(label):
            return Reference("claim", "the claim", f"book/{claim['page']}")
        if label not in self.book.labels:
            raise self.error(number, f"there is no label {label} in the book.")
        return self.book.labels[label]

    def title(self, target: str, number: int) -> str:
        """The title of the page that a path names, relative to this page or, with a leading /, to the root."""
        page = self.page_of(target)
        if page not in self.book.titles:
            raise self.error(number, f"there is no page {target} in the table of contents.")
        return self.book.titles[page]

    def page_of(self, target: str) -> str:
        """The page that a path names."""
        base = Path("/") if target.startswith("/") else Path("/") / Path(self.page).parent
        return str((base / target.removesuffix(".md")).resolve()).lstrip("/")

    def address(self, page: str) -> str:
        """Where a reader of the notebook finds another page: its own notebook, or its text, in the repository."""
        notebook = is_notebook(source_of(page)) if source_of(page).is_file() else False
        return f"{self.book.url}/blob/main/{page}.{'ipynb' if notebook else 'md'}"

    def reference(self, text: str, label: str, number: int) -> str:
        """A cross-reference: text within a page, a link to another page."""
        found = self.find(label, number)
        if text:
            shown = text.replace("%s", str(found.number)).replace("{number}", str(found.number))
        elif found.page == self.page or found.kind in ("heading", "solution"):
            shown = self.inline(found.text, number)
        else:
            shown = f"{found.text} of “{self.book.titles[found.page]}”"
        return shown if found.page == self.page else f"[{shown}]({self.address(found.page)})"

    def link(self, text: str, target: str, number: int) -> str:
        """A link: to a label it becomes text, to a file of the repository it becomes absolute."""
        if re.match(r"^[a-z]+:", target):
            return f"[{self.inline(text, number)}]({target})"
        if target.startswith("#") or target in self.book.labels:
            label = target.removeprefix("#")
            return text or self.reference("", label, number)
        path = target.split("#")[0]
        file = (ROOT / self.page).parent / path
        known = next((choice for choice in (file, Path(f"{file}.md")) if choice.is_file()), None)
        if known is None:
            raise self.error(number, f"the link {target} leads to no label and no file.")
        name = known.resolve().relative_to(ROOT).as_posix()
        return f"[{text or self.title(path, number)}]({self.book.url}/blob/main/{name})"

    # Blocks

    def markdown(self, lines: list[Line]) -> str:
        """Plain Markdown of lines, directives within them included."""
        parts: list[str] = []
        prose: list[Line] = []

        def flush() -> None:
            if prose:
                parts.append(self.inline("\n".join(line.text for line in prose), prose[0].number))
                prose.clear()

        for block in split_blocks(lines, self.page):
            if isinstance(block, Line):
                if block.text.startswith("%") or TARGET.match(block.text):
                    flush()
                    continue
                if block.text.startswith(":") and not block.text.startswith("::::::"):
                    raise self.error(block.number, "a definition list or stray colon has no plain form: use a list.")
                prose.append(block)
            else:
                flush()
                parts.append(self.literal(block) if isinstance(block, Literal) else self.directive(block))
        flush()
        return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).strip("\n")

    def literal(self, block: Literal) -> str:
        """Code and maths as they are; a label of maths becomes its number."""
        texts = [line.text for line in block.lines]
        if LABELLED_MATH.match(texts[-1]):
            self.counts["Equation"] += 1
            texts[-1:] = [rf"\tag{{{self.counts['Equation']}}}", "$$"]
        return "\n".join(texts)

    def directive(self, block: Directive) -> str:
        """A directive in plain Markdown, set off by blank lines, indented as it was."""
        if block.name in LEFT_OUT:
            return ""
        name = "admonition" if block.name in (*ADMONITIONS, "dropdown", "margin", "sidebar", "topic") else block.name
        if name in CONTAINERS:
            name = "container"
        render = getattr(self, "render_" + name.replace("-", "_"), None)
        if render is None:
            raise self.error(
                block.number,
                f"the directive {{{block.name}}} has no plain form: use another, or teach this script one.",
            )
        text = render(block)
        return "\n" + "\n".join((block.indent + line).rstrip() for line in text.split("\n")) + "\n"

    def render_container(self, block: Directive) -> str:
        """What groups others is dropped, its content stays; a notebook names the repository (tools/book/header.py)."""
        if numbered_kind(block) == "Figure":  # a live figure, which stands in the built book alone
            self.counts["Figure"] += 1
            number = f"{chapter_prefix(self.page)}{self.counts['Figure']}"
            return f"**Figure {number}.** {self.markdown(block.body)}"
        if block.argument == "without-repository":
            return ""
        text = self.markdown(block.body)
        return text.replace("ADDRESS", self.book.url) if block.argument == "with-repository" else text

    def render_admonition(self, block: Directive) -> str:
        """A quotation with a bold title; a folded one becomes <details>."""
        own_title = block.name in ("admonition", "dropdown", "margin", "sidebar", "topic")
        title = (
            self.inline(block.argument, block.number) if own_title else block.name.capitalize().replace("also", " also")
        )
        body = [*([] if own_title or not block.argument else [Line(block.number, block.argument)]), *block.body]
        text = self.markdown(body)
        if block.name == "dropdown" or "dropdown" in block.options.get("class", "").split():
            return fold(title or "More", text)
        quoted = f"**{title}{'' if title[-1] in '.?!:' else '.'}**\n\n{text}" if title else text
        return "\n".join(f"> {line}".rstrip() for line in quoted.split("\n"))

    def render_tab_item(self, block: Directive) -> str:
        """A tab becomes a paragraph with a bold title."""
        return f"**{self.inline(block.argument, block.number)}**\n\n{self.markdown(block.body)}"

    render_grid_item_card = render_card = render_grid_item = render_tab_item

    def render_exercise(self, block: Directive) -> str:
        """An exercise gets a heading with its number."""
        self.counts["Exercise"] += 1
        title = f"#### Exercise {chapter_prefix(self.page)}{self.counts['Exercise']}"
        if block.argument:
            title += f": {self.inline(block.argument, block.number)}"
        return f"{title}\n\n{self.markdown(block.body)}"

    render_exercise_start = render_exercise

    def render_math(self, block: Directive) -> str:
        """A displayed formula."""
        body = [line.text for line in block.body]
        if "label" in block.options:
            self.counts["Equation"] += 1
            body.append(rf"\tag{{{self.counts['Equation']}}}")
        return "\n".join(["$$", *filter(None, [block.argument]), *body, "$$"])

    def picture(self, block: Directive) -> str:
        """An image with its alternative text: a drawing itself, another by its address in the repository."""
        alt = block.options.get("alt")
        if not alt:
            raise self.error(block.number, f"the {block.name} {block.argument} has no :alt: text.")
        address = block.argument
        if "://" not in address:
            file = (ROOT / self.page).parent / address
            if not file.is_file():
                raise self.error(block.number, f"there is no picture {address}.")
            if file.parent.name == "drawings":  # small enough to travel in the notebook, which may be opened alone
                data = base64.b64encode(file.read_bytes()).decode()
                return f"![{alt}](data:image/svg+xml;base64,{data})"
            name = file.resolve().relative_to(ROOT).as_posix()
            address = f"{self.book.url.replace('github.com', 'raw.githubusercontent.com')}/main/{name}"
        return f"![{alt}]({address})"

    render_image = picture

    def render_figure(self, block: Directive) -> str:
        """An image with its number and caption below."""
        self.counts["Figure"] += 1
        number = f"{chapter_prefix(self.page)}{self.counts['Figure']}"
        return f"{self.picture(block)}\n\n**Figure {number}.** {self.markdown(block.body)}".strip()

    def table_title(self, block: Directive) -> str:
        """The number and title above a table, empty for one without a title."""
        if not block.argument:
            return ""
        self.counts["Table"] += 1
        return f"**Table {self.counts['Table']}.** {self.inline(block.argument, block.number)}\n\n"

    def render_table(self, block: Directive) -> str:
        """A titled Markdown table."""
        return self.table_title(block) + self.markdown(block.body)

    def render_list_table(self, block: Directive) -> str:
        """A table written as a list of lists becomes a Markdown table."""
        rows: list[list[str]] = []
        for line in block.body:
            if item := re.match(r"^\s*[*-] - ?(.*)$", line.text):
                rows.append([item[1]])
            elif item := re.match(r"^\s+- ?(.*)$", line.text):
                rows[-1].append(item[1])
            elif line.text.strip():
                rows[-1][-1] += " " + line.text.strip()
        cells = [[self.inline(cell.strip(), block.number).replace("|", r"\|") for cell in row] for row in rows]
        header, *others = cells if block.options.get("header-rows", "0") != "0" else [[""] * len(cells[0]), *cells]
        table = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *others)]
        return self.table_title(block) + "\n".join(table)

    def render_code_block(self, block: Directive) -> str:
        """Code that is shown, not run."""
        return "\n".join([f"```{block.argument}", *(line.text for line in block.body), "```"])

    render_code = render_code_block


# Cells ---------------------------------------------------------------------------------------------------------------


def cells_of(text: str, converter: Converter) -> Iterator[nbformat.NotebookNode]:
    """The cells of a page without what belongs to its solutions."""
    prose: list[Line] = []
    solution: Directive | None = None

    def flush() -> Iterator[nbformat.NotebookNode]:
        if source := converter.markdown(prose):
            yield nbformat.v4.new_markdown_cell(source)
        prose.clear()

    for block in split_blocks(read_lines(text), converter.page):
        name = block.name if isinstance(block, Directive) else ""
        if name == "solution-start":
            solution = block
        elif name == "solution-end":
            solution = None
        elif solution:
            continue
        elif name == "code-cell":
            yield from flush()
            converter.counts["Figure"] += len(cell_figures(block))
            tags = set(yaml.safe_load(block.options.get("tags", "[]")))
            if not tags & LEFT_OUT_TAGS:
                yield code_cell("\n".join(line.text for line in block.body), tags)
        elif isinstance(block, Line) and block.text.startswith("+++"):
            yield from flush()
        else:
            prose.extend([block] if isinstance(block, Line) else block.lines)
    if solution:
        raise converter.error(solution.number, "this solution-start has no solution-end.")
    yield from flush()


def code_cell(source: str, tags: set[str]) -> nbformat.NotebookNode:
    """A code cell; one whose input the book hides is folded in JupyterLab and in Colab."""
    metadata: dict = {"tags": sorted(tags)} if tags else {}
    if tags & HIDDEN_TAGS:
        metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}
    return nbformat.v4.new_code_cell(source.strip("\n"), metadata=metadata)


NOWHERE_TO_INSTALL_FROM = """
    if source is None:
        raise RuntimeError(
            "this notebook does not know where its package is: set os.environ['DEEPVIT_EDU_SOURCE'] to its wheel, "
            "its folder or git+ and its repository's address, and run this cell again"
        )"""


def setup_cells(url: str, page: str) -> list[nbformat.NotebookNode]:
    """The first two cells: what they are for, and the installation where the package is missing."""
    note = (
        f"*This notebook is generated from [`{page}.md`]({url}/blob/main/{page}.md). "
        "The next cell installs the book's package where it is missing, and leaves the installed PyTorch as it is.*"
    )
    known = f'os.environ.get("DEEPVIT_EDU_SOURCE", "git+{url}")'
    source = 'os.environ.get("DEEPVIT_EDU_SOURCE")' + NOWHERE_TO_INSTALL_FROM if is_placeholder(url) else known
    code = f"""\
import importlib.util
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version

if importlib.util.find_spec("deepvit_edu") is None:
    print("The book's package is being installed, a minute or two.", flush=True)
    source = {source}
    held = [name for name in ("torch", "torchvision", "numpy") if importlib.util.find_spec(name)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as constraints:
        constraints.writelines(f"{{name}}=={{version(name)}}\\n" for name in held)
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", source, "-c", constraints.name])
    importlib.invalidate_caches()
print("The book's package is here. (The next cell loads PyTorch, some seconds.)")"""
    return [nbformat.v4.new_markdown_cell(note), code_cell(code, {"setup"})]


def make_notebook(text: str, page: str, book: Book) -> str:
    """The learner's notebook of a page, as the text of an .ipynb file."""
    cells = [*setup_cells(book.url, page), *cells_of(text, Converter(book, page))]
    seen: Counter[str] = Counter()
    for cell in cells:
        content = f"{page}\n{cell.cell_type}\n{cell.source}"
        seen[content] += 1
        cell["id"] = hashlib.sha256(f"{content}\n{seen[content]}".encode()).hexdigest()[:12]
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def generate(root: Path = ROOT) -> dict[Path, str]:
    """The path and text of each learner's notebook."""
    book = read_book(root)
    return {
        root / f"{page}.ipynb": make_notebook(source_of(page, root).read_text(encoding="utf-8"), page, book)
        for page in notebook_pages(root)
    }


def stale_notebooks(wanted: dict[Path, str]) -> list[Path]:
    """Notebooks that are missing or differ from what their chapters give."""
    return [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def main() -> None:
    """Write the notebooks, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a notebook is stale")
    arguments = parser.parse_args()
    try:
        wanted = generate()
    except ConversionError as error:
        sys.exit(str(error))
    stale = stale_notebooks(wanted)
    if arguments.check and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"Stale notebooks: {names}. Run `make notebooks` and commit them.")
    if not arguments.check:
        for path in stale:
            path.write_text(wanted[path], encoding="utf-8")
    print(f"{len(wanted)} notebooks, {len(stale)} of them rewritten.")


if __name__ == "__main__":
    main()
