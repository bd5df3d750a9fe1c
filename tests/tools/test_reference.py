"""The reference: made from docstrings and from the parser, with nothing left out."""

import argparse
import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

import pytest
from docutils.core import publish_doctree
from sphinx.ext.napoleon import Config, GoogleDocstring

from deepvit_edu.cli import build_parser
from tools.book.reference import (
    commands,
    describe_command,
    describe_file,
    escape,
    groups,
    keep_colons,
    mend_docstring,
    module_of,
    skip_member,
    write_defaults,
)
from tools.contents import ROOT, pages, source_of

REFERENCE = [page for page in pages() if page.startswith("book/reference/")]


def test_every_file_of_the_package_is_on_a_page() -> None:
    shown = [
        heading for page in REFERENCE for heading in re.findall(r"\{package-files\} (.+)", source_of(page).read_text())
    ]
    assert sorted([*shown, "The command line"]) == sorted(groups())
    listed = [file for files in groups().values() for file, _ in files]
    present = [file.relative_to(ROOT / "deepvit_edu").as_posix() for file in (ROOT / "deepvit_edu").rglob("*.py")]
    assert sorted(listed) == sorted(present)


def test_a_folder_lists_the_names_that_it_offers() -> None:
    text = "\n".join(describe_file("diagnostics/__init__.py", "all of these under one name"))
    assert "`import deepvit_edu.diagnostics`: all of these" in text
    assert "`record_attention` ·" in text
    assert "automodule" not in text  # all of them were written elsewhere
    assert "   :members: addresses, " in "\n".join(describe_file("data/__init__.py", "sets of images"))


def test_every_option_of_every_command_is_described() -> None:
    for command in commands(build_parser()):
        text = "\n".join(describe_command(command))
        for action in command._actions:
            if action.option_strings and action.option_strings[0] != "-h":
                assert re.search(rf"^\.\. option:: .*{action.option_strings[-1]}\b", text, re.MULTILINE)


def test_an_option_says_its_default_once() -> None:
    parser = argparse.ArgumentParser(prog="tool", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("files", nargs="+", help="what to read")
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="how long")
    parser.add_argument("--told", default=1, help="a number, %(default)s unless given")
    parser.add_argument("--loud", action="store_true", help="print more")
    parser.add_argument("--set", nargs="*", default=[], help="with --told")
    text = "\n".join(describe_command(parser))
    assert "tool [OPTIONS] files [files ...]" in text
    assert ".. option:: --epochs N\n\n   how long (default: 3)." in text
    assert "a number, 1 unless given." in text
    assert ".. option:: --loud\n\n   print more." in text
    assert "   with ``--told``." in text


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("N * M", r"N \* M"),
        ("`a * b` and *", r"`a * b` and \*"),
        ("used_… of x_i", r"used\_… of x_i"),
        ("plain", "plain"),
        ("with --model-options, `run --dry-run`, e.g. a--b", "with ``--model-options``, `run --dry-run`, e.g. a--b"),
    ],
)
def test_docstrings_are_taken_as_they_are_written(line: str, meant: str) -> None:
    assert escape(line) == meant


def test_options_of_a_dataclass_are_explained() -> None:
    from deepvit_edu.training.recipe import Recipe

    lines = ["How to train."]
    mend_docstring(None, "class", "Recipe", Recipe, None, lines)
    assert "    epochs: passes over the training images" in lines


def described_in(module: ModuleType) -> Iterator[object]:
    """The classes and functions of a module, and the methods of its classes."""
    for described in vars(module).values():
        if getattr(described, "__module__", "") == module.__name__ and isinstance(described.__doc__, str):
            yield described
            yield from filter(inspect.isfunction, vars(described).values() if inspect.isclass(described) else ())


@pytest.mark.parametrize("group", [name for name in groups() if name != "The command line"])
def test_docstrings_are_read_without_a_warning(group: str) -> None:
    """The build treats warnings as errors; here they are found before it."""
    settings = {"default_role": "literal", "halt_level": 2}
    for file, _ in groups()[group]:
        for described in described_in(importlib.import_module(module_of(file))):
            lines = (inspect.getdoc(described) or "").splitlines()
            mend_docstring(None, "function", "", described, None, lines)
            text = str(GoogleDocstring(lines, Config(napoleon_use_ivar=True)))
            publish_doctree(text, settings_overrides=settings)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("data", "An environment variable: more than one."),
        ("property", "A number: from 0 to 1."),
        ("function", "It counts.\n\nReturns:\n    A share of all maps: from 0 to 1.\n"),
    ],
)
def test_words_before_a_colon_are_not_taken_for_a_type(what: str, text: str) -> None:
    lines = text.splitlines()
    keep_colons(what, lines)
    shown = str(GoogleDocstring(lines, Config(), what=what, name="NAME"))  # as Sphinx calls it
    assert "type:" not in shown
    assert text.split("\n    ")[-1].strip() in shown.replace("\n", " ")


def test_a_default_that_is_no_python_is_written_as_one() -> None:
    assert write_defaults("(a: dict[str, int] = <factory>)", "None") == ("(a: dict[str, int] = ...)", "None")
    assert write_defaults(None, None) == (None, None)


def test_what_is_of_python_itself_is_left_out() -> None:
    assert skip_member(None, "module", "len", len, False, None)
    assert skip_member(None, "module", "escape", escape, False, None) is None
