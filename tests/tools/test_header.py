"""Words that need the repository's address, and those of a copy without it."""

from types import SimpleNamespace

import pytest
from docutils import nodes

from tools.book.header import choose_words


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://github.com/OWNER/book", "look beside the pages"),
        ("https://github.com/somebody/book/", "git clone https://github.com/somebody/book\nmake"),
    ],
)
def test_words_fit_the_repository(url: str, text: str) -> None:
    code = nodes.literal_block("", "git clone ADDRESS\nmake", language="bash")
    page = nodes.document(None, None, "")
    page += nodes.container("", code, classes=["with-repository"])
    page += nodes.container("", nodes.paragraph("", "look beside the pages"), classes=["without-repository"])
    choose_words(SimpleNamespace(config=SimpleNamespace(html_theme_options={"repository_url": url})), page, "page")
    assert page.astext() == text
