"""The kernel that runs students' code: Python with limits on memory, processor time and the size of files.

It protects the machine from accidents, not from malice: see the instructor's guide for a sandbox.
"""

import os

GIB = 1024**3
LIMITS = {"DATA": 6 * GIB, "CPU": 900, "FSIZE": GIB // 4, "CORE": 0}
"""Memory and largest file in bytes, processor time in seconds, for a whole notebook."""


def main() -> None:
    """Sets the limits, where the system has them, and becomes a kernel."""
    try:
        import resource
    except ImportError:  # Windows has none
        pass
    else:
        for name, most in LIMITS.items():
            kind = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))
    os.environ["OMP_NUM_THREADS"] = "1"
    from ipykernel.kernelapp import launch_new_instance

    import deepvit_edu  # noqa: F401  now, so that no cell's time is spent on it

    launch_new_instance()


if __name__ == "__main__":
    main()
