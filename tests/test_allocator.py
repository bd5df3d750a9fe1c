import os
import platform
import subprocess
import sys

import pytest

from deepvit_edu import allocator
from tools.contents import ROOT


def setting_seen_by(tmp_path, **environment) -> str:
    """What the command `run` sees of glibc's settings, told by an error of a plan that is not there."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "atexit.register(lambda: print('MMAP', os.environ.get('MALLOC_MMAP_MAX_', 'unset'), file=sys.stderr))\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "DEEPVIT_EDU_"))}
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, "-m", "deepvit_edu", "run", str(tmp_path / "none.yml")]
    done = subprocess.run(
        command, env={**clean, **environment, "PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True
    )
    assert "there is no plan at" in done.stderr
    return done.stderr.rsplit("MMAP ", 1)[1].strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, "0"), ({"MALLOC_MMAP_MAX_": "7"}, "7"), ({"DEEPVIT_EDU_ALLOCATOR": "default"}, "unset")],
)
def test_a_command_that_trains_keeps_its_memory_unless_told_otherwise(tmp_path, environment, expected):
    assert setting_seen_by(tmp_path, **environment) == expected


def test_where_python_may_not_be_started_again_the_command_goes_on(monkeypatch):
    for name in (*allocator.KEEPS_MEMORY, allocator.SWITCH):
        monkeypatch.delenv(name, raising=False)
    asked = []

    def refused(*arguments: object) -> None:
        asked.append(arguments)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "execve", refused)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    allocator.restart_with_memory_kept(["train"])
    assert asked
