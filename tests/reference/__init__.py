"""What the authors' models answer under weights that anyone can draw again from names alone.

`keys_*.txt` lists the layout of a released model: name, shape and type of each entry. `logits_*.npz` holds what
the authors' code answers under `weights(...)` to `images(...)`: in eval mode, and where given with batch statistics.
"""

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepvit_edu.nn.model import sinusoid

HERE = Path(__file__).resolve().parent


def layout(name: str) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a released model's weights."""
    rows = (line.split("\t") for line in (HERE / f"keys_{name}.txt").read_text().splitlines())
    return {key: tuple(int(size) for size in shape.strip("()").split(",") if size.strip()) for key, shape, _ in rows}


def weights(name: str) -> dict[str, Tensor]:
    """The layout, filled; no entry has a value such as 0 or 1 behind which a mistake could hide."""
    shapes = layout(name)
    fixed_positions = "tokens_to_token.project.weight" in shapes
    filled = {key: _fill(key, shape) for key, shape in shapes.items()}
    if fixed_positions:
        filled["pos_embed"] = sinusoid(*shapes["pos_embed"][1:])
    return filled


def images() -> Tensor:
    """The two images, (2, 3, 224, 224)."""
    return torch.randn(2, 3, 224, 224, generator=_generator("input2x224"))


def answers(name: str) -> dict[str, Tensor]:
    """The authors' logits: `logits`, and where given `train_logits` and `train_aux_logits`."""
    with np.load(HERE / f"logits_{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def _generator(tag: str) -> torch.Generator:
    seed = int.from_bytes(hashlib.sha256(f"0:{tag}".encode()).digest()[:7], "little")
    return torch.Generator().manual_seed(seed)


def _fill(key: str, shape: tuple[int, ...]) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    generator = _generator(key)
    noise = torch.randn(shape, generator=generator)
    if key.endswith(".w"):  # random features: orthogonal rows of length √M
        return (torch.linalg.qr(noise.double().T)[0].T * math.sqrt(shape[0])).float()
    if key.endswith("running_var"):
        return 0.75 + 0.5 * torch.rand(shape, generator=generator)
    if key in ("cls_token", "pos_embed"):
        return 0.5 * noise
    if key.endswith("scale_channel"):
        return 0.5 + 0.1 * noise
    if len(shape) == 1:  # norms and biases
        return 0.1 * noise + (1.0 if key.endswith("weight") else 0.0)
    return noise * (0.35 if "kqv" in key else 1.0) / math.sqrt(math.prod(shape[1:]))
