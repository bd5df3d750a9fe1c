"""The sandbox in which students' code runs: no network, nothing can be written but one folder, no other's work is seen.

It is the first that this machine has: bubblewrap, `unshare` with user namespaces (any recent Linux), or docker.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tools.contents import ROOT

PROBE_SECONDS = 60
DOCKER_IMAGE = "busybox"
"""Any image with `chroot`: the machine's own files, read-only, are what code runs on."""


@dataclass(frozen=True)
class Sandbox:
    """A way to confine a command.

    `wrap(work, hidden, command)` is the command that runs `command` with `work` as the one folder that it can write
    and without the folders in `hidden`.
    """

    name: str
    wrap: Callable[[Path, Sequence[Path], Sequence[str]], list[str]]


def find_sandbox() -> Sandbox | None:
    """The first sandbox that works on this machine; None where there is none."""
    return next((each for each in SANDBOXES if _works(each)), None)


def needed_folders() -> list[Path]:
    """What the kernel reads, wherever it is: this repository, and Python with its packages."""
    wanted = (ROOT, Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent.parent)
    return list(dict.fromkeys(path.resolve() for path in wanted))


def hidden_folders(*more: Path) -> list[Path]:
    """What no student's code may see: the home, temporary files, and `more`, the course and what was handed in."""
    home = Path.home() if os.environ.get("HOME") else None
    private = [path for path in (home, Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")) if path]
    folders = (path.resolve() for path in (*private, ROOT / "assignments", *more) if path.is_dir())
    return [path for path in dict.fromkeys(folders) if path != Path("/")]


def _unshare(work: Path, hidden: Sequence[Path], command: Sequence[str]) -> list[str]:
    namespaces = ["--user", "--map-root-user", "--mount", "--pid", "--fork", "--net", "--ipc", "--uts", "--kill-child"]
    confine = [sys.executable, "-I", str(Path(__file__).with_name("confine.py"))]
    folders = [str(work), *map(str, needed_folders()), "--", *map(str, hidden), "--"]
    return ["unshare", *namespaces, *confine, *folders, *command]


def _bubblewrap(work: Path, hidden: Sequence[Path], command: Sequence[str]) -> list[str]:
    needed = needed_folders()
    inner = [path for path in hidden if any(path.is_relative_to(folder) for folder in needed)]
    arguments = ["--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/", "/", "--dev", "/dev"]
    arguments += ["--proc", "/proc"]
    for path in (path for path in hidden if path not in inner):
        arguments += ["--tmpfs", str(path)]
    for path in needed:
        arguments += ["--ro-bind", str(path), str(path)]
    for path in inner:
        arguments += ["--tmpfs", str(path)]
    return ["bwrap", *arguments, "--bind", str(work), str(work), "--chdir", str(work), "--", *command]


def _docker(work: Path, hidden: Sequence[Path], command: Sequence[str]) -> list[str]:
    """The machine's files as a container sees them: read-only, what is hidden covered, no network, few processes."""
    arguments = ["--rm", "--network", "none", "--memory", "8g", "--pids-limit", "256", "--cap-drop", "ALL"]
    arguments += ["--cap-add", "SYS_CHROOT", "--security-opt", "no-new-privileges", "--volume", "/:/machine:ro"]
    for path in hidden:
        arguments += ["--tmpfs", f"/machine{path}"]
    for path in needed_folders():
        arguments += ["--volume", f"{path}:/machine{path}:ro"]
    arguments += ["--volume", f"{work}:/machine{work}"]
    return ["docker", "run", *arguments, DOCKER_IMAGE, "chroot", "/machine", *command]


SANDBOXES = (Sandbox("bubblewrap", _bubblewrap), Sandbox("unshare", _unshare), Sandbox("docker", _docker))
_PROBE = """
import os, socket, sys
work, beside = sys.argv[1:]
open(os.path.join(work, "written"), "w").close()
assert not os.path.exists(beside), "it sees what is hidden"
for path in ("/etc/deepvit-probe", os.path.join(sys.prefix, "deepvit-probe")):
    try:
        open(path, "w").close()
    except OSError:
        continue
    raise AssertionError(f"it can write {path}")
try:
    socket.create_connection(("1.1.1.1", 53), timeout=2)
except OSError:
    pass
else:
    raise AssertionError("it has a network")
"""


@cache
def _works(sandbox: Sandbox) -> bool:
    """Whether a sandbox confines: it writes its folder, nothing else, does not see what is hidden, has no network."""
    if shutil.which(sandbox.wrap(Path("/"), [], ["true"])[0]) is None:
        return False
    with tempfile.TemporaryDirectory(prefix="dv") as folder:
        work, beside = Path(folder).resolve() / "work", Path(folder).resolve() / "beside"
        work.mkdir()
        beside.write_text("secret")
        command = sandbox.wrap(work, hidden_folders(), [sys.executable, "-I", "-c", _PROBE, str(work), str(beside)])
        try:
            done = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0 and (work / "written").exists()
