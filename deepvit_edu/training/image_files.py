"""Images that stay in their files, in folders or tar files as of ImageNet, and are read anew in every epoch."""

import hashlib
import pickle
import tarfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.readers.img_extensions import get_img_extensions, set_img_extensions
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from torch import Tensor, nn

from ..data import DataError
from ..data.image_set import IMAGENET_MEAN, IMAGENET_STD, balanced_choice
from ..data.pictures import ENDINGS, as_rgb, is_hidden, pictures_in
from ..environment import expanded, variable
from .processes import Processes

SPLITS = {"train": ("train",), "val": ("val", "validation", "test")}
OPEN_TARS = 64  # so many are kept open; a system has a limit, and every reader opens its own
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, tarfile.TarError)


# Finding and checking the files


PREPARATION = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bicubic", "crop_pct": 0.9}
"""How test images are prepared, and all are normalised, unless a model says something else."""


@dataclass
class Files:
    """The images of a split, where they lie.

    Args:
        reader: timm's, which gives an image by its place.
        places: of these images in the reader.
        names, labels: of each image.
        classes: the classes' names, a label each.
        name: of the data set.
        split: "train" or "val".
        preparation: mean, standard deviation, interpolation and `crop_pct`, as in timm's `default_cfg`.
    """

    reader: Any
    places: list[int]
    names: list[str]
    labels: list[int]
    classes: list[str]
    name: str = "custom"
    split: str = "val"
    preparation: dict = field(default_factory=lambda: PREPARATION)
    rung: str = "folder"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, of pixel values in 0..1."""
        return self.preparation["mean"]

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel."""
        return self.preparation["std"]

    def prepared_for(self, model: nn.Module, **more: object) -> "Files":
        """The same images, prepared as a model wants them (its `default_cfg`), or as `more` says."""
        wanted = {**getattr(model, "default_cfg", {}), **more}
        return replace(self, preparation={key: wanted.get(key, value) for key, value in PREPARATION.items()})

    def open(self, number: int) -> Image.Image:
        """An image in colours, as it is in its file."""
        return as_rgb(Image.open(self.reader[self.places[number]][0]), upright=False)  # as timm and the papers

    def order(self, generator: torch.Generator) -> Tensor:
        """The images' numbers (N,) in a random order, for a pass over them."""
        return torch.randperm(len(self), generator=generator)

    def subset(self, indices: Tensor) -> "Files":
        """The images at `indices`, in that order."""
        chosen = indices.tolist()
        lists = {name: [getattr(self, name)[i] for i in chosen] for name in ("places", "names", "labels")}
        return replace(self, **lists)

    def limited(self, limit: int | None, seed: int = 0) -> "Files":
        """At most so many of the images, each class keeping its share."""
        if limit is None or limit >= len(self):
            return self
        return self.subset(torch.from_numpy(balanced_choice(np.array(self.labels), limit, seed)))

    def hash(self) -> str:
        """SHA-256 over names and labels (the pixels are not read)."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for name, label in zip(self.names, self.labels, strict=True):
            digest.update(f"{name} {label}\n".encode())
        return digest.hexdigest()

    def describe(self) -> str:
        """One sentence: which set, and how many images."""
        return f"{self.name} ({self.split}): {len(self):,} images in {self.num_classes} classes, read from their files."


def find_files(root: str | Path, processes: Processes, num_classes: int | None = None) -> tuple[Files, Files]:
    """The training and the validation images under a folder, as image folders or tar files.

    `root/train` and `root/val` hold a folder each class, or tar files with such folders in them, or a tar file each
    class; `root/train.tar` may stand for the first.

    Args:
        root: the folder, or its name in the folder that `DEEPVIT_EDU_DATA` names.
        processes: who read it together.
        num_classes: how many there are to be; as many as are found unless given.

    Raises:
        DataError: when this is not the data set that is wanted; the message says what is wrong.
    """
    root = _folder(root)
    train, val = (_open_split(root, split, processes) for split in ("train", "val"))
    _check_classes(train, val, num_classes, root)
    return train, val


def find_validation(root: str | Path, processes: Processes, num_classes: int | None = None) -> Files:
    """The validation images alone, checked as far as that can be."""
    root = _folder(root)
    val = _open_split(root, "val", processes)
    _check_count(val, num_classes, root)
    return val


def _folder(root: str | Path) -> Path:
    for folder in (expanded(root), expanded(variable("DEEPVIT_EDU_DATA", ".")) / root):
        if folder.is_dir():
            return folder
    raise DataError(f"there is no folder {root}; name the one that holds train and val")


def _split_path(root: Path, split: str) -> Path:
    for name in SPLITS[split]:
        for path in (root / name, root / f"{name}.tar"):
            if path.exists():
                return path
    raise DataError(f"{root} has no {SPLITS[split][0]}; put a folder of that name there, with one folder a class in it")


def _open_split(root: Path, split: str, processes: Processes) -> Files:
    path = _split_path(root, split)
    if path.suffix == ".tar" or any(path.glob("*.tar")):
        with _all_endings():
            reader = _open_tars(path, processes)
        names = [entry[0].path for entry in reader.samples]
        classes = sorted(reader.class_name_to_idx)  # as folders are; timm sorts the numbers in names by their size
        place = {reader.class_name_to_idx[name]: label for label, name in enumerate(classes)}
        labels = [place[int(label)] for label in reader.targets]
    else:
        classes = _class_folders(path)
        with _all_endings():
            reader = ReaderImageFolder(str(path), class_map={name: label for label, name in enumerate(classes)})
        if processes.is_first:
            _tell_left_out(path, classes)
        names = [Path(name).relative_to(path).as_posix() for name, _ in reader.samples]
        labels = [label for _, label in reader.samples]
    present = set(labels)
    for label, name in enumerate(classes):
        if label not in present:
            raise DataError(f"the class {name} in {path} holds no image; unpack it again")
    places = list(range(len(names)))
    return Files(reader, places, names, labels, classes, root.resolve().name, split)


@contextmanager
def _all_endings() -> Iterator[None]:
    """Within it, timm's readers take every ending that `data.load` takes, not three of them."""
    before = get_img_extensions()
    set_img_extensions(ENDINGS)
    try:
        yield
    finally:
        set_img_extensions(before)


def _tell_left_out(path: Path, classes: list[str]) -> None:
    left_out = [other for name in classes for other in pictures_in(path / name)[1]]
    if left_out:
        some = ", ".join(left_out[:3]) + (", …" if len(left_out) > 3 else "")
        warning = f"{len(left_out)} files of {path} are left out, no kind of picture that is read ({some})"
        warnings.warn(warning, stacklevel=4)


def _open_tars(path: Path, processes: Processes) -> ReaderImageInTar:
    folder, tars = (path.parent, [path]) if path.is_file() else (path, list(path.glob("*.tar")))
    index = folder / f"_{path.stem}_tarinfos.pickle"
    with processes.first_alone():  # the first writes the index
        changed = max(entry.stat().st_mtime for entry in (folder, *tars))
        if processes.is_first and index.is_file() and index.stat().st_mtime < changed:
            index.unlink()
        try:
            return ReaderImageInTar(str(path), cache_tarinfo=True, cache_tarfiles=len(tars) <= OPEN_TARS)
        except (AssertionError, ValueError, EOFError, pickle.UnpicklingError, tarfile.TarError) as error:
            raise DataError(
                f"the tar files of {path}, or their index, cannot be read ({error}); delete {index} where it is "
                "there, and fetch again what is damaged"
            ) from error


def _class_folders(path: Path) -> list[str]:
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    if not folders:
        raise DataError(f"{path} has no class folders; put the images of each class into a folder of its own")
    return folders


def _check_classes(train: Files, val: Files, num_classes: int | None, root: Path) -> None:
    _check_count(train, num_classes, root)
    _check_count(val, num_classes, root)
    if train.classes != val.classes:
        name = sorted(set(train.classes) ^ set(val.classes))[0]
        raise DataError(
            f"{root}: train and val have different classes ({name} is in one only); labels would be shifted"
        )
    if len(train) < len(val):
        raise DataError(
            f"{root}: train has {len(train)} images and val {len(val)}; the two look swapped, exchange their names"
        )


def _check_count(files: Files, num_classes: int | None, root: Path) -> None:
    if num_classes not in (None, files.num_classes):
        raise DataError(
            f"{root}: {files.split} has {files.num_classes} classes and the model {num_classes}; unpack what is "
            "missing, or set num_classes"
        )


def names_of(numbers: Tensor, files: Files) -> set[str]:
    """The names of images by their numbers; negative numbers are skipped."""
    return {files.names[number] for number in numbers.tolist() if number >= 0}
