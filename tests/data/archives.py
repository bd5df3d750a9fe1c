"""Small stand-ins for the real data sets, made on the spot."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

FEW = 20


def write_images(
    folder: Path, splits=("train", "test"), classes=("cat", "dog"), count=6, size=(32, 32), suffix=".png", mode="RGB"
) -> Path:
    """`folder/<split>/<class>/000.png` …; the class's number is in the pixels' brightness."""
    stream = np.random.default_rng(0)
    for split in splits:
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = stream.integers(0, 60, (size[1], size[0], 3), dtype=np.uint8) + 60 * label
                image = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
                image.save(folder / split / name / f"{number:03}{suffix}")
    return folder


def cifar10_files(count: int = FEW) -> dict[str, bytes]:
    """The files of CIFAR-10's authors, with noise in place of images."""
    stream = np.random.default_rng(1)
    files = {"batches.meta": {"label_names": [f"class {number}" for number in range(10)]}}
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        pixels = stream.integers(0, 256, (count, 3072), dtype=np.uint8)
        files[name] = {"data": pixels, "labels": [number % 10 for number in range(count)]}
    return {name: pickle.dumps(content, protocol=2) for name, content in files.items()}


def cifar100_files(count: int = FEW) -> dict[str, bytes]:
    """The files of CIFAR-100's authors, with noise in place of images."""
    pixels = np.random.default_rng(2).integers(0, 256, (count, 3072), dtype=np.uint8)
    content = {"data": pixels, "fine_labels": [number % 100 for number in range(count)]}
    meta = {"fine_label_names": [f"class {number}" for number in range(100)]}
    return {
        name: pickle.dumps(value, protocol=2) for name, value in (("train", content), ("test", content), ("meta", meta))
    }


def tar_of(files: dict[str, bytes], folder: str) -> bytes:
    """A .tar.gz with the files in one folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}" if folder else name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
