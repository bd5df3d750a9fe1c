"""Figures for the book: drawn by matplotlib, shown with a text alternative, legible in dark mode and to all eyes."""

import base64
import inspect
import io
import textwrap
from collections.abc import Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .figure_data import folded_tables
from .records import Record

# Okabe and Ito's colours, told apart by readers with any common form of colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE = {
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.facecolor": "white",
    "figure.dpi": 110,
    "font.size": 11,
    "legend.frameon": False,
}


LOSSES = {"training": "-", "test": "--"}


def show(fig: Figure, alt: str) -> None:
    """Shows a figure in a notebook or page, with the text that stands for it and its numbers, folded; closes it.

    Raises:
        ValueError: when the text is missing.
    """
    if not alt.strip():
        raise ValueError("a figure needs a text alternative; say in a sentence what is to be seen in it")
    display(HTML(figure_html(fig, alt, with_numbers=True)))


def figure_html(fig: Figure, alt: str, with_numbers: bool = False) -> str:
    """A figure as an HTML image with its text, and with its numbers in a folded table where asked; closes it."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", bbox_inches="tight", facecolor="white")
    tables = folded_tables(fig) if with_numbers else ""
    plt.close(fig)
    escaped = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escaped}" style="max-width: 100%; height: auto">{tables}'


def show_source(*objects: object) -> Markdown:
    """The source of functions or classes, read from where they are, as highlighted code for a notebook or page."""
    sources = (textwrap.dedent(inspect.getsource(one)) for one in objects)
    return Markdown("```python\n" + "\n".join(sources) + "```")


def figure(
    rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 3.2
) -> tuple[Figure, np.ndarray | Axes]:
    """A new figure in the book's style; width and height in inches."""
    with plt.rc_context(STYLE):
        return plt.subplots(rows, columns, figsize=(width, height), layout="constrained")


def plot_images(images: Tensor, titles: Sequence[str] | None = None, columns: int = 8) -> Figure:
    """Pictures in a grid: uint8, or float from 0 to 1, (B, 3, H, W) or (B, H, W)."""
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    fig, axes = figure(rows, columns, width=1.2 * columns, height=1.35 * rows)
    for i, ax in enumerate(np.atleast_1d(axes).flat):
        ax.axis("off")
        if i < len(images):
            ax.imshow(_picture(images[i]), cmap="viridis")
            ax.set_title(titles[i] if titles else "", fontsize=8)
    return fig


def _picture(image: Tensor) -> np.ndarray:
    image = torch.as_tensor(image).cpu()
    return (image.permute(1, 2, 0) if image.ndim == 3 else image).numpy()


def plot_curves(runs: dict[str, Record]) -> Figure:
    """Loss and test accuracy by epoch, one colour a run; `runs` maps a label to a record."""
    fig, (left, right) = figure(1, 2, width=8.0, height=3.2)
    for (label, record), colour in zip(runs.items(), cycle(COLOURS), strict=False):
        curves = record["curves"]
        for (kind, style), losses in zip(LOSSES.items(), (curves["train_loss"], curves["test_loss"]), strict=True):
            left.plot(curves["epoch"], losses, color=colour, linestyle=style, label=f"{label}, {kind}")
        accuracy = 100 * np.array(curves["test_accuracy"])
        right.plot(curves["epoch"], accuracy, color=colour, marker="o", markersize=3, label=label)
    left.set(xlabel="epoch", ylabel="cross-entropy loss")
    right.set(xlabel="epoch", ylabel="test accuracy (%)")
    kinds = [Line2D([], [], color="grey", linestyle=style, label=kind) for kind, style in LOSSES.items()]
    left.legend(handles=kinds, fontsize=9)  # the colours are told on the right: a line a run would hide the curves
    right.legend(fontsize=9, loc="lower right")
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig


def plot_attention(image: Tensor, attn: Tensor, grid_size: int, titles: Sequence[str] | None = None) -> Figure:
    """An image beside what one query attends to in it, a panel a head.

    Args:
        image: the picture, (3, H, W).
        attn: one row of the map for each head, over the patch tokens only, (H, N).
        grid_size: patches along a side, the square root of N.
        titles: a title for each head; its number unless given.
    """
    heads = len(attn)
    fig, axes = figure(1, heads + 1, width=1.7 * (heads + 1), height=2.0)
    axes[0].imshow(_picture(image))
    axes[0].set_title("image", fontsize=9)
    for head, ax in enumerate(axes[1:]):
        weights = attn[head].reshape(grid_size, grid_size).cpu().numpy()
        ax.imshow(weights, cmap="viridis", vmin=0)
        ax.set_title(titles[head] if titles else f"head {head}, max {weights.max():.2f}", fontsize=9)
    for ax in axes:
        ax.axis("off")
    return fig


def plot_similarity(matrices: dict[str, Tensor], columns: int = 3) -> Figure:
    """How alike the layers' maps are: a panel for each (L, L) of cosines, under its title, all on one scale."""
    rows = -(-len(matrices) // columns)
    fig, axes = figure(rows, min(columns, len(matrices)), width=3.0 * min(columns, len(matrices)), height=2.9 * rows)
    axes = np.atleast_1d(axes).ravel()
    for ax, (title, matrix) in zip(axes, matrices.items(), strict=False):
        # A scale of two colours, with white for unlike, tells negative cosines from positive ones.
        image = ax.imshow(torch.as_tensor(matrix).cpu().numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        ax.set_title(title, fontsize=9)
        ax.set(xlabel="block", ylabel="block")
        ax.grid(False)
    for ax in axes[len(matrices) :]:
        ax.axis("off")
    fig.colorbar(image, ax=list(axes), label="cosine", shrink=0.8)
    return fig


def plot_interventions(effects: dict[str, dict[str, list[float]]]) -> Figure:
    """What replacing each block's map does to the loss: a panel for each model, a line for each kind of replacement.

    Args:
        effects: for each model, the change of loss by kind of replacement, one number a block (NaN for none).

    Raises:
        ValueError: when no model has an effect to draw.
    """
    effects = {name: kinds for name, kinds in effects.items() if kinds}
    if not effects:
        raise ValueError("there is no effect to draw; give the mean_interventions of at least one measured run")
    return plot_by_block(effects, ylabel="change of the loss", xlabel="block whose map is replaced")


def plot_by_block(panels: dict[str, dict[str, Sequence[float]]], ylabel: str, xlabel: str = "block") -> Figure:
    """Lines of one number a block: a panel for each title, a line for each label, all on one scale.

    Args:
        panels: for each title, the lines by label; a value for every block from 0 (NaN for none).
        ylabel: what the numbers are.
        xlabel: what they are counted by.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    fig, axes = figure(rows, columns, width=max(6.0, 4.5 * columns), height=3.0 * rows)
    axes = np.atleast_1d(axes).ravel()
    for ax, (title, lines) in zip(axes, panels.items(), strict=False):
        if ax is not axes[0]:
            ax.sharey(axes[0])  # before drawing, so that the scale holds every panel's lines
        for (label, values), marker in zip(lines.items(), cycle("osv^D"), strict=False):
            ax.plot(np.asarray(values), marker=marker, markersize=3, label=label)
        ax.set(title=title, xlabel=xlabel)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes[0].get_ylim()[0] < 0:
        for ax in axes[: len(panels)]:
            ax.axhline(0, color="grey", linewidth=0.8)
    for ax in axes[len(panels) :]:
        ax.axis("off")
    for ax in axes[::columns]:
        ax.set_ylabel(ylabel)
    axes[0].legend(fontsize=9)
    return fig
