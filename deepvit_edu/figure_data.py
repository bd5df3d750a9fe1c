"""The numbers behind a figure as HTML tables, for readers who cannot see it or want to read one off."""

import html
import re
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryFormatter
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FuncFormatter

from .words import minus

MOST_ROWS = 60
"""A longer curve is thinned to this many points, including its first and last; its table says so."""
MOST_ENTRIES = 30
"""A picture with more pixels a side than this is a picture, no table."""


def html_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in HTML; the first cell of each row is its header, and numbers below zero have a true minus sign."""
    titles = "".join(_header(cell, "col") for cell in head)
    lines = "".join(
        f"<tr>{_header(first, 'row')}" + "".join(f"<td>{html.escape(minus(cell))}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    top = f"<caption>{html.escape(caption)}</caption><thead><tr>{titles}</tr></thead>"
    return f"<table>{top}<tbody>{lines}</tbody></table>"


def _header(text: str, scope: str) -> str:
    """A header cell; where it says nothing, as in a corner, it heads nothing."""
    return f'<th scope="{scope}">{html.escape(text)}</th>' if text else "<td></td>"


def folded_tables(fig: Figure) -> str:
    """The tables of a drawn figure, folded, in HTML; empty for one without numbers (a photograph, a drawing)."""
    own = getattr(fig, "own_table", None)  # (caption, head, rows), where lines and points alone would not say enough
    axes = [] if own else list(enumerate(fig.axes, 1))
    tables = [html_table(*own)] if own else []
    tables += [table for number, ax in axes for table in _tables(ax, _name(fig, ax, number))]
    if not tables:
        return ""
    scroll = '<div class="figure-data-scroll" tabindex="0" role="group" aria-label="Table" style="overflow-x: auto">'
    inner = "".join(f"{scroll}{table}</div>" for table in tables)
    return f'<details class="figure-data"><summary>The numbers as a table</summary>{inner}</details>'


def _name(fig: Figure, ax: Axes, number: int) -> str:
    """What a panel is called; in a grid, by its own title or its column's, and by what stands before its row."""
    parts = [ax.get_title() or ax.get_ylabel()]
    if (place := ax.get_subplotspec()) and place.get_gridspec().nrows > 1:
        grid = [other for other in fig.axes if other.get_subplotspec()]
        above = next((other for other in grid if other.get_subplotspec().colspan == place.colspan), ax)
        parts = [ax.get_title() or above.get_title(), _first_of_row(ax).get_ylabel(), *parts]
    named = ", ".join(dict.fromkeys(part.replace("\n", " ") for part in parts if part))
    return named or (f"Panel {number}" if len(fig.axes) > 1 else "Values")


def _first_of_row(ax: Axes) -> Axes:
    """The panel at the beginning of a panel's row, itself where it stands alone."""
    if not (place := ax.get_subplotspec()):
        return ax
    grid = [other for other in ax.figure.axes if other.get_subplotspec()]
    return next((other for other in grid if other.get_subplotspec().rowspan == place.rowspan), ax)


def _tables(ax: Axes, name: str) -> Iterator[str]:
    if ax.get_label() == "<colorbar>":
        return
    yield from _tables_of_lines(ax, name)
    yield from _tables_of_bars(ax, name)
    if intervals := _intervals(ax):
        yield _table_of_intervals(ax, intervals, name)
    points = [found for found in ax.collections if isinstance(found, PathCollection)]
    yield from (_table_of_points(ax, found, name) for found in points if len(found.get_offsets()))
    for image in ax.images:
        values = np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)
        if values.ndim == 2 and max(values.shape) <= MOST_ENTRIES:
            down, across = _words(ax.yaxis), _words(ax.xaxis)
            rows = [(_named(row, down), *map(_shown, entries)) for row, entries in enumerate(values)]
            yield html_table(f"{name}, row by row", ("", *(_named(at, across) for at in range(values.shape[1]))), rows)


def _tables_of_lines(ax: Axes, name: str) -> Iterator[str]:
    """One table for all lines whose x lie among those of the longest; empty cells where a line has no point.

    Where words stand along the vertical axis, one table has the values beside each of them.
    """
    of_intervals = [found[0] for found in _intervals(ax)]
    curves = [
        line
        for line in ax.lines
        if line.get_transform() == ax.transData and len(line.get_xdata()) and line not in of_intervals
    ]
    if curves and (down := _words(ax.yaxis)):
        beside: dict[str, list[float]] = {word: [] for word in down.values()}
        for line in curves:
            for x, y in zip(*line.get_data(orig=False), strict=True):
                beside.setdefault(_named(y, down), []).append(x)
        rows = [(word, ", ".join(map(_shown, sorted(values)))) for word, values in beside.items()]
        yield html_table(name, ("", ax.get_xlabel() or "value"), rows)
        return
    across = _words(ax.xaxis)
    groups: list[tuple[np.ndarray, list[tuple[str, dict[float, float]]]]] = []
    for line in sorted(curves, key=lambda line: -len(line.get_xdata())):  # stable: the legend's order stays
        x, y = (np.asarray(values, dtype=float) for values in line.get_data(orig=False))
        places = next((members for base, members in groups if np.isin(x, base).all()), None)
        if places is None:
            groups.append((x, places := []))
        places.append((_label(line.get_label(), ax), dict(zip(x.tolist(), y.tolist(), strict=True))))
    for x, members in groups:
        kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_ROWS)).round().astype(int))
        head = (ax.get_xlabel() or "x", *(label for label, _ in members))
        rows = [
            (_named(at, across), *(_shown(points.get(at, np.nan)) for _, points in members)) for at in x[kept].tolist()
        ]
        thinned = f" ({len(kept)} of {len(x)} points)" if len(kept) < len(x) else ""
        yield html_table(name + thinned, head, rows)


def _tables_of_bars(ax: Axes, name: str) -> Iterator[str]:
    """One table for all series of bars that stand at the same words."""
    series: dict[tuple[str, ...], list[BarContainer]] = {}
    for bars in (found for found in ax.containers if isinstance(found, BarContainer)):
        across = bars.orientation == "horizontal"
        words = _words(ax.yaxis if across else ax.xaxis)
        middles = [bar.get_y() + bar.get_height() / 2 if across else bar.get_x() + bar.get_width() / 2 for bar in bars]
        series.setdefault(tuple(_named(at, words) for at in middles), []).append(bars)
    for words, found in series.items():
        sizes = [[bar.get_width() if bars.orientation == "horizontal" else bar.get_height() for bar in bars]
                 for bars in found]  # fmt: skip
        rows = [(word, *map(_shown, row)) for word, *row in zip(words, *sizes, strict=True)]
        yield html_table(name, ("", *(_label(bars.get_label(), ax) for bars in found)), rows)


def _intervals(ax: Axes) -> list[ErrorbarContainer]:
    """The effects with an interval that lie one below the other, each with its name as label."""
    return [found for found in ax.containers if isinstance(found, ErrorbarContainer) and found.has_xerr]


def _table_of_intervals(ax: Axes, intervals: list[ErrorbarContainer], name: str) -> str:
    rows = []
    for found in intervals:
        middle, _, (reach,) = found
        (low, high) = reach.get_segments()[0][:, 0]
        rows.append((str(found.get_label()), *map(_shown, (float(middle.get_xdata()[0]), float(low), float(high)))))
    return html_table(name, ("", ax.get_xlabel() or "value", "from", "to"), rows)


def _table_of_points(ax: Axes, points: PathCollection, name: str) -> str:
    label = _label(points.get_label(), ax)
    rows = [tuple(map(_shown, point)) for point in np.ma.filled(points.get_offsets(), np.nan)]
    return html_table(f"{name}: {label}", (ax.get_xlabel() or "x", _ylabel(ax) or "y"), rows)


def _words(axis: Axis) -> dict[float, str]:
    """The words along an axis, by their places; empty where its ticks are numbers."""
    if not isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter | StrCategoryFormatter):
        return {}
    ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
    return {float(place): text.get_text().replace("\n", " ") for place, text in ticks if text.get_text()}


def _named(at: float, words: dict[float, str]) -> str:
    """The word nearest to a place, if it is less than half a step away; without one, the number."""
    nearest = min(words, key=lambda place: abs(place - at), default=None)
    return words[nearest] if nearest is not None and abs(nearest - at) < 0.5 else _shown(at)


def _label(label: object, ax: Axes) -> str:
    """A legend's words. A label that begins with an underscore is in no legend, but names its line here.

    Labels of matplotlib's own say nothing: there the panel's, or its row's, vertical axis is the name.
    """
    text = str(label)
    if not text or re.fullmatch(r"_[a-z]+\d*_?", text):
        return _ylabel(ax) or "value"
    return text.removeprefix("_")


def _ylabel(ax: Axes) -> str:
    """What a panel's vertical axis shows; it may be written at the first panel of the row alone."""
    return ax.get_ylabel() or _first_of_row(ax).get_ylabel()


def _shown(value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.3g}"
