"""A data set in ImageNet's form that takes a moment to make, and recipes that train on it."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
from PIL import Image

from deepvit_edu.records import Record
from deepvit_edu.training import Settings, Setup, load_recipe, train
from deepvit_edu.training.image_files import find_files
from deepvit_edu.training.processes import started

CLASSES = ("n01440764", "n01443537", "n01484850")
SMALL = {
    "num_classes": 3,
    "img_size": 32,
    "model_options": {"depth": 2, "embed_dim": 24, "num_heads": 2},
    "total_batch": 8,
    "batch_size": 4,
    "epochs": 2,
    "cooldown_epochs": 1,
    "warmup_epochs": 0,
    "ema_decay": 0.9,
}
QUICK = {"workers": 0, "look_every": 1}
"""Settings that read in this process and look at every step."""


def flags(**changes: object) -> list[str]:
    """Changes of a recipe as options of `deepvit-edu train`."""
    words, options = [], dict(changes)
    model_options = options.pop("model_options", {})
    if "num_classes" in options:
        model_options = {"num_classes": options.pop("num_classes"), **model_options}
    for name, value in options.items():
        flag = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}={value}"]
    return [*words, *(["--model-options"] if model_options else []), *(f"{k}={v}" for k, v in model_options.items())]


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


def small_setup(name: str = "deepvit_32b", **changes: object) -> Setup:
    """A recipe of the papers, made small."""
    model_options = {**SMALL["model_options"], **changes.pop("model_options", {})}
    return load_recipe(name, **{**SMALL, **changes, "model_options": model_options})


def run_files(
    root: Path, out: Path, setup: Setup, *, settings: dict | None = None, label_maps: str | None = None,
    resume: bool = False, progress: bool = True,
) -> Record:  # fmt: skip
    """Trains on images from files, among the processes that there are, as the command does."""
    with started("cpu") as processes:
        train_set, test_set = find_files(root, processes, 3)
        torch.manual_seed(setup.recipe.seed)
        model = setup.build()
        sets = (files.prepared_for(model) for files in (train_set, test_set))
        return train(
            model, *sets, setup.recipe, name=setup.model, out=out, resume=resume, label_maps=label_maps,
            progress=progress, processes=processes, settings=Settings(**{**QUICK, **(settings or {})}),
        )  # fmt: skip


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
