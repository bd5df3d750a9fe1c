"""How fast batches of images are made: ours, from whole sets on the device, beside those of torchvision's loader."""

import time
from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ..augment import random_crop, random_flip
from ..data import ImageSet, draw_shapes
from ..words import align
from .rounds import quartiles_text, rate_row, wait_for


class _AsTorchvision(Dataset):
    """Images one by one through torchvision's transforms, as `torchvision.datasets.CIFAR10` gives them."""

    def __init__(self, images: ImageSet, padding: int) -> None:
        self.images, self.labels = images.images.permute(0, 2, 3, 1).numpy(), images.labels.tolist()
        steps = [transforms.RandomCrop(images.img_size, padding), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose(
            [*steps, transforms.ToTensor(), transforms.Normalize(images.mean, images.std)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def our_batches(images: ImageSet, batch_size: int, padding: int) -> Iterator[Tensor]:
    """One epoch of augmented, normalised batches, made on the images' device."""
    order = torch.randperm(len(images), device=images.images.device)
    for chosen in order.split(batch_size):
        yield images.normalise(random_flip(random_crop(images.images.index_select(0, chosen), padding)))


def time_loading(
    count: int = 10_000, batch_size: int = 256, workers: int = 2, rounds: int = 5, device: str = "cpu"
) -> list[dict]:
    """Images per second of our batches and of a torchvision DataLoader's: same crop, flip and normalisation.

    The two take turns, an epoch each. The DataLoader's processes are started before the clock.

    Args:
        count: images of 32 pixels in an epoch.
        batch_size: images a batch.
        workers: processes of the DataLoader.
        rounds: how often each is timed, after one round to warm up.
        device: where our batches are made; those of the DataLoader are moved there.

    Returns:
        one flat row per arm: medians and quartiles, "speedup" over the DataLoader within a round.
    """
    images = draw_shapes("train", count=count, img_size=32)
    loader = DataLoader(
        _AsTorchvision(images, 4), batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    here = images.to(device)
    arms = {
        f"torchvision DataLoader, {workers} workers": lambda: (batch.to(device) for batch, _ in loader),
        f"whole set on the {torch.device(device).type}, batched": lambda: our_batches(here, batch_size, 4),
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        for name, batches in arms.items():
            rate = _images_per_second(batches(), count)
            if number:  # the first round warms up, and starts the loader's processes
                rates[name].append(rate)
    slow = next(iter(rates.values()))
    return [{"path": name, **rate_row(values, slow)} for name, values in rates.items()]


def _images_per_second(batches: Iterator[Tensor], count: int) -> float:
    start = time.perf_counter()
    for batch in batches:
        last = batch
    wait_for(last.device)
    return count / (time.perf_counter() - start)


def loading_table(rows: list[dict]) -> str:
    """The rows of `time_loading` as text: medians, and in brackets the quartiles."""
    lines = [("batches from", "images/s", "times as fast")]
    for row in rows:
        lines.append((row["path"], quartiles_text(row, "images_per_second", 0), quartiles_text(row, "speedup", 1)))
    return align(lines)
