import numpy as np
import pytest

from deepvit_edu.experiment import load_plan, summary
from deepvit_edu.experiment.verdict import (
    Effect,
    arms_table,
    contrast_effect,
    contrasts_table,
    describe_maps,
    effect_of,
    format_effect,
    holm,
    maps_table,
    mean_and_deviation,
    mean_interventions,
    measured_maps,
    results_of,
    similarity_table,
    speed_table,
)

from .plans import TINY_PLAN, fill, write_plan
from .test_ledger import MAPS

DEPTHS = {f"{arm}-{depth}": {"model": {"depth": depth}} for arm in ("plain", "re") for depth in (2, 4, 8)}


def test_interval_is_students():
    effect = effect_of([1.0, 2.0, 3.0])
    assert effect.mean == 2
    assert (effect.low, effect.high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)
    assert effect_of([1.0, 2.0, 3.0], level=0.99).low < effect.low
    assert effect_of([0.5]).verdict(0.01) == "too few runs"
    assert effect_of([]).count == 0


def test_the_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    draws = [effect_of(list(generator.normal(1.0, 2.0, 5))) for _ in range(1000)]
    assert np.mean([effect.low < 1.0 < effect.high for effect in draws]) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.02, "higher"),
        (-0.02, -0.001, "lower"),
        (-0.004, 0.004, "no difference that matters"),
        (0.001, 0.004, "no difference that matters"),
        (-0.02, 0.004, "inconclusive"),
        (-0.006, 0.006, "inconclusive"),
    ],
)
def test_verdicts(low, high, verdict):
    assert Effect((low + high) / 2, low, high, 5).verdict(0.005) == verdict


@pytest.mark.parametrize("differences", [[1.0, 2.0, 3.0, 5.0], [-0.4, 0.1, 0.2, 0.3], [-0.02, 0.01, 0.02, 0.0]])
def test_a_p_value_is_the_error_rate_at_which_the_interval_begins_to_decide(differences):
    p_value = effect_of(differences).p_value(0.5)
    says = [effect_of(differences, level=1 - p_value * factor).verdict(0.5) for factor in (0.99, 1.01)]
    assert says[0] == "inconclusive"
    assert says[1] in ("higher", "no difference that matters")


def test_a_p_value_is_students():
    stats = pytest.importorskip("scipy.stats")
    differences = [1.0, 2.0, 3.0, 5.0]
    assert effect_of(differences).p_value(0.0) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert effect_of([1.0]).p_value(0.0) == 1
    beyond = effect_of([d + 0.5 for d in differences]).p_value(0.5, beyond=True)
    assert beyond == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_holms_correction_by_a_worked_example():
    # Sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1, and never below the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_holms_correction_keeps_false_findings_below_the_error_rate_for_all_together():
    generator = np.random.default_rng(0)
    found = [min(holm([effect_of(list(generator.normal(size=5))).p_value(0.0) for _ in range(8)])) for _ in range(600)]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_contrasts_pair_the_seeds_and_skip_those_that_one_arm_lacks(tmp_path, template):
    plan = load_plan(write_plan(tmp_path, seeds=[0, 1, 2, 3]))
    # Seeds differ widely and the arms by one point in each: unpaired, the interval would be huge.
    fill(
        plan,
        tmp_path,
        template,
        lambda arm, seed: None if (arm, seed) == ("re", 3) else seed / 5 + 0.01 * (arm == "re"),
    )
    effect = contrast_effect(plan, plan.contrasts[0], results_of(plan, tmp_path), "test_accuracy")
    assert effect.count == 3
    assert (effect.low, effect.mean, effect.high) == pytest.approx((0.01, 0.01, 0.01))


def test_a_slope_is_what_each_doubling_adds(tmp_path, template):
    names = [(f"re-{depth}", f"plain-{depth}") for depth in (2, 4, 8)]
    contrast = {"name": "gain", "levels": [2, 4, 8]}
    contrast.update(treatment=[re for re, _ in names], control=[plain for _, plain in names])
    plan = load_plan(write_plan(tmp_path, arms=DEPTHS, contrasts=[contrast]))
    gain = {"re-2": 0.1, "re-4": 0.12, "re-8": 0.14}
    fill(plan, tmp_path, template, lambda arm, seed: 0.5 + gain.get(arm, 0) + 0.1 * seed)
    effect = contrast_effect(plan, plan.contrasts[0], results_of(plan, tmp_path), "test_accuracy")
    assert effect.mean == pytest.approx(0.02)


def test_two_pairs_are_a_difference_of_differences(tmp_path, template):
    contrast = {"name": "more", "treatment": ["re-4", "re-2"], "control": ["plain-4", "plain-2"]}
    plan = load_plan(write_plan(tmp_path, arms=DEPTHS, contrasts=[contrast]))
    gain = {"re-4": 0.05, "re-2": 0.02, "plain-2": 0.3}
    fill(plan, tmp_path, template, lambda arm, seed: None if (arm, seed) == ("plain-2", 1) else 0.5 + gain.get(arm, 0))
    effect = contrast_effect(plan, plan.contrasts[0], results_of(plan, tmp_path), "test_accuracy")
    assert effect.count == 1  # only a seed that all four arms have
    assert effect.mean == pytest.approx((0.05 - 0) - (0.02 - 0.3))
    assert "per doubling" not in format_effect(effect, "test_accuracy", bool(plan.contrasts[0].levels))


def test_slopes_of_treatments_over_controls_are_a_difference_of_slopes(tmp_path, template):
    """What arms of either kind are compared with, the same at all levels, drops out."""
    names = {kind: [f"{kind}-{depth}" for depth in (2, 4, 8)] for kind in ("re", "plain")}
    levels = {"levels": [2, 4, 8]}
    asked = [
        {"name": "both", "treatment": names["re"], "control": names["plain"], **levels},
        {"name": "re", "treatment": names["re"], "control": ["re-2"] * 3, **levels},
        {"name": "plain", "treatment": names["plain"], "control": ["plain-8"] * 3, **levels},
    ]
    plan = load_plan(write_plan(tmp_path, arms=DEPTHS, contrasts=asked))
    values = {"re-2": 0.1, "re-4": 0.2, "re-8": 0.6, "plain-2": 0.3, "plain-4": 0.5, "plain-8": 0.4}
    fill(plan, tmp_path, template, lambda arm, seed: values[arm] + 0.1 * seed)
    found = results_of(plan, tmp_path)
    both, re, plain = (contrast_effect(plan, one, found, "test_accuracy").mean for one in plan.contrasts)
    assert (both, re - plain) == pytest.approx(((0.6 - 0.1) / 2 - (0.4 - 0.3) / 2,) * 2)


def test_primary_intervals_are_widened_by_their_number(tmp_path, template):
    plan = load_plan(write_plan(tmp_path, primary_contrasts=3, seeds=[0, 1, 2]))
    fill(plan, tmp_path, template, lambda arm, seed: 0.5 + 0.01 * seed * (arm == "re"))
    effect = contrast_effect(plan, plan.contrasts[0], results_of(plan, tmp_path), "test_accuracy")
    assert effect.level == pytest.approx(1 - 0.05 / 3)


def test_summary_says_what_there_is_and_what_is_missing(tmp_path, template):
    plan = load_plan(write_plan(tmp_path))
    assert "missing: 4 runs, first plain_s0" in summary(plan, tmp_path)
    assert "plain: whether its blocks repeat, heads matched, and its deep maps are used was not measured" in summary(
        plan, tmp_path
    )
    fill(plan, tmp_path, template, lambda arm, seed: None if seed else 0.5)
    text = summary(plan, tmp_path)
    assert "missing: 2 runs, first plain_s1" in text
    assert "1 of 2" in text
    assert "too few runs" in text
    assert TINY_PLAN["decision"] in text
    fill(plan, tmp_path, template, lambda arm, seed: 0.5 + 0.02 * (arm == "re"))
    text = summary(plan, tmp_path)
    assert "+2.00 points" in text
    assert "nothing is missing" in text


def test_maps_are_described_by_the_measures_of_the_runs_that_have_them(tmp_path, template):
    plan = load_plan(write_plan(tmp_path, seeds=[0, 1, 2]))
    assert measured_maps(results_of(plan, tmp_path)["plain"].values()) is None
    fill(plan, tmp_path, {**template, "diagnostics": MAPS}, lambda arm, seed: 0.5)
    runs = list(results_of(plan, tmp_path)["plain"].values())
    runs[0] = {**runs[0], "diagnostics": {**MAPS, "map_matters": True}}
    runs[1] = {**runs[1], "diagnostics": {**MAPS, "map_matters": None}}
    maps = measured_maps([*runs, {**runs[0], "diagnostics": {"adjacent": [0.9], "heads": [0.9]}}])
    assert (maps["runs"], maps["alive"], maps["idle"]) == (3, 1, 1)
    assert describe_maps(maps) == (
        "in the deep half all queries share 0.75 of a map's variance (new weights 0.50); neighbouring blocks, heads "
        "matched, are +0.12 more similar than with new weights (not measured in what all queries share); the maps "
        "matter in 1 of 3 runs, and do not in 1"
    )
    assert (
        describe_maps(None) == "whether its blocks repeat, heads matched, and its deep maps are used was not measured"
    )


def test_what_deep_maps_are_worth_is_the_cost_of_the_least_harmful_replacement(tmp_path, template):
    plan = load_plan(write_plan(tmp_path, seeds=[0, 1]))
    assert len(maps_table(plan, tmp_path)) == 1  # a header
    worth = {
        "aliveness": {"uniform": {"loss": [0.25, 0.01]}, "none": {"loss": [0.5, 0.01]}},
        "least_harmful": "uniform",
    }
    fill(plan, tmp_path, {**template, "diagnostics": {**MAPS, **worth, "map_matters": None}}, lambda arm, seed: 0.5)
    _, plain, _ = maps_table(plan, tmp_path)
    assert plain == ("plain", "+0.12", "–", "+0.25", "0.250 ± 0.000", "0 of 2 (2 undecided)")


def test_mean_and_deviation():
    assert mean_and_deviation([], 1) == "–"
    assert mean_and_deviation([1.0], 1) == "1.0"
    assert mean_and_deviation([1.0, 3.0], 1) == "2.0 ± 1.4"


def test_interventions_are_averaged_over_runs_layer_by_layer():
    def run_with(effect):
        rows = [{"layer": layer, "how": "uniform", "loss": effect * (layer + 1)} for layer in range(2)]
        return {"diagnostics": {"interventions": [*rows, {"layer": 1, "how": "previous", "loss": effect}]}}

    means = mean_interventions([run_with(1.0), run_with(3.0), {}])
    assert means["uniform"] == [2.0, 4.0]
    assert np.isnan(means["previous"][0])
    assert means["previous"][1] == 2.0
    assert mean_interventions([{}]) == {}


def test_similarities_are_means_over_the_deep_half_of_measured_runs(tmp_path, template):
    plan = load_plan(write_plan(tmp_path))
    numbers = {
        "adjacent": [0.0, 0.8],
        "between_images": [0.0, 0.7],
        "heads": [0.0, 0.6],
        "adjacent_centred": [0.0, 0.1],
    }
    diagnostics = {**numbers, "initial": {"adjacent": [0.0, 0.99]}}
    fill(plan, tmp_path, {**template, "diagnostics": diagnostics}, lambda arm, seed: None if arm == "re" else 0.5)
    assert similarity_table(plan, tmp_path)[1:] == [("plain", "0.800", "0.990", "0.700", "0.600", "0.100")]


def test_effects_have_a_true_minus_sign():
    assert format_effect(Effect(-0.032, -0.0836, 0.0195, 3), "test_accuracy") == "−3.20 points [−8.36, +1.95]"


def test_what_was_found_stands_beside_the_name(tmp_path, template):
    plan = load_plan(write_plan(tmp_path))
    fill(plan, tmp_path, template, lambda arm, seed: 0.5)
    assert contrasts_table(plan, tmp_path)[0][:3] == ("contrast", "verdict", "effect and interval")
    assert arms_table(plan, tmp_path)[0][:2] == ("arm", "test accuracy, %")


def test_a_run_that_never_reached_an_accuracy_counts_as_later_than_its_last_image(tmp_path, template):
    plan = load_plan(write_plan(tmp_path, seeds=[0, 1, 2]))
    fill(plan, tmp_path, template, lambda arm, seed: [0.6, 0.8, 0.2][seed] if arm == "plain" else None)
    header, *rows = speed_table(plan, tmp_path, [0.5, 0.7, 0.9])
    assert header == ("arm", "50%", "70%", "90%")
    assert rows == [("plain", "0.04 (2 of 3)", "> 0.08 (1 of 3)", "> 0.08 (0 of 3)")]
