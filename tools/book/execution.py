"""Executes the book's pages, several side by side, and keeps their outputs where MyST-NB looks for them.

A page that times what it does has the machine to itself, after the others. MyST-NB would execute one page after
another. With each page's outputs in jupyter-cache's folder it finds them there. The folder lives as long as the build
it belongs to, so a change of the package is never overlooked.
"""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import nbformat
import psutil
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution

from deepvit_edu.devices import available_processors
from tools.contents import BUILD, ROOT, load_yaml, source_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jupyter_cache.base import JupyterCacheAbstract
    from nbformat import NotebookNode

CACHE = BUILD / ".jupyter_cache"  # where jupyter-book looks
EXECUTED = BUILD / "executed"  # the notebooks with their outputs, by the names of their pages
TAKEN = BUILD / "execution.json"
READER = {"name": "myst_nb_md", "type": "plugin"}  # MyST-NB's own: what it looks for is what was executed
MOST_AT_ONCE = 4  # a page holds one or two GiB
ALONE = ("book/07_what_attention_costs",)  # pages that time what they do: nothing runs beside them
SECONDS_BETWEEN = 0.5


@dataclass(frozen=True)
class Taken:
    """What it took to execute a page, and when it ended in seconds since 1970.

    Args:
        seconds: by the clock.
        processor_seconds: of all cores; other programs on the machine hardly change them.
        memory: the most bytes held at once.
    """

    seconds: float
    processor_seconds: float
    memory: int
    ended: float


def use_of_children() -> tuple[int, float]:
    """Bytes that the processes started by this one hold, and processor seconds that they have used."""
    held, used = 0, 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            held += process.memory_info().rss
            times = process.cpu_times()
        except psutil.Error:  # it has just ended
            continue
        used += times.user + times.system + times.children_user + times.children_system
    return held, used


class Watch:
    """Within `with`, notes the most `memory` that this process's children hold and the `processor_seconds` they use."""

    def __init__(self) -> None:
        self.memory, self.processor_seconds = 0, 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self.over.wait(SECONDS_BETWEEN):
            held, used = use_of_children()
            self.memory, self.processor_seconds = max(self.memory, held), max(self.processor_seconds, used)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.over.set()
        self.thread.join()


def execute(notebook: NotebookNode, folder: str, timeout: int) -> tuple[ExecutionResult, Taken]:
    """Run a notebook's cells in a kernel of its own, within `folder`, at most `timeout` seconds for each cell."""
    with Watch() as watch:
        result = single_nb_execution(notebook, cwd=folder, timeout=timeout, allow_errors=False)
    return result, Taken(result.time, watch.processor_seconds, watch.memory, time.time())


def is_kept(cache: JupyterCacheAbstract, notebook: NotebookNode) -> bool:
    """Whether the cache has the outputs of these cells."""
    try:
        cache.match_cache_notebook(notebook)
    except KeyError:
        return False
    return True


def execute_pages(pages: Sequence[str]) -> dict[str, str]:
    """Execute the pages whose outputs the cache lacks; note what each took.

    Args:
        pages: names of pages that have cells.

    Returns:
        The traceback of each page that failed.
    """
    taken = json.loads(TAKEN.read_text()) if TAKEN.is_file() else {}
    failed = {}
    side_by_side = [page for page in pages if page not in ALONE]
    for group, at_once in ((side_by_side, MOST_AT_ONCE), ([page for page in pages if page in ALONE], 1)):
        failed |= execute_group(group, min(available_processors(), at_once), taken)
    TAKEN.write_text(json.dumps({page: taken[page] for page in pages if page in taken}, indent=1))
    return failed


def execute_group(pages: Sequence[str], at_once: int, taken: dict[str, dict]) -> dict[str, str]:
    """Execute pages, so many at once; what each took goes into `taken`. Returns as `execute_pages` does."""
    cache = get_cache(CACHE)
    timeout = load_yaml(ROOT / "_config.yml")["execute"]["timeout"]
    failed, waiting = {}, {}
    with ProcessPoolExecutor(at_once) as pool:
        for page in pages:
            record = cache.add_nb_to_project(str(source_of(page)), read_data=READER)
            notebook = cache.get_project_notebook(record.pk).nb
            if page not in taken or not is_kept(cache, notebook):
                waiting[page] = pool.submit(execute, notebook, str(source_of(page).parent), timeout)
        for page, future in waiting.items():
            result, page_taken = future.result()
            if result.err:
                failed[page] = result.exc_string
                continue
            bundle = CacheBundleIn(result.nb, str(source_of(page)), data={"execution_seconds": result.time})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            written = EXECUTED / f"{page}.ipynb"
            written.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(result.nb, written)
            taken[page] = asdict(page_taken)
            TAKEN.write_text(json.dumps(taken, indent=1))  # a build that is stopped goes on from here
            print(f"  executed {page} in {result.time:.0f} s", flush=True)
    return failed


def outputs_kept() -> int:
    """How many notebooks' outputs the cache holds."""
    return len(get_cache(CACHE).list_cache_records())
