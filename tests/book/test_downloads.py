"""What a reader can take along: zips that hold the repository's files, with the hashes that they say."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from tools.book.downloads import collections, write_downloads, write_zip
from tools.contents import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the downloads."""
    built = tmp_path_factory.mktemp("html")
    write_downloads(built)
    return built / "downloads"


def test_hashes_are_those_of_the_zips(folder: Path) -> None:
    lines = [line.split() for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()]
    assert sorted(name for _, name in lines) == ["notebooks.zip", "records.zip", "weights.zip"]
    for digest, name in lines:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", ["notebooks", "weights", "records"])
def test_zip_holds_the_files_and_the_licences(folder: Path, name: str) -> None:
    files = collections()[name]
    assert files
    with zipfile.ZipFile(folder / f"{name}.zip") as archive:
        assert archive.testzip() is None
        assert {ROOT / entry for entry in archive.namelist()} == {*files, ROOT / "LICENSE", ROOT / "LICENSE-text"}
        first = files[0].relative_to(ROOT).as_posix()
        assert archive.read(first) == files[0].read_bytes()


def test_same_files_give_the_same_zip(tmp_path: Path) -> None:
    files = collections()["notebooks"]
    assert write_zip(tmp_path / "a.zip", files) == write_zip(tmp_path / "b.zip", files)
