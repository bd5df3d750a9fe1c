"""The one way to a record, a trained model or a picture of the book, from a checkout or from the installed package.

`assets.json`, which is installed with the package, lists every asset with its SHA-256 and the place to fetch it from.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import BinaryIO

from .environment import expanded, variable
from .files import atomic_path, file_hash
from .words import nearest

PACKAGE = Path(__file__).resolve().parent
INDEX = PACKAGE / "assets.json"
TIMEOUT_SECONDS = 20
LONGEST_SECONDS = 300
"""How long one asset may take in all, however steadily it arrives."""
LARGEST = 256 * 2**20
"""Bytes of an asset, many times more than any of the book has."""
BLOCK = 1 << 18


class AssetError(FileNotFoundError):
    """An asset of the book is neither here nor to be had."""


def cache_folder() -> Path:
    """Where downloads are kept: `DEEPVIT_EDU_CACHE`, or `~/.cache/deepvit_edu`.

    Raises:
        AssetError: when this user has no known home, and the variable is not set.
    """
    try:
        return expanded(variable("DEEPVIT_EDU_CACHE", "~/.cache/deepvit_edu"))
    except ValueError as error:
        raise AssetError("this user has no known home; name a folder for downloads in DEEPVIT_EDU_CACHE") from error


@cache
def _index() -> dict:
    return json.loads(INDEX.read_text(encoding="utf-8"))


def asset_path(name: str) -> Path:
    """The path of an asset, such as "records/ch1_cifar10.json": in the checkout, else cached, else downloaded.

    Raises:
        AssetError: for an unknown asset, or one that none of the three places has; the message says what to do.
    """
    in_checkout = PACKAGE.parent / "book" / name
    if in_checkout.is_file():
        return in_checkout
    expected = _index()["sha256"].get(name)
    if expected is None:
        raise AssetError(f"the book has no asset '{name}'{nearest(name, sorted(_index()['sha256']))}")
    cached = cache_folder() / "assets" / name
    if not (cached.is_file() and file_hash(cached) == expected):
        _download(name, expected, cached)
    return cached


def asset_folder(name: str) -> Path:
    """The path of a folder of assets, such as "records": in the checkout, else with every asset of it downloaded.

    Raises:
        AssetError: when there is no such folder, or one of its assets cannot be had.
    """
    in_checkout = PACKAGE.parent / "book" / name
    if in_checkout.is_dir():
        return in_checkout
    inside = [asset for asset in _index()["sha256"] if asset.startswith(f"{name}/")]
    if not inside:
        raise AssetError(f"the book has no folder of assets '{name}'")
    for asset in inside:
        asset_path(asset)
    return cache_folder() / "assets" / name


def _download(name: str, expected: str, target: Path) -> None:
    url = f"{variable('DEEPVIT_EDU_ASSETS', _index()['url'])}/{name}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            _keep(response, expected, target, url)
    except AssetError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise AssetError(
            f"'{name}' is not in this installation and {url} could not be reached ({error}); clone the book's "
            f"repository and run there, or set DEEPVIT_EDU_ASSETS to a place that has its book/ folder"
        ) from error


def _keep(response: BinaryIO, expected: str, target: Path, url: str) -> None:
    """Writes what arrives to `target`, whole and checked; AssetError for what does not fit, OSError of the network."""
    try:
        with atomic_path(target) as temporary, open(temporary, "wb") as file:
            _copy(response, file, url)
            file.flush()
            if file_hash(temporary) != expected:
                raise AssetError(f"{url} is not the file that this version of the package expects; update the package")
    except (AssetError, _NetworkError):
        raise
    except OSError as error:
        raise AssetError(
            f"{target.parent} cannot be written ({error.strerror or error}); name another folder in DEEPVIT_EDU_CACHE"
        ) from error


class _NetworkError(OSError):
    """The connection broke while the asset arrived."""


def _copy(response: BinaryIO, file: BinaryIO, url: str) -> None:
    end, arrived = time.monotonic() + LONGEST_SECONDS, 0
    while True:
        try:
            block = response.read1(BLOCK) if hasattr(response, "read1") else response.read(BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _NetworkError(f"the connection broke: {error}") from error
        if not block:
            return
        arrived += len(block)
        if arrived > LARGEST:
            raise AssetError(f"{url} sends more than {LARGEST / 2**20:.0f} MB, which no asset of the book has")
        if time.monotonic() > end:
            raise _NetworkError(f"it had not sent all after {LONGEST_SECONDS} s")
        file.write(block)
