"""What every rung of the data ladder returns: images in memory, as bytes, with their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ORIGINS = {
    "shapes": "drawn on the spot",
    "folder": "from a folder of yours",
    "download": "from a checked download",
}
"""What each rung of the ladder is, in words."""
MEMORY_LIMIT = 8 * 2**30
"""Bytes of pixels that one set may take."""


class DataError(RuntimeError):
    """A data set that cannot be had or read; the message says why and what to do."""


@dataclass
class ImageSet:
    """Images and labels in memory.

    Shapes and units: `images` is uint8 `(N, 3, H, W)`, `labels` int64 `(N,)`; `mean` and `std` are per channel, of
    pixel values in 0..1. `rung` is the rung of the ladder that they come from: "shapes", "folder" or "download".
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    name: str
    rung: str
    split: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    _hash: str | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise DataError(f"{self.name} has {len(self.images)} images and {len(self.labels)} labels; copy it again")
        if self.labels.device.type != "cpu" or not len(self.labels):  # on a GPU the look would wait for it
            return
        low, high = self.labels.min().item(), self.labels.max().item()
        if low < 0 or high >= len(self.classes):
            raise DataError(
                f"{self.name} has the label {low if low < 0 else high}, and {len(self.classes)} classes from 0 on; "
                "copy the data set again"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def img_size(self) -> int:
        """The images' side in pixels."""
        return self.images.shape[-1]

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its tensors on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images (B, 3, H, W) and labels (B,) at `indices`."""
        return self.images.index_select(0, indices), self.labels[indices]

    def order(self, generator: torch.Generator) -> Tensor:
        """The images' numbers (N,) in a random order, for a pass over them."""
        return torch.randperm(len(self), generator=generator)

    def subset(self, indices: Tensor | Sequence[int] | slice) -> ImageSet:
        """The images at `indices`, in that order."""
        if not isinstance(indices, slice):
            indices = torch.as_tensor(indices, device=self.labels.device)
            indices = indices if indices.dtype == torch.bool else indices.long()
        return replace(self, images=self.images[indices], labels=self.labels[indices], _hash=None)

    def joined(self, other: ImageSet) -> ImageSet:
        """These images, then the other set's, which are of the same classes and size."""
        images, labels = torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels])
        return replace(self, images=images, labels=labels, _hash=None)

    def hash(self) -> str:
        """SHA-256 of shape, pixels and labels, in hexadecimal; computed once. Do not change the tensors in place."""
        if self._hash is None:
            digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
            digest.update(self.images.cpu().contiguous().numpy())
            digest.update(self.labels.cpu().contiguous().numpy().astype("<i8"))
            self._hash = digest.hexdigest()
        return self._hash

    def normalise(self, batch: Tensor) -> Tensor:
        """A uint8 batch `(B, 3, H, W)` as float32, each channel with about zero mean and unit deviation."""
        mean = 255 * torch.tensor(self.mean, device=batch.device).view(3, 1, 1)
        std = 255 * torch.tensor(self.std, device=batch.device).view(3, 1, 1)
        return batch.float().sub_(mean).div_(std)  # in place: a batch is large, and each copy costs a pass over it

    def describe(self) -> str:
        """One sentence: which rung, how many images, of which size."""
        origin = ORIGINS[self.rung]
        size = " × ".join(str(side) for side in self.images.shape[2:])
        amount = f"{len(self):,} images of {size} pixels in {self.num_classes} classes"
        return f"{self.name} ({self.split}): {amount}, {origin}."


def check_memory(count: int, img_size: int) -> None:
    """Raises DataError if `count` colour images of side `img_size` need more than `MEMORY_LIMIT` bytes."""
    needed = min(count * 3 * img_size**2, 2**100)  # a number that floats can tell
    if needed > MEMORY_LIMIT:
        raise DataError(
            f"{count:,} images of {img_size} pixels need {needed / 2**30:.1f} GB of memory, more than the "
            f"{MEMORY_LIMIT / 2**30:.3g} GB that a set may take; give a smaller `limit` or `img_size`."
        )


def balanced_choice(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Sorted indices of `limit` images drawn so that each class keeps its share, up to one image."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels))  # each image's place in its class, as a fraction of the class
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(order[np.argsort(rank[order], kind="stable")[:limit]])
