"""The one way to a record, a trained model or a picture of the book, from a checkout or from the installed package.

`assets.json`, which is installed with the package, lists every asset with its SHA-256 and the place to fetch it from.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path

from .files import atomic_path, file_hash
from .words import nearest

PACKAGE = Path(__file__).resolve().parent
INDEX = PACKAGE / "assets.json"
TIMEOUT_SECONDS = 20


class AssetError(FileNotFoundError):
    """An asset of the book is neither here nor to be had."""


def cache_folder() -> Path:
    """Where downloads are kept: `DEEPVIT_EDU_CACHE`, or `~/.cache/deepvit_edu`."""
    return Path(os.environ.get("DEEPVIT_EDU_CACHE", "~/.cache/deepvit_edu")).expanduser()


@cache
def _index() -> dict:
    return json.loads(INDEX.read_text(encoding="utf-8"))


def asset_path(name: str) -> Path:
    """The path of an asset, such as "records/ch1_cifar10.json": in the checkout, else cached, else downloaded.

    Raises:
        AssetError: when there is no such asset, or none of the three places gives it; the message says what to do.
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
    url = f"{os.environ.get('DEEPVIT_EDU_ASSETS', _index()['url'])}/{name}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, atomic_path(target) as temporary:
            temporary.write_bytes(response.read())
            if file_hash(temporary) != expected:
                raise AssetError(f"{url} is not the file that this version of the package expects; update the package")
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:
        raise AssetError(
            f"'{name}' is not in this installation and {url} could not be reached ({error}); clone the book's "
            f"repository and run there, or set DEEPVIT_EDU_ASSETS to a place that has its book/ folder"
        ) from error
