"""How many seeds a study needs, given the deviation of its paired differences."""

import math
from pathlib import Path

from scipy.special import stdtrit

from .plan import Contrast, Plan
from .verdict import contrast_effect, results_of

MOST = 1000


def half_width(deviation: float, pairs: int, level: float = 0.95) -> float:
    """Half the width of Student's interval for the mean of `pairs` paired differences."""
    if pairs < 2:
        return math.inf
    return float(stdtrit(pairs - 1, (1 + level) / 2)) * deviation / math.sqrt(pairs)


def pairs_for(deviation: float, margin: float, level: float = 0.95) -> int:
    """The fewest pairs whose interval reaches no further than the margin to either side; MOST where more are needed.

    Args:
        deviation: standard deviation of the paired differences.
        margin: in the same unit.
        level: of the interval, already corrected for the number of contrasts.
    """
    return next((n for n in range(2, MOST) if half_width(deviation, n, level) <= margin), MOST)


def deviation_of(effect_half_width: float, pairs: int, level: float) -> float:
    """The standard deviation of the differences behind an interval of this half width."""
    return effect_half_width * math.sqrt(pairs) / float(stdtrit(pairs - 1, (1 + level) / 2))


def power_table(plan: Plan, folder: Path, study: Plan | None = None) -> list[tuple[str, ...]]:
    """One row for each contrast with two pairs or more, with a header: its precision, and the seeds that it needs.

    Columns: the contrast, its pairs, the standard deviation of its differences of accuracy, the half width of its
    interval, the pairs that bring the half width down to the plan's margin, and the seeds that the plan declares.

    Args:
        plan: whose runs were made, a pilot or the study itself.
        folder: of the records.
        study: the study that a pilot was made for; the last column is then the half width that its seeds allow.
    """
    results = results_of(plan, folder)
    points = f"{100 * plan.margin:g}"
    margin = f"pairs for {points} point{'s' * (points != '1')}"
    last = "seeds declared" if study is None else f"half width, points, with {len(study.seeds)} seeds"
    rows = [("contrast", "pairs", "deviation, points", "half width, points", margin, last)]
    return rows + [row for contrast in plan.contrasts if (row := _row(plan, contrast, results, study))]


def _row(plan: Plan, contrast: Contrast, results: dict, study: Plan | None) -> tuple[str, ...] | None:
    effect = contrast_effect(plan, contrast, results, "test_accuracy")
    if effect.count < 2:
        return None
    half = effect.high - effect.mean
    deviation = deviation_of(half, effect.count, effect.level)
    needed = pairs_for(deviation, plan.margin, effect.level)
    return (
        contrast.name + (" (primary)" if contrast.primary else ""),
        str(effect.count),
        f"{100 * deviation:.2f}",
        f"{100 * half:.2f}",
        str(needed) if needed < MOST else f"{MOST} or more",
        str(len(plan.seeds)) if study is None else f"{100 * _of_study(deviation, study):.1f}",
    )


def _of_study(deviation: float, study: Plan) -> float:
    """The half width of a primary contrast of a study, if its differences scatter like this."""
    return half_width(deviation, len(study.seeds), 1 - 0.05 / study.primary_contrasts)
