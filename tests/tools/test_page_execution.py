"""Pages are executed once, side by side, and their outputs are where MyST-NB looks."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.book import execution
from tools.contents import notebook_pages

PAGE = """---
jupytext:
  text_representation:
    format_name: myst
kernelspec:
  display_name: Python 3
  name: python3
---

# A page

```{{code-cell}} ipython3
{code}
```
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch):
    """A function that writes pages and executes them; it returns what failed and what was noted."""
    monkeypatch.setattr(execution, "source_of", lambda page: tmp_path / f"{page}.md")
    for name in ("CACHE", "EXECUTED", "TAKEN"):
        monkeypatch.setattr(execution, name, tmp_path / getattr(execution, name).name)

    def run(**codes: str) -> tuple[dict, str]:
        for page, code in codes.items():
            (tmp_path / f"{page}.md").write_text(PAGE.format(code=code))
        return execution.execute_pages(list(codes)), execution.TAKEN.read_text()

    return run


def test_outputs_are_kept_and_nothing_runs_twice(written, tmp_path: Path) -> None:
    code = "from pathlib import Path\nPath('runs').open('a').write('x')\nprint('printed')"
    assert written(first=code, second="1 + 1")[0] == {}
    written(first=code, second="1 + 2")
    assert (tmp_path / "runs").read_text() == "x"
    assert execution.outputs_kept() == 3
    assert '"printed\\n"' in (execution.EXECUTED / "first.ipynb").read_text()


def test_a_failing_page_is_told_and_leaves_no_outputs(written, tmp_path: Path) -> None:
    failed, noted = written(good="1 + 1", bad="raise RuntimeError('the reason')")
    assert list(failed) == ["bad"]
    assert "the reason" in failed["bad"]
    assert execution.outputs_kept() == 1
    assert '"good"' in noted
    assert '"bad"' not in noted


def test_outputs_without_a_note_of_what_they_took_are_made_again(written, tmp_path: Path) -> None:
    code = "from pathlib import Path\nPath('runs').open('a').write('x')"
    written(page=code)
    execution.TAKEN.unlink()  # a build was stopped before it wrote this
    _, noted = written(page=code)
    assert (tmp_path / "runs").read_text() == "xx"
    assert '"page"' in noted


def test_what_started_processes_use_is_seen() -> None:
    with execution.Watch() as idle:
        time.sleep(2 * execution.SECONDS_BETWEEN)
    with execution.Watch() as busy:
        code = "import time\nx = bytearray(200_000_000)\nwhile time.process_time() < 2: pass\ntime.sleep(1)"
        subprocess.run([sys.executable, "-c", code], check=True)
    assert busy.memory > idle.memory + 150_000_000  # other tests may have left processes behind
    assert busy.processor_seconds > idle.processor_seconds + 1


def test_nothing_runs_beside_a_page_that_times_things(written, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(execution, "ALONE", ("clock",))
    log = "from pathlib import Path\nimport time\n"
    log += "note = lambda what: Path('log').open('a').write(what + ' ')\n"
    written(**{page: f"{log}note('{page}')\ntime.sleep(1)\nnote('{page}')" for page in ("clock", "one", "other")})
    assert (tmp_path / "log").read_text().split()[-2:] == ["clock", "clock"]


def test_pages_that_time_things_are_pages_of_the_book() -> None:
    assert set(execution.ALONE) <= set(notebook_pages())
