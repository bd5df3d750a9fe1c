"""Writing files so that an interrupted run never leaves half a file; checking outputs before the work begins."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

BESIDE_A_NAME = 16
"""Characters that `atomic_path` puts around a file's name while it is written."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to, and puts it in `path`'s place if all went well.

    Raises:
        OSError: when the disk is full or the folder cannot be written; what stood at `path` before is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if _tells_full_disk(error, path.parent):
            raise OSError(
                errno.ENOSPC, f"the disk is full, {path} was not written; free some space and run again"
            ) from error
        raise
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _tells_full_disk(error: OSError | RuntimeError, folder: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    return shutil.disk_usage(folder).free < 2**20  # torch.save tells any trouble with the disk by a RuntimeError


def check_output(path: str | Path, endings: Sequence[str] = (), folder: bool = False) -> Path:
    """Makes sure, before any work, that a file can be written at `path`, or files into it where it is a folder.

    Args:
        path: what will be written; folders above it need not be there.
        endings: of which the file's name must have one; any will do unless given.
        folder: whether `path` is to be a folder.

    Raises:
        ValueError: for a name that no file here can have, or of another kind.
        OSError: when the place cannot be written; the message says what to do.
    """
    text, path = str(path), Path(path)
    if not text.strip() or not text.isprintable():
        raise ValueError(f"the output's name {text!r} is no name of a file; choose another")
    if not folder and endings and path.suffix.lower() not in endings:
        raise ValueError(
            f"{path} does not end in {' or '.join(endings)}, the kinds that can be written; name one that does"
        )
    if path.exists() and path.is_dir() != folder:
        what = "a file; name a folder" if folder else "a folder; name a file"
        raise FileExistsError(f"{path} is {what}")
    if path.exists() and not folder and not path.is_file():
        raise FileExistsError(f"{path} is no ordinary file; name another")
    above = path
    while not above.is_dir():  # the nearest folder that is there
        if above.is_symlink() and not above.exists():
            raise FileNotFoundError(f"{above} is a link that leads nowhere; name another place")
        if above.exists() and above != path:  # a file at the very place is replaced
            raise NotADirectoryError(f"{above} is a file, so nothing can be written below it; name another place")
        if len(os.fsencode(above.name)) > 255 - BESIDE_A_NAME:
            raise ValueError(f"the name {above.name[:40]}… has {len(above.name)} characters; choose a shorter one")
        above = above.parent
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise type(error)(f"{above} cannot be written ({error.strerror}); name another place for {path}") from error
    return path


@contextmanager
def only_process_in(folder: str | Path) -> Iterator[None]:
    """Within it, no other process works in the folder, which is made when it is not there.

    Raises:
        BlockingIOError: when another one does.
    """
    folder = Path(folder)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    lock = FileLock(path)
    try:
        with suppress(NotImplementedError):  # of a file system that has no locks
            lock.acquire(timeout=0)
    except Timeout as error:
        raise BlockingIOError(f"another process works in {folder}; wait for it, or choose another folder") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # of the first that holds something
            for each in made:
                each.rmdir()


def file_hash(path: str | Path, algorithm: str = "sha256") -> str:
    """The hash of a file's bytes, in hexadecimal; ValueError for an algorithm that `hashlib` does not have."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
