"""What others have published on the questions of the ledger, each with where we read it."""

from dataclasses import dataclass
from pathlib import Path

from ..assets import asset_folder
from ..words import markdown_table
from ..yaml_files import read_yaml


@dataclass(frozen=True)
class Published:
    """A table of other people's results.

    Args:
        title: what it is about.
        source: whose it is: authors and year, as in the bibliography.
        known: where it was read, and what we could not read.
        short: its essence in one line, with how we know it: for the ledger's column.
        columns, rows: the numbers as they stand there.
        says: what follows from it, and what does not.

    Raises:
        ValueError: for a row that has another number of cells than there are columns.
    """

    title: str
    source: str
    known: str
    short: str
    columns: list[str]
    rows: list[list[str]]
    says: str

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"'{self.title}' has {len(self.columns)} columns and a row of {len(row)}: {row}")


def load_published(path: Path) -> dict[str, Published]:
    """Reads the tables from their YAML file, by name; ValueError where one is not well formed."""
    declared = read_yaml(path)
    try:
        return {name: Published(**options) for name, options in declared.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has a table that is not well formed: {error}") from error


def book_published() -> dict[str, Published]:
    """The tables that the book quotes."""
    return load_published(asset_folder("experiments") / "published.yml")


def published_text(tables: dict[str, Published], *names: str) -> str:
    """Some of the tables as Markdown, or all: title, table, what it says, where it was read."""
    parts = []
    for table in (tables[name] for name in names or tables):
        parts.append(f"**{table.title}**, {table.source}")
        parts.append(markdown_table([table.columns, *table.rows]))
        parts.append(f"{table.says} *How we know it:* {table.known}.")
    return "\n\n".join(parts)
