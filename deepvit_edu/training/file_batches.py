"""Batches of images from files, which timm augments one by one.

Everything random about an image follows from the seed, the epoch and its number, never from the process that reads it.
"""

import atexit
import errno
import os
import signal
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path, PurePosixPath
from random import choice, random
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import posterize
from timm.data.loader import PrefetchLoader
from timm.data.transforms import RandomResizedCropAndInterpolation
from timm.utils import random_seed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import hflip, resized_crop

from ..augment import Views
from ..data import DataError, ImageSet
from ..labels import check_label_maps, load_official_label_map
from ..nn.model import VisionTransformer
from .batches import Batch, StepSampler, seed_of
from .image_files import Files
from .processes import Processes
from .recipe import Recipe

ASPECTS = (3 / 4, 4 / 3)
READ_ATTEMPTS = 10
WORKERS = min(8, os.cpu_count() or 1)
"""Processes that read images ahead, unless a number is given."""
MOST_WORKERS = 1024


# One image


class Targets(NamedTuple):
    """What belongs to a batch of images, beside their pixels, as in `Batch`.

    `labels`, `numbers` and `readable` (B,), `crops` (B, 4) and `mirrored` (B,) of the `Views`, and `label_maps`
    (B, 2, k, h, w), or (B, 0) where there are none.
    """

    labels: Tensor
    numbers: Tensor
    readable: Tensor
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

    def __init__(self, recipe: Recipe, img_size: int, mean: tuple[float, ...]) -> None:
        self.size, self.smallest, self.flip = img_size, recipe.smallest_crop, recipe.flip
        _, self.distort, self.finish = create_transform(
            img_size,
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


class ImageFiles(Dataset):
    """Images by key (number, seed): pixels uint8 (3, S, S) and their `Targets`.

    An unreadable image is replaced by the next readable one; the targets say so.

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
        facts = (self.files.labels[number], first, number == first, crop, mirrored)
        return pixels, Targets(*map(torch.tensor, facts), self._label_map(number))

    def _read(self, first: int) -> tuple[int, Image.Image]:
        for attempt in range(READ_ATTEMPTS):
            number = (first + attempt) % len(self.files)
            try:
                return number, self.files.open(number)
            except (OSError, ValueError) as error:
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


class Keys(Sampler):
    """The keys of this process's batches, from a step on to the end of training."""

    def __init__(self, sampler: StepSampler, first_step: int) -> None:
        self.sampler, self.first_step = sampler, first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        seed = self.sampler.recipe.seed
        for step in self.sampler.steps(self.first_step):
            epoch = step // self.sampler.steps_per_epoch
            for batch in self.sampler.batches:
                numbers = self.sampler.images(step, batch).tolist()
                yield [(number, seed_of(seed, epoch, number)) for number in numbers]


class EveryNth(Sampler):
    """The keys of every image once, dealt to the processes, in batches; the last ones are smaller."""

    def __init__(self, images: int, batch_size: int, processes: Processes) -> None:
        self.numbers, self.batch_size = range(processes.rank, images, processes.count), batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, len(self.numbers), self.batch_size):
            yield [(number, 0) for number in self.numbers[start : start + self.batch_size]]


def load(pictures: ImageFiles, sampler: Sampler, device: torch.device, workers: int) -> Iterator[Batch]:
    """Batches of images, normalised on the device by timm's loader.

    Args:
        pictures: the images.
        sampler: of lists of keys, a batch each.
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
    files = pictures.files
    for images, targets in PrefetchLoader(loader, mean=files.mean, std=files.std, device=device):
        label_maps = targets.label_maps if pictures.label_folder else None
        views = Views(targets.crops, targets.mirrored)
        yield Batch(images, targets.labels, targets.numbers, views, label_maps, targets.readable)


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


class FileBatches:
    """Batches of images from files, augmented one by one as timm does.

    Args:
        train_set, test_set: the images.
        recipe: how to augment.
        model: which says how large images are.
        processes: which share each step.
        label_maps: folder of label maps in the authors' layout, CLASS/NAME.pt; none unless given.
        workers: processes that read ahead, for each training process.

    Raises:
        ValueError: when the recipe learns from label maps and there are none.
        FileNotFoundError: when there is no such folder of label maps.
    """

    label_maps_hash = None  # they are too many to read at the start

    def __init__(
        self,
        train_set: Files,
        test_set: Files,
        recipe: Recipe,
        model: VisionTransformer,
        processes: Processes,
        label_maps: str | Path | None = None,
        workers: int = WORKERS,
    ) -> None:
        if recipe.token_weight and not label_maps:
            raise ValueError("this recipe learns from label maps; name their folder with --label-maps")
        if label_maps and not Path(label_maps).is_dir():
            raise FileNotFoundError(f"there is no folder {label_maps}; name the one that holds the label maps")
        self.train_set, self.test_set, self.img_size = train_set, test_set, model.config.img_size
        self.recipe, self.sampler, self.device = recipe, StepSampler(train_set, recipe, processes), processes.device
        self.label_maps, self.workers = label_maps, workers

    def training(self, first_step: int) -> Iterator[Batch]:
        """This process's batches from a step on, one after the other; each leaves the generators as its seed does."""
        view = TrainView(self.recipe, self.img_size, self.train_set.mean)
        pictures = ImageFiles(self.train_set, view, self.label_maps)
        batches = load(pictures, Keys(self.sampler, first_step), self.device, self.workers)
        for step in self.sampler.steps(first_step):
            for number in self.sampler.batches:
                batch = next(batches)  # which draws numbers too
                self.sampler.set_seed(step, number)
                yield batch


def file_test_batches(
    files: Files, img_size: int, batch_size: int, processes: Processes, workers: int
) -> Iterator[Batch]:
    """Images from files as a test sees them, in order and dealt to the processes."""
    pictures = ImageFiles(files, TestView(files.preparation, img_size))
    return load(pictures, EveryNth(len(files), batch_size, processes), processes.device, workers)


def read_all(files: Files, img_size: int) -> ImageSet:
    """Images from files as a test sees them, in memory."""
    view = TestView(files.preparation, img_size)
    images = torch.stack([view(files.open(number))[0] for number in range(len(files))])
    about = {key: getattr(files, key) for key in ("classes", "name", "rung", "split", "mean", "std")}
    return ImageSet(images=images, labels=torch.tensor(files.labels), **about)
