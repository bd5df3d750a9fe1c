"""Measures a model on ImageNet's validation images: `python -m deepvit_edu.imagenet.validate --help`."""

import argparse
import json
import pkgutil
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import records
from ..checkpoints import load_model, load_official
from ..data import DataError
from ..devices import autocast, pick_precision
from ..yaml_files import read_yaml
from ..zoo import create_model, list_models
from .data import EveryNth, Files, Pictures, TestView, find_validation, load, unreadable_names
from .processes import Processes, started

NUM_CLASSES = 1000
TOLERANCE = 0.1
"""Percentage points by which top-1 may differ from the authors' number: resizing and decoding have changed since."""


@torch.no_grad()
def measure(
    model: nn.Module,
    files: Files,
    processes: Processes,
    *,
    img_size: int,
    batch_size: int = 128,
    workers: int = 4,
    precision: str = "float32",
    real_labels: list[list[int]] | None = None,
) -> dict:
    """Fractions right on a split, every image once however many processes share it.

    Args:
        model: images (B, 3, S, S) to logits (B, K); its `default_cfg` says how images are prepared.
        files: the images.
        processes: who shares them.
        img_size: S, in pixels.
        batch_size: images at a time in each process.
        workers: processes that read ahead for each.
        precision: as in `train.pick_precision`.
        real_labels: ImageNet-ReaL: for each image of the validation set, by its number, all labels that are right.

    Returns:
        `top1`, `top5`, `real` (None without such labels), `loss`, `images`, `unreadable` (names), `seconds` and
        `images_per_second`.
    """
    device, config = processes.device, model.default_cfg
    sampler = EveryNth(len(files), batch_size, processes)
    loader = load(Pictures(files, TestView(config, img_size)), sampler, config, device, workers)
    dtype = pick_precision(precision, device)
    sums = torch.zeros(6, dtype=torch.float64)  # images, top-1, top-5, loss, images with ReaL labels, right among them
    unreadable: set[str] = set()
    was_training = model.training
    model.eval()
    start, numbers = time.perf_counter(), iter(sampler)
    for images, targets in loader:
        with autocast(device, dtype):
            logits = model(images).float()
        readable = targets.damaged < 0
        unreadable |= unreadable_names(targets.damaged, files)
        keys = [number for (number, _), good in zip(next(numbers), readable.tolist(), strict=True) if good]
        sums += _sums(logits[readable].cpu(), targets.labels[readable].cpu(), _true_labels(keys, files, real_labels))
    model.train(was_training)
    count, top1, top5, loss, with_real, real = processes.total(sums).tolist()
    if not count:
        raise DataError("not one of the validation images can be read; is the disk there?")
    seconds = time.perf_counter() - start
    return {
        "top1": top1 / count,
        "top5": top5 / count,
        "real": real / with_real if with_real else None,
        "loss": loss / count,
        "images": int(count),
        "unreadable": sorted(processes.gather(unreadable)),
        "seconds": seconds,
        "images_per_second": count / seconds,
    }


def _sums(logits: Tensor, labels: Tensor, true_labels: list[list[int]]) -> Tensor:
    if not len(labels):
        return torch.zeros(6, dtype=torch.float64)
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    right = best == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum").item()
    judged = [(int(guess), known) for guess, known in zip(best[:, 0], true_labels, strict=False) if known]
    real = sum(guess in known for guess, known in judged)
    numbers = [len(labels), right[:, 0].sum().item(), right.any(dim=1).sum().item(), loss, len(judged), real]
    return torch.tensor(numbers, dtype=torch.float64)


def _check_real_labels(files: Files, num_classes: int, real_labels: list[list[int]]) -> None:
    """ValueError unless these labels can be those of these images."""
    if num_classes != NUM_CLASSES:
        raise ValueError(
            f"ImageNet-ReaL has labels of {NUM_CLASSES} classes, the model {num_classes}; leave out --real-labels"
        )
    for name in files.names:
        if not 1 <= _number_of(name) <= len(real_labels):
            raise ValueError(
                f"{name} is none of the {len(real_labels)} images that ImageNet-ReaL numbers; take the validation "
                "images under their own names, or leave out --real-labels"
            )


def _true_labels(keys: list[int], files: Files, real_labels: list[list[int]] | None) -> list[list[int]]:
    """Of ILSVRC2012_val_00000001.JPEG the first entry, and so on: the list follows the numbers in the names."""
    if real_labels is None:
        return []
    return [real_labels[_number_of(files.names[key]) - 1] for key in keys]


def _number_of(name: str) -> int:
    """The number at the end of a file's name; 0, which no image has, where there is none."""
    found = re.search(r"(\d+)\.\w+$", name)
    return int(found[1]) if found else 0


def load_real_labels(path: str) -> list[list[int]]:
    """ImageNet-ReaL labels (Beyer et al. 2020) from their `real.json`, or with "timm" those that timm carries.

    Raises:
        ValueError: when the file is none of these.
    """
    text = (
        pkgutil.get_data("timm.data", "_info/imagenet_real_labels.json") if path == "timm" else Path(path).read_bytes()
    )
    try:
        labels = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON; fetch real.json of ImageNet-ReaL again") from error
    if not isinstance(labels, list) or not all(isinstance(entry, list) for entry in labels):
        raise ValueError(f"{path} holds no list of labels for each image; fetch real.json of ImageNet-ReaL again")
    return labels


# The command


def released() -> list[dict]:
    """The authors' files: `file`, our `model`, `img_size`, and `top1` in percent as they give it."""
    return read_yaml(Path(__file__).parent / "released.yml")


def file_metric(path: str | Path) -> float | None:
    """The top-1 (percent) that a training checkpoint of timm says it has; None where it says nothing."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    metric = content.get("metric") if isinstance(content, dict) else None
    return float(metric) if isinstance(metric, int | float) else None


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="deepvit_edu.imagenet.validate",
        description="Measure a model on ImageNet's validation images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", required=True, metavar="FOLDER", help="holds val/CLASS/*.JPEG, or tar files of that")
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="model.safetensors of a run, or an authors' file"
    )
    parser.add_argument("--model", choices=list_models(), metavar="NAME", help="of an authors' file")
    parser.add_argument("--img-size", type=int, metavar="PIXELS", help="the model's own unless given")
    parser.add_argument("--num-classes", type=int, default=NUM_CLASSES, metavar="K", help="of an authors' file")
    parser.add_argument(
        "--dense-head", action="store_true", help="the file has a head for every token (token labeling)"
    )
    parser.add_argument(
        "--real-labels",
        nargs="?",
        const="timm",
        metavar="FILE",
        help="measure ImageNet-ReaL too; timm's copy unless named",
    )
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="images at a time in each process")
    parser.add_argument("--workers", type=int, default=8, metavar="N", help="processes that read ahead, for each")
    parser.add_argument("--precision", default="float32", help="float32, bfloat16, float16 or auto")
    parser.add_argument("--device", help="cpu or cuda; the best there is unless given")
    parser.add_argument(
        "--timeout-minutes", type=float, default=10.0, metavar="M", help="wait for a process that hangs"
    )
    parser.add_argument("--out", metavar="FILE", help="write a JSON record there")
    return parser


def validate(options: argparse.Namespace) -> bool:
    """Measures, prints and records; whether the authors' number was met, where there is one."""
    _check_options(options)
    real_labels = load_real_labels(options.real_labels) if options.real_labels else None
    with started(options.device, options.timeout_minutes) as processes:
        model, about = _load(options)
        model, img_size = model.to(processes.device), model.config.img_size
        files = find_validation(options.data, model.num_classes, processes)
        if about.get("classes") not in (None, files.classes):
            raise DataError(
                f"{options.data} has other classes than those that the model learned; labels would be shifted"
            )
        if real_labels:
            _check_real_labels(files, model.num_classes, real_labels)
        how = {"batch_size": options.batch_size, "workers": options.workers, "precision": options.precision}
        measured = measure(model, files, processes, img_size=img_size, real_labels=real_labels, **how)
        if not processes.is_first:
            return True
    expected = _expected(options, img_size)
    _print(measured, expected)
    if options.out:
        row = {**measured, **expected, "unreadable": len(measured["unreadable"]), "data_hash": files.hash()}
        row |= {"weights": Path(options.weights).name, "img_size": img_size, "precision": options.precision}
        row["model"] = options.model or about.get("name")
        hardware = records.describe_hardware(processes.device)
        more = {"num_processes": processes.count, "hardware": hardware}
        records.save_measurement(options.out, "imagenet-validation", _command(options, row), [row], **more)
    promised = expected.get("published_top1")
    return promised is None or abs(100 * measured["top1"] - promised) <= TOLERANCE


def _command(options: argparse.Namespace, row: dict) -> str:
    """The command that measures this again."""
    of_file = ""
    if options.model:
        dense = " --dense-head" if options.dense_head else ""
        of_file = f" --model {options.model} --img-size {row['img_size']} --num-classes {options.num_classes}{dense}"
    real = " --real-labels" if options.real_labels else ""
    how = f"--weights {row['weights']} --data FOLDER --precision {options.precision}"
    return f"python -m deepvit_edu.imagenet.validate {how}{of_file}{real}"


def _check_options(options: argparse.Namespace) -> None:
    """ValueError or OSError for what would fail, or mean nothing, after a long measurement."""
    if options.batch_size < 1:
        raise ValueError(f"batch-size is {options.batch_size}; it must be at least 1")
    if options.out and Path(options.out).parent.exists() and not Path(options.out).parent.is_dir():
        raise NotADirectoryError(f"{Path(options.out).parent} is a file; choose another place for the record")
    ours = options.weights.endswith(".safetensors")
    if ours and (options.model or options.dense_head or options.num_classes != NUM_CLASSES):
        raise ValueError(f"{options.weights} knows its model; leave out --model, --num-classes and --dense-head")
    if not ours and options.model is None:
        raise ValueError(f"say which model {options.weights} belongs to: --model t2t_vit_14, say")


def _load(options: argparse.Namespace) -> tuple[nn.Module, dict]:
    """The model, and what its file tells about it."""
    if not options.weights.endswith(".safetensors"):
        sizes = {"num_classes": options.num_classes, "img_size": options.img_size}
        model = create_model(options.model, **sizes, dense_head=options.dense_head)
        return load_official(model, options.weights).eval(), {}
    model, about = load_model(options.weights)
    if options.img_size not in (None, model.config.img_size):
        raise ValueError(f"{options.weights} is of a model for {model.config.img_size} pixels; leave out --img-size")
    fallback = create_model(about["name"], img_size=model.config.img_size) if "name" in about else None
    model.default_cfg = {**(fallback.default_cfg if fallback else {}), **_given(about, "mean", "std")}
    return model, about


def _given(about: dict, *names: str) -> dict:
    return {name: tuple(about[name]) for name in names if name in about}


def _expected(options: argparse.Namespace, img_size: int) -> dict:
    """What the file and its authors say about its top-1, in percent."""
    if options.weights.endswith(".safetensors"):
        return {}
    found: dict = {"file_top1": file_metric(options.weights)}
    for entry in released():
        if entry["file"] == Path(options.weights).name and entry["img_size"] == img_size:
            found["published_top1"] = entry["top1"]
    return found


def _print(measured: dict, expected: dict) -> None:
    real = f", ReaL {measured['real']:.2%}" if measured["real"] is not None else ""
    print(
        f"top-1 {measured['top1']:.2%}, top-5 {measured['top5']:.2%}{real} "
        f"on {measured['images']} images, {measured['images_per_second']:.0f} images/s"
    )
    for name in measured["unreadable"]:
        print(f"could not be read and was left out: {name}")
    for key, text in (("file_top1", "the file itself says"), ("published_top1", "its authors publish")):
        if expected.get(key) is not None:
            print(f"{text} top-1 {expected[key]:.2f} %")


def sentence(error: BaseException) -> str:
    """What an error says, in one line; a reading process wraps it in its own report."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^[\w.]+(?:Error|Exception): ", "", lines[-1])


ERRORS = (ValueError, OSError, DataError, FloatingPointError, torch.OutOfMemoryError)
"""What a command tells in one sentence; anything else is a fault of ours and keeps its traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0, or 1 for an error told in a sentence or a number that the authors' does not agree with."""
    options = build_parser().parse_args(arguments)
    try:
        if validate(options):
            return 0
        print(f"top-1 differs from the published number by more than {TOLERANCE} points", file=sys.stderr)
    except ERRORS as error:
        print(f"validate: {sentence(error)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
