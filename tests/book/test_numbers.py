"""The figures that cells draw are numbered with the drawings, and the text can name them."""

import re
from collections.abc import Callable
from types import SimpleNamespace

import nbformat
import pytest
from bs4 import BeautifulSoup

from deepvit_edu import plot
from tools.book.notebooks import read_book
from tools.book.numbers import count_from_one, numbered
from tools.contents import notebook_pages

Reader = Callable[[str], BeautifulSoup]
CONFIG = """
extensions = ["myst_nb", "sphinx_design", "tools.book.numbers"]
nb_execution_mode, numfig, numfig_format = "off", True, {"figure": "Figure %s"}
"""
PAGE = """# Page

In {numref}`fig:second` and {numref}`fig:drawn`.

```{figure} drawing.svg
:name: fig:drawn
:alt: a drawing of nothing

A drawing.
```
"""
LIVE = "```{div} live-figure live-split\nIt needs JavaScript.\n```"


def figure(**options: str) -> str:
    return plot.figure_html(plot.figure()[0], "two empty axes", **options)


def explorer() -> str:
    """As `deepvit_edu.explorer` writes one: the picture within is for readers without scripts."""
    inner = f'<div class="deepvit-explorer" id="explorer-1">{figure()}</div>'
    return f'<figure class="book-figure explorer-figure">{inner}<figcaption>Choose.</figcaption></figure>'


@pytest.fixture(scope="module")
def small_page(tmp_path_factory: pytest.TempPathFactory) -> BeautifulSoup:
    """A numbered page that is built: a drawing, figures of cells, one of them without a caption, and what moves."""
    from sphinx.cmd.build import build_main

    source, built = tmp_path_factory.mktemp("book"), tmp_path_factory.mktemp("built") / "html"
    (source / "conf.py").write_text(CONFIG)
    (source / "index.md").write_text("# Book\n\n```{toctree}\n:numbered:\n\npage\n```\n")
    (source / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>')
    cells = [nbformat.v4.new_markdown_cell(PAGE)]
    for shown in (figure(caption="A < B.", name="fig:second"), figure(caption="Third."), figure(), explorer()):
        output = nbformat.v4.new_output("display_data", {"text/html": shown, "text/plain": "a figure"})
        cells.append(nbformat.v4.new_code_cell("draw()", outputs=[output], execution_count=1))
    cells.append(nbformat.v4.new_markdown_cell(LIVE))
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=language), source / "page.ipynb")
    assert build_main(["-q", "-W", "-b", "html", str(source), str(built)]) == 0
    return BeautifulSoup((built / "page.html").read_text(encoding="utf-8"), "html.parser")


def test_figures_of_cells_and_drawings_are_counted_together(small_page: BeautifulSoup) -> None:
    numbers = [number.get_text() for number in small_page.select("figcaption .caption-number")]
    assert numbers == [f"Figure 1.{number} " for number in range(1, 7)]
    captions = [caption.get_text() for caption in small_page.select(".book-figure figcaption")]
    assert captions == ["Figure 1.2 A < B.#", "Figure 1.3 Third.#", "Figure 1.4 #", "Figure 1.5 Choose.#"]


def test_live_figures_and_explorers_are_numbered_with_captions(small_page: BeautifulSoup) -> None:
    assert small_page.select_one(".explorer-figure")["id"] == "figure-1-5"
    assert small_page.select_one(".deepvit-explorer")["id"] == "explorer-1"  # by which its script finds it
    live = small_page.select_one("figure#live-split")
    assert live.select_one(".live-figure").get_text(strip=True) == "It needs JavaScript."
    assert len(small_page.select(".live-split")) == 1  # its script starts it once
    assert live.figcaption.get_text(strip=True).startswith(
        "Figure 1.6Which windows hold a pixel. As it opens, windows of 4"
    )


def test_text_names_the_figure_of_a_cell(small_page: BeautifulSoup) -> None:
    links = {link.get_text(): link["href"] for link in small_page.select("p a.reference")}
    assert links == {"Figure 1.2": "#fig-second", "Figure 1.1": "#fig-drawn"}


def test_every_figure_is_an_anchor_once(small_page: BeautifulSoup) -> None:
    anchors = [shown["id"] for shown in small_page.select(".book-figure:not(.deepvit-explorer *)")]
    assert anchors == ["fig-second", "figure-1-3", "figure-1-4", "figure-1-5"]
    for anchor in anchors:
        assert len(small_page.find_all(id=anchor)) == 1
        assert small_page.select_one(f"[id={anchor}] a.headerlink")["href"] == f"#{anchor}"


def test_a_page_without_a_chapter_counts_from_one() -> None:
    env = SimpleNamespace(
        toc_fignumbers={
            "chapter": {"figure": {"a": (7, 1), "b": (7, 2)}},
            "appendix": {"figure": {"late": (10,), "early": (9,)}, "table": {"only": (3,)}},
        }
    )
    count_from_one(None, env)
    assert env.toc_fignumbers["chapter"]["figure"] == {"a": (7, 1), "b": (7, 2)}
    assert env.toc_fignumbers["appendix"] == {"figure": {"late": (2,), "early": (1,)}, "table": {"only": (1,)}}


def test_number_stands_above_the_table_and_leaves_the_pictures_alone() -> None:
    fig, ax = plot.figure()
    ax.plot([1, 2])
    before = plot.figure_html(fig, "a line", with_numbers=True)
    after = numbered(before, "7.1", "figure-7-1")
    assert after.index("Figure 7.1") < after.index("figure-data")
    pictures = re.findall(r"<svg.*?</svg>", before, re.DOTALL)
    assert len(pictures) == 2  # one of them for phones
    assert all(picture in after for picture in pictures)


@pytest.mark.parametrize("notebook_page", notebook_pages())
def test_figures_of_a_page_of_the_book_are_numbered_in_order(read_page: Reader, notebook_page: str) -> None:
    article = read_page(notebook_page).find("article")
    figures = article.select(".cell_output > * > figure.book-figure, .cell_output > figure.book-figure")
    assert all(shown.select_one("figcaption .caption-number") for shown in figures)
    numbers = [number.get_text().split()[-1] for number in article.select("figcaption .caption-number")]
    last = [int(number.rpartition(".")[2]) for number in numbers]
    assert last == list(range(1, len(last) + 1)) if last else not figures


@pytest.mark.parametrize("chapter", [page for page in notebook_pages() if re.match(r"book/\d", page)])
def test_notebook_gives_a_figure_the_number_of_the_book(read_page: Reader, chapter: str) -> None:
    labels = {name: found for name, found in read_book().labels.items() if found.page == chapter}
    named = {name.replace(":", "-"): found.text for name, found in labels.items() if name.startswith("fig:")}
    shown = {anchor: read_page(chapter).find(id=anchor).select_one(".caption-number") for anchor in named}
    assert {anchor: number.get_text().strip() for anchor, number in shown.items()} == named
