"""The `shapes` data set: drawn on the spot, and made so that local texture and global layout both matter.

A class is a pair of a layout (where the figure's pixels are) and a texture (what a small patch of it looks like). Of
the 25 pairs, ten are used, so that each layout occurs with two textures and each texture with two layouts. Whoever
sees only one of the two can therefore be right at most half the time. All layouts have the same area and all
colours are random, so that neither gives the other away.

Pixels are computed in float32 with operations that IEEE 754 rounds exactly (no sines), so that one seed gives the
same bytes on every machine.
"""

from __future__ import annotations

import numpy as np
import torch

from .image_set import ImageSet, check_memory

LAYOUTS = ("disc", "ring", "cross", "triangle", "pair")
TEXTURES = ("striped", "checked", "dotted", "speckled", "plain")
PAIRS = [(layout, (layout + shift) % 5) for layout in range(5) for shift in (0, 1)]
CLASSES = [f"{TEXTURES[texture]} {LAYOUTS[layout]}" for layout, texture in PAIRS]

DEFAULT_COUNT = {"train": 8000, "test": 2000}
DEFAULT_SIZE = 32
SMALLEST, LARGEST = 32, 224
MEAN = (0.5, 0.5, 0.5)
STD = (0.3, 0.3, 0.3)
CHUNK = 1000  # images drawn at once; each chunk has its own random stream, so a shorter set is a prefix of a longer one
BLOCK = 100  # images in work at a time, to bound the memory; even, so that the noise's bytes come in whole words


def draw_shapes(
    split: str, *, count: int | None = None, img_size: int | None = None, seed: int = 0, hide: str | None = None
) -> ImageSet:
    """Draws `count` images `(count, 3, img_size, img_size)`; the classes are equally frequent in each 1,000.

    `hide="layout"` lets each texture fill its image and `hide="texture"` draws each figure plain, with everything else
    the same: each image then fits two classes equally well, so that nobody can be right more than half the time.
    Raises ValueError for an unknown split or `hide`, or a size out of range.
    """
    if split not in DEFAULT_COUNT:
        raise ValueError(f"shapes has the splits train and test, not {split!r}.")
    count = DEFAULT_COUNT[split] if count is None else count
    size = DEFAULT_SIZE if img_size is None else img_size
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"shapes can be drawn at {SMALLEST} to {LARGEST} pixels, not {size}.")
    if hide not in (None, "layout", "texture"):
        raise ValueError(f'hide is None, "layout" or "texture", not {hide!r}.')
    check_memory(count, size)
    images = np.empty((count, 3, size, size), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    for number, start in enumerate(range(0, count, CHUNK)):
        stream = np.random.default_rng([seed, list(DEFAULT_COUNT).index(split), size, number])
        stop = min(start + CHUNK, count)
        # Always all labels and parameters of a chunk, so that the last, shorter one is a prefix too.
        chunk_labels = stream.permutation(np.arange(CHUNK) % len(CLASSES))
        labels[start:stop] = chunk_labels[: stop - start]
        _draw_chunk(stream, chunk_labels, images[start:stop], hide)
    return ImageSet(
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels),
        classes=list(CLASSES),
        name="shapes",
        rung="shapes",
        split=split,
        mean=MEAN,
        std=STD,
    )


def _draw_chunk(stream: np.random.Generator, labels: np.ndarray, out: np.ndarray, hide: str | None) -> None:
    """Draws the first `len(out)` images of a chunk into `out`, uint8 `(n, 3, S, S)`."""
    parameters = _random_parameters(stream, len(labels))
    noise = np.random.default_rng(int(stream.integers(2**31)))
    for start in range(0, len(out), BLOCK):
        block = slice(start, min(start + BLOCK, len(out)))
        chosen = {name: values[block] for name, values in parameters.items()}
        _draw_block(noise, labels[block], chosen, out[block], hide)


def _draw_block(
    noise: np.random.Generator, labels: np.ndarray, parameters: dict[str, np.ndarray], out: np.ndarray, hide: str | None
) -> None:
    """Draws `len(out)` images with these labels `(n,)` and parameters into `out`, uint8 `(n, 3, S, S)`."""
    layout, texture = np.array(PAIRS)[labels].T
    if hide == "texture":
        texture = np.full_like(texture, TEXTURES.index("plain"))
    size = out.shape[-1]

    axis = ((np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)) * 2 - 1
    x, y = axis[None, None, :] - parameters["x"], axis[None, :, None] - parameters["y"]  # (n, 1, S), (n, S, 1)
    turned = _rotate(x, y, parameters["turn"])
    inside = _per_kind(layout, _SIGNED_DISTANCES, turned, parameters["scale"])  # (n, S, S)
    inside = np.clip(np.float32(0.5) - inside * np.float32(size / 2), 0, 1)  # one pixel of soft edge
    if hide == "layout":
        inside = np.ones_like(inside)

    u, v = _rotate(x, y, parameters["slant"])
    waves = (u * parameters["frequency"] + parameters["phase"], v * parameters["frequency"] + parameters["phase_2"])
    pattern = _per_kind(texture, _PATTERNS, waves, parameters["salt"])  # (n, S, S) in 0..1

    # The sum of two uniform bytes: a bump around zero, exact on every machine.
    grain = noise.integers(0, 256, (len(out), 3, 2, size, size), dtype=np.uint8)
    slope = parameters["slope"] * (axis[None, None, :] + axis[None, :, None])
    for index in range(3):
        light, dark, ground = (parameters[name][:, index] for name in ("light", "dark", "ground"))
        figure = dark + (light - dark) * pattern
        channel = ground + slope
        channel = channel + (figure - channel) * inside
        channel += (grain[:, index, 0].astype(np.float32) + grain[:, index, 1] - 255) * parameters["noise"]
        out[:, index] = np.clip(channel * 255 + np.float32(0.5), 0, 255).astype(np.uint8)


def _random_parameters(stream: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Everything about an image that its class leaves free, each `(count, 1, 1)`, colours `(count, 3, 1, 1)`."""

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return stream.uniform(low, high, (count, *shape, 1, 1)).astype(np.float32)

    contrast = uniform(0.32, 0.5, 1)
    middle = uniform(0.35, 0.65, 3)
    # The ground differs from the figure's mean colour in a random direction, so no colour belongs to a class.
    direction = np.where(stream.random((count, 1, 1, 1)) < 0.5, -1, 1).astype(np.float32)
    ground = np.clip(middle + direction * uniform(0.25, 0.4, 1) + uniform(-0.1, 0.1, 3), 0, 1)
    return {
        "x": uniform(-0.15, 0.15),
        "y": uniform(-0.15, 0.15),
        "scale": uniform(0.85, 1.15),
        "turn": uniform(-0.25, 0.25),  # radians
        "slant": uniform(0.6, 1.0),  # radians: stripes run diagonally
        "frequency": uniform(3.0, 3.8),  # cycles per unit of length; the image is two units wide
        "phase": uniform(0, 1),
        "phase_2": uniform(0, 1),
        "salt": uniform(0, 4096),
        "light": middle + contrast / 2,
        "dark": middle - contrast / 2,
        "ground": ground,
        "slope": uniform(-0.06, 0.06),
        "noise": uniform(0.02, 0.05) / np.float32(104),  # 104: the deviation of the sum of two uniform bytes
    }


def _rotate(x: np.ndarray, y: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates `(n, S, S)` in axes turned by `angle` radians."""
    cosine = np.cos(angle.astype(np.float64)).astype(np.float32)
    sine = np.sin(angle.astype(np.float64)).astype(np.float32)
    return x * cosine + y * sine, y * cosine - x * sine


def _per_kind(kinds: np.ndarray, functions: tuple, pair: tuple, extra: np.ndarray) -> np.ndarray:
    """Calls `functions[kind]` on the images of each kind; returns `(n, S, S)`."""
    result = np.empty(pair[0].shape, dtype=np.float32)
    for kind, function in enumerate(functions):
        chosen = np.flatnonzero(kinds == kind)
        result[chosen] = function(pair[0][chosen], pair[1][chosen], extra[chosen])
    return result


# Layouts: signed distances to the figure's edge, negative inside; every figure covers 1.13 square units at scale 1.


def _disc(x: np.ndarray, y: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - np.float32(0.60) * scale


def _ring(x: np.ndarray, y: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(0.60) * scale) - np.float32(0.15) * scale


def _cross(x: np.ndarray, y: np.ndarray, scale: np.ndarray) -> np.ndarray:
    long, short = np.float32(0.70) * scale, np.float32(0.255) * scale
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - long, y - short), np.maximum(x - short, y - long))


def _triangle(x: np.ndarray, y: np.ndarray, scale: np.ndarray) -> np.ndarray:
    # Equilateral, point up: the distance of the centre from each side is 0.466.
    sides = np.maximum(np.abs(x) * np.float32(0.8660254) - y * np.float32(0.5), y)
    return sides - np.float32(0.466) * scale


def _pair(x: np.ndarray, y: np.ndarray, scale: np.ndarray) -> np.ndarray:
    x = np.abs(x) - np.float32(0.47) * scale
    return np.sqrt(x * x + y * y) - np.float32(0.424) * scale


# Textures: brightness in 0..1, its mean near a half, as functions of two wave coordinates (one period each).


def _zigzag(wave: np.ndarray) -> np.ndarray:
    """A triangle wave in -1..1 of period 1."""
    return np.abs(wave - np.floor(wave) - np.float32(0.5)) * 4 - 1


def _striped(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    return np.clip(_zigzag(u) + np.float32(0.5), 0, 1)


def _checked(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    half = np.float32(0.5)
    return np.clip(_zigzag(u * half) * _zigzag(v * half) * 3 + half, 0, 1)


def _dotted(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    x, y = u - np.floor(u) - np.float32(0.5), v - np.floor(v) - np.float32(0.5)
    return np.clip((np.float32(0.42) - np.sqrt(x * x + y * y)) * 6 + np.float32(0.5), 0, 1)


def _speckled(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    # A hash of the cell's number: cells of a third of a period, each light or dark at random.
    column = np.floor(u * 3).astype(np.int64) + 64
    row = np.floor(v * 3).astype(np.int64) + 64
    mixed = column * 73856093 ^ row * 19349663 ^ salt.astype(np.int64) * 83492791
    mixed = (mixed ^ mixed >> 13) * 1274126177 & 0xFFFFFFFF
    return ((mixed >> 16) % 256).astype(np.float32) / 255


def _plain(u: np.ndarray, v: np.ndarray, salt: np.ndarray) -> np.ndarray:
    return np.full(u.shape, 0.5, dtype=np.float32)


_SIGNED_DISTANCES = (_disc, _ring, _cross, _triangle, _pair)
_PATTERNS = (_striped, _checked, _dotted, _speckled, _plain)
