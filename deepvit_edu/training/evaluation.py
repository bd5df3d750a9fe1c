"""Measuring a model: on sets in memory and on images from files, alone or among several processes."""

import json
import pkgutil
import re
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import DataError, ImageSet
from ..devices import autocast, pick_device, pick_precision
from ..options import LARGEST_COUNT, check_number
from ..reading import read_json
from ..tensors import read_pytorch
from ..yaml_files import read_yaml
from .batches import Batch, test_batches
from .file_batches import MOST_WORKERS, WORKERS, file_test_batches
from .image_files import Files, names_of
from .processes import Processes

REAL_CLASSES = 1000
TOLERANCE = 0.1
"""Percentage points by which top-1 may differ from the authors' number: resizing and decoding have changed since."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: ImageSet | Files,
    batch_size: int = 500,
    device: str | torch.device | None = None,
    *,
    precision: str = "float32",
    real_labels: list[list[int]] | None = None,
    processes: Processes | None = None,
    workers: int = WORKERS,
) -> dict:
    """Measures a model in eval mode, every image once however many processes share them.

    Args:
        model: images (B, 3, S, S) to logits (B, K).
        dataset: the images.
        batch_size: images at a time in each process.
        device: where to compute; where the model is unless given.
        precision: as of a `Recipe`.
        real_labels: for each image all labels that are right, as `real_labels_of` gives them.
        processes: who shares the images; this process alone unless given.
        workers: processes that read images from files ahead, for each.

    Returns:
        `loss` (mean cross-entropy), `accuracy` and `top5` (fractions), `real` (None without such labels), `images`,
        `unreadable` (names), `seconds` and `images_per_second`.
    """
    if not len(dataset):
        raise ValueError(f"{dataset.name} has no images to evaluate on; choose more")
    check_number("batch_size", batch_size, whole=True, at_least=1, at_most=LARGEST_COUNT)
    check_number("workers", workers, whole=True, at_least=0, at_most=MOST_WORKERS)
    if processes is None:
        processes = Processes(0, 1, next(model.parameters()).device if device is None else pick_device(device))
    dtype, was_training = pick_precision(precision, processes.device), model.training
    model.to(processes.device).eval()
    sums = torch.zeros(6, dtype=torch.float64)  # as `_sums` gives them
    start, unreadable = time.perf_counter(), set()
    for batch in _batches(dataset, model, batch_size, processes, workers):
        with autocast(processes.device, dtype):
            logits = model(batch.images).float()
        if batch.readable is not None and not batch.readable.all():
            unreadable |= names_of(batch.numbers[~batch.readable], dataset)
            logits, batch = logits[batch.readable], _readable(batch)
        sums += _sums(logits, batch, real_labels)
    model.train(was_training)
    count, right, top5, loss, with_real, real = processes.total(sums).tolist()
    if not count:
        raise DataError(f"not one of the images of {dataset.name} can be read; is the disk there?")
    seconds = time.perf_counter() - start
    return {
        "loss": loss / count,
        "accuracy": right / count,
        "top5": top5 / count,
        "real": real / with_real if with_real else None,
        "images": int(count),
        "unreadable": sorted(processes.gather(unreadable)),
        "seconds": seconds,
        "images_per_second": count / seconds,
    }


def _batches(
    dataset: ImageSet | Files, model: nn.Module, batch_size: int, processes: Processes, workers: int
) -> Iterator[Batch]:
    if isinstance(dataset, Files):
        return file_test_batches(dataset, model.config.img_size, batch_size, processes, workers)
    return test_batches(dataset, batch_size, processes)


def _readable(batch: Batch) -> Batch:
    return batch._replace(labels=batch.labels[batch.readable], numbers=batch.numbers[batch.readable])


def _sums(logits: Tensor, batch: Batch, real_labels: list[list[int]] | None) -> Tensor:
    """Images, right ones, those right among five guesses, loss, images with ReaL labels, right ones of these."""
    labels = batch.labels
    if not len(labels):
        return torch.zeros(6, dtype=torch.float64)
    guesses = logits.argmax(dim=1)
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    right, in_five = (guesses == labels).sum().item(), (best == labels[:, None]).sum().item()
    judged = []
    if real_labels:
        known = [real_labels[number] for number in batch.numbers.tolist()]
        judged = [guess in real for guess, real in zip(guesses.tolist(), known, strict=True) if real]
    loss = F.cross_entropy(logits, labels, reduction="sum").item()
    return torch.tensor([len(labels), right, in_five, loss, len(judged), sum(judged)], dtype=torch.float64)


# ImageNet-ReaL, and what the authors published


def real_labels_of(files: Files, path: str | Path) -> list[list[int]]:
    """ImageNet-ReaL (Beyer et al. 2020): for each of the files all labels that are right.

    ILSVRC2012_val_00000001.JPEG has the first entry, and so on: the entries follow the numbers in the names.

    Args:
        files: ImageNet's validation images.
        path: their `real.json`, or "timm" for the copy that timm carries.

    Raises:
        ValueError: when the file holds no such labels, or they cannot be those of these images.
    """
    labels = _read_real_labels(path)
    if files.num_classes != REAL_CLASSES:
        raise ValueError(
            f"ImageNet-ReaL has labels of {REAL_CLASSES} classes, the data {files.num_classes}; leave out --real-labels"
        )
    numbers = [_number_of(name) for name in files.names]
    for name, number in zip(files.names, numbers, strict=True):
        if not 1 <= number <= len(labels):
            raise ValueError(
                f"{name} is not one of the {len(labels)} images that ImageNet-ReaL labels; use the validation "
                "images under their own names, or leave out --real-labels"
            )
    return [labels[number - 1] for number in numbers]


def _read_real_labels(path: str | Path) -> list[list[int]]:
    own = "_info/imagenet_real_labels.json"
    labels = json.loads(pkgutil.get_data("timm.data", own)) if str(path) == "timm" else read_json(path)
    if not isinstance(labels, list) or not all(map(_is_list_of_classes, labels)):
        raise ValueError(f"{path} holds no list of labels for each image; fetch real.json of ImageNet-ReaL again")
    return labels


def _is_list_of_classes(entry: object) -> bool:
    return isinstance(entry, list) and all(isinstance(label, int) and 0 <= label < REAL_CLASSES for label in entry)


def _number_of(name: str) -> int:
    """The number at the end of a file's name; 0, which no image has, if there is no number."""
    found = re.search(r"(\d+)\.\w+$", name)
    return int(found[1]) if found else 0


def released() -> list[dict]:
    """The authors' files: `file`, our `model`, `img_size`, and `top1` in percent as they give it."""
    return read_yaml(Path(__file__).parent / "released.yml")


def expected_top1(path: str | Path, img_size: int) -> dict[str, float]:
    """What an authors' file says of its top-1, as "file_top1", and they, as "published_top1"; both in percent.

    Each is there only where something is said, of images of `img_size` pixels.
    """
    content = read_pytorch(path)
    metric = content.get("metric") if isinstance(content, dict) else None
    accuracies = {"file_top1": float(metric)} if isinstance(metric, int | float) else {}
    for entry in released():
        if entry["file"] == Path(path).name and entry["img_size"] == img_size:
            accuracies["published_top1"] = entry["top1"]
    return accuracies
