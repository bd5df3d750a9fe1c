"""Figures drawn from the records of a study, and the sentence that stands in their place while runs are missing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import spearmanr

from .experiment.ledger import Entry, short_name
from .experiment.plan import Plan, arm_config, arm_data
from .experiment.verdict import (
    contrast_effect,
    has,
    mean_interventions,
    measured_maps,
    recorded_runs,
    recorded_value,
    results_of,
)
from .nn.model import attention_name
from .plot import COLOURS, figure, plot_by_block, show
from .records import Record

FORCED = ("handed", "tied", "query-mean")
"""Attentions that make a block's maps alike by construction, or all rows of a map."""
MARKERS = "osv^DPX*"
REPLACED_BY = ("uniform", "query-mean", "other image", "no attention")
"""What a block's map is replaced by to see whether it is used; the least harmful counts."""

KINDS = {
    "plain": "plain attention",
    "layerscale": "LayerScale",
    "re": "Re-attention",
    "centred": "centred attention",
    "refiner": "Refiner",
}
"""What the arms of many plans are called in a sentence."""


@dataclass(frozen=True)
class Drawn:
    """A figure with the sentence that says what is to be seen in it."""

    figure: Figure
    says: str


def show_drawn(drawn: Drawn | str) -> None:
    """Shows a figure with its sentence below, or the sentence that says why there is none yet."""
    if isinstance(drawn, str):
        display(Markdown(f"*{drawn}*"))
    else:
        show(drawn.figure, alt=drawn.says, caption=drawn.says)


def draw_forest(entries: Sequence[Entry]) -> Drawn | str:
    """The effects on accuracy of the ledger's claims: interval, mean, one dot a pair of runs, and the margin as a band.

    Args:
        entries: of the ledger; those without an interval, or of another measure than accuracy, are counted in words.
    """
    asked = [entry for entry in entries if entry.claim.measure == "test_accuracy"]
    rows = [entry for entry in asked if entry.result is not None]
    if not rows:
        recorded, needed = (sum(getattr(entry, name) for entry in asked) for name in ("recorded", "needed"))
        return f"No effect to draw yet: {recorded} of {needed} runs of these claims are recorded."
    fig, ax = figure(width=5.2, height=0.8 + 0.62 * len(rows))
    ax.axvline(0, color="grey", linewidth=0.8)
    for place, entry in enumerate(reversed(rows)):
        _draw_effect(ax, place, entry)
    ax.set(xlabel="points of accuracy", ylim=(-0.6, len(rows) - 0.1), yticks=[])
    ax.grid(axis="y", visible=False)
    head = ("claim", "verdict", "mean, points", "from", "to", "each pair")
    fig.own_table = ("Effects on accuracy", head, [_effect_row(entry) for entry in rows])
    left_out = len(asked) - len(rows)
    more = f" {_count(left_out, 'more claim')} without an interval yet." if left_out else ""
    return Drawn(
        fig,
        f"Effects on accuracy with their intervals, {_count(len(rows), 'claim')}. Small dots are pairs of runs; grey "
        f"is the margin within which a difference does not matter. Full circles decided their claim, open ones did "
        f"not.{more}",
    )


def _draw_effect(ax: Axes, place: int, entry: Entry) -> None:
    """One row: words above, and below them the margin, the interval, the mean and the pairs."""
    effect, points = entry.result, 100 * np.array(entry.differences)
    margin, decided = 100 * entry.margin, entry.verdict not in ("inconclusive", "not decided yet")
    ax.fill_between([-margin, margin], place - 0.28, place + 0.2, color="grey", alpha=0.25, linewidth=0)
    ax.plot([100 * effect.low, 100 * effect.high], [place, place], color=COLOURS[0], linewidth=2)
    face = COLOURS[0] if decided else "none"
    ax.plot(100 * effect.mean, place, "o", color=COLOURS[0], markerfacecolor=face, markersize=7)
    ax.plot(points, np.full(len(points), place - 0.17), ".", color=COLOURS[1], markersize=5)
    ax.text(0.02, place + 0.3, f"{_named(entry)}: {entry.verdict}", transform=ax.get_yaxis_transform(), fontsize=9)


def _named(entry: Entry) -> str:
    """The contrast, with what tells it from the same contrast of another study."""
    slope = " per doubling" if " per doubling" in entry.effect else ""
    return f"{entry.claim.contrast}{slope} ({short_name(entry.claim.plan)})"


def _effect_row(entry: Entry) -> tuple[str, ...]:
    effect = entry.result
    numbers = (f"{100 * value:+.2f}" for value in (effect.mean, effect.low, effect.high))
    return (_named(entry), entry.verdict, *numbers, ", ".join(f"{100 * value:+.2f}" for value in entry.differences))


def draw_curves(plan: Plan, folder: Path) -> Drawn | str:
    """Test accuracy over the images seen: a panel for each depth, a line for each arm, the mean over its runs."""
    found = results_of(plan, folder)
    measured = {arm: [run for run in runs.values() if "images" in run["curves"]] for arm, runs in found.items()}
    measured = {arm: runs for arm, runs in measured.items() if runs}
    if not measured:
        return _waiting("learning curves", plan, found)
    depths = sorted({_depth(plan, arm) for arm in measured})
    fig, axes = figure(1, len(depths), width=4.2 * len(depths), height=4.2)
    for ax, depth in zip(np.atleast_1d(axes), depths, strict=True):
        for (arm, runs), (colour, marker) in zip(_of_depth(plan, measured, depth), _styles(), strict=False):
            images, accuracy = _mean_curve(runs)
            ax.plot(
                images / 1000,
                accuracy,
                color=colour,
                marker=marker,
                markersize=3,
                markevery=4,
                label=kind_words(plan, arm),
            )
        ax.set(title=f"{depth} blocks", xlabel="thousand images", ylabel="test accuracy (%)")
        ax.sharey(np.atleast_1d(axes)[0])
        _legend_below(ax, columns=2)
    few, most = (choose(len(runs) for runs in measured.values()) for choose in (min, max))
    of = f"{few} to {most} runs" if few < most else "one run" if most == 1 else f"{most} runs"
    ends = "; ".join(f"{arm_words(plan, arm)}: {_mean_curve(runs)[1][-1]:.1f} %" for arm, runs in measured.items())
    return Drawn(
        fig, f"Learning curves of study {short_name(plan.name)}, each the mean of {of}. At their ends: {ends}."
    )


def _mean_curve(runs: list[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Images and mean accuracy (%) over runs that were evaluated after the same numbers of images."""
    accuracy = np.mean([run["curves"]["test_accuracy"] for run in runs], axis=0)
    return np.array(runs[0]["curves"]["images"]), 100 * accuracy


def draw_doses(plan: Plan, folder: Path) -> Drawn | str:
    """What forced collapse costs: for each contrast with a forced arm, blocks that are forced against the change.

    Each point has its interval; points of one control have one colour. A contrast is drawn when all its pairs are in:
    the interval of the first two would fill the figure and say nothing.
    """
    found = results_of(plan, folder)
    doses = [
        (contrast.control[0], contrast.name, forced_blocks(plan, contrast.treatment[0]), effect)
        for contrast in plan.contrasts
        if len(contrast.treatment) == 1
        and forced_blocks(plan, contrast.treatment[0]) > forced_blocks(plan, contrast.control[0])
        if (effect := contrast_effect(plan, contrast, found, "test_accuracy")).count == len(plan.seeds) > 1
    ]
    if not doses:
        return _waiting("doses of forced collapse", plan, found)
    controls = sorted({control for control, *_ in doses})
    fig, ax = figure(width=5.6, height=4.6)
    ax.axhspan(-100 * plan.margin, 100 * plan.margin, color="grey", alpha=0.2, linewidth=0)
    ax.axhline(0, color="grey", linewidth=0.8)
    beside = {}  # points of one dose stand beside each other
    for (control, name, dose, effect), marker in zip(doses, cycle(MARKERS), strict=False):
        beside[dose] = beside.get(dose, -1) + 1
        reach = [[100 * (effect.mean - effect.low)], [100 * (effect.high - effect.mean)]]
        colour = COLOURS[controls.index(control) % len(COLOURS)]
        at, label = dose + 0.35 * beside[dose], f"{name} (against {arm_words(plan, control)})"
        ax.errorbar([at], [100 * effect.mean], yerr=reach, fmt=marker, color=colour, label=label)
    ax.set(xlabel="blocks whose maps are forced", ylabel="change of accuracy, points", xlim=(0, max(beside) + 2))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_below(ax, columns=1)
    head = ("contrast", "against", "blocks forced", "change, points", "from", "to")
    rows = [
        (name, control, str(dose), *(f"{100 * v:+.2f}" for v in (effect.mean, effect.low, effect.high)))
        for control, name, dose, effect in doses
    ]
    fig.own_table = ("Doses of forced collapse", head, rows)
    told = "; ".join(
        f"{name}, {_count(dose, 'block')}: {100 * effect.mean:+.1f} points" for _, name, dose, effect in doses
    )
    return Drawn(
        fig,
        f"What forcing maps to be alike does to accuracy, with intervals. {told}. A block that makes a map for others "
        "is not counted.",
    )


def forced_blocks(plan: Plan, arm: str) -> int:
    """How many blocks of an arm have maps that are made alike by construction."""
    config = arm_config(plan, arm, 10)
    return sum(attention_name(config, layer) in FORCED for layer in range(config.depth))


def draw_aliveness(plan: Plan, folder: Path) -> Drawn | str:
    """Whether maps are used, block by block: a panel for each depth, a line for each arm, the mean over its runs.

    A block's number is the change of the loss under the least harmful replacement of its map alone. Whether the deep
    half is used as a whole is said in words: single blocks can stand in for one another.
    """
    found = results_of(plan, folder)
    measured = {arm: list(runs.values()) for arm, runs in found.items()}
    measured = {arm: runs for arm, runs in measured.items() if mean_interventions(runs)}
    if not measured:
        return _waiting("aliveness by block", plan, found)
    panels = {
        f"{depth} blocks": {
            kind_words(plan, arm): least_harmful_by_block(runs) for arm, runs in _of_depth(plan, measured, depth)
        }
        for depth in sorted({_depth(plan, arm) for arm in measured})
    }
    fig = plot_by_block(panels, ylabel="change of the loss, nats", xlabel="block whose map is replaced")
    fig.set_figheight(4 / 3 * fig.get_figheight())  # legends have room below
    for ax in fig.axes[: len(panels)]:  # a place without a panel has none
        _legend_below(ax, columns=2)
    told = [
        f"{arm_words(plan, arm)}: {words}"
        for arm, runs in measured.items()
        if (words := _alive_words(measured_maps(runs)))
    ]
    together = f" The maps of the deep half together matter with {'; '.join(told)}." if told else ""
    return Drawn(fig, f"What replacing one block's map costs, by the least harmful of four replacements.{together}")


def least_harmful_by_block(runs: list[Record]) -> list[float]:
    """For each block the smallest change of the loss that a replacement of its map makes, means over runs."""
    kinds = mean_interventions(runs)
    return np.nanmin([kinds[how] for how in REPLACED_BY if how in kinds], axis=0).tolist()


def _alive_words(maps: dict[str, float] | None) -> str:
    """In how many runs the maps of the deep half matter, of what `measured_maps` found; empty if none was decided."""
    undecided = maps["runs"] - maps["alive"] - maps["idle"] if maps else 0
    if not maps or undecided == maps["runs"]:
        return ""
    return f"in {maps['alive']} of {_count(maps['runs'], 'run')}" + (f" ({undecided} undecided)" if undecided else "")


def draw_likeness(plans: Iterable[Plan], folder: Path, measure: str = "repetition_excess") -> Drawn | str:
    """Likeness of neighbouring maps against accuracy: a point for each arm of any plan, a panel for each set of images.

    Args:
        plans: arms that a plan takes from another are drawn once, with the plan that made them.
        folder: of the records.
        measure: of the maps, its mean over the deep half: an excess over new weights.
    """
    points: dict[str, dict[str, tuple[float, float]]] = {}
    undefined = []
    for plan in plans:
        for arm, runs in results_of(plan, folder).items():
            if plan.arms[arm].taken_from is not None:
                continue
            label = f"{arm_words(plan, arm)} ({short_name(plan.name)})"
            measured = [run for run in runs.values() if has(run, measure)]
            if not measured and any(measure in run.get("diagnostics", {}) for run in runs.values()):
                undefined.append(label)
            if measured:
                panel = points.setdefault(arm_data(plan, arm)["name"], {})
                panel[label] = (_mean(measured, measure), 100 * _mean(measured, "test_accuracy"))
    if not points:
        return "Not drawn yet: no run with this measure is recorded."
    most = max(map(len, points.values()))  # names in a legend: in one column, since a phone has no room for two
    fig, axes = figure(1, len(points), width=4.6 * len(points), height=4.0 + 0.2 * most)
    for ax, (name, arms) in zip(np.atleast_1d(axes), points.items(), strict=True):
        for (arm, place), (colour, marker) in zip(arms.items(), _styles(), strict=False):
            ax.plot(*place, marker, color=colour, label=arm, linestyle="none")
        ax.set(title=name, xlabel="repetition of the block before, above new weights", ylabel="test accuracy (%)")
        _legend_below(ax, columns=1)
    head = ("arm", "images", "repetition above new weights", "test accuracy, %")
    rows = [
        (arm, name, f"{repetition:.3f}", f"{accuracy:.1f}")
        for name, arms in points.items()
        for arm, (repetition, accuracy) in arms.items()
    ]
    fig.own_table = ("Likeness against accuracy", head, rows)
    told = "; ".join(f"{name}: {_rank_text(list(arms.values()))}" for name, arms in points.items())
    if undefined:
        told += f". Without a point, since the measure is not defined for such maps: {', '.join(undefined)}"
    return Drawn(fig, f"How much the deep half's maps repeat, against accuracy, one point for each arm. {told}.")


def _mean(runs: list[Record], measure: str) -> float:
    return float(np.mean([recorded_value(run, measure) for run in runs]))


def _legend_below(ax: Axes, columns: int) -> None:
    """A legend that hides no point: below the axis' label, however high the panel is."""
    away = 4.5  # of the legend's text sizes: numbers and a label lie between
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=away, ncols=columns)


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's rank correlation of the two numbers of each pair; NaN where one of them never changes."""
    if any(np.ptp(column) == 0 for column in np.transpose(pairs)):
        return float("nan")
    return float(spearmanr(pairs).statistic)


def _rank_text(pairs: list[tuple[float, float]]) -> str:
    if len(pairs) < 4:
        return f"{len(pairs)} arms, too few for a correlation"
    return f"rank correlation {rank_correlation(pairs):+.2f} over {len(pairs)} arms"


def _styles() -> Iterator[tuple[str, str]]:
    """Colours and marks, both another at each step: neighbours differ without colour, too."""
    return zip(cycle(COLOURS), cycle(MARKERS), strict=False)


def _of_depth(plan: Plan, measured: dict[str, list[Record]], depth: int) -> list[tuple[str, list[Record]]]:
    return [(arm, runs) for arm, runs in measured.items() if _depth(plan, arm) == depth]


def _depth(plan: Plan, arm: str) -> int:
    return arm_config(plan, arm, 10).depth


def kind_words(plan: Plan, arm: str) -> str:
    """An arm's name in words, without its depth, where it says no more than its kind and depth; else as it is."""
    kind, _, rest = arm.partition("-")
    depth = str(_depth(plan, arm))
    if kind in KINDS and rest in ("", depth):
        return KINDS[kind]
    if kind in KINDS and rest == f"{depth}-small":
        return f"{KINDS[kind]} from a small start"
    return arm


def arm_words(plan: Plan, arm: str) -> str:
    """An arm's name in words: "re-24" is Re-attention, 24 blocks."""
    kind = kind_words(plan, arm)
    return f"{kind}, {_count(_depth(plan, arm), 'block')}" if "-" in arm and kind != arm else kind


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _waiting(what: str, plan: Plan, found: dict) -> str:
    """The sentence in a figure's place."""
    needed = len(plan.arms) * len(plan.seeds)
    return f"Not drawn yet, {what}: {recorded_runs(found)} of {needed} runs of {plan.name} are recorded."
