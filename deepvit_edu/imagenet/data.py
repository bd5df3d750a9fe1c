"""ImageNet from folders or tar files: checks at once, the same images in the same order however they are shared.

Everything random about an image or a batch follows from the seed and its number, never from the process that reads it.
"""

import atexit
import errno
import hashlib
import pickle
import signal
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path, PurePosixPath
from random import choice, random
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import posterize
from timm.data.loader import PrefetchLoader
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.utils import random_seed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import hflip, resized_crop

from ..data import DataError
from ..labels import check_label_maps, load_official_label_map
from ..train import seed_of
from .processes import Processes
from .recipe import ImageNetRecipe

SPLITS = {"train": ("train",), "val": ("val", "validation", "test")}
ASPECTS = (3 / 4, 4 / 3)
READ_ATTEMPTS = 10
OPEN_TARS = 64  # so many are kept open; a system has a limit, and every reader opens its own
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, tarfile.TarError)


# Finding and checking the files


@dataclass
class Files:
    """The images of a split: timm's reader of them, their names and classes (a label each), and the class names."""

    reader: Any
    names: list[str]
    labels: list[int]
    classes: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def hash(self) -> str:
        """SHA-256 over names and labels (the pixels are not read)."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for name, label in zip(self.names, self.labels, strict=True):
            digest.update(f"{name} {label}\n".encode())
        return digest.hexdigest()


def find_files(root: str | Path, num_classes: int, processes: Processes) -> tuple[Files, Files]:
    """The training and the validation images under a folder, as image folders or tar files.

    `root/train` and `root/val` hold a folder each class, or tar files with such folders in them, or a tar file each
    class; `root/train.tar` may stand for the first.

    Raises:
        DataError: when this is not the data set that the recipe wants; the message says what is wrong.
    """
    train, val = (_open_split(_split_path(Path(root), split), processes) for split in ("train", "val"))
    _check_classes(train, val, num_classes, Path(root))
    return train, val


def find_validation(root: str | Path, num_classes: int, processes: Processes) -> Files:
    """The validation images alone, checked as far as that can be."""
    val = _open_split(_split_path(Path(root), "val"), processes)
    _check_count(val, "val", num_classes, Path(root))
    return val


def _split_path(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; name the one that holds train and val")
    for name in SPLITS[split]:
        for path in (root / name, root / f"{name}.tar"):
            if path.exists():
                return path
    raise DataError(f"{root} has no {SPLITS[split][0]}; put a folder of that name there, with one folder a class in it")


def _open_split(path: Path, processes: Processes) -> Files:
    if path.suffix == ".tar" or any(path.glob("*.tar")):
        reader = _open_tars(path, processes)
        names = [entry[0].path for entry in reader.samples]
        classes = sorted(reader.class_name_to_idx)  # as folders are; timm sorts the numbers in names by their size
        place = {reader.class_name_to_idx[name]: label for label, name in enumerate(classes)}
        labels = [place[int(label)] for label in reader.targets]
    else:
        classes = _class_folders(path)
        reader = ReaderImageFolder(str(path), class_map={name: label for label, name in enumerate(classes)})
        names = [Path(name).relative_to(path).as_posix() for name, _ in reader.samples]
        labels = [label for _, label in reader.samples]
    present = set(labels)
    for label, name in enumerate(classes):
        if label not in present:
            raise DataError(f"the class {name} in {path} holds no image; unpack it again")
    return Files(reader, names, labels, classes)


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
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise DataError(f"{path} has no class folders; put the images of each class into a folder of its own")
    return folders


def _check_classes(train: Files, val: Files, num_classes: int, root: Path) -> None:
    _check_count(train, "train", num_classes, root)
    _check_count(val, "val", num_classes, root)
    if train.classes != val.classes:
        name = sorted(set(train.classes) ^ set(val.classes))[0]
        raise DataError(
            f"{root}: train and val have different classes ({name} is in one only); labels would be shifted"
        )
    if len(train) < len(val):
        raise DataError(
            f"{root}: train has {len(train)} images and val {len(val)}; the two look swapped, exchange their names"
        )


def _check_count(files: Files, split: str, num_classes: int, root: Path) -> None:
    if len(files.classes) != num_classes:
        raise DataError(
            f"{root}: {split} has {len(files.classes)} classes and the model {num_classes}; unpack what is missing, "
            f"or set num_classes"
        )


# One image


class Targets(NamedTuple):
    """What belongs to a batch of images, beside their pixels.

    `labels` (B,); `damaged` (B,) the number of an image that could not be read, -1 where all went well; `crops` (B, 4)
    and `mirrored` (B,) as in `labels.Views`; `label_maps` (B, 2, k, h, w), or (B, 0) where there are none.
    """

    labels: Tensor
    damaged: Tensor
    crops: Tensor
    mirrored: Tensor
    label_maps: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> "Targets":
        """All of it on a device; timm's loader asks for it."""
        return Targets(*(tensor.to(device=device, non_blocking=non_blocking) for tensor in self))


class TrainView:
    """timm's training augmentation, which also tells what part of the image is seen.

    Called with a PIL image, it gives uint8 (3, S, S), the crop as in `Targets`, and whether it was mirrored.
    """

    def __init__(self, recipe: ImageNetRecipe, mean: tuple[float, ...]) -> None:
        self.size, self.smallest, self.flip = recipe.img_size, recipe.smallest_crop, recipe.flip
        _, self.distort, self.finish = create_transform(
            recipe.img_size,
            is_training=True,
            use_prefetcher=True,
            separate=True,
            auto_augment=recipe.auto_augment or None,
            color_jitter=recipe.color_jitter,
            interpolation="random",
            mean=mean,
        )
        for step in self.distort.transforms:
            for operation in getattr(step, "ops", ()):
                if operation.name.startswith("Posterize"):
                    operation.aug_fn = _posterize

    def __call__(self, image: Image.Image) -> tuple[Tensor, list[float], bool]:
        """The pixels, the crop, and whether they are mirrored."""
        top, left, height, width = RandomResizedCropAndInterpolation.get_params(image, (self.smallest, 1.0), ASPECTS)
        method = choice((InterpolationMode.BILINEAR, InterpolationMode.BICUBIC))
        wide, high = image.size
        crop = [left / wide, top / high, (left + width) / wide, (top + height) / high]
        image = resized_crop(image, top, left, height, width, [self.size, self.size], method)
        mirrored = random() < self.flip
        image = hflip(image) if mirrored else image
        return torch.as_tensor(np.asarray(self.finish(self.distort(image)))), crop, mirrored


def _posterize(image: Image.Image, bits: int, **_: object) -> Image.Image:
    # The recipes' RandAugment asks for no bit at all now and then. That made black; today's Pillow refuses.
    return posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


class TestView:
    """timm's preparation of a test image: resized, the centre kept; uint8 (3, S, S), with the whole as crop."""

    __test__ = False  # it is no test of pytest's

    def __init__(self, config: dict, img_size: int) -> None:
        self.transform = create_transform(
            img_size,
            is_training=False,
            use_prefetcher=True,
            interpolation=config["interpolation"],
            crop_pct=config["crop_pct"],
            mean=config["mean"],
            std=config["std"],
        )

    def __call__(self, image: Image.Image) -> tuple[Tensor, list[float], bool]:
        """The pixels, the whole as crop, not mirrored."""
        return torch.as_tensor(np.asarray(self.transform(image))), [0.0, 0.0, 1.0, 1.0], False


class Pictures(Dataset):
    """Images by key (number, seed): pixels uint8 (3, S, S) and their `Targets`.

    An image that cannot be read is named in the targets, and the next one that can stands in for it.

    Args:
        files: where they lie.
        view: makes pixels, crop and mirrored of a PIL image.
        label_folder: label maps in the authors' layout, CLASS/NAME.pt; none unless given.
    """

    def __init__(self, files: Files, view: TrainView | TestView, label_folder: str | Path | None = None) -> None:
        self.files, self.view = files, view
        self.label_folder = Path(label_folder) if label_folder else None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Targets]:
        first, seed = key
        random_seed(seed)
        number, image = self._read(first)
        pixels, crop, mirrored = self.view(image)
        facts = (self.files.labels[number], -1 if number == first else first, crop, mirrored)
        return pixels, Targets(*map(torch.tensor, facts), self._label_map(number))

    def _read(self, first: int) -> tuple[int, Image.Image]:
        for attempt in range(READ_ATTEMPTS):
            number = (first + attempt) % len(self.files)
            try:
                return number, Image.open(self.files.reader[number][0]).convert("RGB")
            except UNREADABLE as error:
                if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
                    raise DataError(
                        "too many files are open; raise the limit (ulimit -n), or use fewer workers"
                    ) from error
        raise DataError(f"{READ_ATTEMPTS} images from {self.files.names[first]} on cannot be read; is the disk there?")

    def _label_map(self, number: int) -> Tensor:
        if self.label_folder is None:
            return torch.empty(0)
        name = PurePosixPath(self.files.names[number])
        path = self.label_folder / self.files.classes[self.files.labels[number]] / f"{name.stem}.pt"
        if not path.is_file():
            raise DataError(f"there is no label map {path}; fetch the label maps, or take a recipe without them")
        return check_label_maps(load_official_label_map(path), len(self.files.classes))[0]


# The order of images, and loaders


@dataclass(frozen=True)
class Share:
    """Which images each process sees at each step: a function of the seed, not of how many processes there are.

    A step's images are cut into batches of `batch_size`, dealt to the processes in turn.

    Args:
        images: in the data set.
        recipe: for the total batch, the batch and the seed.
        processes: for this one's part.
    """

    images: int
    recipe: ImageNetRecipe
    processes: Processes

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer an epoch; what does not fill a step is left out."""
        return self.images // self.recipe.total_batch

    @property
    def batches(self) -> range:
        """The numbers, within a step, of this process's batches."""
        count = self.processes.count
        return range(self.processes.rank, count * self.recipe.accumulation(count), count)

    def order(self, epoch: int) -> Tensor:
        """All images in the order of an epoch."""
        generator = torch.Generator().manual_seed(seed_of(self.recipe.seed, epoch))
        return torch.randperm(self.images, generator=generator)


class Batches(Sampler):
    """The keys of this process's batches, from a step on to the end of training."""

    def __init__(self, share: Share, first_step: int) -> None:
        self.share, self.first_step = share, first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        recipe, steps = self.share.recipe, self.share.steps_per_epoch
        for epoch in range(self.first_step // steps, recipe.total_epochs):
            order = self.share.order(epoch)
            start = self.first_step - epoch * steps if epoch == self.first_step // steps else 0
            for step in range(start, steps):
                for batch in self.share.batches:
                    at = step * recipe.total_batch + batch * recipe.batch_size
                    numbers = order[at : at + recipe.batch_size].tolist()
                    yield [(number, seed_of(recipe.seed, epoch, number)) for number in numbers]


class EveryNth(Sampler):
    """The keys of every image once, dealt to the processes, in batches; the last ones are smaller."""

    def __init__(self, images: int, batch_size: int, processes: Processes) -> None:
        self.numbers, self.batch_size = range(processes.rank, images, processes.count), batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, len(self.numbers), self.batch_size):
            yield [(number, 0) for number in self.numbers[start : start + self.batch_size]]


def load(pictures: Pictures, sampler: Sampler, config: dict, device: torch.device, workers: int) -> PrefetchLoader:
    """timm's loader, which normalises on the device; images float (B, 3, S, S) and `Targets`.

    Args:
        pictures: the images.
        sampler: of lists of keys, a batch each.
        config: the model's `default_cfg`, for mean and standard deviation.
        device: where the batches go.
        workers: processes that read ahead; 0 to read in this one.
    """
    loader = DataLoader(
        pictures,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=_ignore_requests_to_stop,
    )
    atexit.unregister(_end_readers)
    atexit.register(_end_readers)
    return PrefetchLoader(loader, mean=config["mean"], std=config["std"], device=device)


def _end_readers() -> None:
    # After an error that nobody caught, Python would wait for ever for readers that ignore requests to stop.
    for process in active_children():
        if process.daemon:
            process.kill()


def _ignore_requests_to_stop(worker: int) -> None:
    # They reach all processes of a job; a reader that ends on its own would break the step that is under way.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _collate(samples: list[tuple[Tensor, Targets]]) -> tuple[Tensor, Targets]:
    images, targets = zip(*samples, strict=True)
    columns = list(zip(*targets, strict=True))
    if len({label_map.shape for label_map in columns[-1]}) > 1:
        raise DataError("the label maps of these images differ in size; make them all with one size of image")
    return torch.stack(images), Targets(*map(torch.stack, columns))


def unreadable_names(damaged: Tensor, files: Files) -> set[str]:
    """The names of the images that a batch could not read."""
    return {files.names[number] for number in damaged.tolist() if number >= 0}
