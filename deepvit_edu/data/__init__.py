"""The data ladder: one call, `load`, from images drawn on the spot to folders of one's own."""

from dataclasses import replace
from numbers import Integral
from pathlib import Path

import torch
from torch.nn.functional import interpolate

from ..assets import AssetError, cache_folder
from ..environment import expanded, variable
from ..options import LARGEST_COUNT
from ..words import nearest, one_line
from .catalogue import SOURCES, Source
from .download import DamagedError, check_md5, fetch, one_process_at_a_time, unpack
from .drawn import FRAMED_QUARTER, SIZE, DrawnSet, framed_quarter
from .folders import has_images_of_type, has_splits, load_folder
from .image_set import DataError, ImageSet, balanced_choice, check_memory
from .published import load_published
from .shapes import draw_shapes

__all__ = [
    "DataError",
    "DrawnSet",
    "ImageSet",
    "addresses",
    "available",
    "draw_shapes",
    "find_root",
    "is_drawn",
    "list_datasets",
    "load",
]

SPLITS = ("train", "test", "val")
AS_JPEG = " (JPEG)"
"""Added to the title of a published set that was saved as JPEG, which loses a little of every image."""
_NAMES = {title: name for name, source in SOURCES.items() for title in (source.title, source.title + AS_JPEG)}


def load(
    name: str | Path,
    split: str,
    *,
    root: str | Path | None = None,
    img_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    download: bool = True,
    progress: bool | None = None,
) -> ImageSet:
    """Loads a split of a data set from the first rung of the ladder that has it.

    Args:
        name: one of `list_datasets()` or its title in a record, a folder in the root, or a path; folders hold
            `train/CLASS/` and `test/CLASS/` (or `val/`).
        split: "train" or "test"; "val" means "test" where a set has no other.
        root: where your data sets lie; `DEEPVIT_EDU_DATA` unless given.
        img_size: the side in pixels; the set's own unless given.
        limit: how many images at most, each class keeping its share.
        seed: of what is drawn: the shapes themselves, or which images a limit keeps.
        download: whether a set that is not at hand may be fetched.
        progress: show progress bars; yes unless given or `DEEPVIT_EDU_PROGRESS=0`.

    Raises:
        ValueError: for an unknown name or split, or a size or limit out of range.
        FileNotFoundError: for a root that is not there.
        DataError: for a set that cannot be had or read; the message says what was tried and what to do.
    """
    if split not in SPLITS:
        raise ValueError(f"there is no split '{split}'{nearest(split, list(SPLITS))}")
    for what, value in (("limit", limit), ("img_size", img_size)):
        if value is not None and not (isinstance(value, Integral) and 1 <= value <= LARGEST_COUNT):
            raise ValueError(f"{what} must be 1 or more, a whole number, not {one_line(value)}")
    if progress is None:
        progress = variable("DEEPVIT_EDU_PROGRESS", "1") != "0"
    name, root = _NAMES.get(str(name), str(name)), find_root(root)
    if name == FRAMED_QUARTER:
        if img_size not in (None, SIZE):
            raise ValueError(f"{name} is drawn at {SIZE} pixels, not {img_size}; leave img_size out")
        return framed_quarter("test" if split == "val" else split, count=limit, seed=seed)
    if name == "shapes":
        return draw_shapes("test" if split == "val" else split, count=limit, img_size=img_size, seed=seed)
    options = {"img_size": img_size, "limit": limit, "seed": seed, "progress": progress}
    if name not in SOURCES:
        return load_folder(_any_folder(name, root), split, **options)
    source = SOURCES[name]
    found = find_local(source, root)
    if found is None:
        found, rung = _fetch_source(name, source, root, download, progress), "download"
    else:
        rung = "folder" if root is not None and found.is_relative_to(root) else "download"
    return _load_source(name, source, found, rung, split, options)


def list_datasets() -> list[str]:
    """The names that `load` knows, beside folders."""
    return ["shapes", FRAMED_QUARTER, *SOURCES]


def is_drawn(name: str) -> bool:
    """Whether the images of a set are drawn while they are used, without end, so that none is seen twice."""
    return name == FRAMED_QUARTER


def available(name: str, root: str | Path | None = None) -> bool:
    """Whether `load(name, ...)` needs no download."""
    if name in ("shapes", FRAMED_QUARTER):
        return True
    try:
        root = find_root(root)
        return find_local(SOURCES[name], root) is not None if name in SOURCES else bool(_any_folder(name, root))
    except (FileNotFoundError, ValueError):
        return False


def addresses(name: str) -> tuple[str, ...]:
    """The addresses that a data set is fetched from, in order; nobody has tried them yet, the hash decides."""
    return SOURCES[name].urls if name in SOURCES else ()


def find_local(source: Source, root: Path | None) -> Path | None:
    """Where the set lies, in the root or else in the cache: a folder of images, its authors' folder, or its archive."""
    if root is not None:
        for folder in (root, *(root / name for name in source.folders)):
            named = folder != root or root.name in source.folders
            if named and has_splits(folder):
                return folder
            for unpacked in (folder / source.unpacked, folder / source.archive):
                if unpacked.exists():
                    return unpacked
    try:
        cached = _cache() / source.unpacked
    except AssetError:  # no cache, nothing in it
        return None
    return cached if cached.is_dir() else None


def find_root(root: str | Path | None) -> Path | None:
    """The reader's root of data sets, given or from `DEEPVIT_EDU_DATA`; FileNotFoundError where it is no folder."""
    root = root or variable("DEEPVIT_EDU_DATA")
    if not root:
        return None
    folder = expanded(root).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"the data root {folder} is not a folder; correct --data-root or DEEPVIT_EDU_DATA")
    return folder


def _cache() -> Path:
    return cache_folder().absolute() / "data"


def _any_folder(name: str, root: Path | None) -> Path:
    places = [expanded(name)] + ([root / name] if root is not None else [])
    for place in places:
        if place.is_dir():
            return place
    looked = " and ".join(str(place) for place in places)
    raise ValueError(f"there is no data set '{name}' and no folder {looked}{nearest(name, list_datasets())}")


def _fetch_source(name: str, source: Source, root: Path | None, download: bool, progress: bool) -> Path:
    """Downloads and unpacks a set into the cache; returns its folder there."""
    places = f"{root} (your root) and {_cache()} (the cache)" if root is not None else f"{_cache()} (the cache)"
    help_text = (
        f"not found in {places}; put it into a folder and name that in --data-root or DEEPVIT_EDU_DATA, "
        f"or use 'shapes', which needs no download"
    )
    if not download:
        raise DataError(f"{name} was {help_text}, or allow the download")
    unpacked = _cache() / source.unpacked
    with one_process_at_a_time(unpacked):
        if unpacked.is_dir():  # another process was faster
            return unpacked
        try:
            archive = fetch(source.urls, _cache() / source.archive, source.md5, progress)
        except DataError as error:
            raise DataError(f"{error}. Before that, {name} was {help_text}") from error
        try:
            unpack(archive, unpacked)
        except DamagedError:
            archive.unlink()
            raise
        archive.unlink()  # after a full disk, say, it stays for the next run
    return unpacked


def _load_source(name: str, source: Source, found: Path, rung: str, split: str, options: dict) -> ImageSet:
    if found.is_file():  # an archive in the reader's root, which may be read-only
        archive, found = found, _cache() / source.unpacked
        with one_process_at_a_time(found):
            if not found.is_dir():
                check_md5(archive, source.md5)
                unpack(archive, found)
    title = source.title
    if source.published and found.name == source.unpacked:
        images = _resized(_limited(load_published(found, name, split), options), options["img_size"])
    else:
        images = load_folder(found, split, **{**options, "img_size": options["img_size"] or source.img_size})
        # Results are not quite comparable, so it gets a name of its own.
        if source.published and has_images_of_type(found, split, (".jpg", ".jpeg")):
            title += AS_JPEG
    classes = [source.class_names.get(name, name) for name in images.classes]
    return replace(images, classes=classes, name=title, rung=rung, split=split, mean=source.mean, std=source.std)


def _limited(images: ImageSet, options: dict) -> ImageSet:
    limit = options["limit"]
    if limit is None or limit >= len(images):
        return images
    return images.subset(balanced_choice(images.labels.numpy(), limit, options["seed"]))


def _resized(images: ImageSet, img_size: int | None) -> ImageSet:
    """The images as squares of `img_size` pixels."""
    if img_size in (None, images.img_size):
        return images
    check_memory(len(images), img_size)
    resized = [
        interpolate(block.float(), (img_size, img_size), mode="bicubic", antialias=True).round().clamp(0, 255).byte()
        for block in images.images.split(1000)
    ]
    return replace(images, images=torch.cat(resized))
