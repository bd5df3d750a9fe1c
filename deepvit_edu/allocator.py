"""The C library's allocator on a CPU: by default it returns memory after each step and requests it again.

In small models that costs up to a fifth of the time, all of it in the kernel's page faults. glibc reads its settings
when a process starts, so a command that trains replaces itself by one that has them.
"""

import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress

KEEPS_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
}
"""Environment variables with which glibc keeps the memory that it has."""
SWITCH = "DEEPVIT_EDU_ALLOCATOR"
"""An environment variable: "default" leaves the allocator as it is."""


def training_environment(threads: int | None = None) -> dict[str, str]:
    """This process's environment for one that trains: memory is kept, threads wait without spinning."""
    environment = {**KEEPS_MEMORY, "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    return environment if threads is None else {**environment, "OMP_NUM_THREADS": str(threads)}


def restart_with_memory_kept(arguments: Sequence[str]) -> None:
    """Replaces this process by `python -m deepvit_edu ARGUMENTS` with glibc's settings, where it has none of them.

    Does nothing on other systems, where any of the settings is made already, where Python cannot be started again, or
    with DEEPVIT_EDU_ALLOCATOR=default.
    """
    settled = any(name in os.environ for name in KEEPS_MEMORY) or os.environ.get(SWITCH) == "default"
    if settled or platform.libc_ver()[0] != "glibc":
        return
    sys.stdout.flush()
    with suppress(OSError):  # an interpreter that this user may not start again: slower, and otherwise the same
        os.execve(sys.executable, [sys.executable, "-m", "deepvit_edu", *arguments], training_environment())
