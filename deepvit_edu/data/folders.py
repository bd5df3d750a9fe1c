"""Folders of images, `<split>/<class>/*.jpg`, read into memory."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from .image_set import DataError, ImageSet, check_memory

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".tif", ".tiff")
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val"), "val": ("val", "test")}
LARGEST_DEFAULT_SIZE = 224
UNREADABLE_SHARE = 0.01
BLOCK = 64  # images for one task of the thread pool


def load_folder(
    folder: Path, split: str, *, img_size: int | None = None, limit: int | None = None, seed: int = 0, progress=True
) -> ImageSet:
    """Reads `folder/<split>/<class>/*` as squares `(N, 3, img_size, img_size)`: shorter side resized, centre kept.

    Without `img_size`, the side is the median shorter side of a sample of the images, at most 224. With `limit`, only
    so many images are read, the same for one `seed`, and each class keeps its share.

    Raises:
        DataError: for a split, a class or images that are missing or cannot be read.
    """
    split_folder = find_split(folder, split)
    classes = _class_names(split_folder)
    if split != "train" and (folder / "train").is_dir():
        classes = _same_classes(_class_names(folder / "train"), classes, split_folder)
    paths, labels = _list_images(split_folder, classes)
    if limit is not None and limit < len(paths):
        chosen = balanced_choice(labels, limit, seed)
        paths, labels = [paths[index] for index in chosen], labels[chosen]
    img_size = img_size or _usual_size(paths)
    check_memory(len(paths), img_size)
    images, readable = _read_images(paths, img_size, progress)
    return ImageSet(
        images=torch.from_numpy(images[readable] if not readable.all() else images),
        labels=torch.from_numpy(labels[readable]),
        classes=classes,
        name=folder.resolve().name,
        rung="folder",
        split=split,
    )


def find_split(folder: Path, split: str) -> Path:
    """The folder of a split; test and val stand in for each other where only one is there."""
    wanted = SPLIT_FOLDERS[split]
    for name in wanted:
        if (folder / name).is_dir() and _class_names(folder / name):
            return folder / name
    for name in wanted:
        if (folder / name).is_dir():
            raise DataError(f"{folder / name} has no classes; put each class's images in a folder of its own there")
    raise DataError(f"{folder} has no folder {' or '.join(wanted)}; put the images at {wanted[0]}/CLASS/ in it")


def has_images_of_type(folder: Path, split: str, suffixes: Sequence[str]) -> bool:
    """Whether the split's first image has one of these suffixes."""
    split_folder = find_split(folder, split)
    first = _images_in(split_folder / _class_names(split_folder)[0])[:1]
    return bool(first) and first[0].lower().endswith(tuple(suffixes))


def balanced_choice(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Sorted indices of `limit` images drawn so that each class keeps its share, up to one image."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels))  # each image's place in its class, as a fraction of the class
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(order[np.argsort(rank[order], kind="stable")[:limit]])


def _class_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _same_classes(trained: list[str], found: list[str], folder: Path) -> list[str]:
    unknown = sorted(set(found) - set(trained))
    if unknown:
        raise DataError(
            f"{folder} has {len(unknown)} classes that train has not ({', '.join(unknown[:3])}); use the same folders"
        )
    return trained


def _images_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    # Some data sets put a further folder in between (Tiny ImageNet: train/CLASS/images/).
    return sorted(
        os.path.join(where, name)
        for where, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )


def _list_images(folder: Path, classes: list[str]) -> tuple[list[str], np.ndarray]:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images_in(folder / name)
        if not found and (folder / name).is_dir():
            raise DataError(f"{folder / name} holds no image; put some there or remove the folder")
        paths += found
        labels += [label] * len(found)
    return paths, np.array(labels, dtype=np.int64)


def _usual_size(paths: list[str]) -> int:
    sides = []
    for path in paths[:: max(1, len(paths) // 200)]:
        try:
            with Image.open(path) as image:
                sides.append(min(image.size))
        except (OSError, ValueError, SyntaxError):
            continue  # told when it is read
    return min(int(np.median(sides)), LARGEST_DEFAULT_SIZE) if sides else LARGEST_DEFAULT_SIZE


def _read_images(paths: list[str], img_size: int, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `(N, 3, S, S)` and which of them could be read `(N,)`."""
    images = np.zeros((len(paths), 3, img_size, img_size), dtype=np.uint8)
    errors: dict[int, Exception] = {}

    def read_block(start: int) -> int:
        stop = min(start + BLOCK, len(paths))
        for index in range(start, stop):
            try:
                images[index] = read_image(paths[index], img_size)
            except MemoryError:
                raise
            except Exception as error:  # PIL's decoders raise many kinds for a broken file
                errors[index] = error
        return stop - start

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(paths), desc="reading images", unit="image", leave=False, disable=not progress) as bar,
    ):
        for count in pool.map(read_block, range(0, len(paths), BLOCK)):
            bar.update(count)
    if errors:
        _tell_unreadable([paths[index] for index in sorted(errors)], len(paths))
    readable = np.ones(len(paths), dtype=bool)
    readable[list(errors)] = False
    return images, readable


def read_image(path: str | Path, img_size: int) -> np.ndarray:
    """One image as uint8 `(3, S, S)`: its shorter side resized to `img_size`, its centre kept, grey made colour."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * img_size, 2 * img_size))  # a large JPEG is decoded at a fraction of its size
        # Palettes with transparency lose it through RGBA without a warning.
        image = image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")
    if image.size != (img_size, img_size):
        scale = img_size / min(image.size)
        wide, high = (max(img_size, round(side * scale)) for side in image.size)
        left, top = (wide - img_size) // 2, (high - img_size) // 2
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + img_size, top + img_size))
    return np.asarray(image).transpose(2, 0, 1)


def _tell_unreadable(paths: list[str], total: int) -> None:
    some = ", ".join(paths[:3]) + (", …" if len(paths) > 3 else "")
    told = f"{len(paths)} of {total} images cannot be read ({some})"
    if len(paths) > UNREADABLE_SHARE * total:
        raise DataError(f"{told}, more than {UNREADABLE_SHARE:.0%}; copy or unpack the data set again")
    warnings.warn(f"{told}; they are left out", stacklevel=2)
