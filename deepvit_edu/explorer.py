"""Figures that stay alive: their controls work in the page itself, with no kernel, no network and no library.

Python records tensors and writes one piece of HTML: a plain picture and a table for readers without scripts, the
tensors in few bytes, and `explorer.js`, which draws them. In Colab, where a kernel runs beside every notebook, the same
calls give ipywidgets. `explore` gives ipywidgets in every notebook with a kernel, for the reader's own model.
"""

import base64
import html
import json
import sys
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML, Markdown, display
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn

from . import data as data_sets
from . import plot, specimens
from .data import ImageSet
from .diagnostics import INTERVENTIONS, attention_blocks, intervene, record_attention, similarity_matrices
from .diagnostics.measures import Centre
from .figure_data import html_table
from .words import minus

IMAGES, LAYERS, EPOCHS = 3, 8, 21  # the most of each that are recorded, to keep a page small
LEVELS = 63  # a weight is kept as one of 63 steps on either side of zero: finer than the eye sees
COSINE_STEPS = 10_000  # a cosine is kept to four decimals
MISSING = -32_768  # marks a missing cosine
NEGATIVE, POSITIVE = (33, 102, 172), (178, 24, 43)  # blue and red of plot_similarity, which all readers can distinguish
OWN = "yours"
TITLES = {"plain": "plain", "re": "Re-attention", "refiner": "Refiner", "layerscale": "LayerScale", OWN: "your model"}
MEASURES = {
    "raw": "same image, plain cosine",
    "row": "same image, rows centred",
    "images_raw": "two images, plain cosine",
    "images_row": "two images, rows centred",
}
REPLACEMENTS = {
    "previous": "the map of the block before",
    "uniform": "the uniform map",
    "query-mean": "the mean of its rows, for every query",
    "other image": "another image's map",
    "permute heads": "its own, heads permuted",
    "no attention": "no map at all, zeros",
}


@dataclass(frozen=True)
class AttentionRecording:
    """Maps of several models on the same pictures.

    Attributes:
        pictures: uint8 (B, 3, S, S).
        titles: what each picture is, B of them.
        layers: the numbers of the L recorded blocks.
        maps: for each model (L, B, H, N, N), where N is a square number of patches, with or without a class token.
    """

    pictures: Tensor
    titles: list[str]
    layers: list[int]
    maps: dict[str, Tensor]

    @property
    def heads(self) -> int:
        """Heads of a block."""
        return self._shape[2]

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return int(self._shape[-1] ** 0.5)

    @property
    def extra(self) -> int:
        """Tokens before the patches: 1 for a class token, else 0."""
        return self._shape[-1] - self.grid**2

    @property
    def _shape(self) -> torch.Size:
        return next(iter(self.maps.values())).shape


@dataclass(frozen=True)
class CollapseRecording:
    """Similarity of several models' maps after each of E recorded epochs, and the effect of replacing a map at the end.

    Attributes:
        data: the name of the data set.
        epochs: the numbers of the recorded epochs; 0 is the initialisation.
        similarity: for each model and each of MEASURES (E, L, L).
        interventions: for each model the rows of `diagnostics.intervene_all`.
    """

    data: str
    epochs: list[int]
    similarity: dict[str, dict[str, Tensor]]
    interventions: dict[str, list[dict[str, Any]]]

    @property
    def depth(self) -> int:
        """Blocks of a model."""
        return next(iter(self.similarity.values()))["raw"].shape[-1]


def attention_explorer(
    data: str = "shapes", images: ImageSet | None = None, remedies: Sequence[str] = ("plain", "re", "refiner")
) -> Any:
    """What a patch attends to in trained networks, side by side: the reader picks image, block, head and patch.

    The maps are those that multiply the values. To keep the page small, three images and eight of the blocks are kept.

    Args:
        data: what the networks were trained on, see `specimens.load_specimen`.
        images: the pictures to look at, its first three; drawn from the test split of `data` unless given.
        remedies: the networks.

    Returns:
        HTML for a notebook or page, or widgets in Colab; the last line of a cell shows it.

    Raises:
        ValueError: for an unknown specimen.
    """
    recording = record_explored(data, images, remedies)
    return _attention_widgets(recording) if in_colab() else HTML(attention_html(recording))


def collapse_explorer(data: str = "cifar10", remedies: Sequence[str] = specimens.REMEDIES) -> Any:
    """Similarity of the blocks' maps by epoch, and the cost of replacing a block's map: from the networks' records.

    Args:
        data: what the networks were trained on, see `specimens.load_specimen`.
        remedies: the networks.

    Returns:
        HTML for a notebook or page, or widgets in Colab; the last line of a cell shows it.

    Raises:
        ValueError: for an unknown specimen.
    """
    recording = read_collapse(data, remedies)
    return _collapse_widgets(recording) if in_colab() else HTML(collapse_html(recording))


def explore(model: nn.Module, images: ImageSet) -> widgets.Tab:
    """The explorers of the reader's own model, in any notebook with a kernel: JupyterLab, VS Code, Binder, Colab.

    Of the two tabs the first shows what a patch attends to, and the second how similar the maps of every two blocks
    are; its button replaces a block's map and measures what that changes. All is computed when it is asked for.

    Args:
        model: a model of the zoo, or timm's Vision Transformer; it is left as it was.
        images: two or more, of the size that the model takes and with the mean and deviation that it was trained with
            (`dataclasses.replace(images, mean=…, std=…)` gives others), in any order but by class. A tab is quick with
            up to 64 of them.

    Returns:
        widgets; the last line of a cell shows them.

    Raises:
        TypeError: for images that are not an `ImageSet`.
        ValueError: for fewer than two images, images of another size, or a model whose maps cannot be found.
    """
    if not isinstance(images, ImageSet):
        raise TypeError(f"the images are a {type(images).__name__}; give an ImageSet, as `data.load` returns it")
    if len(images) < 2:
        raise ValueError(f"maps of different images are compared; give two images or more, not {len(images)}")
    attention_blocks(model)  # a model whose maps cannot be found is refused here
    try:
        _record_image(model, images, 0)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"the model does not take images of {images.img_size} pixels: {error}") from error
    titles = ("What a patch attends to", "How similar the blocks are")
    return widgets.Tab([_own_attention(model, images), _own_similarity(model, images)], titles=titles)


def in_colab() -> bool:
    """Whether this is a notebook of Google Colab, which imports `google.colab` before the first cell runs."""
    return "google.colab" in sys.modules


# Recording


def record_explored(data: str, images: ImageSet | None, remedies: Sequence[str]) -> AttentionRecording:
    """The used maps of the specimens of a data set on a few images; arguments as for `attention_explorer`."""
    images = data_sets.load(data, "test", limit=IMAGES) if images is None else images.subset(slice(IMAGES))
    layers: list[int] = []
    maps = {}
    for remedy in remedies:
        recorded = record_attention(specimens.load_specimen(remedy, data), images.normalise(images.images))
        layers = evenly_chosen(len(recorded), LAYERS)
        maps[remedy] = torch.stack([recorded[layer] for layer in layers])
    titles = [images.classes[label] for label in images.labels.tolist()]
    return AttentionRecording(images.images, titles, layers, maps)


def read_collapse(data: str, remedies: Sequence[str]) -> CollapseRecording:
    """What was recorded of the specimens of a data set while they learned."""
    similarity = {remedy: specimens.specimen_similarity(remedy, data) for remedy in remedies}
    epochs = evenly_chosen(min(len(measures["raw"]) for measures in similarity.values()), EPOCHS)
    chosen = {remedy: {key: measures[key][epochs] for key in MEASURES} for remedy, measures in similarity.items()}
    interventions = {remedy: specimens.specimen_interventions(remedy, data) for remedy in remedies}
    return CollapseRecording(data, epochs, chosen, interventions)


def evenly_chosen(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spread, with the first and the last."""
    return sorted({round(number) for number in np.linspace(0, count - 1, min(count, most))})


# HTML of a page


def attention_html(recording: AttentionRecording) -> str:
    """The attention explorer as one piece of HTML."""
    steps, scales = quantise(torch.stack(list(recording.maps.values())))
    payload = {
        "kind": "attention",
        "models": [TITLES.get(name, name) for name in recording.maps],
        "images": [f"{number + 1}: {title}" for number, title in enumerate(recording.titles)],
        "layers": recording.layers,
        "heads": recording.heads,
        "grid": recording.grid,
        "extra": recording.extra,
        "side": recording.pictures.shape[-1],
        "levels": LEVELS,
        "pictures": pack(recording.pictures.movedim(1, -1).numpy()),  # (B, S, S, 3)
        "steps": pack(steps),  # (models, L, B, H, N, N)
        "scales": pack(scales),  # (models, L, B, H, N)
    }
    view = _first_view(recording)
    fig, alt = draw_attention(recording, **view)
    caption = f"As it opens: {alt[0].lower()}{alt[1:]}"
    return _page("What does a patch attend to?", payload, fig, alt, [_attention_table(recording, view)], caption)


def collapse_html(recording: CollapseRecording) -> str:
    """The collapse explorer as one piece of HTML."""
    matrices = np.stack([[one[key].numpy() for key in MEASURES] for one in recording.similarity.values()])
    cosines = np.where(np.isnan(matrices), MISSING, np.rint(matrices * COSINE_STEPS))
    payload = {
        "kind": "collapse",
        "models": [TITLES.get(name, name) for name in recording.similarity],
        "measures": list(MEASURES.values()),
        "epochs": recording.epochs,
        "depth": recording.depth,
        "steps": COSINE_STEPS,
        "missing": MISSING,
        "cosines": pack(cosines.astype("<i2")),  # (models, measures, E, L, L)
        "replacements": [REPLACEMENTS[how] for how in INTERVENTIONS],
        "effects": [_effects(rows, recording.depth) for rows in recording.interventions.values()],
    }
    fig, alt = draw_collapse(recording)
    tables = [_similarity_table(recording), _interventions_table(recording)]
    means = [
        f"{TITLES.get(name, name)} {_neighbours(found['raw'][-1]):.2f} ({_neighbours(found['row'][-1]):.2f})"
        for name, found in recording.similarity.items()
    ]
    caption = (
        f"The maps of every two blocks, for networks trained on {recording.data}. After epoch {recording.epochs[-1]} "
        f"the mean plain cosine of all pairs of neighbouring blocks, and in brackets that of centred rows, is: "
        f"{', '.join(means)}."
    )
    return _page("How alike are the maps of two blocks?", payload, fig, alt, tables, caption)


def _effects(rows: list[dict[str, Any]], depth: int) -> list[list[list[float] | None]]:
    """Changes of loss and accuracy, each with its standard error, by replacement and block; None if not measured."""
    keys = ("loss", "loss_error", "accuracy", "accuracy_error")
    found = {(row["how"], row["layer"]): [round(row[key], 5) for key in keys] for row in rows}
    return [[found.get((how, layer)) for layer in range(depth)] for how in INTERVENTIONS]


def quantise(maps: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Maps (..., N) as int8 steps (..., N) and a float32 scale for each row (...): weight = scale · step / LEVELS.

    Only the largest weight has the last step, so that it differs from those that come near it.
    """
    scales = maps.float().abs().amax(dim=-1)
    fractions = maps.float() / scales.clamp_min(1e-30)[..., None]  # -1 to 1
    steps = (fractions * LEVELS).round()
    steps = torch.where(fractions.abs() < 1, steps.clamp(1 - LEVELS, LEVELS - 1), steps)
    return steps.to(torch.int8).numpy(), scales.numpy().astype("<f4")


def pack(values: np.ndarray) -> str:
    """An array's bytes, compressed (zlib) and in base64; `unpack` of explorer.js undoes it."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 9)).decode()


def _page(title: str, payload: dict[str, Any], fig: Figure, alt: str, tables: list[str], caption: str) -> str:
    # The outer figure has the caption, which stays when the script takes the picture away; the book numbers it.
    # A page may hold several explorers, and one that was run twice: no two have one id.
    name = f"explorer-{uuid.uuid4().hex[:8]}"
    packed = json.dumps(payload).replace("<", "\\u003c")  # nothing in it can end the script
    scroll = "".join(
        f'<div class="explorer-scroll" tabindex="0" role="group" aria-label="Table">{t}</div>' for t in tables
    )
    return (
        '<figure class="book-figure explorer-figure">'
        f'<div class="deepvit-explorer" id="{name}"><style>{_asset("explorer.css")}</style>'
        f'<p class="explorer-title">{title}</p>'
        f'<div class="explorer-plain">{plot.figure_html(fig, alt)}</div><div class="explorer-live" hidden></div>'
        f"<details><summary>The numbers as a table, as it opens</summary>{scroll}</details>"
        f'<script type="application/json">{packed}</script>'
        f'<script>{_asset("explorer.js")}\ndeepvitExplorer("{name}");</script></div>'
        f"<figcaption>{html.escape(minus(caption))}</figcaption></figure>"
    )


@cache
def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _titles(names: Sequence[str] | dict) -> list[str]:
    return [TITLES.get(name, name) for name in names]


# Pictures and tables: for readers without scripts, and for the widgets


def _first_view(recording: AttentionRecording) -> dict[str, int]:
    """What is shown first: the middle one of the blocks, and a patch near the centre."""
    middle = recording.grid // 2
    return {"image": 0, "layer": len(recording.layers) // 2, "head": 0, "row": middle, "column": middle}


def draw_attention(
    recording: AttentionRecording, image: int, layer: int, head: int, row: int, column: int
) -> tuple[Figure, str]:
    """A picture and, for each model, what one of its patches attends to in it; and the text that says so.

    Args:
        recording: the maps.
        image, layer, head: which ones, counted from 0 among those recorded.
        row, column: the patch whose queries are looked at, from 0.
    """
    fig, axes = plot.figure(1, len(recording.maps) + 1, width=2.2 * (len(recording.maps) + 1), height=2.6)
    picture = recording.pictures[image].movedim(0, -1).numpy()
    axes[0].imshow(picture)
    axes[0].set_title(recording.titles[image], fontsize=9)
    said = []
    for ax, (name, maps) in zip(axes[1:], recording.maps.items(), strict=True):
        weights = maps[layer, image, head, recording.extra + row * recording.grid + column]  # (N,)
        _overlay(ax, picture, weights[recording.extra :].reshape(recording.grid, recording.grid))
        ax.set_title(minus(f"{TITLES.get(name, name)}\nlargest {weights[weights.abs().argmax()]:.3f}"), fontsize=9)
        said.append(f"{TITLES.get(name, name)}, {_largest(recording, weights)}")
    patch = picture.shape[0] / recording.grid
    for ax in axes:
        ax.axis("off")
        corner = (column * patch - 0.5, row * patch - 0.5)
        ax.add_patch(plt.Rectangle(corner, patch, patch, fill=False, edgecolor="black", linewidth=3))
        ax.add_patch(plt.Rectangle(corner, patch, patch, fill=False, edgecolor="white", linewidth=1))
    place = f"block {recording.layers[layer]}, head {head}, from row {row + 1}, column {column + 1}"
    return fig, f"Attention of {place} in an image ({recording.titles[image]}). Largest entry: {'; '.join(said)}."


def _overlay(ax: Axes, picture: np.ndarray, weights: Tensor) -> None:
    """Weights (n, n) over a pale picture (S, S, 3): red above zero, blue below, the more the farther from it."""
    size, largest = picture.shape[0], float(weights.abs().max()) or 1.0
    extent = (-0.5, size - 0.5, size - 0.5, -0.5)
    ax.imshow(picture.mean(axis=-1), cmap="gray", vmin=-375, vmax=255, extent=extent)
    colours = [(*(np.array(rgb) / 255), alpha) for rgb, alpha in ((NEGATIVE, 0.9), (POSITIVE, 0.0), (POSITIVE, 0.9))]
    colours.insert(1, (*(np.array(NEGATIVE) / 255), 0.0))
    scale = LinearSegmentedColormap.from_list("signed", list(zip((0, 0.5, 0.5, 1), colours, strict=True)))
    ax.imshow(weights.numpy(), cmap=scale, vmin=-largest, vmax=largest, extent=extent)


def _largest(recording: AttentionRecording, weights: Tensor) -> str:
    """The entry of a row (N,) that is farthest from zero, and where it is."""
    token = int(weights.abs().argmax())
    row, column = divmod(token - recording.extra, recording.grid)
    place = "the class token" if token < recording.extra else f"row {row + 1}, column {column + 1}"
    return f"{weights[token]:.3f} at {place}"


def _attention_table(recording: AttentionRecording, view: dict[str, int]) -> str:
    query = recording.extra + view["row"] * recording.grid + view["column"]
    rows = [
        [f"block {number}"]
        + [_largest(recording, maps[layer, view["image"], view["head"], query]) for maps in recording.maps.values()]
        for layer, number in enumerate(recording.layers)
    ]
    place = f"row {view['row'] + 1}, column {view['column'] + 1} of image 1 in head {view['head']}"
    return html_table(f"The largest entry of the map, from {place}", ["block", *_titles(recording.maps)], rows)


def draw_collapse(
    recording: CollapseRecording, epoch: int = -1, measures: Sequence[str] = ("raw", "row", "images_raw")
) -> tuple[Figure, str]:
    """The matrices after one of the recorded epochs, a row for each measure, a column for each model; and the text."""
    matrices = {
        f"{TITLES.get(name, name)}\n{MEASURES[key]}": found[key][epoch]
        for key in measures
        for name, found in recording.similarity.items()
    }
    when = f"after epoch {recording.epochs[epoch]}" if recording.epochs[epoch] else "at initialisation"
    where = f"{when}, for networks trained on {recording.data}"
    return _draw_matrices(matrices, where, columns=len(recording.similarity))


def _draw_matrices(matrices: dict[str, Tensor], where: str, columns: int) -> tuple[Figure, str]:
    """A panel for each matrix (L, L), by its title; and the text, which says where they were measured."""
    means = [f"{' '.join(title.splitlines())}: {_neighbours(matrix):.2f}" for title, matrix in matrices.items()]
    text = f"How similar the maps of every two blocks are, {where}. Mean over neighbouring blocks: {'; '.join(means)}."
    return plot.plot_similarity(matrices, columns=columns), text


def _neighbours(matrix: Tensor) -> float:
    return matrix.diagonal(1).nanmean().item()


def _similarity_table(recording: CollapseRecording) -> str:
    first, last = recording.epochs[0], recording.epochs[-1]
    rows = [
        [f"{TITLES.get(name, name)}, {text}", *(f"{_neighbours(found[key][at]):.3f}" for at in (0, -1))]
        for name, found in recording.similarity.items()
        for key, text in MEASURES.items()
    ]
    caption = f"Cosine between the maps of neighbouring blocks, mean, for networks trained on {recording.data}"
    return html_table(caption, ["network and measure", f"epoch {first}", f"epoch {last}"], rows)


def _interventions_table(recording: CollapseRecording) -> str:
    rows = []
    for how in INTERVENTIONS:
        cells = []
        for found in recording.interventions.values():
            of_kind = [row for row in found if row["how"] == how]
            losses, accuracies = ([row[key] for row in of_kind] for key in ("loss", "accuracy"))
            cells.append(_effect(np.mean(losses), np.mean(accuracies)) if of_kind else "not measured")
        rows.append([REPLACEMENTS[how], *cells])
    caption = "Replacing one block's map: change of loss, and of accuracy in points of a hundred, mean over blocks"
    return html_table(caption, ["replaced by", *_titles(recording.interventions)], rows)


def _effect(loss: float, accuracy: float) -> str:
    return f"loss {loss:+.3f}, accuracy {100 * accuracy:+.1f}"


# Widgets, where a kernel is at hand


def _attention_widgets(recording: AttentionRecording) -> widgets.Widget:
    return _attention_controls(recording, recording.titles, lambda image: (recording, image))


def _attention_controls(
    recording: AttentionRecording, titles: Sequence[str], recording_of: Callable[[int], tuple[AttentionRecording, int]]
) -> widgets.Widget:
    """Controls for image, block, head and patch.

    Args:
        recording: for the numbers of blocks, heads and patches.
        titles: of the images to choose from.
        recording_of: where the maps of an image are: a recording, and the image's number in it.
    """

    def draw(image: int, layer: int, head: int, row: int, column: int) -> None:
        recording, number = recording_of(image)
        plot.show(*draw_attention(recording, number, layer, head, row - 1, column - 1))

    view = _first_view(recording)
    blocks = [(f"block {number}", layer) for layer, number in enumerate(recording.layers)]
    return widgets.interactive(
        draw,
        image=widgets.Dropdown(options=[(title, number) for number, title in enumerate(titles)]),
        layer=widgets.SelectionSlider(options=blocks, value=view["layer"]),
        head=widgets.IntSlider(0, 0, recording.heads - 1),
        row=widgets.IntSlider(view["row"] + 1, 1, recording.grid),
        column=widgets.IntSlider(view["column"] + 1, 1, recording.grid),
    )


def _collapse_widgets(recording: CollapseRecording) -> widgets.Widget:
    def draw(epoch: int, measure: str) -> None:
        plot.show(*draw_collapse(recording, epoch, [measure]))

    def replace(block: int, replacement: str) -> None:
        lines = []
        for name, rows in recording.interventions.items():
            found = [row for row in rows if (row["layer"], row["how"]) == (block, replacement)]
            effect = _effect(found[0]["loss"], found[0]["accuracy"]) if found else "not measured"
            lines.append(f"- {TITLES.get(name, name)}: {effect}")
        display(Markdown("\n".join(lines)))

    epochs = [(f"epoch {number}", at) for at, number in enumerate(recording.epochs)]
    matrices = widgets.interactive(
        draw, epoch=widgets.SelectionSlider(options=epochs, value=len(epochs) - 1), measure=_measures()
    )
    return widgets.VBox([matrices, _replacement_controls(replace, recording.depth)])


def _measures() -> widgets.Dropdown:
    return widgets.Dropdown(options=[(text, key) for key, text in MEASURES.items()])


def _replacement_controls(replace: Callable[[int, str], None], depth: int) -> widgets.Widget:
    """Controls for a block and what replaces its map, and the button that calls `replace` with them."""
    return widgets.interactive(
        replace,
        {"manual": True, "manual_name": "Replace the map"},
        block=widgets.IntSlider(depth // 2, 0, depth - 1),
        replacement=widgets.Dropdown(options=[(text, how) for how, text in REPLACEMENTS.items()]),
    )


# Widgets of the reader's own model


def _own_attention(model: nn.Module, images: ImageSet) -> widgets.Widget:
    # The maps of one image at a time are kept: those of all images may not fit.
    recording_of = lru_cache(maxsize=1)(lambda image: _record_image(model, images, image))
    titles = [f"{number + 1}: {images.classes[label]}" for number, label in enumerate(images.labels.tolist())]
    return _attention_controls(recording_of(0), titles, lambda image: (recording_of(image), 0))


def _record_image(model: nn.Module, images: ImageSet, number: int) -> AttentionRecording:
    """The used maps of every block on one image."""
    image = images.subset([number])
    maps = torch.stack(record_attention(model, _inputs(model, image))).cpu()
    return AttentionRecording(image.images, [images.classes[image.labels[0]]], list(range(len(maps))), {OWN: maps})


def _own_similarity(model: nn.Module, images: ImageSet) -> widgets.Widget:
    inputs = _inputs(model, images)
    # A model of other classes has no loss on these labels; the change of its probabilities is measured all the same.
    labels = images.labels.to(inputs.device) if model.num_classes == images.num_classes else None

    @cache
    def matrices(centre: Centre) -> tuple[Tensor, Tensor]:
        return similarity_matrices(model, inputs, centre=centre, which="used")

    def draw(measure: str) -> None:
        matrix = matrices("row" if measure.endswith("row") else None)[measure.startswith("images")]
        where = f"in your model, mean over {len(images)} images of {images.name}"
        plot.show(*_draw_matrices({MEASURES[measure]: matrix}, where, columns=1))

    def replace(block: int, replacement: str) -> None:
        try:
            effect = intervene(model, inputs, block, replacement, labels)
        except ValueError as error:  # the first block has none before it, say
            display(Markdown(str(error)))
            return
        loss = f"; {_effect(effect['loss'], effect['accuracy'])}" if labels is not None else ""
        display(Markdown(f"class probabilities change by {effect['kl']:.4f} nats (Kullback-Leibler){loss}"))

    similarity = widgets.interactive(draw, measure=_measures())
    return widgets.VBox([similarity, _replacement_controls(replace, len(attention_blocks(model)))])


def _inputs(model: nn.Module, images: ImageSet) -> Tensor:
    """The images as the model takes them (B, 3, H, W), on its device."""
    return images.normalise(images.images.to(next(model.parameters()).device))
