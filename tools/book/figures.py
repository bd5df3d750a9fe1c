"""Take the figures out of the built book, for slides: _build/figures/CHAPTER-NN.svg, and an index with captions.

python -m tools.book.figures [--out FOLDER]
"""

from __future__ import annotations

import argparse
import html
import re
import sys
from pathlib import Path

import nbformat

from tools.book.execution import EXECUTED
from tools.contents import ROOT, notebook_pages

PICTURE = re.compile(r'<svg class="figure-picture figure-wide"[^>]*? aria-label="(?P<alt>[^"]*)".*?</svg>', re.DOTALL)
# What an SVG file needs and an SVG within a page does not.
NAMES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
LICENCE = (
    "These figures are from *Deeper Vision Transformers, step by step*, licensed CC BY 4.0: use and change them, and "
    "name the book. They show drawn shapes, numbers, and matplotlib's public-domain photograph."
)


def figures_of(notebook: Path) -> list[tuple[str, str]]:
    """The pictures in the outputs of an executed notebook, each with its text alternative."""
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    found = [match for page in pages for match in PICTURE.finditer(page)]
    return [(match[0].replace("<svg ", f"<svg {NAMES} ", 1), html.unescape(match["alt"])) for match in found]


def export(executed: Path, out: Path) -> int:
    """Writes the figures of all pages and their index; returns how many there are."""
    out.mkdir(parents=True, exist_ok=True)
    lines = ["# Figures", "", LICENCE, ""]
    count = 0
    for page in notebook_pages():
        for number, (picture, alt) in enumerate(figures_of(executed / f"{page}.ipynb"), start=1):
            name = f"{Path(page).name}-{number:02}.svg"
            (out / name).write_text(picture, encoding="utf-8")
            lines += [f"- [{name}]({name}): {alt}"]
            count += 1
    (out / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return count


def main() -> None:
    """Exports the figures, or says that the book has to be built first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "figures", help="(default: _build/figures)")
    options = parser.parse_args()
    missing = [page for page in notebook_pages() if not (EXECUTED / f"{page}.ipynb").is_file()]
    if missing:
        sys.exit(f"The book is not built: {missing[0]} has not been executed. Run `make book` first.")
    print(f"{export(EXECUTED, options.out)} figures in {options.out}, with captions and licence in README.md.")


if __name__ == "__main__":
    main()
