"""A Sphinx extension: the package's reference from its docstrings, and the command line's from its parser.

`{package-files} The models` documents the files that deepvit_edu/README.md lists under that heading, in its order.
`{command-line}` documents every command. In the prose of other pages, a name of the package in code type leads to its
entry here; an entry leads back to the sections that build or use it (tools.book.places finds them).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
from typing import TYPE_CHECKING

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from deepvit_edu.cli import build_parser
from tools.contents import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

PACKAGE = "deepvit_edu"
MAP = ROOT / PACKAGE / "README.md"
ROW = re.compile(r"^\| (?:\*\*(?P<group>[^*]+)\*\*|`(?P<file>[\w/]+\.py)`) \| (?P<text>.*)\|$", re.MULTILINE)
# Functions that only the book's machinery calls: their files are described, not listed.
INNER = re.compile(r"check/chapter_\d\.py|__main__\.py")


def groups() -> dict[str, list[tuple[str, str]]]:
    """The package's files by the headings of its README: (file, what is in it), in reading order."""
    found: dict[str, list[tuple[str, str]]] = {}
    for row in ROW.finditer(MAP.read_text(encoding="utf-8")):
        if row["group"]:
            found[row["group"]] = []
        else:
            list(found.values())[-1].append((row["file"], row["text"].strip()))
    return found


def module_of(file: str) -> str:
    """The dotted name of a file of the package."""
    return ".".join([PACKAGE, *file.removesuffix(".py").split("/")]).removesuffix(".__init__")


def describe_file(file: str, text: str) -> Iterator[str]:
    """The section of a file as lines of MyST."""
    module = module_of(file)
    yield from (f"## `{file}`", "")
    if file.endswith("__init__.py"):
        yield from (f"`import {module}`: {text}.", "")
        package = importlib.import_module(module)
        exported = getattr(package, "__all__", ())
        yield from ("", " · ".join(f"`{name}`" for name in exported), "")
        own = [name for name in exported if getattr(getattr(package, name), "__module__", None) == module]
        if own:  # what is written in it, and not only given on
            yield from ("```{eval-rst}", f".. automodule:: {module}", f"   :members: {', '.join(own)}", "```", "")
    elif INNER.fullmatch(file):
        yield from (f"{text[0].upper()}{text[1:]}.", "")
    else:
        yield from ("```{eval-rst}", f".. automodule:: {module}", "   :members:", "```", "")


class PackageFiles(SphinxDirective):
    """`{package-files} HEADING`: the reference of the files under a heading of the package's README."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """A section for each file."""
        self.env.note_dependency(str(MAP))
        lines = [line for row in groups()[self.arguments[0]] for line in describe_file(*row)]
        return parse_sections(self, lines)


def parse_sections(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    """Nodes of MyST with headings."""
    parent = nodes.Element()
    directive.state.nested_parse(StringList(lines), 0, parent, match_titles=True)
    return parent.children


# The command line


def describe_option(action: argparse.Action, formatter: argparse.HelpFormatter) -> Iterator[str]:
    """An option or argument as lines of reStructuredText."""
    names, value = [action.metavar or action.dest], ""
    if action.option_strings:
        names = action.option_strings
        value = formatter._format_args(action, action.dest.upper()) if action.nargs != 0 else ""
    text = escape(formatter._expand_help(action)) if action.help else ""
    text = re.sub(r" \(default: (None|False|\[\])\)$", "", text)  # nothing is given, which needs no word
    yield from (f".. option:: {', '.join(f'{name} {value}'.strip() for name in names)}", "", f"   {text}.", "")


def describe_command(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The section of a command as lines of MyST."""
    actions = [one for one in parser._actions if not isinstance(one, argparse._HelpAction | argparse._SubParsersAction)]
    formatter = parser._get_formatter()
    words = [formatter._format_args(one, one.dest) for one in actions if not one.option_strings]
    options = ["[OPTIONS]"] if len(words) < len(actions) else []
    yield from (f"## {parser.prog}", "", escape(parser.description or ""), "")
    if actions:
        yield from ("```text", " ".join([parser.prog, *options, *words]), "```", "")
    yield from ("```{eval-rst}", f".. program:: {parser.prog}", "")
    for action in actions:
        yield from describe_option(action, formatter)
    yield from ("```", "")


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of all commands, those of commands within commands after them."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command
                yield from commands(command)


class CommandLine(SphinxDirective):
    """`{command-line}`: every command of `deepvit-edu`, with its options."""

    def run(self) -> list[nodes.Node]:
        """A section for each command."""
        self.env.note_dependency(str(ROOT / PACKAGE / "cli.py"))
        return parse_sections(self, [line for one in commands(build_parser()) for line in describe_command(one)])


# Docstrings


def escape(line: str) -> str:
    """A line in which, outside of `code`, stars, bars and underscores at the end of a word are themselves.

    Options of commands become code, since two hyphens would be set as a dash.
    """
    parts = line.split("`")
    parts[::2] = [re.sub(r"([*|]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
    parts[::2] = [re.sub(r"(?<![\w-])--[a-z][\w-]*", r"``\g<0>``", part) for part in parts[::2]]
    return "`".join(parts)


def mend_docstring(_app: Sphinx, what: str, _name: str, described: object, _options: object, lines: list[str]) -> None:
    """Let reStructuredText take a docstring as it is meant, and add what a dataclass says of its options."""
    lines[:] = map(escape, lines)
    keep_colons(what, lines)
    if what == "class" and dataclasses.is_dataclass(described):
        told = [
            (field.name, field.metadata["help"]) for field in dataclasses.fields(described) if "help" in field.metadata
        ]
        if told:
            lines += ["", "Args:", *(f"    {name}: {text}" for name, text in told), ""]


def keep_colons(what: str, lines: list[str]) -> None:
    """Let no words before a colon be taken for a type, which the signature has: napoleon would put them last."""
    if what in ("attribute", "data", "property") and lines and ":" in lines[0]:
        lines[0] = f": {lines[0]}"
    for place, line in enumerate(lines[:-1]):
        text = lines[place + 1].lstrip()
        if line.strip() == "Returns:" and ":" in text:
            lines[place + 1] = lines[place + 1].replace(text, f": {text}")


def write_defaults(*described: object) -> tuple[str | None, str | None]:
    """A signature without a default that is no Python: Sphinx would divide it at each comma, within brackets, too."""
    signature, returned = described[-2:]
    return signature and signature.replace("<factory>", "..."), returned


def skip_member(_app: Sphinx, _what: str, _name: str, member: object, _skip: bool, _options: object) -> bool | None:
    """Leave out what Python writes into a named tuple by itself, and what is its own."""
    return True if (member.__doc__ or "").startswith("Alias for field number") or inspect.isbuiltin(member) else None


SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)
# Sphinx sets the lines of a long signature as a list of definitions without terms, which confuses screen readers.
LINES = {"<dl>": '<span class="sig-lines">', "<dd>": '<span class="sig-line">', "</dl>": "</span>", "</dd>": "</span>"}


def mend_signatures(_app: Sphinx, _page: str, _template: str, context: dict, _doctree: nodes.document | None) -> None:
    """Set the lines of a signature as lines."""

    def lines(match: re.Match) -> str:
        short = re.sub(r"~(?:\w+\.)+(?=\w)", "", match[0])  # a name within a name, which Sphinx does not shorten
        return re.sub("|".join(LINES), lambda tag: LINES[tag[0]], short)

    if 'class="sig ' in context.get("body", ""):
        context["body"] = SIGNATURE.sub(lines, context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.add_directive("package-files", PackageFiles)
    app.add_directive("command-line", CommandLine)
    app.connect("autodoc-process-docstring", mend_docstring, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", write_defaults)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("html-page-context", mend_signatures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
