"""Fetching an archive so that it is whole or not there: resumed, checked, unpacked, and only then put in its place."""

import errno
import http.client
import os
import shutil
import ssl
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock
from tqdm.auto import tqdm

from ..files import file_hash
from .image_set import DataError

TIMEOUT_SECONDS = 20
"""Silence after which an address is given up."""
PATIENCE_SECONDS = 20
SLOWEST = 100_000
"""Bytes a second, after `PATIENCE_SECONDS` and on average, below which the next address is tried, if any."""
BLOCK = 1 << 18


class DamagedError(DataError):
    """A file that is not what it should be, or not all of it."""


class _AddressError(Exception):
    """One address failed; the next may work."""


def check_md5(path: Path, expected: str) -> None:
    """Raises DamagedError unless the file's MD5, the sum that archives' authors publish, is `expected`."""
    found = file_hash(path, "md5")
    if found != expected:
        raise DamagedError(f"{path} is damaged or another file: its MD5 is {found}, not {expected}")


@contextmanager
def one_process_at_a_time(target: Path) -> Iterator[None]:
    """Within it, no other process that names the same target is within it.

    Raises:
        DataError: when the folder of the target cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.with_name(f".{target.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise _disk_error(error, target.parent) from error
    try:
        yield
    finally:
        lock.release()


def fetch(urls: Sequence[str], target: Path, md5: str, progress: bool = True) -> Path:
    """Downloads `target` from the first of `urls` that gives the file with this MD5.

    What has arrived stays in `target`.part when the network fails, and the next try, at whichever address, goes on from
    there. `target` itself appears only when it is whole.

    Raises:
        DataError: when no address gave the file, naming each with its reason, or when the disk is full or not writable.
    """
    part = target.with_name(target.name + ".part")
    failures = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and file_hash(target, "md5") == md5:
            return target
        for number, url in enumerate(urls, 1):
            try:
                _fetch_checked(url, part, md5, progress, may_give_up=number < len(urls))
                os.replace(part, target)
                return target
            except _AddressError as failure:
                failures.append(f"{url} ({failure})")
    except OSError as error:
        raise _disk_error(error, target.parent) from error
    kept = f"; {part.stat().st_size:,} bytes are kept, and the next try goes on from there" if part.exists() else ""
    raise DataError(f"{target.name} could not be downloaded: tried {'; '.join(failures)}{kept}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks the archive's one folder to `folder`, which appears only when it is whole.

    Raises:
        DataError: when the archive is cut, damaged, unsafe or of another layout, or when the disk is full.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DataError(
            "unpacking safely needs Python 3.10.12, 3.11.4 or newer; use one, or unpack the archive yourself"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder.parent) as temporary:
            with tarfile.open(archive) as file:
                file.extractall(temporary, filter="data")  # refuses paths that lead out of the folder
            unpacked = Path(temporary) / folder.name
            if not unpacked.is_dir():
                raise DamagedError(f"{archive} holds no folder {folder.name}; it is another archive of the same name")
            if not folder.exists():  # else another process was faster
                os.replace(unpacked, folder)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DamagedError(f"{archive} is cut or damaged ({error}); delete it and run again") from error
    except OSError as error:
        if error.errno is None:  # gzip's own complaint
            raise DamagedError(f"{archive} is cut or damaged ({error}); delete it and run again") from error
        raise _disk_error(error, folder.parent) from error


def _fetch_checked(url: str, part: Path, md5: str, progress: bool, may_give_up: bool) -> None:
    """Brings `part` to its full length and checks it; a damaged one is deleted, and fetched anew if it was resumed."""
    resumed = part.exists() and part.stat().st_size > 0
    _fetch_rest(url, part, progress, may_give_up)
    try:
        check_md5(part, md5)
    except DamagedError as error:
        part.unlink()
        if not resumed:
            raise _AddressError(f"a file with the wrong MD5, {str(error).rpartition('its MD5 is ')[2]}") from error
        _fetch_checked(url, part, md5, progress, may_give_up)  # what was there before may be the damaged half


def _fetch_rest(url: str, part: Path, progress: bool, may_give_up: bool) -> None:
    """Downloads what `part` lacks, or all of it where the server cannot resume."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "deepvit-edu"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            resumes = response.status == http.client.PARTIAL_CONTENT
            have = have if resumes else 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            _check_space(part.parent, int(length or 0))
            with (
                open(part, "ab" if resumes else "wb") as file,
                tqdm(
                    desc=part.name.removesuffix(".part"),
                    total=total,
                    initial=have,
                    unit="B",
                    unit_scale=True,
                    disable=not progress,
                ) as bar,
            ):
                arrived = _copy(response, file, bar, may_give_up)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is missing, or the part is longer than the file: the hash tells
        raise _AddressError(f"the server answered {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            reason = f"no answer within {TIMEOUT_SECONDS} s"
        raise _AddressError(f"no connection: {reason}") from error
    if total is not None and have + arrived < total:
        raise _AddressError(f"the connection ended after {have + arrived:,} of {total:,} bytes")


def _copy(response: http.client.HTTPResponse, file: BinaryIO, bar: tqdm, may_give_up: bool) -> int:
    """Copies the response into the file and returns the bytes; gives up a stalled address, and a slow one if it may."""
    arrived, start = 0, time.monotonic()
    while True:
        try:
            block = response.read1(BLOCK)
        except TimeoutError as error:
            raise _AddressError(f"it sent nothing for {TIMEOUT_SECONDS} s") from error
        except OSError as error:
            raise _AddressError(f"the connection broke: {error}") from error
        if not block:
            return arrived
        file.write(block)
        arrived += len(block)
        bar.update(len(block))
        seconds = time.monotonic() - start
        if may_give_up and seconds > PATIENCE_SECONDS and arrived < SLOWEST * seconds:
            raise _AddressError(f"slower than {SLOWEST / 1000:.0f} kB/s")


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    # Twice: the archive, and what is unpacked from it before the archive is deleted.
    if free < 2 * needed:
        raise OSError(errno.ENOSPC, f"{2 * needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free")


def _disk_error(error: OSError, folder: Path) -> DataError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"the disk of {folder} is full ({error.strerror}); free some space"
    else:
        what = f"{folder} cannot be written ({error.strerror or error})"
    return DataError(f"{what}, or name another place in DEEPVIT_EDU_CACHE, and run again")
