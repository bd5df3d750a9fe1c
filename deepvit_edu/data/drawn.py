"""Sets that are drawn while they are used: fresh images without end, of which only one chunk is ever in memory.

The framed quarter: four figures of `shapes`, drawn independently, side by side; a red bar along the top of one of
them; the label is that one's class. Whoever does not see where the bar is can name any of the four, and is right about
one time in three at most. So the network has to find the bar, and to look only there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .image_set import ImageSet, check_memory
from .shapes import CHUNK, CLASSES, MEAN, STD, draw_shapes

FRAMED_QUARTER = "framed-quarter"
VERSION = 1
"""Of the drawing below and of `shapes`: raised with any change of a pixel, so that records tell the images apart."""

SIZE = 64
QUARTER = SIZE // 2
BAR = 3  # pixels
Draw = Callable[[int, str, int], tuple[Tensor, Tensor]]
RED = np.array([255, 0, 0], dtype=np.uint8)[:, None, None]
COUNT = {"train": 120_000, "test": 4_000}


class DrawnSet(ImageSet):
    """Images that are drawn on demand; the last chunk is kept in memory.

    Image i follows from the seed, the split and i alone. `batch` draws what it needs; `images` and `labels` draw the
    whole set.

    Args:
        name: of the set, as in a record.
        split: "train" or "test".
        count: how many images the set has.
        seed: of the images.
        img_size: their side in pixels.
        draw: draws chunk number k of `CHUNK` images: (seed, split, k) to images (CHUNK, 3, H, W) and labels (CHUNK,).
    """

    def __init__(self, name: str, split: str, count: int, seed: int, img_size: int, draw: Draw) -> None:
        self.name, self.split, self.rung = name, split, "shapes"
        self.classes, self.mean, self.std = list(CLASSES), MEAN, STD
        self.count, self.seed, self.draw = count, seed, draw
        self.device = torch.device("cpu")
        self._img_size = img_size
        self._chunk: tuple[int, Tensor, Tensor] | None = None  # number, images, labels
        self._whole: ImageSet | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def img_size(self) -> int:
        """The images' side in pixels."""
        return self._img_size

    @property
    def images(self) -> Tensor:
        """All images (N, 3, H, W), drawn now; DataError where they would not fit into memory."""
        return self.whole().images

    @property
    def labels(self) -> Tensor:
        """All labels (N,); the images are drawn for them."""
        return self.whole().labels

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images (B, 3, H, W) and labels (B,) at `indices`, on the set's device.

        Raises:
            IndexError: for an index out of range.
        """
        indices = indices.cpu()
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self.count:
            raise IndexError(f"{self.name} has the images 0 to {self.count - 1}")
        images = torch.empty(len(indices), 3, self.img_size, self.img_size, dtype=torch.uint8)
        labels = torch.empty(len(indices), dtype=torch.long)
        numbers = indices // CHUNK
        for number in numbers.unique().tolist():
            if self._chunk is None or self._chunk[0] != number:
                self._chunk = (number, *self.draw(self.seed, self.split, number))
            here, places = numbers == number, indices[numbers == number] - number * CHUNK
            images[here], labels[here] = self._chunk[1][places], self._chunk[2][places]
        return images.to(self.device), labels.to(self.device)

    def order(self, generator: torch.Generator) -> Tensor:
        """The images' numbers (N,) in a random order that draws each chunk once: chunks in turn, each shuffled."""
        chunks = torch.arange(self.count).split(CHUNK)
        turn = torch.randperm(len(chunks), generator=generator).tolist()
        return torch.cat([chunks[i][torch.randperm(len(chunks[i]), generator=generator)] for i in turn])

    def whole(self) -> ImageSet:
        """The set in memory, drawn once; DataError where it would not fit."""
        if self._whole is None:
            check_memory(self.count, self.img_size)
            images, labels = self.batch(torch.arange(self.count))
            about = {name: getattr(self, name) for name in ("classes", "name", "rung", "split", "mean", "std")}
            self._whole = ImageSet(images=images, labels=labels, **about, _hash=self.hash())
        return self._whole

    def subset(self, indices: Tensor | Sequence[int] | slice) -> ImageSet:
        """The images at `indices`, in memory."""
        return self.whole().subset(indices)

    def joined(self, other: ImageSet) -> ImageSet:
        """These images, then the other set's, in memory; the set itself where the other is empty."""
        return self.whole().joined(other) if len(other) else self

    def to(self, device: torch.device | str) -> DrawnSet:
        """The same set, which moves what it draws to `device`."""
        other = DrawnSet(self.name, self.split, self.count, self.seed, self.img_size, self.draw)
        other.device = torch.device(device)
        return other

    def hash(self) -> str:
        """SHA-256 of what the images follow from: the set's name and version, its seed, split and count."""
        known = f"{self.name} version {VERSION}, seed {self.seed}, {self.split}, {self.count} images"
        return hashlib.sha256(known.encode()).hexdigest()

    def describe(self) -> str:
        """One sentence: which set, how many images, of which size."""
        amount = f"{self.count:,} images of {self.img_size} × {self.img_size} pixels in {self.num_classes} classes"
        return f"{self.name} ({self.split}): {amount}, drawn when needed (version {VERSION}, seed {self.seed})."


def framed_quarter(split: str, *, count: int | None = None, seed: int = 0) -> DrawnSet:
    """The framed quarter, drawn while it is used: images (3, 64, 64) in the ten classes of `shapes`.

    Raises:
        ValueError: for a split that it does not have.
    """
    if split not in COUNT:
        raise ValueError(f"{FRAMED_QUARTER} has the splits train and test, not {split!r}.")
    count = COUNT[split] if count is None else count
    return DrawnSet(FRAMED_QUARTER, split, count, seed, SIZE, draw_framed_quarters)


def draw_framed_quarters(seed: int, split: str, number: int) -> tuple[Tensor, Tensor]:
    """Chunk `number` of the framed quarter: images, uint8 (1000, 3, 64, 64), and labels (1000,)."""
    stream = np.random.default_rng([VERSION, seed, list(COUNT).index(split), number])
    figures = draw_shapes(split, count=4 * CHUNK, img_size=QUARTER, seed=int(stream.integers(2**31)))
    order = stream.permutation(4 * CHUNK).reshape(CHUNK, 4)  # drawn figures are balanced in runs: mix them
    framed = stream.integers(4, size=CHUNK)
    parts = figures.images.numpy()[order]  # (1000, 4, 3, 32, 32)
    parts[np.arange(CHUNK), framed, :, :BAR] = RED
    rows = [np.concatenate((parts[:, left], parts[:, left + 1]), axis=-1) for left in (0, 2)]
    labels = figures.labels.numpy()[order[np.arange(CHUNK), framed]]
    return torch.from_numpy(np.concatenate(rows, axis=-2)), torch.from_numpy(labels)
