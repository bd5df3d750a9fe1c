"""One picture from a file: which endings are read, what each mode of pixels means, and which way is up."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..reading import UnreadableError, reading

NOT_READ = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Kinds that Pillow knows by name and cannot read without another program."""
BESIDE = (".txt", ".csv", ".tsv", ".json", ".xml", ".md", ".html", ".yml", ".yaml", ".pickle", ".log", ".mat")
"""Endings of what usually lies beside pictures: lists, boxes, labels, notes."""
HIDDEN = ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "icon\r")
"""What operating systems add to folders by themselves."""

ORIENTATION = 0x0112
"""EXIF's number for how a camera was held."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By its value, what brings the picture upright."""

DRAFT = 8
"""A JPEG may be decoded at a half, quarter or eighth of its size, if that is still this many times the size asked for:
a smaller draft moves the pixels by several levels."""


def _endings() -> tuple[str, ...]:
    Image.init()
    known = Image.registered_extensions().items()
    return tuple(sorted(ending for ending, kind in known if kind in Image.OPEN and kind not in NOT_READ))


ENDINGS = _endings()
"""The endings of files that are read as pictures: whatever Pillow opens."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is a system's own, or hidden: it is passed over everywhere."""
    return name.startswith(".") or name.lower() in HIDDEN


def walk(folder: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder below `folder`, itself first, with the names of its files, in order and without what is hidden.

    Links are followed, but no folder is visited twice, so that a loop of links ends.
    """
    visited = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield where, sorted(name for name in names if not is_hidden(name))


def pictures_in(folder: str | Path) -> tuple[list[str], list[str]]:
    """The paths of all pictures below a folder, sorted, and of the files that no rule takes: no pictures by their
    ending, and not what usually lies beside some.
    """
    paths = [os.path.join(where, name) for where, names in walk(folder) for name in names]
    pictures = [path for path in paths if path.lower().endswith(ENDINGS)]
    others = [path for path in paths if not path.lower().endswith(ENDINGS + BESIDE)]
    return sorted(pictures), others


def as_rgb(image: Image.Image, upright: bool = True) -> Image.Image:
    """A picture of any mode in colours of 8 bits: the one rule of all readers.

    16 bits become the upper 8, floats from 0 to 1 become 0 to 255, transparency is left out, and a photograph is
    turned as its camera says.

    Args:
        image: as Pillow opened it.
        upright: whether to turn it. timm and torchvision do not, so nor do numbers that are compared with theirs.

    Raises:
        ValueError: for numbers that no rule fits, which would come out white or black.
    """
    if upright:
        image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_numbers(np.asarray(image), image.mode)
    # Palettes with transparency lose it through RGBA without a warning.
    return image.convert("RGBA").convert("RGB") if "transparency" in image.info else image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """A photograph turned as its camera says; where that is damaged, as it is stored, as viewers show it."""
    image.load()  # of some kinds only then it is known how it stands
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # EXIF is written by many programs, and breaks what reads it in any way
        return image
    return image if turn is None else image.transpose(turn)


def _from_numbers(pixels: np.ndarray, mode: str) -> Image.Image:
    largest = 1 if mode == "F" else 65535
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= largest):
        kind = "floats" if mode == "F" else "whole numbers"
        raise ValueError(
            f"its mode is {mode}, {kind} from {pixels.min():g} to {pixels.max():g}, and not 0 to {largest}; save it "
            "with 8 bits a colour"
        )
    return Image.fromarray(np.rint(pixels * (255 / largest)).astype(np.uint8)).convert("RGB")


def read_image(path: str | Path, img_size: int) -> np.ndarray:
    """One image as uint8 `(3, S, S)`: upright, its shorter side resized to `img_size` (bicubic), its centre kept.

    Raises:
        OSError: when it cannot be opened.
        UnreadableError: when it is damaged, too large to be one, or of numbers that no rule fits.
    """
    with reading(path), Image.open(path) as image:
        image.draft("RGB", (DRAFT * img_size, DRAFT * img_size))
        image = as_rgb(image)
        if image.size != (img_size, img_size):
            scale = img_size / min(image.size)
            wide, high = (max(img_size, round(side * scale)) for side in image.size)
            if wide * high > Image.MAX_IMAGE_PIXELS:
                raise UnreadableError(f"{path} would be {wide} × {high} pixels; it is too long and narrow")
            left, top = (wide - img_size) // 2, (high - img_size) // 2
            image = image.resize((wide, high), Image.Resampling.BICUBIC)
            image = image.crop((left, top, left + img_size, top + img_size))
        return np.asarray(image).transpose(2, 0, 1)


def shorter_side(path: str | Path) -> int:
    """The shorter side of a picture, in pixels; errors as of `read_image`."""
    with reading(path), Image.open(path) as image:
        return min(image.size)
