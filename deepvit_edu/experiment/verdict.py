"""What the records of a plan say: means, paired differences with intervals, and verdicts by the plan's own rule."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import stdtr, stdtrit  # scipy.stats has them too, and takes seconds to import

from ..diagnostics import effects_by_block
from ..records import Record, images_seen, images_until
from ..words import align, minus
from .plan import ANNOTATOR, Contrast, Job, Plan, arm_data
from .results import missing_jobs, open_questions, outcome, record_path, tuned_rate

MEASURES = ("test_accuracy", "train_loss")


@dataclass(frozen=True)
class Effect:
    """A mean of paired differences over seeds, and the interval that holds it at the given level."""

    mean: float
    low: float
    high: float
    count: int
    level: float = 0.95

    def verdict(self, margin: float) -> str:
        """ "higher", "lower", "no difference that matters" (the interval lies within the margin) or "inconclusive"."""
        if self.count < 2:
            return "too few runs"
        if -margin < self.low and self.high < margin:
            return "no difference that matters"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "inconclusive"

    def p_value(self, margin: float, *, beyond: bool = False) -> float:
        """The error rate at which an interval of these differences begins to say what `verdict` says; 1 for one pair.

        By Student's t, both sides counted: against no difference, or, for "no difference that matters", against one as
        large as the margin. Where nothing is said yet, the smaller of the two.

        Args:
            margin: the largest difference that does not matter.
            beyond: a difference counts only where it lies beyond the margin, as for a claim that there is none.
        """
        if self.count < 2:
            return 1.0
        said, far = self.verdict(margin), margin if beyond else 0.0
        differs = self._both_sides(max(0.0, abs(self.mean) - far))
        within = self._both_sides(max(0.0, margin - abs(self.mean)))
        if said == "inconclusive":
            return min(differs, within)
        return within if said == "no difference that matters" else differs

    def _both_sides(self, distance: float) -> float:
        """How often a mean lies at least so far from the true one, on either side."""
        error = (self.high - self.mean) / float(stdtrit(self.count - 1, (1 + self.level) / 2))
        if error == 0:
            return 0.0 if distance > 0 else 1.0
        return float(2 * stdtr(self.count - 1, -distance / error))


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction: p-values of claims that are read together, each as if it were alone, in the order given.

    What lies below 5 % afterwards can be believed together: that any of it is chance has a probability of 5 % at most.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = np.argsort(p_values, kind="stable")
    left = len(p_values) - np.arange(len(p_values))  # claims not yet accepted when a claim's turn comes
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(left * np.asarray(p_values, dtype=float)[order]))
    return adjusted.tolist()


def effect_of(differences: list[float], level: float = 0.95) -> Effect:
    """Student's t interval of the mean of paired differences; without limits where there are fewer than two."""
    count = len(differences)
    mean = float(np.mean(differences)) if count else float("nan")
    if count < 2:
        return Effect(mean, float("-inf"), float("inf"), count, level)
    half = float(stdtrit(count - 1, (1 + level) / 2) * np.std(differences, ddof=1) / np.sqrt(count))
    return Effect(mean, mean - half, mean + half, count, level)


def results_of(plan: Plan, folder: Path) -> dict[str, dict[int, Record]]:
    """The records that count, by arm and seed; failed and missing runs are left out.

    Raises:
        ValueError: when records that are to be compared were made of different images, or an arm's at different rates.
    """
    found: dict[str, dict[int, Record]] = {arm: {} for arm in plan.arms}
    first: dict[tuple[str, str], tuple[Path, object]] = {}  # the first record of each kind
    for job in (Job(arm, seed) for arm in plan.arms for seed in plan.seeds):
        result, path = outcome(plan, job, folder), record_path(plan, job, folder)
        if result is None or "failed" in result:
            continue
        found[job.arm][job.seed] = result
        for what, key, value in _must_match(plan, job.arm, result):
            other, expected = first.setdefault((what, key), (path, value))
            if value != expected:
                raise ValueError(f"{path} and {other} cannot be compared: their {what} differ; run one of them again")
    return found


def _must_match(plan: Plan, arm: str, record: Record) -> Iterator[tuple[str, str, object]]:
    """What must be the same in all compared records: its name, the group of records, and its value."""
    images = arm_data(plan, arm)
    of_test = {key: value for key, value in images.items() if key != "train_images"}
    yield "training images", json.dumps(images, sort_keys=True), record["data_hash"]
    yield "test images", json.dumps(of_test, sort_keys=True), record.get("test_data_hash")
    yield "learning rates", arm, record["config"]["recipe"]["learning_rate"]


def recorded_value(record: Record, measure: str) -> float:
    """A number of a record: "test_accuracy", "train_loss", or a diagnostic's mean over the deep half of the blocks."""
    if measure in MEASURES:
        return record[measure]
    per_layer = record["diagnostics"][measure]
    return float(np.mean(per_layer[len(per_layer) // 2 :]))


def has(record: Record, measure: str) -> bool:
    """Whether a record has this measure; a model of one head has no similarity of heads."""
    values = record.get("diagnostics", {}).get(measure)
    return measure in MEASURES or (values is not None and None not in values)


def paired_differences(contrast: Contrast, found: dict, measure: str) -> list[float]:
    """Treatment minus control, one number for each seed that all arms of the contrast have.

    Where it has levels, that is the slope over them; of two pairs without, the first difference minus the second.

    Args:
        contrast: of a plan.
        found: the plan's records, as `results_of` gives them.
        measure: see `recorded_value`.
    """
    arms = (*contrast.treatment, *contrast.control)
    seeds = sorted(set.intersection(*({s for s, run in found[arm].items() if has(run, measure)} for arm in arms)))
    differences = []
    for seed in seeds:
        pairs = zip(contrast.treatment, contrast.control, strict=True)
        each = [
            recorded_value(found[treated][seed], measure) - recorded_value(found[untreated][seed], measure)
            for treated, untreated in pairs
        ]
        if contrast.levels:
            differences.append(float(np.polyfit(np.log2(contrast.levels), each, 1)[0]))
        else:
            differences.append(each[0] - sum(each[1:]))
    return differences


def contrast_effect(plan: Plan, contrast: Contrast, found: dict, measure: str) -> Effect:
    """The effect that a contrast asks for, over the seeds that all its arms have.

    A primary contrast's interval is widened by Bonferroni's rule for the number of primary contrasts.
    """
    level = 1 - 0.05 / (plan.primary_contrasts if contrast.primary else 1)
    return effect_of(paired_differences(contrast, found, measure), level)


def recorded_runs(found: dict, arms: Iterable[str] | None = None) -> int:
    """How many runs have a record: of these arms, or of the whole plan."""
    return sum(len(found[arm]) for arm in (found if arms is None else set(arms)))


def arms_table(plan: Plan, folder: Path) -> list[tuple[str, ...]]:
    """One row per arm, with a header: accuracy and training loss (mean ± deviation over seeds), runs, settings.

    What was found stands beside the name: on a phone the other columns are moved sideways.
    """
    found = results_of(plan, folder)
    rows = [("arm", "test accuracy, %", "train loss", "runs", "learning rate", "parameters")]
    for arm, runs in found.items():
        rate = next(iter(runs.values()))["config"]["recipe"]["learning_rate"] if runs else tuned_rate(plan, arm, folder)
        shown = (f"{rate:g}" if rate else "–") + (f", as {plan.arms[arm].tuned_as}" if plan.arms[arm].tuned_as else "")
        parameters = f"{next(iter(runs.values()))['num_parameters']:,}" if runs else "–"
        accuracy = mean_and_deviation([100 * run["test_accuracy"] for run in runs.values()], 2)
        loss = mean_and_deviation([run["train_loss"] for run in runs.values()], 3)
        rows.append((arm, accuracy, loss, f"{len(runs)} of {len(plan.seeds)}", shown, parameters))
    return rows


def speed_table(plan: Plan, folder: Path, levels: Sequence[float]) -> list[tuple[str, ...]]:
    """One row per arm that has runs, with a header: thousands of images until a test accuracy was first reached.

    Each cell is the median over seeds and how many of them got there. A run that never did is censored: it counts as
    later than all its images, so the median is "> 120" where half of the runs or more did not.

    Args:
        plan: whose runs were evaluated after a number of images.
        folder: of the records.
        levels: accuracies, as fractions.
    """
    rows = [("arm", *(f"{level:.0%}" for level in levels))]
    for arm, runs in results_of(plan, folder).items():
        if runs:
            rows.append((arm, *(_median_until(list(runs.values()), level) for level in levels)))
    return rows


def _median_until(runs: list[Record], level: float) -> str:
    reached = sorted(images for run in runs if (images := images_until(run, level)) is not None)
    middle = (len(runs) - 1) // 2
    last = max(images_seen(run)[-1] for run in runs)
    said = f"{reached[middle] / 1000:g}" if middle < len(reached) else f"> {last / 1000:g}"
    return f"{said} ({len(reached)} of {len(runs)})"


def mean_and_deviation(values: list[float], digits: int) -> str:
    """Mean ± standard deviation, as text for a table."""
    if not values:
        return "–"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def contrasts_table(plan: Plan, folder: Path) -> list[tuple[str, ...]]:
    """One row per contrast that has pairs, and measure: verdict, effect, interval, pairs, with a header."""
    found = results_of(plan, folder)
    rows = [("contrast", "verdict", "effect and interval", "measure", "pairs")]
    for contrast in plan.contrasts:
        for measure in MEASURES:
            effect = contrast_effect(plan, contrast, found, measure)
            if not effect.count:
                continue
            margin = plan.margin if measure == "test_accuracy" else 0.0
            name = contrast.name + (" (primary)" if contrast.primary else "")
            shown = format_effect(effect, measure, bool(contrast.levels))
            rows.append((name, effect.verdict(margin), shown, measure.replace("_", " "), str(effect.count)))
    return rows


def format_effect(effect: Effect, measure: str, slope: bool = False) -> str:
    """An effect in words: "+1.20 points [+0.40, +2.00]", with the level where it is not 95 %."""
    if not effect.count:
        return "–"
    unit, factor, digits = (" points", 100, 2) if measure == "test_accuracy" else ("", 1, 3)
    text = f"{factor * effect.mean:+.{digits}f}{unit}" + (" per doubling" if slope else "")
    if effect.count < 2:
        return minus(text)
    level = "" if effect.level == 0.95 else f" at {effect.level:.1%}"
    return minus(f"{text} [{factor * effect.low:+.{digits}f}, {factor * effect.high:+.{digits}f}]{level}")


def similarity_table(plan: Plan, folder: Path) -> list[tuple[str, ...]]:
    """One row per measured arm: similarity of the softmax maps in the deep half, mean over runs, with a header.

    Neighbouring blocks' maps are shown beside what may explain their similarity: the same with new weights, maps of
    different images, and different heads of one block. The last column is centred: each row's mean is taken off first.
    """
    rows = [
        ("arm", "neighbouring blocks", "new weights", "different images", "heads of a block", "neighbours, centred")
    ]
    for arm, runs in results_of(plan, folder).items():
        found = [run for run in runs.values() if has(run, "adjacent")]
        new = [{"diagnostics": run["diagnostics"]["initial"]} for run in found]
        columns = ((found, "adjacent"), (new, "adjacent"), (found, "between_images"), (found, "heads"))
        if found:
            rows.append((arm, *(_mean_of(of, key) for of, key in (*columns, (found, "adjacent_centred")))))
    return rows


def _mean_of(runs: list[Record], measure: str) -> str:
    values = [recorded_value(run, measure) for run in runs if has(run, measure)]
    return f"{np.mean(values):.3f}" if values else "–"


def mean_interventions(runs: list[Record], effect: str = "loss") -> dict[str, list[float]]:
    """What replacing each block's map does, as mean over runs: for each kind of replacement a number per layer.

    A layer that has none of a kind (the first has no map before it) is NaN. Empty without measured runs.
    """
    return effects_by_block(
        [row for run in runs for row in run.get("diagnostics", {}).get("interventions", ())], effect
    )


def measured_maps(runs: Iterable[Record]) -> dict[str, float] | None:
    """Measures of the softmax maps of one arm's runs, means over the deep half; None if no run was measured this way.

    Returns:
        "runs", how many were measured; "query_independence" and its "…_excess" over new weights; "repetition_excess"
        and "repetition_stripes_excess", of neighbours with their heads matched; "distance_from_uniform"; and in how
        many runs the maps matter, "alive", or do not, "idle" (see `diagnostics.map_matters`).
    """
    names = ("query_independence", "query_independence_excess", "distance_from_uniform")
    names = (*names, "repetition_excess", "repetition_stripes_excess")
    runs = _with_maps(runs)
    if not runs:
        return None
    matters = [run["diagnostics"]["map_matters"] for run in runs]
    counts = {"runs": len(runs), "alive": matters.count(True), "idle": matters.count(False)}
    values = {name: [recorded_value(run, name) for run in runs if has(run, name)] for name in names}
    return {**counts, **{name: float(np.mean(of)) if of else math.nan for name, of in values.items()}}


def _with_maps(runs: Iterable[Record]) -> list[Record]:
    """The runs whose maps were measured as they are today."""
    return [run for run in runs if "map_matters" in run.get("diagnostics", {})]


def control_arm(plan: Plan) -> str:
    """The arm whose maps a remedy changes: the first that is plain, else the first of all."""
    return next((arm for arm in plan.arms if arm.startswith("plain")), next(iter(plan.arms)))


def describe_maps(maps: dict[str, float] | None) -> str:
    """One sentence of what `measured_maps` found."""
    if maps is None:
        return "whether its blocks repeat, heads matched, and its deep maps are used was not measured"
    new = maps["query_independence"] - maps["query_independence_excess"]
    text = (
        f"in the deep half all queries share {maps['query_independence']:.2f} of a map's variance (new weights "
        f"{new:.2f}); neighbouring blocks, heads matched, are {maps['repetition_excess']:+.2f} more similar than with "
        f"new weights ({maps['repetition_stripes_excess']:+.2f} in what all queries share); the maps matter in "
        f"{maps['alive']} of {maps['runs']} runs, and do not in {maps['idle']}"
    )
    return minus(text).replace("+nan", "not measured").replace("nan", "not measured")


def maps_table(plan: Plan, folder: Path) -> list[tuple[str, ...]]:
    """One row per arm whose maps were measured, with a header: what `measured_maps` has, and what the maps are worth.

    The worth is the loss, in nats, that the least harmful replacement of all maps of the deep half costs: mean and
    deviation over the runs. Columns of likeness are above new weights.
    """
    header = ("arm", "repetition", "of stripes", "query-independence", "worth of the deep maps, nats", "they matter in")
    rows = [header]
    for arm, runs in results_of(plan, folder).items():
        maps = measured_maps(runs.values())
        if maps is None:
            continue
        measured = [run["diagnostics"] for run in _with_maps(runs.values())]
        worth = [found["aliveness"][found["least_harmful"]]["loss"][0] for found in measured]
        names = ("repetition_excess", "repetition_stripes_excess", "query_independence_excess")
        likeness = ["–" if math.isnan(maps[name]) else f"{maps[name]:+.2f}" for name in names]
        matter = f"{maps['alive']} of {maps['runs']}"
        if undecided := maps["runs"] - maps["alive"] - maps["idle"]:
            matter += f" ({undecided} undecided)"
        rows.append((arm, *likeness, mean_and_deviation(worth, 3), matter))
    return rows


def waiting_text(plan: Plan, folder: Path, missing: list[Job]) -> str:
    """What is missing of a plan: runs of its own, then those that failed and those that another plan has to make."""
    sentences = [f"missing: {len(missing)} runs, first {missing[0].name}"] if missing else []
    return "\n".join([*sentences, *open_questions(plan, folder)]) or "nothing is missing"


def summary(plan: Plan, folder: Path) -> str:
    """All results of a plan so far, as text."""
    waiting = waiting_text(plan, folder, missing_jobs(plan, folder))
    parts = [
        f"{plan.title} ({plan.name}, section {plan.section})",
        plan.question,
        align(arms_table(plan, folder)),
    ]
    if plan.contrasts:
        parts.append(align(contrasts_table(plan, folder)))
        control = control_arm(plan)
        parts.append(f"{control}: {describe_maps(measured_maps(results_of(plan, folder)[control].values()))}")
    return "\n\n".join([*parts, f"rule: {plan.decision}", waiting, *_others_text(plan, folder)])


def _others_text(plan: Plan, folder: Path) -> list[str]:
    """A sentence on records beside the plan's, such as those of readers' remedies; empty if there are none."""
    home = folder / plan.name / plan.section
    own = {record_path(plan, Job(arm, seed), folder) for arm in plan.arms for seed in plan.seeds}
    others = [path.stem for path in sorted(home.glob("*.json")) if path not in own and path.stem != ANNOTATOR]
    if not others:
        return []
    return [
        f"{len(others)} more records that the plan does not declare ({others[0]}, …): deepvit-edu records {home}. "
        "Those of a remedy, test_remedy judges again with the same class and folder, without training."
    ]
