"""A data set in ImageNet's form that takes a moment to make, and recipes that train on it."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
from PIL import Image

from deepvit_edu.imagenet.recipe import ImageNetRecipe, load_recipe
from deepvit_edu.imagenet.train import Settings

CLASSES = ("n01440764", "n01443537", "n01484850")
SMALL = (
    "num_classes=3",
    "img_size=32",
    "model_options.depth=2",
    "model_options.embed_dim=24",
    "model_options.num_heads=2",
    "total_batch=8",
    "batch_size=4",
    "epochs=2",
    "cooldown_epochs=1",
    "warmup_epochs=0",
    "ema_decay=0.9",
)


def make_imagenet(root: Path, train: int = 8, val: int = 3, classes: tuple[str, ...] = CLASSES) -> Path:
    """Noise of one colour a class as JPEG files: `train` and `val` images for each class."""
    generator = np.random.default_rng(0)
    number = 0
    for label, name in enumerate(classes):
        for split, count in (("train", train), ("val", val)):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = generator.integers(0, 90, (40, 44, 3), dtype=np.uint8)
                pixels[..., label % 3] += 120
                number += split == "val"
                file = f"ILSVRC2012_val_{number:08d}.JPEG" if split == "val" else f"{name}_{index}.JPEG"
                Image.fromarray(pixels).save(root / split / name / file)
    return root


def make_label_maps(folder: Path, root: Path) -> Path:
    """A label map in the authors' layout for every training image: five scores at each of 3 x 3 places."""
    for path in sorted((root / "train").rglob("*.JPEG")):
        label = CLASSES.index(path.parent.name)
        classes = torch.stack([torch.full((3, 3), float((label + k) % 3)) for k in range(3)])
        scores = torch.stack([torch.full((3, 3), 4.0 - 2 * k) for k in range(3)])
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        torch.save(torch.stack([scores, classes]).half(), folder / path.parent.name / f"{path.stem}.pt")
    return folder


def small_recipe(*changes: str, name: str = "deepvit_32b") -> ImageNetRecipe:
    """A recipe of the papers, made small."""
    return load_recipe(name, [*SMALL, *changes])


def settings(root: Path, out: Path, **options: object) -> Settings:
    """Settings that read in this process and look at every step."""
    return Settings(**{"data": str(root), "out": str(out), "workers": 0, "look_every": 1, **options})


def together(count: int, function: Callable[..., object], *arguments: object) -> None:
    """Calls a function in `count` processes that know each other, as `torchrun` would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A forked process has all imported already; one that used a GPU cannot be forked.
    method = "spawn" if torch.cuda.is_initialized() else "fork"
    mp.start_processes(_one_of, (count, port, function, arguments), nprocs=count, start_method=method)


def _one_of(rank: int, count: int, port: int, function: Callable[..., object], arguments: tuple) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    function(*arguments)
