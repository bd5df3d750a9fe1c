"""Files of tensors, the one way to read and write them: safetensors and PyTorch's; no code in them is executed.

Checksums are verified: PyTorch's files have some, and ours have one of all their tensors.
"""

import argparse
import codecs
import hashlib
import pathlib
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import atomic_path
from .reading import UnreadableError, reading

CHECKSUM = "sha256"
"""The name, in a file's metadata, of the checksum of its tensors."""


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """Writes tensors and words about them as safetensors, atomically, with a checksum.

    Raises:
        OSError: when it cannot be written; no half file stays.
    """
    # Copies, since tied blocks name one tensor several times and safetensors wants each name to have its own.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={**metadata, CHECKSUM: checksum(tensors)})
        except Exception as error:  # safetensors has an error of its own for a full disk
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), f"{path} was not written: {error}") from error
        temporary.chmod(0o644)  # for others to read, as all files here; safetensors shows it to its owner only
    return Path(path)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and the words about them.

    Raises:
        FileNotFoundError: when there is no such file.
        UnreadableError: when it is something else, cut, or not what its checksum says.
    """
    if not is_safetensors(path):
        raise UnreadableError(f"{path} {_what_else(path)}")
    with reading(path, "copy or train it again"), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if metadata.get(CHECKSUM) not in (None, checksum(tensors)):
            raise UnreadableError(f"{path} is damaged: its checksum does not fit; copy or train it again")
    return tensors, metadata


def read_pytorch(path: str | Path) -> object:
    """What `torch.save` wrote: tensors, and plain values of Python and NumPy. Nothing in it is executed.

    Raises:
        FileNotFoundError: when there is no such file.
        UnreadableError: when it is something else, cut, damaged, or holds code; the message says which.
    """
    path = _existing(path)
    if known := _other_kind(path):
        raise UnreadableError(f"{path} {known}")
    with reading(path, "it is cut or damaged; copy or download it again"):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch writes checksums and does not look at them
                if broken := archive.testzip():
                    raise ValueError(f"the checksum of {broken} does not fit")
        try:
            with torch.serialization.safe_globals(PLAIN_VALUES), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about files that are refused anyway
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch has many types for what is cut or damaged
            if code := re.search(r"(?:global|class) (\w+(?:\.\w+)+)", str(error), re.IGNORECASE):
                raise UnreadableError(
                    f"{path} is not a file of weights, or holds code ({code[1]}), which is not run; save its "
                    "state_dict alone"
                ) from error
            raise ValueError("it is not what torch.save writes") from error


def checksum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins like a safetensors file; FileNotFoundError if it does not exist."""
    return _begins_as_safetensors(_beginning(_existing(path)))


def check_finite(tensors: dict[str, Tensor], path: str | Path) -> None:
    """UnreadableError, naming it, where a tensor holds NaN or infinity."""
    for name, tensor in tensors.items():
        values = tensor.float() if tensor.element_size() == 1 else tensor  # PyTorch does not ask this of 8 bits
        if tensor.is_floating_point() and not values.isfinite().all():
            raise UnreadableError(f"{path} has a {name} that is not all finite numbers; take another file")


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path


def _beginning(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(512)


def _begins_as_safetensors(start: bytes) -> bool:
    return len(start) > 8 and start[8:9] == b"{"  # after the length of its header


def _other_kind(path: Path) -> str:
    """What a file is that holds no weights of PyTorch's, as the end of a sentence; empty for what may hold some."""
    start = _beginning(path)
    if not start:
        return "is empty; copy or download it again"
    if re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
        return "is a web page, not weights; open it to see what the page says, and download the file again"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`"
    if _begins_as_safetensors(start):
        ours = "one of deepvit_edu's own, load_model reads it" if b'"config"' in start else "load_model reads ours"
        return f"is a safetensors file; {ours}"
    return ""


def _what_else(path: Path) -> str:
    if zipfile.is_zipfile(path):
        return "is a file of PyTorch's; load_official reads those of the authors"
    return _other_kind(path) or "is no safetensors file, as deepvit_edu writes them"


def _plain_values() -> list:
    """What may stand beside weights: plain numbers of NumPy, paths, the options of a command line."""
    core = getattr(np, "_core", None) or np.core
    rebuilders = [core.multiarray.scalar, np.empty(0).__reduce__()[0]]
    named = [
        (each, f"numpy.{room}.multiarray.{each.__name__}") for each in rebuilders for room in ("core", "_core")
    ]  # the module has moved between versions of NumPy
    numbers = [type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdFDSU"]
    paths = [
        (kind, f"{room}.{name}")
        for room in ("pathlib", "pathlib._local")
        for name, kind in (
            ("PosixPath", pathlib.PurePosixPath),
            ("WindowsPath", pathlib.PureWindowsPath),
            ("PurePosixPath", pathlib.PurePosixPath),
            ("PureWindowsPath", pathlib.PureWindowsPath),
        )
    ]
    return [argparse.Namespace, np.dtype, np.ndarray, (codecs.encode, "_codecs.encode"), *named, *numbers, *paths]


PLAIN_VALUES = _plain_values()
