"""Runs a command where it can change nothing but one folder: `python confine.py WORK KEEP… -- HIDE… -- COMMAND…`.

It is started by `unshare` in new namespaces (users, mounts, processes, network), and uses nothing but the standard
library, since it stands between namespaces and students' code. See `sandbox.py`.
"""

import ctypes
import os
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
BIND, RECURSIVE, PRIVATE, NOSUID, NODEV = 1 << 12, 1 << 14, 1 << 18, 2, 4
MOUNT_SETATTR, AT_RECURSIVE, READ_ONLY = 442, 0x8000, 1
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
LAST_CAPABILITY = 63


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns", ctypes.c_uint64),
    )


def main(arguments: list[str]) -> None:
    """Makes everything read-only but WORK, hides HIDE except for KEEP, gives up all powers, becomes COMMAND."""
    first, second = [place for place, word in enumerate(arguments) if word == "--"][:2]
    (work, *keep), hide, command = arguments[:first], arguments[first + 1 : second], arguments[second + 1 :]
    kept = {path: os.open(path, os.O_PATH) for path in (*keep, work)}
    inner = [path for path in hide if _is_below(path, keep)]
    _mount("none", "/", flags=RECURSIVE | PRIVATE)
    _set_read_only("/", True)
    _mount("proc", "/proc", "proc", NOSUID | NODEV)
    _cover([path for path in hide if path not in inner])
    for path in keep:
        _bind(path, kept[path])
    _cover(inner)
    _bind(work, kept[work])
    _set_read_only(work, False)
    for descriptor in kept.values():
        os.close(descriptor)
    _give_up_powers()
    os.chdir(work)
    os.execvp(command[0], command)


def _is_below(path: str, folders: list[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _cover(folders: list[str]) -> None:
    for path in folders:
        if os.path.isdir(path):
            _mount("tmpfs", path, "tmpfs", NOSUID | NODEV, "size=256m")


def _bind(path: str, descriptor: int) -> None:
    """Puts a folder, opened before it was covered, back to where it was."""
    if not os.path.isdir(path):
        os.makedirs(path)
    _mount(f"/proc/self/fd/{descriptor}", path, flags=BIND | RECURSIVE)


def _mount(source: str, target: str, kind: str = "none", flags: int = 0, options: str = "") -> None:
    done = LIBC.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode())
    _check(done, f"mounting {target}")


def _set_read_only(path: str, value: bool) -> None:
    attributes = _Attributes(READ_ONLY if value else 0, 0 if value else READ_ONLY, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    done = LIBC.syscall(MOUNT_SETATTR, -100, path.encode(), AT_RECURSIVE, ctypes.byref(attributes), size)
    _check(done, f"making {path} read-only")


def _give_up_powers() -> None:
    """Without them not even root of these namespaces can undo what was mounted."""
    for capability in range(LAST_CAPABILITY + 1):
        if LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # the last one that this system knows
    _check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "giving up powers")


def _check(done: int, what: str) -> None:
    if done != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main(sys.argv[1:])
