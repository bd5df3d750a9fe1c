"""Images that stay in their files, in folders or tar files as of ImageNet, and are read anew in every epoch."""

import hashlib
import io
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..data import DataError, ImageSet
from ..data.folders import SPLIT_FOLDERS, find_split, tell_left_out
from ..data.image_set import IMAGENET_MEAN, IMAGENET_STD, balanced_choice
from ..data.pictures import as_rgb
from ..data.tars import Place, pictures_in_tars
from ..environment import expanded, variable
from ..reading import UnreadableError, reading
from .processes import Processes

NARROWEST = 500
"""How many times longer than wide a picture may be: a crop of a longer one would be blown up to fill all memory."""


# Finding and checking the files


PREPARATION = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bicubic", "crop_pct": 0.9}
"""How test images are prepared, and all are normalised, unless a model says something else."""


@dataclass
class Files:
    """The images of a split, where they lie.

    Args:
        places: where each image's bytes lie.
        names, labels: of each image.
        classes: the classes' names, a label each.
        name: of the data set.
        split: "train" or "val".
        preparation: mean, standard deviation, interpolation and `crop_pct`, as in timm's `default_cfg`.
    """

    places: list[Place]
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
        """An image in colours, as it is in its file.

        Raises:
            OSError: when the file cannot be opened.
            UnreadableError: when it is no picture, damaged, or too large or narrow to be one.
        """
        place = self.places[number]
        with reading(place.path):
            image = as_rgb(Image.open(io.BytesIO(place.read())), upright=False)  # as timm and the papers
            if max(image.size) > NARROWEST * min(image.size):
                raise UnreadableError(f"{self.names[number]} is {image.width} × {image.height}, too long and narrow")
        return image

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
        digest = hashlib.sha256("\n".join(self.classes).encode(errors="surrogateescape"))
        for name, label in zip(self.names, self.labels, strict=True):
            digest.update(f"{name} {label}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def describe(self) -> str:
        """One sentence: which set, and how many images."""
        return f"{self.name} ({self.split}): {len(self):,} images in {self.num_classes} classes, read from their files."


def preparation_of(images: ImageSet | Files) -> dict:
    """How test images are prepared and normalised, for the file of a model that was measured on them."""
    if isinstance(images, Files):
        found = images.preparation
    else:  # the shorter side is resized, as `data.load` does it
        found = {**PREPARATION, "mean": images.mean, "std": images.std, "crop_pct": 1.0}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def find_files(root: str | Path, processes: Processes, num_classes: int | None = None) -> tuple[Files, Files]:
    """The training and the validation images under a folder, as image folders or tar files.

    `root/train` and `root/val` hold a folder each class, or tar files with such folders in them, or a tar file each
    class; `root/train.tar` may stand for the first. Folders are found and read as by `data.load`.

    Args:
        root: the folder, or its name in the folder that `DEEPVIT_EDU_DATA` names.
        processes: who read it together.
        num_classes: how many there are to be; as many as are found unless given.

    Raises:
        DataError: when this is not the data set that is wanted; the message says what is wrong.
    """
    root = _folder(root)
    train = _open_split(root, "train", processes)
    _check_count(train, num_classes, root)
    val = _open_split(root, "val", processes)
    _check_classes(train, val, num_classes, root)
    return train, val


def find_validation(root: str | Path, processes: Processes, num_classes: int | None = None) -> Files:
    """The validation images alone, checked as far as that can be."""
    root = _folder(root)
    val = _open_split(root, "val", processes, alone=True)
    _check_count(val, num_classes, root)
    return val


def _folder(root: str | Path) -> Path:
    for folder in (expanded(root), expanded(variable("DEEPVIT_EDU_DATA", ".")) / root):
        if folder.is_dir():
            return folder
    raise DataError(f"there is no folder {root}; name the one that holds train and val")


def _open_split(root: Path, split: str, processes: Processes, alone: bool = False) -> Files:
    tars = next(filter(_holds_tars, (root / name for name in _split_names(split))), None)
    if tars is not None:
        return _of_tars(root, split, tars, processes)
    found = find_split(root, split, tell=processes.is_first, alone=alone)
    chosen = sorted(zip(found.paths, found.labels.tolist(), strict=True), key=lambda entry: _natural_order(entry[0]))
    names = [Path(path).relative_to(found.folder).as_posix() for path, _ in chosen]
    places, labels = [Place(path) for path, _ in chosen], [label for _, label in chosen]
    return _checked(Files(places, names, labels, found.classes, root.resolve().name, split), found.folder)


def _split_names(split: str) -> list[str]:
    return [name for folder in SPLIT_FOLDERS[split] for name in (folder, f"{folder}.tar")]


def _holds_tars(path: Path) -> bool:
    return path.is_file() if path.suffix == ".tar" else any(path.glob("*.tar"))


def _of_tars(root: Path, split: str, path: Path, processes: Processes) -> Files:
    with processes.first_alone():  # the first writes the index
        entries, others = pictures_in_tars(path)
    if processes.is_first:
        tell_left_out(path, others)
    entries.sort(key=lambda entry: _natural_order(entry.name))
    classes = sorted({entry.label for entry in entries})
    label_of = {name: label for label, name in enumerate(classes)}
    labels = [label_of[entry.label] for entry in entries]
    places, names = [entry.place for entry in entries], [entry.name for entry in entries]
    return _checked(Files(places, names, labels, classes, root.resolve().name, split), path)


def _natural_order(name: str) -> list[str | int]:
    """What names are sorted by: 2 comes before 10."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", name.lower()))]


def _checked(files: Files, path: Path) -> Files:
    present = set(files.labels)
    for label, name in enumerate(files.classes):
        if label not in present:
            raise DataError(f"the class {name} in {path} holds no image; unpack it again")
    return files


def _check_classes(train: Files, val: Files, num_classes: int | None, root: Path) -> None:
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
