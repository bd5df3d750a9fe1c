"""What the build took: the table says what is known."""

from docutils import nodes

from tools.book import built


def test_table_has_the_executed_pages_in_the_books_order(monkeypatch) -> None:
    monkeypatch.setattr(built, "pages", lambda: ["book/b", "book/a", "book/prose"])
    run = {"seconds": 90.0, "memory": 0, "ended": 0.0}
    taken = {"book/a": {**run, "memory": 3 * 2**29}, "book/b": run}
    titles = {page: nodes.title("", page.upper()) for page in ("book/a", "book/b", "book/prose")}
    assert built.rows(taken, titles) == [
        ("BOOK/B", "1.5", "not seen", "01 January 1970"),
        ("BOOK/A", "1.5", "1.5 GiB", "01 January 1970"),
        ("all of them", "3.0", "", ""),
    ]


def test_facts_name_versions_and_commit() -> None:
    told = dict(built.facts(built.datetime(2026, 12, 1, 9, 5, tzinfo=built.timezone.utc)))
    assert told["built"] == "01 December 2026, 09:05 UTC"
    assert {"torch", "python", "jupyter-book", "commit", "machine", "version"} <= set(told)
