"""Running a student's notebook: in the sandbox, with limits on everything; nothing of it is trusted afterwards."""

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import psutil
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from tools.assignments.limited_kernel import PROCESSES
from tools.assignments.sandbox import Sandbox
from tools.assignments.write import visible_part
from tools.contents import ROOT

KERNEL = "deepvit-graded"
START_SECONDS = 300
LARGEST_OUTPUT = 4 * 2**20
"""Characters that a notebook may print; one that prints without end is stopped."""
SHOWN = ("text/plain", "image/png", "image/jpeg")
"""What is kept of an output. HTML and scripts are not: they would run in the browser of whoever marks."""
NOT_RUN = "it was not run"
WATCH_SECONDS = 1
"""How often a notebook's processes are counted."""
SIGNS = {
    "MemoryError": "it asked for more memory than the limit",
    "Resource temporarily unavailable": "it started more processes than the limit",
    "can't start new thread": "it started more processes than the limit",
}


@dataclass
class Executed:
    """A notebook with the outputs of its cells, and what was remarked while it ran."""

    notebook: NotebookNode
    remarks: list[str] = field(default_factory=list)


def execute(
    notebook: NotebookNode,
    sandbox: Sandbox | None,
    hidden: Sequence[Path] = (),
    seconds: float = 60,
    deadline: float = 900,
) -> Executed:
    """Runs a mended notebook with its hidden tests.

    Before each test a canary is run, an assert that must fail; where it does not, the tests after it do not count.

    Args:
        notebook: the cells, each test with its hidden part.
        sandbox: where to run them; None for right here.
        hidden: folders that the sandbox hides.
        seconds: how long one cell may run.
        deadline: seconds that the whole notebook may take; every process that it started ends with it.
    """
    words = secrets.token_hex(8)
    running = nbformat.from_dict(notebook)
    running.cells = [each for cell in running.cells for each in (*_canary(cell, words), cell)]
    client = _Client(running, seconds)
    with tempfile.TemporaryDirectory(prefix="dv") as folder:
        work = Path(folder).resolve() / "w"  # short: sockets' names have a limit
        work.mkdir()
        client.prepare(sandbox, work, hidden)
        asyncio.run(client.run(deadline))
    return _taken_over(notebook, running, client, words)


def _canary(cell: NotebookNode, words: str) -> list[NotebookNode]:
    if not _is_test(cell):
        return []
    canary = nbformat.v4.new_code_cell(f"assert len('{words}') == 1, '{words}'")
    canary.metadata["canary"] = True
    return [canary]


def _is_test(cell: NotebookNode) -> bool:
    about = cell.metadata.get("nbgrader", {})
    return cell.cell_type == "code" and bool(about.get("grade")) and not about.get("solution")


class _Client(NotebookClient):
    """Runs cells in a confined kernel; counts what is printed, and remembers what had to be stopped."""

    def __init__(self, notebook: NotebookNode, seconds: float) -> None:
        super().__init__(
            notebook,
            timeout=seconds,
            startup_timeout=START_SECONDS,
            iopub_timeout=seconds,  # a busy machine is slow to tell what it printed
            allow_errors=True,
            interrupt_on_timeout=True,
            error_on_timeout={"ename": "TimeoutError", "evalue": f"stopped after {seconds:g} s", "traceback": []},
            raise_on_iopub_timeout=False,
            record_timing=False,
        )
        self.seconds, self.printed = seconds, 0
        self.stopped: list[int] = []
        self.ended = ""

    def prepare(self, sandbox: Sandbox | None, work: Path, hidden: Sequence[Path]) -> None:
        """Sees to a kernel that runs in the sandbox and is spoken to through sockets in its folder."""
        program = [sys.executable, str(Path(__file__).with_name("limited_kernel.py")), "-f", "{connection_file}"]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(work),
            "TMPDIR": str(work),
            "IPYTHONDIR": str(work / "ipython"),
            "PYTHONPATH": str(ROOT),
            "DEEPVIT_EDU_CACHE": str(work / "cache"),
            "DEEPVIT_GRADING_CONFINED": "1" if sandbox else "",
        }
        command = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), *program]
        if sandbox:
            command = sandbox.wrap(work, hidden, command)
        spec = work.parent / "kernels" / KERNEL
        spec.mkdir(parents=True)
        about = {"argv": command, "display_name": "Graded", "language": "python", "interrupt_mode": "message"}
        (spec / "kernel.json").write_text(json.dumps(about), encoding="utf-8")
        self.km = AsyncKernelManager(
            kernel_name=KERNEL,
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(spec.parent)]),
            transport="ipc",  # a sandbox has no network, not even with itself
            ip=str(work / "k"),
            connection_file=str(work / "k.json"),
        )

    async def run(self, deadline: float) -> None:
        """Runs all cells, or as many as the deadline and the kernel's life allow."""
        watch = asyncio.ensure_future(self._watch())
        try:
            await asyncio.wait_for(self.async_execute(), deadline)
        except (TimeoutError, asyncio.TimeoutError):
            self.ended = f"it was ended after {deadline:g} s"
        except DeadKernelError:
            self.ended = self.ended or "its kernel died, of too much memory or processor time, or on its own"
        except (CellTimeoutError, RuntimeError, OSError) as error:
            self.ended = f"it could not be run ({type(error).__name__})"
        finally:
            watch.cancel()
            self._kill()
            with contextlib.suppress(Exception):
                await self.km.shutdown_kernel(now=True)

    @property
    def _number(self) -> int | None:
        """Of the process that was started, which is above all others of the notebook."""
        return getattr(getattr(self.km, "provisioner", None), "pid", None)

    def _kill(self) -> None:
        if self._number:  # its whole group, and in a sandbox with it all that it started
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(os.getpgid(self._number), signal.SIGKILL)

    async def _watch(self) -> None:
        """Ends a notebook with too many processes while a cell still runs."""
        while not self._end_if_crowded():
            await asyncio.sleep(WATCH_SECONDS)

    def _end_if_crowded(self) -> bool:
        """Ends a notebook with too many processes; whether it had. The system's own limit does not hold for root."""
        if self._number is None or _number_of_tasks(self._number) <= PROCESSES:
            return False
        self.ended = SIGNS["Resource temporarily unavailable"]
        self._kill()
        return True

    async def async_execute_cell(self, cell: NotebookNode, *arguments: Any, **options: Any) -> NotebookNode:
        """As of nbclient; the next cell does not run beside too many processes that this one left."""
        executed = await super().async_execute_cell(cell, *arguments, **options)
        if self._end_if_crowded():
            raise DeadKernelError("too many processes")
        return executed

    async def _async_cleanup_kernel(self) -> None:
        """As of nbclient, which may ask twice where a kernel dies while it is being stopped."""
        if self.km is not None:
            await super()._async_cleanup_kernel()

    async def _async_handle_timeout(self, timeout: int, cell: NotebookNode | None = None) -> dict | None:
        self.stopped.append(id(cell))
        return await super()._async_handle_timeout(timeout, cell)

    def process_message(self, msg: dict, cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """As of nbclient, until too much has been printed."""
        self.printed += len(str(msg.get("content", "")))
        if self.printed > LARGEST_OUTPUT:
            self.ended = "it printed more than the limit"
            raise DeadKernelError("too much output")
        return super().process_message(msg, cell, cell_index)


def _number_of_tasks(number: int) -> int:
    """Processes and threads below a process."""
    total = 0
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(number).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has just ended
                total += process.num_threads()
    return total


def _taken_over(notebook: NotebookNode, ran: NotebookNode, client: _Client, words: str) -> Executed:
    """Our cells with the outputs of what ran, cleaned; a test counts only if it ran, behind a canary that failed."""
    done = Executed(nbformat.from_dict(notebook))
    outputs = iter(ran.cells)
    silenced = False
    for cell in done.notebook.cells:
        back = next(outputs)
        canary_failed = True
        if back.metadata.get("canary"):
            canary_failed, back = words in json.dumps(back.get("outputs", [])), next(outputs)
        if cell.cell_type != "code":
            continue
        is_test, was_run = _is_test(cell), back.get("execution_count") is not None
        cell.execution_count = back.get("execution_count")
        cell.outputs = [new for output in back.get("outputs", []) if (new := _cleaned(output, is_test))]
        if id(back) in client.stopped:
            name = cell.metadata.get("nbgrader", {}).get("grade_id", "a cell of the student's")
            done.remarks.append(f"{name} was stopped after {client.seconds:g} s")
            cell.outputs.append(_error("TimeoutError", f"stopped after {client.seconds:g} s"))
        if is_test and not was_run:
            cell.outputs = [_error("NotRun", NOT_RUN)]
        elif is_test and not canary_failed:
            silenced = True
            cell.outputs = [
                _error("Silenced", "an assert that must fail passed before it, so this test does not count")
            ]
    if client.ended:
        done.remarks.append(client.ended)
    if silenced and not client.ended:
        done.remarks.append("asserts were switched off: the tests behind that do not count; look at it by hand")
    said = json.dumps([cell.get("outputs", []) for cell in done.notebook.cells])
    done.remarks += dict.fromkeys(remark for sign, remark in SIGNS.items() if sign in said)
    return done


def _error(name: str, value: str) -> NotebookNode:
    return nbformat.v4.new_output("error", ename=name, evalue=value, traceback=[f"{name}: {value}"])


def _cleaned(output: NotebookNode, of_test: bool) -> NotebookNode | None:
    """An output without what a browser would run; of a test only whether it failed, and what it printed."""
    kind = output.get("output_type")
    if kind == "stream":
        name = "stdout" if of_test else _text(output.get("name"))  # nbgrader takes a test's warning for a failure
        return nbformat.v4.new_output("stream", name=name, text=_text(output.get("text")))
    if kind == "error":
        lines = [_text(line) for line in output.get("traceback", []) if isinstance(line, str)]
        named = {"ename": _text(output.get("ename")), "evalue": _text(output.get("evalue"))}
        return nbformat.v4.new_output("error", **named, traceback=lines)
    data = output.get("data", {})
    kept = {name: _text(data[name]) for name in SHOWN if isinstance(data, dict) and name in data}
    if of_test or not kept:  # a number that a test shows would count as points
        return None
    return nbformat.v4.new_output("display_data", data=kept)


def _text(value: object) -> str:
    text = "".join(value) if isinstance(value, list) else str(value)
    return re.sub(r"[^\x09\x0a\x0d\x1b\x20-\ud7ff\ue000-\U0010ffff]", "", text)


def without_tags(markdown: str) -> str:
    """Markdown in which no HTML is left that a browser would run; a comment that marks an answer stays."""
    first, _, rest = markdown.partition("\n")
    marker = re.fullmatch(r"<!-- answer \d+: \w+ -->", first.strip())
    body = rest if marker else markdown
    body = re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", body)
    body = re.sub(r"(?i)(\]\(\s*<?\s*)(javascript|data|vbscript):", r"\1no-", body)
    return f"{first}\n{body}" if marker else body


def shown_to_students(notebook: NotebookNode) -> NotebookNode:
    """A graded notebook without hidden tests, in its cells and in what failed tests say."""
    shown = nbformat.from_dict(notebook)
    for cell in shown.cells:
        if _is_test(cell):
            visible = visible_part(cell.source)
            cell.outputs = [_told(output, visible) for output in cell.outputs]
            cell.source = visible
    return shown


def _told(output: NotebookNode, visible: str) -> NotebookNode:
    """A failed test's message where the failing line is one that students see, else that a hidden one failed."""
    if output.output_type != "error":
        return nbformat.v4.new_output("stream", name="stdout", text="(what this cell printed is not shown)\n")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
    line = re.search(r"^-+> ?(\d+) ", plain, re.MULTILINE)
    if output.ename in ("TimeoutError", "NotRun", "Silenced"):
        return _error(output.ename, output.evalue)
    if line and int(line[1]) <= len(visible.splitlines()):
        return _error(output.ename, output.evalue)
    return _error(output.ename, "a test that is not shown failed")
