"""The kernel that runs students' code: Python with limits on memory, processor time, processes and the size of files.

It protects the machine from accidents; from malice protects the sandbox in which it is started (`sandbox.py`).
"""

import logging
import os

GIB = 1024**3
LIMITS = {"DATA": 6 * GIB, "CPU": 900, "FSIZE": GIB // 4, "CORE": 0}
"""Memory and largest file in bytes, processor time in seconds, for a whole notebook."""
PROCESSES = 128
"""Processes and threads, where a sandbox counts them apart from the teacher's own."""


def main() -> None:
    """Sets the limits, where the system has them, and becomes a kernel."""
    try:
        import resource
    except ImportError:  # Windows has none
        pass
    else:
        limits = {**LIMITS, "NPROC": PROCESSES} if os.environ.get("DEEPVIT_GRADING_CONFINED") else LIMITS
        for name, most in limits.items():
            kind = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))
    os.environ["OMP_NUM_THREADS"] = "1"
    from ipykernel.kernelapp import launch_new_instance

    import deepvit_edu  # noqa: F401  now, so that no cell's time is spent on it

    launch_new_instance(log_level=logging.CRITICAL)  # else it tells the teacher how to connect to it


if __name__ == "__main__":
    main()
