"""Text for readers: suggestions for misspelt names, and tables."""

import difflib
import re
from collections.abc import Sequence

LONGEST = 600
"""Characters of a sentence; what is longer has been blown up by what it quotes."""


def nearest(name: str, known: Sequence[str]) -> str:
    """`"; did you mean 'x'?"` for the known name most like `name`, or the list of all: for error messages."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def printable(text: object) -> str:
    """Text for a terminal: control characters, which could steer it, are written as escapes; newlines stay."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in str(text))


def say(text: object) -> None:
    """Prints text without what could steer a terminal: names are from files, and files are from anywhere."""
    print(printable(text))


def one_line(text: object) -> str:
    """Text as one printable line of at most `LONGEST` characters."""
    line = " ".join(printable(str(text)[: 4 * LONGEST]).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} …"


def minus(text: str) -> str:
    """Text whose numbers have a true minus sign, as wide as a plus; hyphens of names and code in backticks stay.

    A zero has none: it would come from rounding.
    """
    code = r"`[^`]*`"
    text = re.sub(rf"{code}|(?<![\w)-])-(?=[\d.])", lambda found: "−" if found[0] == "-" else found[0], text)
    return re.sub(rf"{code}|−(?=0(?:\.0+)?(?!\.?\d))", lambda found: "" if found[0] == "−" else found[0], text)


def power(value: float) -> str:
    """A number with one digit and a power of ten, for sentences: 0.0000007 is 7 · 10⁻⁷; from 0.01 to 100 as it is."""
    if value == 0 or 0.01 <= abs(value) < 100:
        return minus(f"{value:.2g}")
    digit, exponent = f"{value:.0e}".split("e")
    return minus(digit) + " · 10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as lines of text, each column as wide as its longest word."""
    rows = [[" ".join(printable(cell).split("\n")) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words, the first of them the header, as a Markdown table; numbers below zero have a true minus sign."""
    lines = [minus("| " + " | ".join(row) + " |") for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def fold(title: str, markdown: str) -> str:
    """Markdown that is shown when its title is opened."""
    return f"<details>\n<summary>{title}</summary>\n\n{markdown}\n\n</details>"
