"""Pictures in tar files: where each one lies, so that any can be read by itself. Nothing is unpacked or executed."""

import json
import tarfile
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from ..files import atomic_path
from ..reading import read_json, reading
from .image_set import DataError
from .pictures import BESIDE, ENDINGS, is_hidden

BETWEEN = "images"
"""A folder that some sets put between a class and its pictures; it is no class."""


class Place(NamedTuple):
    """Where a picture's bytes lie: in which file, where they begin in it, and how many they are (-1: to its end)."""

    path: str
    start: int = 0
    size: int = -1

    def read(self) -> bytes:
        """The bytes; errors as of `reading`."""
        with reading(self.path), open(self.path, "rb") as file:
            file.seek(self.start)
            return file.read(self.size)


class Entry(NamedTuple):
    """A picture in a tar file: its name there, its class, and its place."""

    name: str
    label: str
    place: Place


def pictures_in_tars(path: Path) -> tuple[list[Entry], list[str]]:
    """The pictures in a tar file, or in all those of a folder, and the names of what no rule takes.

    A picture's class is the folder that it lies in, or else the tar file of a folder or of another tar file. What was
    found is kept in `_NAME_pictures.json` beside them, for as long as they do not change.

    Raises:
        OSError: when one cannot be opened.
        UnreadableError: when one is cut, damaged or compressed.
        DataError: when a picture has no class.
    """
    folder, tars = (path.parent, [path]) if path.is_file() else (path, sorted(path.glob("*.tar")))
    tars = [tar for tar in tars if not is_hidden(tar.name)]
    index = folder / f"_{path.stem}_pictures.json"
    state = {tar.name: [tar.stat().st_size, tar.stat().st_mtime_ns] for tar in tars}
    with suppress(OSError, ValueError, KeyError, TypeError):  # there is none, or another file of that name
        kept = read_json(index)
        if kept["tars"] == state:
            found = [
                (str(name), str(label), tar, int(start), int(size))
                for name, label, tar, start, size in kept["pictures"]
            ]
            if {tar for _, _, tar, _, _ in found} <= set(state):
                return _entries(found, folder), [str(name) for name in kept["others"]]
    found, others = [], []
    for tar in tars:
        with reading(tar, "fetch it again"), open(tar, "rb") as file:
            base = () if path.is_file() else (tar.stem,)
            _look_through(file, 0, base, tar.name, found, others)
    with suppress(OSError), atomic_path(index) as temporary:  # a folder that cannot be written: looked through again
        temporary.write_text(json.dumps({"tars": state, "pictures": found, "others": others}), encoding="utf-8")
    return _entries(found, folder), others


def _entries(found: list[tuple[str, str, str, int, int]], folder: Path) -> list[Entry]:
    for name, label, tar, _, _ in found:
        if not label:
            raise DataError(f"{name} in {folder / tar} lies in no folder of a class; pack the classes' folders")
    return [Entry(name, label, Place(str(folder / tar), start, size)) for name, label, tar, start, size in found]


def _look_through(
    file: BinaryIO, start: int, outer: tuple[str, ...], tar: str, found: list[tuple], others: list[str]
) -> None:
    """Adds the pictures of a tar file, which begins `start` bytes into the outermost one, and those of tars in it."""
    archive = tarfile.TarFile(fileobj=file)
    for member in archive:
        parts = PurePosixPath(member.name).parts
        ending = PurePosixPath(member.name).suffix.lower()
        if member.isdir() or any(is_hidden(part) for part in parts):
            continue
        if member.isreg() and not member.issparse() and ending == ".tar":
            inner = (*outer, *parts[:-1], PurePosixPath(member.name).stem)
            _look_through(archive.extractfile(member), start + member.offset_data, inner, tar, found, others)
        elif member.isreg() and not member.issparse() and ending in ENDINGS:
            folders = [*outer, *parts[:-1]]
            if len(folders) > 1 and folders[-1] == BETWEEN:
                folders.pop()
            label = folders[-1] if folders else ""
            found.append((member.name, label, tar, start + member.offset_data, member.size))
        elif ending not in BESIDE:  # links too, which lead out of the file
            others.append(f"{tar}/{member.name}")
    file.seek(archive.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if not block or block.strip(b"\0"):  # tarfile itself takes both for the end
        raise ValueError(f"it is cut or damaged after {archive.offset:,} bytes")
