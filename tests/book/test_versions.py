"""The menu of versions: there where a site has more than one, and nothing anywhere else."""

from collections.abc import Callable, Iterator

import pytest

from tools.book.versions import older_versions, versions
from tools.contents import ROOT

SITE = "https://someone.github.io/book/"
PAGE = """<body><div class="bd-sidebar-primary"><div class="sidebar-primary-item">Title</div></div>
<script src="SITEversions.js" data-list="SITEversions.json" data-version="0.1.0" data-page="book/claims.html"></script>
</body>""".replace("SITE", SITE)


@pytest.fixture
def opened(browser) -> Iterator[Callable]:
    """A function that opens a page of version 0.1.0 at an address; it gives the page and its complaints."""
    contexts = []

    def open_page(address: str, listed: list | None):
        context = browser.new_context()
        contexts.append(context)
        page, errors = context.new_page(), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text))

        def answer(route) -> None:
            url = route.request.url
            if url.endswith(".js"):
                script = (ROOT / "web" / "versions.js").read_text(encoding="utf-8")
                route.fulfill(body=script, content_type="text/javascript")
            elif url.endswith("versions.json"):
                route.abort() if listed is None else route.fulfill(json=listed)
            else:
                route.fulfill(body=PAGE, content_type="text/html")

        context.route("**/*", answer)
        page.goto(address, wait_until="networkidle")
        return page, errors

    yield open_page
    for context in contexts:
        context.close()


def test_menu_leads_to_the_same_page_of_another_version(opened: Callable) -> None:
    page, errors = opened(f"{SITE}v0.1.0/book/claims.html", versions("0.2.0", ["0.1.0"], SITE))
    menu = page.get_by_label("Version")
    assert menu.evaluate("menu => menu.selectedOptions[0].textContent") == "0.1.0"
    assert menu.locator("option").all_inner_texts() == ["0.2.0", "0.1.0"]
    menu.select_option("0.2.0")
    page.wait_for_url(f"{SITE}book/claims.html")
    assert errors == []


@pytest.mark.parametrize(
    ("address", "listed"),
    [
        (f"{SITE}book/claims.html", versions("0.1.0", [], SITE)),
        ("http://localhost:8000/book/claims.html", versions("0.2.0", ["0.1.0"], SITE)),
    ],
)
def test_there_is_no_menu_for_one_version_or_on_another_server(opened: Callable, address: str, listed: list) -> None:
    page, errors = opened(address, listed)
    assert page.locator("select").count() == 0
    assert errors == []


def test_page_without_a_list_stays_as_it_is(opened: Callable) -> None:
    page, _ = opened(f"{SITE}book/claims.html", None)
    assert page.locator("select").count() == 0
    assert "Title" in page.inner_text("body")


def test_list_begins_with_the_newest_and_names_each_once() -> None:
    listed = versions("0.3.0", ["0.3.0", "0.2.0", "0.1.0"], SITE)
    assert [one["version"] for one in listed] == ["0.3.0", "0.2.0", "0.1.0"]
    assert [one["address"] for one in listed] == [SITE, f"{SITE}v0.2.0/", f"{SITE}v0.1.0/"]


def test_configuration_names_versions_by_their_numbers() -> None:
    assert all(version[:1].isdigit() for version in older_versions())
