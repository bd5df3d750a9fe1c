"""Folders of images, `<split>/<class>/*.jpg`, read into memory."""

import os
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..reading import reading
from ..words import one_line, printable
from .image_set import DataError, ImageSet, balanced_choice, check_memory
from .pictures import is_hidden, pictures_in, read_image, shorter_side

FOR_TEST = ("test", "testing", "val", "valid", "validation")
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "test": FOR_TEST,
    "val": ("val", "valid", "validation", "test", "testing"),
}
"""The names of a split's folder, in any case; test and val stand in for each other."""
LARGEST_DEFAULT_SIZE = 224
UNREADABLE_SHARE = 0.01
BLOCK = 64  # images for one task of the thread pool


@dataclass(frozen=True)
class Split:
    """The pictures of a split: `paths` and their `labels` (N,), which are places in `classes`; `left_out`, the files
    that are no pictures and not what usually lies beside some; `missing`, the pictures that a list names and that are
    not there.
    """

    folder: Path
    classes: list[str]
    paths: list[str]
    labels: np.ndarray
    left_out: list[str]
    missing: Sequence[str] = ()


def load_folder(
    folder: Path, split: str, *, img_size: int | None = None, limit: int | None = None, seed: int = 0, progress=True
) -> ImageSet:
    """Reads `folder/<split>/<class>/*` as squares `(N, 3, img_size, img_size)`: shorter side resized, centre kept.

    Without `img_size`, the side is the median shorter side of a sample of the images, at most 224. With `limit`, only
    so many images are read, the same for one `seed`, and each class keeps its share.

    Raises:
        DataError: for a split, a class or images that are missing or cannot be read.
    """
    found = find_split(folder, split, tell=True)
    paths, labels = found.paths, found.labels
    if limit is not None and limit < len(paths):
        chosen = balanced_choice(labels, limit, seed)
        paths, labels = [paths[index] for index in chosen], labels[chosen]
    img_size = img_size or _usual_size(paths)
    check_memory(len(paths), img_size)
    images, readable = _read_images(paths, img_size, progress)
    return ImageSet(
        images=torch.from_numpy(images[readable] if not readable.all() else images),
        labels=torch.from_numpy(labels[readable]),
        classes=found.classes,
        name=folder.resolve().name,
        rung="folder",
        split=split,
    )


def find_split(folder: Path, split: str, tell: bool = False, alone: bool = False) -> Split:
    """The first folder with a split's name that holds pictures with labels, of the classes of train.

    Args:
        folder: holds a folder for each split.
        split: "train", "test" or "val".
        tell: whether to warn of what is left out.
        alone: whether to leave train aside, which may hold some of the classes, or none.

    Raises:
        DataError: when there is none; the message says what to do.
    """
    trained = None
    if not (alone or split == "train") and (train := next(_candidates(folder, "train"), None)):
        trained = list(class_folders(train))
    refusal = None
    for candidate in _candidates(folder, split):
        try:
            found = _labelled(candidate, trained)
        except DataError as error:
            refusal = refusal or error
            continue
        if tell and refusal:
            warnings.warn(f"{refusal}. {candidate} is taken instead", stacklevel=3)
        if tell:
            tell_left_out(candidate, found.left_out)
        if tell and found.missing:
            warning = f"{len(found.missing)} pictures that a list in {candidate} names are not there"
            warnings.warn(f"{warning} ({_first(found.missing)})", stacklevel=3)
        return found
    wanted = ("train",) if split == "train" else ("test", "val") if split == "test" else ("val", "test")
    raise refusal or DataError(
        f"{folder} has no folder {' or '.join(wanted)}; put the images at {wanted[0]}/CLASS/ in it"
    )


def has_splits(folder: Path) -> bool:
    """Whether there is a folder with the name of any split in it."""
    return any(next(_candidates(folder, split), None) for split in SPLIT_FOLDERS)


def tell_left_out(folder: Path, left_out: Sequence[str]) -> None:
    """Warns of files that no rule takes, with their number and the first names."""
    if left_out:
        warning = f"{len(left_out)} files of {folder} are left out, no kind of picture that is read"
        warnings.warn(f"{warning} ({_first(left_out)})", stacklevel=4)


def _candidates(folder: Path, split: str) -> Iterator[Path]:
    there = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()} if folder.is_dir() else {}
    return (there[name] for name in SPLIT_FOLDERS[split] if name in there)


def _labelled(folder: Path, trained: list[str] | None) -> Split:
    """The pictures of a split's folder with their labels: from the folders of classes, or from a list of labels."""
    lists = [path for path in sorted(folder.glob("*annotations.txt")) if not is_hidden(path.name)]
    classes = list(class_folders(folder))
    if lists and not (trained and classes and set(classes) <= set(trained)):
        return _listed(folder, lists[0], trained)
    if not classes:
        raise DataError(f"{folder} has no classes; put each class's images in a folder of its own there")
    if trained:
        classes = _same_classes(trained, classes, folder)
    paths, labels, left_out = _of_classes(folder, classes)
    loose = [str(path) for path in sorted(folder.iterdir()) if path.is_file() and not is_hidden(path.name)]
    return Split(folder, classes, paths, labels, left_out + [path for path in loose if Path(path) not in lists])


def _listed(folder: Path, labels_file: Path, trained: list[str] | None) -> Split:
    """The pictures that a list names with their classes, as Tiny ImageNet's `val_annotations.txt` does."""
    named = _read_list(labels_file)
    classes = trained or sorted(set(named.values()))
    _same_classes(classes, sorted(set(named.values())), labels_file)
    pictures, left_out = pictures_in(folder)
    paths = [path for path in pictures if os.path.basename(path) in named]
    if not paths:
        raise DataError(f"{folder} holds none of the pictures that {labels_file.name} names; unpack the set again")
    place = {name: label for label, name in enumerate(classes)}
    labels = np.array([place[named[os.path.basename(path)]] for path in paths], dtype=np.int64)
    order = np.argsort(labels, kind="stable")
    left_out += [path for path in pictures if os.path.basename(path) not in named]
    missing = sorted(set(named) - {os.path.basename(path) for path in paths})
    return Split(folder, classes, [paths[index] for index in order], labels[order], left_out, missing)


def _read_list(labels_file: Path) -> dict[str, str]:
    """The class of each picture's name, from a list with a line for each: name, class and perhaps more, with tabs."""
    named: dict[str, str] = {}
    with reading(labels_file):
        for number, line in enumerate(labels_file.read_text(encoding="utf-8-sig").splitlines(), 1):
            name, *label = (word.strip() for word in line.split("\t")[:2])
            if not name and not label:
                continue
            if not name or not label or not label[0]:
                raise ValueError(f"its line {number} is not a picture's name, a tab and a class")
            if named.setdefault(name, label[0]) != label[0]:
                raise ValueError(f"{name} is there twice, as {named[name]} and as {label[0]}")
    return named


def has_images_of_type(folder: Path, split: str, suffixes: Sequence[str]) -> bool:
    """Whether the split's first image has one of these suffixes."""
    return find_split(folder, split).paths[0].lower().endswith(tuple(suffixes))


def class_folders(folder: Path) -> dict[str, str]:
    """The folders of classes by the classes' names, in order: é is one letter in them, however a system spells it.

    Raises:
        DataError: when two folders have one name.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not is_hidden(path.name):
            name = unicodedata.normalize("NFC", path.name)
            if found.setdefault(name, path.name) != path.name:
                raise DataError(f"{folder} has the class {name} twice, spelt in two ways; put its images together")
    return dict(sorted(found.items()))


def _same_classes(trained: list[str], found: list[str], folder: Path) -> list[str]:
    unknown = sorted(set(found) - set(trained))
    if unknown:
        raise DataError(
            f"{folder} has {len(unknown)} classes that train has not ({', '.join(unknown[:3])}); use the same folders"
        )
    return trained


def _of_classes(folder: Path, classes: list[str]) -> tuple[list[str], np.ndarray, list[str]]:
    """Paths and labels of the pictures in folders of classes, and the files that are left out."""
    paths: list[str] = []
    labels: list[int] = []
    left_out: list[str] = []
    there = class_folders(folder)
    for label, name in enumerate(classes):
        if name not in there:  # of train, and not here
            continue
        name = there[name]
        # Some data sets put a further folder in between (Tiny ImageNet: train/CLASS/images/).
        found, others = pictures_in(folder / name)
        if not found:
            instead = f", but {_first(others)}" if others else ""
            raise DataError(
                f"{folder / name} holds no image that is read{instead}; put some there or remove the folder"
            )
        paths += found
        labels += [label] * len(found)
        left_out += others
    return paths, np.array(labels, dtype=np.int64), left_out


def _usual_size(paths: list[str]) -> int:
    sides = []
    for path in paths[:: max(1, len(paths) // 200)]:
        try:
            sides.append(shorter_side(path))
        except (OSError, ValueError):
            continue  # reported when it is read
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
            except (OSError, ValueError) as error:
                errors[index] = error
        return stop - start

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(paths), desc="reading images", unit="image", leave=False, disable=not progress) as bar,
    ):
        for count in pool.map(read_block, range(0, len(paths), BLOCK)):
            bar.update(count)
    if errors:
        _tell_unreadable({paths[index]: errors[index] for index in sorted(errors)}, len(paths))
    readable = np.ones(len(paths), dtype=bool)
    readable[list(errors)] = False
    return images, readable


def _first(paths: Sequence[str]) -> str:
    return printable(", ".join(paths[:3]) + (", …" if len(paths) > 3 else ""))


def _tell_unreadable(errors: dict[str, Exception], total: int) -> None:
    why = one_line(next(iter(errors.values())))
    message = f"{len(errors)} of {total} images cannot be read ({_first(list(errors))}): {why}"
    if len(errors) > UNREADABLE_SHARE * total:
        raise DataError(f"{message}. That is more than {UNREADABLE_SHARE:.0%}; mend them, or copy the data set again")
    warnings.warn(f"{message}. They are left out", stacklevel=2)
