"""The built pages as files: all there, executed in time, links and buttons that lead somewhere, pictures described."""

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

from deepvit_edu.check import exercise_ids
from tools.book.build import REPORT
from tools.book.execution import EXECUTED
from tools.contents import HTML, ROOT, is_notebook, is_placeholder, notebook_pages, pages, repository_url, source_of

Reader = Callable[[str], BeautifulSoup]
CHAPTER_SECONDS = 180  # CONTRIBUTING.md: a chapter takes at most three minutes of one core in the cpu tier
# The same page took from 115 to 148 s of one machine's core, by where its memory came to lie: more than that is growth.
NOISE = 1.25


def test_every_page_of_the_contents_is_built(html: Path) -> None:
    assert [page for page in pages() if not (html / f"{page}.html").is_file()] == []


def test_no_error_report(html: Path) -> None:
    assert list(html.rglob("*.err.log")) == []


def test_start_page_leads_to_the_first_page(html: Path) -> None:
    assert f"{pages()[0]}.html" in (html / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("notebook_page", notebook_pages())
def test_cells_ran_without_error(html: Path, notebook_page: str) -> None:
    notebook = nbformat.read(EXECUTED / f"{notebook_page}.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert cells
    assert [cell.source for cell in cells if not cell.execution_count] == []
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output.ename for output in outputs if output.output_type == "error"] == []
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


@pytest.mark.parametrize("notebook_page", notebook_pages())
def test_chapter_keeps_its_time_budget(html: Path, notebook_page: str) -> None:
    seconds = json.loads(REPORT.read_text())["executed"][notebook_page]["processor_seconds"]
    assert 0 < seconds <= CHAPTER_SECONDS * NOISE


def test_no_traceback_and_no_raw_markup(read_page: Reader, page: str) -> None:
    article = read_page(page).find("article")
    assert "Traceback (most recent call last)" not in article.get_text()
    texts = [text for text in article.find_all(string=True) if not text.find_parents(["pre", "code", "script", "svg"])]
    prose = " ".join(text for text in texts if not text.find_parents(class_=["math", "katex"]))
    assert re.findall(r"\{[\w:-]+\}`|```\{|:::\{|\$[^$\n]{1,40}\$|\*\*[^*\n]{2,40}\*\*", prose) == []


def test_every_name_in_a_page_is_of_one_place(read_page: Reader, page: str) -> None:
    names = Counter(element["id"] for element in read_page(page).find_all(id=True))
    assert [name for name, count in names.items() if count > 1] == []


def test_pictures_have_alternative_text(read_page: Reader, page: str) -> None:
    for image in read_page(page).find("article").select("img:not(svg img), svg[role=img]"):
        names = [image.find(id=name).get_text() for name in image.get("aria-labelledby", "").split()]
        alt = (image.get("alt") or image.get("aria-label") or " ".join(names)).strip()
        assert alt, f"no alt: {str(image)[:120]}"
        assert not re.search(r"\.(png|svg|jpe?g|gif|webp)$|/", alt), f"a file name as alt: {alt}"
        assert len(alt.split()) >= 3, f"an alt that describes nothing: {alt}"


def test_exercises_print_the_numbers_that_check_knows(read_page: Reader) -> None:
    printed = []
    for page in notebook_pages():
        for box in read_page(page).select("div.exercise"):
            number = re.search(r"Exercise (\d+\.\d+)", box.find(class_="admonition-title").get_text())[1]
            facts = box.find("em").get_text()
            assert facts.startswith(f"{number} · "), f"{page}: {facts}"
            printed.append(number)
    assert printed == exercise_ids()


def internal_links(soup: BeautifulSoup) -> list[str]:
    """The addresses on a page that lead to files of the book."""
    tags = [(tag, name) for name in ("href", "src") for tag in soup.find_all(attrs={name: True})]
    return [tag[name] for tag, name in tags if not urlsplit(tag[name]).scheme and not tag[name].startswith("//")]


@cache
def anchors(file: Path) -> frozenset[str]:
    """The ids in an HTML file."""
    soup = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
    return frozenset(tag["id"] for tag in soup.find_all(id=True))


def test_internal_links_and_anchors_resolve(read_page: Reader, html: Path, page: str) -> None:
    here = html / f"{page}.html"
    for link in internal_links(read_page(page)):
        parts = urlsplit(link)
        target = (here.parent / unquote(parts.path)).resolve() if parts.path else here
        target = target / "index.html" if target.is_dir() else target
        assert target.is_file(), f"{link} leads nowhere"
        if parts.fragment and target.suffix == ".html":
            assert unquote(parts.fragment) in anchors(target), f"{link}: no such place on the page"


def button_links(soup: BeautifulSoup) -> dict[str, str]:
    """The addresses of the page's buttons by kind."""
    patterns = {
        "colab": r"colab\.research\.google\.com",
        "binder": r"mybinder\.org",
        "edit": r"/edit/main/",
        "issue": r"/issues/new",
    }
    links = [tag["href"] for tag in soup.select("header a[href], .article-header-buttons a[href]")]
    return {kind: link for kind, pattern in patterns.items() for link in links if re.search(pattern, link)}


def test_buttons_lead_to_files_of_the_repository(read_page: Reader, page: str) -> None:
    links = button_links(read_page(page))
    repository = repository_url()
    if is_placeholder(repository):
        assert links == {}, "no dead button reaches a reader"
        return
    assert links["edit"] == f"{repository}/edit/main/{page}.md"
    assert source_of(page).is_file()
    assert links["issue"].startswith(f"{repository}/issues/new")
    if not is_notebook(source_of(page)):
        assert not {"colab", "binder"} & set(links)
        return
    path = repository.removeprefix("https://github.com/")
    assert links["colab"] == f"https://colab.research.google.com/github/{path}/blob/main/{page}.ipynb"
    assert links["binder"].startswith(f"https://mybinder.org/v2/gh/{path}/main?")
    assert links["binder"].endswith(f"{page}.ipynb")
    assert (ROOT / f"{page}.ipynb").is_file()


def test_book_is_not_heavy(html: Path) -> None:
    megabytes = sum(file.stat().st_size for file in HTML.rglob("*") if file.is_file()) / 1e6
    assert megabytes < 60  # the trained networks, to run in the page and to download, are 24 of these


def test_book_carries_no_second_copy_of_its_notebooks(html: Path) -> None:
    assert not (html / "_sources").exists()
