"""What the build took: memory is watched page by page, and the table says what is known."""

import subprocess
import sys
import time
from types import SimpleNamespace

from docutils import nodes

from tools.book import built


def test_memory_of_what_executes_a_page_is_its_own() -> None:
    watch = built.Watch()
    watch.start()
    watch.page = "book/light"
    time.sleep(3 * built.SECONDS_BETWEEN)
    watch.page = "book/heavy"
    held = "x = bytearray(200_000_000); import time; time.sleep(2)"
    subprocess.run([sys.executable, "-c", held], check=True)
    watch.over.set()
    watch.join()
    assert watch.most["book/heavy"] > 150_000_000
    assert watch.most.get("book/light", 0) < 100_000_000


def test_table_has_the_executed_pages_in_the_books_order(monkeypatch) -> None:
    monkeypatch.setattr(built, "pages", lambda: ["book/b", "book/a", "book/prose"])
    run = {"runtime": 90.0, "mtime": 0.0}
    env = SimpleNamespace(
        nb_metadata={"book/a": {"exec_data": run}, "book/b": {"exec_data": run}, "book/prose": {}},
        memory_of_pages={"book/a": 3 * 2**29},
        titles={page: nodes.title("", page.upper()) for page in ("book/a", "book/b", "book/prose")},
    )
    assert built.rows(env) == [
        ("BOOK/B", "1.5", "not seen", "01 January 1970"),
        ("BOOK/A", "1.5", "1.5 GiB", "01 January 1970"),
        ("all of them", "3.0", "", ""),
    ]


def test_facts_name_versions_and_commit() -> None:
    told = dict(built.facts(built.datetime(2026, 12, 1, 9, 5, tzinfo=built.timezone.utc)))
    assert told["built"] == "01 December 2026, 09:05 UTC"
    assert {"torch", "python", "jupyter-book", "commit", "machine", "version"} <= set(told)
