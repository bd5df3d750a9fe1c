"""How similar the attention maps of any Vision Transformer are from block to block, compared with new weights.

The model is one of timm, one of this package, or a file of weights; see `deepvit-edu similarity`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import load_checkpoint
from torch import Tensor, nn

from . import data, records
from .checkpoints import load_model, load_official, read_weights
from .data import DataError, ImageSet
from .data.folders import has_splits, tell_left_out
from .data.pictures import pictures_in, read_image
from .diagnostics import at_initialisation, attention_blocks, collapse_report, excess_report, permutation_bound
from .diagnostics.recording import WhichMap
from .environment import expanded
from .experiment.measure import MAP_IMAGES, NEW_SEEDS, NUM_IMAGES, measure_aliveness, rounded
from .files import atomic_path, file_hash
from .nn.model import VisionTransformer
from .reading import reason
from .tensors import check_finite
from .words import align, nearest
from .zoo import CONFIGS, create_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND = "similarity"
MEASURES = {
    "repetition": "cosine of neighbouring blocks, heads matched",
    "repetition_stripes": "the same, of what all queries share",
    "query_independence": "query-independence",
    "distance_from_uniform": "distance from the uniform map",
}
"""The measures that are compared with new weights, and what a picture calls them."""
UNRELATED = ("repetition_unrelated", "repetition_stripes_unrelated")
"""Of blocks four or more apart, which are not neighbours: the other thing to compare neighbours with."""
PICTURES = (".png", ".svg", ".pdf")
"""The kinds of picture that a report is drawn as."""
OWN_PREDICTIONS = "the model's own predictions"


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        name: what tables and files call it.
        model: the model, in eval mode.
        new_model: a model of the same shape with new weights, from a seed.
        weights: where its weights are from: the name of a file, or words.
        weights_hash: SHA-256 of the file, where there is one.
        dataset: what it was trained on, if its file says so.
        classes: the names of its classes, if its file says so.
        mean: what is taken off each channel of its images, of pixel values in 0..1; None for the data set's own.
        std: what each channel is then divided by; None for the data set's own.
    """

    name: str
    model: nn.Module
    new_model: Callable[[int], nn.Module]
    weights: str
    weights_hash: str | None = None
    dataset: str | None = None
    classes: list[str] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def img_size(self) -> int:
        """The side of its images in pixels."""
        if isinstance(self.model, VisionTransformer):
            return self.model.config.img_size
        return self.model.patch_embed.img_size[0]


# The model


def find_subject(
    model: str | None = None, timm_name: str | None = None, checkpoint: str | Path | None = None, seed: int = 0
) -> Subject:
    """The model that a reader names.

    Args:
        model: a name of `list_models()`, or a model file of this package, or the folder of its run.
        timm_name: a name of timm instead.
        checkpoint: a file of weights: of this package, where it is all that is given; the authors' for a `model` that
            is a name; timm's for a `timm_name`. Without it timm downloads trained weights, and a name of this package
            has new ones.
        seed: of those new weights.

    Raises:
        ValueError: for a model that is unknown, or whose attention maps cannot be found.
        OSError: for weights that cannot be read or downloaded.
    """
    named = [name for name in (model, timm_name) if name is not None]
    if len(named) > 1 or not (named or checkpoint):
        raise ValueError("name one model: a MODEL of this package, --timm NAME, or --checkpoint FILE")
    if checkpoint is not None and not (str(checkpoint) and Path(checkpoint).exists()):
        raise FileNotFoundError(f"there is no file {checkpoint}; name the weights' file with --checkpoint")
    if timm_name is not None:
        return _from_timm(timm_name, checkpoint)
    if model in CONFIGS:
        return _from_zoo(model, checkpoint, seed)
    if model and checkpoint is not None:
        raise ValueError(f"--checkpoint needs the name of a model, but {model} is a file; leave one of the two out")
    if model is not None and not (model and Path(model).exists()):
        raise ValueError(f"there is neither a file nor a model named '{model}'{nearest(model, list(CONFIGS))}")
    return _from_file(Path(checkpoint if model is None else model))


def _from_file(path: Path) -> Subject:
    file = path / "model.safetensors" if path.is_dir() else path
    model, about = load_model(file)
    return Subject(
        name=about.get("name", file.stem),
        model=model,
        new_model=lambda seed: at_initialisation(model, seed),
        weights=file.name,
        weights_hash=file_hash(file),
        dataset=about.get("dataset"),
        classes=about.get("classes"),
        mean=about.get("mean"),
        std=about.get("std"),
    )


def _from_zoo(name: str, checkpoint: str | Path | None, seed: int) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create_model(name)
    weights = f"new, seed {seed}"
    if checkpoint:
        load_official(model, checkpoint)
        weights = Path(checkpoint).name
    return Subject(
        name=name,
        model=model.eval(),
        new_model=lambda seed: at_initialisation(model, seed),
        weights=weights,
        weights_hash=file_hash(checkpoint) if checkpoint else None,
        **_preparation(model),
    )


def _from_timm(name: str, checkpoint: str | Path | None) -> Subject:
    if ":" not in name and not timm.is_model(name):  # a colon: from the Hugging Face hub, or from a folder
        raise ValueError(f"timm has no model '{name}'{nearest(name, timm.list_models())}")
    options = {"num_classes": _classes_of(name, checkpoint)} if checkpoint else {}

    def new_model(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # the reader's random numbers go on as if nothing had been drawn
            torch.manual_seed(seed)
            return _of_timm(name, **options)

    model = new_model(0)
    attention_blocks(model)  # before a download: an unknown kind of model is refused
    if checkpoint:
        try:
            load_checkpoint(model, str(checkpoint), weights_only=True)
        except Exception as error:  # its filters meet whatever the file holds
            raise ValueError(f"the weights in {checkpoint} do not fit {name}; name their own model") from error
    else:
        model = _download(name)
    return Subject(
        name=name,
        model=model.eval(),
        new_model=new_model,
        weights=Path(checkpoint).name if checkpoint else "timm's",
        weights_hash=file_hash(checkpoint) if checkpoint else None,
        **_preparation(model),
    )


def _classes_of(name: str, checkpoint: str | Path) -> int:
    """The number of classes of a checkpoint's head, 0 where it has none."""
    state = read_weights(checkpoint)
    check_finite(state, checkpoint)
    with torch.device("meta"):
        head = _of_timm(name).default_cfg["classifier"]
    weight = state.get(f"{head if isinstance(head, str) else head[0]}.weight")
    return len(weight) if weight is not None and weight.ndim else 0


def _of_timm(name: str, **options: object) -> nn.Module:
    """A model of timm's with new weights; ValueError where timm cannot make it."""
    try:
        return timm.create_model(name, pretrained=False, **options).eval()
    except Exception as error:  # a name may stand for a folder or a page of the hub, and what is there can be anything
        raise ValueError(f"timm cannot make the model '{name}': {reason(error)}") from error


def _download(name: str) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever the network and the hub raise
        raise OSError(
            f"the weights of {name} cannot be downloaded ({type(error).__name__}); fetch them elsewhere and name the "
            "file with --checkpoint"
        ) from error


def _preparation(model: nn.Module) -> dict[str, tuple[float, ...]]:
    config = resolve_model_data_config(model)
    return {"mean": config["mean"], "std": config["std"]}


# The images


def find_images(subject: Subject, source: str | None, count: int, root: str | None = None, seed: int = 0) -> ImageSet:
    """Images of the size that the model takes, in random order, at most `count`.

    Args:
        subject: the model.
        source: a data set, a folder that `data.load` reads, or any folder with images in it (these have no labels);
            what the model was trained on unless given, or else `shapes`.
        count: how many at most; two or more.
        root: where data sets are, see `data.load`.
        seed: of the choice and the order.

    Raises:
        ValueError: for a count below 2, or an unknown data set.
        DataError: for images that cannot be had.
    """
    if count < 2:
        raise ValueError(f"--count is {count}; maps of different images are compared, so choose 2 or more")
    source, generator = source or subject.dataset or "shapes", torch.Generator().manual_seed(seed)
    folder = expanded(source)
    if folder.is_dir() and not has_splits(folder):
        images = _unlabelled_images(folder, subject.img_size, count, generator)
    else:
        images = data.load(source, "test", root=root, img_size=subject.img_size, limit=count, seed=seed)
    if len(images) < 2:
        raise DataError(f"{source} has one test image; maps of different images are compared, so give more")
    if subject.mean and subject.std:
        images = replace(images, mean=tuple(subject.mean), std=tuple(subject.std))
    return images.subset(torch.randperm(len(images), generator=generator))


def _unlabelled_images(folder: Path, img_size: int, count: int, generator: torch.Generator) -> ImageSet:
    paths, others = pictures_in(folder)
    tell_left_out(folder, others)
    if not paths:
        raise DataError(f"{folder} holds no image; name a folder that does")
    chosen = [paths[index] for index in torch.randperm(len(paths), generator=generator)[:count]]
    pixels = np.stack([read_image(path, img_size) for path in chosen])
    labels = torch.zeros(len(chosen), dtype=torch.long)
    return ImageSet(torch.from_numpy(pixels), labels, ["not labelled"], folder.resolve().name, "folder", "test")


def labels_for(subject: Subject, images: ImageSet, inputs: Tensor) -> tuple[Tensor, str]:
    """The labels (B,) that a change of loss is measured against, and where they are from.

    They are the images' own where these are of the model's classes; otherwise what the model itself predicts: then the
    loss tells how far it moves from its own answer.

    Args:
        subject: the model.
        images: the images.
        inputs: the same, normalised (B, 3, H, W), on the model's device.
    """
    known = subject.classes == images.classes if subject.classes else subject.model.num_classes == len(images.classes)
    if known and len(images.classes) > 1:
        return images.labels.to(inputs.device), f"of {images.name}"
    with torch.no_grad():
        predicted = torch.cat([subject.model(some).argmax(dim=-1) for some in inputs.split(32)])
    return predicted, OWN_PREDICTIONS


# The report


def measure_similarity(
    subject: Subject, images: ImageSet, which: WhichMap = "softmax", device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Measures a model's maps, those of five models with new weights, and what the maps of its deep half are worth.

    Args:
        subject: the model.
        images: as for `find_images`; 2,000 or more for a verdict on whether the map matters. As in a record, the
            similarities are those of the first 128, and what is compared with new weights that of the first 512.
        which: the softmax map, or the "used" one.
        device: where to compute.

    Returns:
        "rows", one dictionary per block: "block"; "adjacent", the mean cosine with the block before by heads of one
        number, and "adjacent_bound" of `permutation_bound`, the most that it can be in expectation; "adjacent_new" with
        new weights (seed 0); "heads", "between_images" and "entropy" as for `collapse_report`; and each of MEASURES,
        also with "_excess" (less the mean of the new weights) and "_deviation" (theirs), the pairs of blocks at the
        later one. None where there is nothing to compare. Beside these UNRELATED; "aliveness", "least_harmful" and
        "map_matters" as for `measure_model`, "blocks_replaced" and "labels" (where they are from), which a model
        without classes does not have; "model" and "images".

    Raises:
        ValueError: for fewer than two images, or a model whose maps cannot be found.
    """
    model = subject.model.to(device)
    new = [subject.new_model(seed).to(device) for seed in NEW_SEEDS]
    inputs = images.normalise(images.images.to(device))
    prefix = "used_" if which == "used" else ""
    trained, start = (collapse_report(each, inputs[:NUM_IMAGES]) for each in (model, new[0]))
    excess = excess_report(model, new, inputs[:MAP_IMAGES], which)
    heads = [block.attn.num_heads for block in attention_blocks(model)]
    columns = {
        "adjacent": [None, *trained[f"{prefix}adjacent"]],
        "adjacent_bound": [None, *_bounds(heads, trained[f"{prefix}heads"])],
        "adjacent_new": [None, *start[f"{prefix}adjacent"]],
        "heads": trained[f"{prefix}heads"],
        "between_images": trained[f"{prefix}between_images"],
        "entropy": trained["entropy"],
    }
    for name in (f"{measure}{end}" for measure in MEASURES for end in ("", "_excess", "_deviation")):
        columns[name] = [None] * (len(heads) - len(excess[name])) + excess[name]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return rounded(
        {
            "rows": [{"block": block, **row} for block, row in enumerate(rows)],
            "which": which,
            "new_models": len(new),
            **{key: excess[key] for key in UNRELATED},
            **_measure_deep_half(subject, images, inputs),
            "model": _about_model(subject, heads),
            "images": {"name": images.name, "count": len(images), "side": images.img_size, "hash": images.hash()},
        }
    )


def _measure_deep_half(subject: Subject, images: ImageSet, inputs: Tensor) -> dict[str, Any]:
    """What the maps of the deep half are worth; empty for a model without classes, which has no loss."""
    if not subject.model.num_classes:
        return {}
    labels, origin = labels_for(subject, images, inputs)
    depth = len(attention_blocks(subject.model))
    effects = measure_aliveness(subject.model, inputs, labels)
    return {**effects, "blocks_replaced": list(range(depth // 2, depth)), "labels": origin}


def _bounds(num_heads: list[int], similarity: list[float | None]) -> list[float]:
    """`permutation_bound` of every two neighbouring blocks; 1 where a block has one head."""
    alike = [1.0 if each is None else each for each in similarity]
    return [
        permutation_bound(first, alike[layer], alike[layer + 1]) if first == second else 1.0
        for layer, (first, second) in enumerate(pairwise(num_heads))
    ]


def _about_model(subject: Subject, heads: list[int]) -> dict[str, Any]:
    about: dict[str, Any] = {"name": subject.name, "weights": subject.weights, "weights_hash": subject.weights_hash}
    parameters = sum(parameter.numel() for parameter in subject.model.parameters())
    return {**about, "blocks": len(heads), "heads": heads[0], "parameters": parameters}


def save_report(report: dict[str, Any], path: str | Path, device: torch.device) -> Path:
    """Writes a report as a measurement that `records.load_measurement` reads; it holds no image and no path."""
    more = {key: value for key, value in report.items() if key != "rows"}
    command = f"deepvit-edu similarity of {report['model']['name']} ({report['model']['weights']})"
    hardware = records.describe_hardware(device)
    return records.save_measurement(path, KIND, command, report["rows"], hardware=hardware, **more)


# What people read


def report_text(report: dict[str, Any]) -> str:
    """The report as a table, and what it comes to in sentences."""
    header = ("block", "matched", "new weights", "query-independence", "new weights", "same number", "at most", "heads")
    rows = [tuple(_cells(row)) for row in report["rows"]]
    about, images = report["model"], report["images"]
    lines = [
        f"{about['name']} ({about['weights']}): {about['blocks']} blocks of {about['heads']} heads, "
        f"{report['which']} maps of {images['count']} images of {images['name']}",
        align([header, *rows]),
        "matched: cosine with the block before, heads matched on other images; same number: heads of one number, "
        "and the most that these can reach; heads: of one block",
        *_why_empty(report["rows"]),
        *verdicts(report),
    ]
    return "\n".join(lines)


def _why_empty(rows: list[dict[str, Any]]) -> list[str]:
    """Why cells of the table are empty, where some are that need not be."""
    empty = [row["block"] for row in rows if row["query_independence"] is None]
    pairs = [row["block"] for row in rows[1:] if row["repetition"] is None]
    said = []
    if empty:
        said.append(f"–: the maps of {_blocks(empty)} are uniform, up to rounding, so no variance is left to explain")
    if pairs := [block for block in pairs if block not in empty]:
        said.append(
            f"–: at {_blocks(pairs)} a map of the pair is the same row for every query, up to rounding, so nothing is "
            "left to match"
        )
    return said


def _blocks(numbers: list[int]) -> str:
    return f"block{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [str(row["block"])]
    for name in ("repetition", "query_independence"):
        value, excess, deviation = row[name], row[f"{name}_excess"], row[f"{name}_deviation"]
        known = value is not None and excess is not None
        cells += [_number(value), f"{value - excess:.3f} ± {deviation:.3f}" if known else "–"]
    return [*cells, *(_number(row[name]) for name in ("adjacent", "adjacent_bound", "heads"))]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def verdicts(report: dict[str, Any]) -> list[str]:
    """What the numbers say, a sentence each: do blocks repeat one another, and do their maps matter."""
    excess = [row["repetition_excess"] for row in report["rows"] if row["repetition_excess"] is not None]
    sentences = []
    if excess:
        mean = sum(excess) / len(excess)
        than = "more" if mean > 0 else "less"
        told = f"Neighbouring blocks are on average {abs(mean):.3f} {than} similar than with new weights"
        sentences.append(f"{told}{_scatter(report['rows'])}.")
    if (apart := report.get("repetition_unrelated")) is not None:
        found = [row["repetition"] for row in report["rows"] if row["repetition"] is not None]
        near = f"{sum(found) / len(found):.3f}" if found else "not comparable"
        sentences.append(f"Heads matched, neighbours are {near} similar, blocks four or more apart {apart:.3f}.")
    if "least_harmful" not in report:
        return [*sentences, "The model has no classes, so no loss says whether it needs its maps."]
    cheapest = report["least_harmful"]
    cost, error = report["aliveness"][cheapest]["loss"]
    first, last = report["blocks_replaced"][0], report["blocks_replaced"][-1]
    matters = {True: "they matter", False: "they do not matter", None: "more images are needed to decide"}
    sentences.append(
        f"Replacing the maps of blocks {first} to {last} ('{cheapest}', the least harmful way) changes the loss by "
        f"{cost:+.4f} ± {error:.4f} nats (labels: {report['labels']}): {matters[report['map_matters']]}."
    )
    return sentences


def _scatter(rows: list[dict[str, Any]]) -> str:
    """How far the number of one block moves from one set of new weights to the next, where that was measured."""
    deviations = [row["repetition_deviation"] for row in rows if row.get("repetition_deviation") is not None]
    return f" (which differ by {sum(deviations) / len(deviations):.3f} at a block themselves)" if deviations else ""


def draw_report(report: dict[str, Any]) -> "tuple[Figure, str]":
    """A figure with a panel for each of MEASURES, the model beside new weights, block by block; and its text."""
    from . import plot  # drawing libraries take a second to import

    panels, said = {}, []
    for name, title in MEASURES.items():
        values, excess = (
            [float("nan") if row[key] is None else row[key] for row in report["rows"]]
            for key in (name, f"{name}_excess")
        )
        new = [value - above for value, above in zip(values, excess, strict=True)]
        panels[title] = {"this model": values, "new weights": new}
        said.append(f"{title}: {np.nanmean(values):.2f}, with new weights {np.nanmean(new):.2f}")
    alt = f"Four panels with two lines over the blocks of {report['model']['name']}. Means: {'; '.join(said)}."
    return plot.plot_by_block(panels, ylabel="value"), alt


def save_picture(report: dict[str, Any], path: str | Path) -> Path:
    """Draws a report into a file of one of the kinds PICTURES, atomically."""
    path = Path(path)
    with atomic_path(path) as temporary:
        draw_report(report)[0].savefig(temporary, format=path.suffix[1:].lower())
    return path
