"""Figures for the book: drawn by matplotlib, with a text alternative, readable in dark mode and by the colour-blind."""

import html
import inspect
import io
import re
import textwrap
from collections.abc import Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython import get_ipython
from IPython.display import HTML, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, MaxNLocator
from torch import Tensor

from .figure_data import folded_tables
from .records import Record
from .words import minus

# Okabe and Ito's colours, which readers with any common form of colour blindness can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE = {
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.dpi": 110,
    "font.size": 11,
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar in the name of a class is a dollar
}


SCREEN_DPI = 96
NARROW_WIDTH = 3.7  # inches: a phone's column, so that text keeps its size there
SMALLEST_TEXT = 7.0  # points: 9 pixels of a screen; what would be smaller on a phone is drawn anew for it
# Black is the colour of the page's text; the others are variables of the page's style, with these values without it.
THEME_COLOURS = {"#000000": "currentColor"} | {
    colour.lower(): f"var(--figure-{number}, {colour.lower()})" for number, colour in enumerate(COLOURS[:-1], 1)
}
PHONE_STYLE = (
    "<style>.book-figure { margin: 1rem 0; } .figure-narrow { display: none; } @media (max-width: 576px) "
    "{ .figure-stacked .figure-wide { display: none; } .figure-stacked .figure-narrow { display: block; } }</style>"
)
LOSSES = {"training": "-", "test": "--"}


def show(fig: Figure, alt: str, caption: str = "", name: str = "") -> None:
    """Shows a figure in a notebook or page: picture, caption, and its numbers in a folded table; closes it.

    Args:
        fig: a matplotlib figure.
        alt: the text that replaces the picture for those who do not see it.
        caption: what the figure says, best with the numbers of this run; below the picture. The built book writes the
            figure's number before it.
        name: what the text of a page refers to the figure by, such as "fig:replaced".

    Raises:
        ValueError: when the text is missing.
    """
    if not alt.strip():
        raise ValueError("a figure needs a text alternative; say in a sentence what is to be seen in it")
    display(HTML(figure_html(fig, alt, caption, name, with_numbers=True)))


def figure_html(fig: Figure, alt: str, caption: str = "", name: str = "", with_numbers: bool = False) -> str:
    """A figure as HTML: an SVG, a second one for phones where the first would not be legible there; closes it."""
    alt, caption = minus(alt), minus(caption)
    tables = folded_tables(fig) if with_numbers else ""
    pictures = [_svg(fig, alt, "figure-wide")]
    if _stack_panels(fig) or _fit_phone(fig):
        pictures.append(_svg(fig, alt, "figure-narrow"))
    plt.close(fig)
    stacked = " figure-stacked" if len(pictures) > 1 else ""
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    anchor = f' id="{html.escape(name)}"' if name else ""
    return f'<figure class="book-figure{stacked}"{anchor}>{PHONE_STYLE}{"".join(pictures)}{below}{tables}</figure>'


def _svg(fig: Figure, alt: str, name: str) -> str:
    """The figure as SVG on no ground, with text as text; lines and letters follow the colours of the page.

    Pictures and maps are in it as PNG, untouched by the page's colours, at twice the resolution of a screen.
    """
    for legend in [*fig.legends, *filter(None, (ax.get_legend() for ax in fig.axes))]:
        legend.set_frame_on(False)
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none"}):
        fig.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, dpi=2 * SCREEN_DPI)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # within a page, SVG needs no address of what it is
    svg = re.sub(r"\s*<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)  # that style would reach the whole page
    svg = _slim(svg)
    for colour, variable in THEME_COLOURS.items():
        svg = re.sub(rf"(stroke|fill): {colour}\b", rf"\1: {variable}", svg)
    # The figure's size on a screen; a narrower column makes it smaller.
    points = re.findall(r' (?:width|height)="([\d.]+)pt"', svg)
    width, height = (round(float(size) * SCREEN_DPI / 72) for size in points)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    start = f'<svg class="figure-picture {name}" role="img" aria-label="{html.escape(alt)}" '
    look = 'fill="currentColor" stroke-linejoin="round" '
    size = f'style="width: 100%; max-width: {width}px; aspect-ratio: {width} / {height}" '
    return svg.replace("<svg ", start + look + size, 1)


def _slim(svg: str) -> str:
    """The same drawing in fewer bytes: no names of groups, no spaces, places in tenths of a point."""

    def in_tenths(places: re.Match) -> str:
        shorter = re.sub(r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", places[0])
        return re.sub(r"\s+", " ", shorter)

    svg = re.sub(r' (d|x|y)="[^"]*"', in_tenths, svg)
    return re.sub(r">\s+<", "><", re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", svg))


def _stack_panels(fig: Figure) -> bool:
    """Arranges a row of panels for a phone's column, pictures in twos or threes; whether there was anything to do.

    A scale of colours that belongs to all panels stays beside them.
    """
    panels = [ax for ax in fig.axes if ax.get_label() != "<colorbar>"]
    if any(ax.get_subplotspec() is None for ax in panels):
        return False
    pictures = any(ax.images for ax in panels)
    rows, columns = panels[0].get_subplotspec().get_gridspec().get_geometry() if panels else (1, 1)
    if pictures and rows > 1:  # rows of pictures belong together column by column
        return False
    across = _pictures_across(panels) if pictures else 1
    if columns <= min(across, 2):
        return False
    down = -(-len(panels) // across)
    panel_height = NARROW_WIDTH / across if pictures else min(fig.get_figheight() / rows, 2.8)
    grid = GridSpec(down, 2 * across, figure=fig)
    missing = down * across - len(panels)
    for place, ax in enumerate(panels):
        row, column = divmod(place, across)
        start = 2 * column + (missing if row == down - 1 else 0)  # half a panel for each that is missing: in the middle
        ax.set_subplotspec(grid[row, start : start + 2])
        if pictures:
            _narrow_title(ax, NARROW_WIDTH / across)
        else:  # a panel by itself says what it counts
            ax.set_ylabel(ax.get_ylabel() or panels[0].get_ylabel())
    fig.set_size_inches(NARROW_WIDTH, panel_height * down)
    if pictures:
        _small_text(fig)
    elif layout := fig.get_layout_engine():
        layout.set(h_pad=0.12)  # inches; a title does not touch the words above it
    return True


def _pictures_across(panels: Sequence[Axes]) -> int:
    """How many pictures stand side by side on a phone: three fill a row unless they have axes of their own."""
    bare = not any(ax.axison for ax in panels)
    return 3 if len(panels) > 4 or (len(panels) == 3 and bare) else 2


def _fit_phone(fig: Figure) -> bool:
    """Arranges a figure that stays as it is for a phone's column, where its text would be too small; whether it was."""
    sizes = [text.get_fontsize() for text in fig.findobj(Text) if text.get_text().strip()]
    scale = NARROW_WIDTH / fig.get_figwidth()
    if scale >= 1 or min(sizes, default=SMALLEST_TEXT) * scale >= SMALLEST_TEXT:
        return False
    pictures = [ax for ax in fig.axes if ax.images and ax.get_label() != "<colorbar>"]
    _small_text(fig)
    for ax in fig.axes:
        _break_names(ax)
    height = fig.get_figheight() * scale + _narrow_titles(pictures) if pictures else fig.get_figheight()
    fig.set_size_inches(NARROW_WIDTH, height)
    return True


def _break_names(ax: Axes) -> None:
    """Breaks long names on a panel's vertical axis, which would take the panel's place."""
    if isinstance(ax.yaxis.get_major_locator(), FixedLocator):
        names = [textwrap.fill(label.get_text(), 18) for label in ax.get_yticklabels()]
        ax.set_yticks(ax.get_yticks(), names)


def _narrow_titles(pictures: Sequence[Axes]) -> float:
    """Breaks the titles of pictures side by side; the inches that the new lines need."""
    spec = pictures[0].get_subplotspec()
    columns = spec.get_gridspec().ncols if spec else 1
    more_lines = 0
    for ax in pictures:
        before = ax.get_title().count("\n")
        if columns > 3:
            ax.title.set_fontsize(SMALLEST_TEXT)
        _narrow_title(ax, NARROW_WIDTH / columns)
        more_lines += ax.get_title().count("\n") - before
    return more_lines / columns * SMALLEST_TEXT * 1.3 / 72


def _small_text(fig: Figure) -> None:
    """Gives the text of a figure sizes that suit a phone's column."""
    for ax in fig.axes:
        ax.tick_params(labelsize=8)
    for text in fig.findobj(Text):
        text.set_fontsize(min(9, max(SMALLEST_TEXT, text.get_fontsize())))
    for legend in fig.findobj(Legend):
        for text in legend.get_texts():
            text.set_fontsize(8)


def _narrow_title(ax: Axes, width: float) -> None:
    """Breaks a title into lines that fit into so many inches."""
    size = min(9, ax.title.get_fontsize())
    characters = max(8, int(width * 72 / (0.62 * size)))  # a letter is some 0.6 of its height wide
    lines = [textwrap.fill(line, characters) for line in ax.get_title().splitlines()]
    ax.set_title("\n".join(lines), fontsize=size)


def show_source(*objects: object) -> None:
    """Shows the source of functions or classes, read from where they are; highlighted in a notebook or page."""
    source = "\n".join(textwrap.dedent(inspect.getsource(one)) for one in objects)
    _tell(f"```python\n{source}```", plain=source)


def measured(*sentences: str) -> None:
    """Shows what was found, as a marked paragraph of a notebook or page; the sentences carry this run's numbers."""
    _tell_marked("Measured on this page", sentences)


def recorded(*sentences: str) -> None:
    """Shows what recorded runs found, as a marked paragraph like that of `measured`."""
    _tell_marked("From the records", sentences)


def in_short(*sentences: str) -> None:
    """Shows one finding of a page in a line; the built page has it in its box "What we found"."""
    _tell_marked("In short", sentences)


def _tell_marked(mark: str, sentences: tuple[str, ...]) -> None:
    text = minus(f"**{mark}.** {' '.join(sentences)}")
    _tell(f"> {text}", plain=text)


def _tell(markdown: str, plain: str) -> None:
    """Shows Markdown wherever in a cell it is called; a plain script prints."""
    if get_ipython():
        display(Markdown(markdown))
    else:
        print(plain)


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
    """Loss and test accuracy by epoch, one colour per run; `runs` maps a label to a record."""
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
    left.legend(handles=kinds, fontsize=9)  # the colours are explained on the right: a line a run would hide the curves
    right.legend(fontsize=9)  # where it hides least: not every curve rises
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return fig


def plot_attention(image: Tensor, attn: Tensor, grid_size: int, titles: Sequence[str] | None = None) -> Figure:
    """An image beside what one query attends to in it, one panel per head.

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


def plot_similarity(matrices: dict[str, Tensor], columns: int = 3, lowest: float = -1) -> Figure:
    """Similarity of the layers' maps: a panel with a title for each (L, L) of cosines, all on one scale.

    Args:
        matrices: the cosines by title.
        columns: panels in a row.
        lowest: where the scale begins; a scale without negative cosines has shades of one colour.
    """
    rows = -(-len(matrices) // columns)
    fig, axes = figure(rows, min(columns, len(matrices)), width=3.0 * min(columns, len(matrices)), height=2.9 * rows)
    axes = np.atleast_1d(axes).ravel()
    for ax, (title, matrix) in zip(axes, matrices.items(), strict=False):
        # A scale of two colours, with white for 0, shows the sign of a cosine.
        colours = "RdBu_r" if lowest < 0 else "viridis"
        image = ax.imshow(torch.as_tensor(matrix).cpu().numpy(), cmap=colours, vmin=lowest, vmax=1)
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
        effects: for each model, the change of loss by kind of replacement, one number per block (NaN for none).

    Raises:
        ValueError: when no model has an effect to draw.
    """
    effects = {name: kinds for name, kinds in effects.items() if kinds}
    if not effects:
        raise ValueError("no effect to draw; give the mean_interventions of at least one measured run")
    return plot_by_block(effects, ylabel="change of the loss", xlabel="block whose map is replaced")


def plot_effects(effects: dict[str, tuple[float, float, float]], margin: float, xlabel: str) -> Figure:
    """Effects with their intervals, one below the other, and a band in which an effect does not matter.

    Args:
        effects: by name, the mean and the lower and upper end of its interval.
        margin: half the width of the band around zero.
        xlabel: what the effects are, with their unit.
    """
    fig, ax = figure(width=6.4, height=0.9 + 0.36 * len(effects))
    ax.axvspan(-margin, margin, color="grey", alpha=0.2, linewidth=0)
    ax.axvline(0, color="grey", linewidth=0.8)
    places = range(len(effects), 0, -1)
    for place, (name, (mean, low, high)) in zip(places, effects.items(), strict=True):
        clear = low > 0 or high < 0
        reach = [[mean - low], [high - mean]]
        look = {"fmt": "o" if clear else "s", "markerfacecolor": COLOURS[0] if clear else "none"}
        ax.errorbar(mean, place, xerr=reach, label=name, color=COLOURS[0], elinewidth=2, **look)
    ax.set(xlabel=xlabel, yticks=list(places), yticklabels=list(effects), ylim=(0.4, len(effects) + 0.6))
    ax.grid(axis="y", visible=False)
    return fig


def plot_by_block(panels: dict[str, dict[str, Sequence[float]]], ylabel: str, xlabel: str = "block") -> Figure:
    """Lines of one number per block: a panel for each title, a line for each label, all on one scale.

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
        for number, ((label, values), marker) in enumerate(zip(lines.items(), cycle("osv^D"), strict=False)):
            # Marks at some places, other ones for each line: lines that lie on one another can be told apart.
            every = max(1, len(values) // 8)
            marks = slice(number % every, None, every)
            ax.plot(np.asarray(values), marker=marker, markersize=3, markevery=marks, label=label)
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
