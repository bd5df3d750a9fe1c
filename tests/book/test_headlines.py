"""What a page finds out stands at its head, with the way to the place where it is measured."""

import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from deepvit_edu import plot
from tools.book.headlines import BOX

CONFIG = 'extensions, nb_execution_mode = ["myst_nb", "tools.book.headlines"], "off"\n'
TITLE = "# Page\n\n"
FOUND = f"```{{admonition}} {BOX}\n:class: note\nThe rest.\n```\n\n"
LATER = "## Where it is measured\n\nSome *other* words.\n"


@pytest.fixture
def build(tmp_path: Path, monkeypatch):
    """A function that builds a page whose last cell tells something in short; it gives the page, or None."""
    from sphinx.cmd.build import build_main

    told = []
    monkeypatch.setattr(plot, "get_ipython", lambda: "a notebook")
    monkeypatch.setattr(plot, "display", lambda shown: told.append(shown.data))
    plot.in_short("It is -3 of `this` and **that**.")

    def built(text: str) -> BeautifulSoup | None:
        (tmp_path / "conf.py").write_text(CONFIG)
        output = nbformat.v4.new_output("display_data", {"text/markdown": told[0], "text/plain": "words"})
        cells = [nbformat.v4.new_markdown_cell(text + LATER)]
        cells.append(nbformat.v4.new_code_cell("tell()", outputs=[output], execution_count=1))
        language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=language), tmp_path / "index.ipynb")
        html = tmp_path / "html"
        if build_main(["-q", "-W", "-b", "html", str(tmp_path), str(html)]):
            return None
        return BeautifulSoup((html / "index.html").read_text(encoding="utf-8"), "html.parser")

    return built


def test_a_finding_stands_in_the_box(build) -> None:
    page = build(TITLE + FOUND)
    (line,) = page.select(".admonition li")
    assert line.get_text().strip() == "It is −3 of this and that. (Where it is measured)"
    assert page.select_one(line.a["href"]).h2.get_text().startswith("Where it is measured")
    assert len(page.find_all(string=re.compile("It is −3"))) == 1
    assert "The rest." in page.select_one(".admonition").get_text()


def test_a_page_without_a_box_is_told(build, capfd) -> None:
    assert build(TITLE) is None
    assert "no box" in capfd.readouterr().err
