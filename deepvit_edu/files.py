"""Writing files so that a cut, killed or full-disk run never leaves half of one behind."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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


def file_hash(path: str | Path, algorithm: str = "sha256") -> str:
    """The hash of a file's bytes, in hexadecimal; ValueError for an algorithm that `hashlib` does not have."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
