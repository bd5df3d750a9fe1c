"""Fixtures for the tests of the built book: its pages, and one browser for all of them."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from tools.book.browser import find_chromium
from tools.contents import HTML, pages

MILLISECONDS = 120_000  # a page may wait for a machine that does other work


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `page` on each page of the table of contents."""
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", pages(), scope="module")  # all tests of a page, then the next page


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built pages."""
    if not (HTML / "index.html").is_file():
        pytest.skip("The book is not built: run `make book` first.")
    return HTML


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that prints nothing."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], str]]:
    """A function that serves a folder over HTTP and gives its address."""
    servers = []

    def address(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield address
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def read_page(html: Path) -> Callable[[str], BeautifulSoup]:
    """A function from a page's name to its parsed HTML, each parsed once."""
    cache: dict[str, BeautifulSoup] = {}

    def read(page: str) -> BeautifulSoup:
        if page not in cache:
            cache[page] = BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
        return cache[page]

    return read


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """One headless browser for all tests."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        except Error:
            message = (
                "No Chromium or Chrome is installed (or named by CHROMIUM): the pages are not tested in a browser."
            )
            if os.environ.get("DEEPVIT_EDU_REQUIRE_BROWSER") == "1":
                pytest.fail(message)
            pytest.skip(message)
        yield browser
        browser.close()


@dataclass
class Visit:
    """An opened page (Playwright's), what it asked for in and outside its folder, and what it complained of."""

    page: object
    files: set[Path] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def local_file(address: str) -> list[Path]:
    """The file that an address names, in a list; nothing for other addresses."""
    return [Path(unquote(urlsplit(address).path))] if address.startswith("file:") else []


@pytest.fixture(scope="session")
def visit(browser, html: Path) -> Callable[..., Visit]:
    """A function that opens a page from its file, outside requests blocked; the same page is opened once.

    What is open is closed when another page is asked for: some hundred open pages would take all of the memory.
    """
    from playwright.sync_api import TimeoutError

    opened: dict[tuple, Visit] = {}

    def open_anew(page: str, scheme: str, width: int, javascript: bool) -> Visit:
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}, java_script_enabled=javascript
        )
        context.set_default_timeout(MILLISECONDS)
        visit = Visit(context.new_page())

        def outside(route) -> None:
            visit.requests.append(route.request.url)
            route.abort()

        context.route(lambda url: not url.startswith(("file:", "data:", "blob:")), outside)
        visit.page.on("request", lambda request: visit.files.update(local_file(request.url)))
        visit.page.on("requestfailed", lambda request: visit.missing.append(request.url))
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.on("console", lambda said: visit.errors.append(said.text) if said.type == "error" else None)
        address = (html / f"{page}.html").as_uri()
        try:
            visit.page.goto(address, wait_until="networkidle", timeout=MILLISECONDS / 2)
        except TimeoutError:  # now and then Chromium never tells that a request which was blocked has ended
            for complaints in (visit.requests, visit.missing, visit.errors):
                complaints.clear()
            visit.page.goto(address, wait_until="networkidle")
        visit.page.wait_for_load_state("load")  # a long page may ask for nothing while it is still being read
        return visit

    def open_page(page: str, scheme: str = "light", width: int = 1280, javascript: bool = True) -> Visit:
        how = (page, scheme, width, javascript)
        if how not in opened:
            for other in [other for other in opened if other[0] != page]:
                opened.pop(other).page.context.close()
            opened[how] = open_anew(*how)
        return opened[how]

    return open_page
