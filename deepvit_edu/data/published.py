"""CIFAR in its authors' layout: pickled batches (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import pickle
from pathlib import Path

import numpy as np
import torch

from ..reading import UnreadableError, reading, reason
from ..words import one_line
from .image_set import DataError, ImageSet

FILES = {
    ("cifar10", "train"): [f"data_batch_{number}" for number in range(1, 6)],
    ("cifar10", "test"): ["test_batch"],
    ("cifar100", "train"): ["train"],
    ("cifar100", "test"): ["test"],
}
LABELS = {"cifar10": ("labels", "batches.meta", "label_names"), "cifar100": ("fine_labels", "meta", "fine_label_names")}


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays and plain Python values; a pickle that asks for anything else runs nothing."""

    def find_class(self, module: str, name: str) -> object:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]  # the module has moved between versions of numpy
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which no CIFAR file has")


def load_published(folder: Path, name: str, split: str) -> ImageSet:
    """Reads "cifar10" or "cifar100" from the folder of their authors' archive.

    Raises:
        DataError: when a file is missing, cut or not what it should be.
    """
    labels_key, meta, names_key = LABELS[name]
    split = "test" if split == "val" else split
    batches, about = [_unpickle(folder / file) for file in FILES[name, split]], _unpickle(folder / meta)
    try:
        pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([np.asarray(batch[labels_key], dtype=np.int64) for batch in batches])
        classes = [str(label) for label in about[names_key]]
    except Exception as error:  # a batch can hold anything, and so can what it breaks
        raise DataError(
            f"{folder} is not the {name} of its authors ({reason(error)}); unpack its archive again"
        ) from error
    return ImageSet(torch.from_numpy(pixels), torch.from_numpy(labels), classes, name, "folder", split)


def _unpickle(path: Path) -> dict:
    try:
        with reading(path), open(path, "rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; unpack the data set's archive again") from error
    except (OSError, UnreadableError) as error:
        raise DataError(f"{one_line(error)}; unpack the data set's archive again") from error
