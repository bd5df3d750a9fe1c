import math

import numpy as np
import pytest
from scipy import stats

from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.power import MOST, deviation_of, half_width, pairs_for, power_table
from deepvit_edu.experiment.verdict import effect_of

from .plans import fill, write_plan


def test_the_half_width_is_students():
    differences = [0.01, 0.03, -0.01, 0.02, 0.0]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(differences), scale=stats.sem(differences))
    assert half_width(np.std(differences, ddof=1), 5) == pytest.approx((high - low) / 2)
    effect = effect_of(differences, level=0.99)
    assert deviation_of(effect.high - effect.mean, 5, 0.99) == pytest.approx(np.std(differences, ddof=1))
    assert half_width(1.0, 1) == math.inf


@pytest.mark.parametrize("level", [0.95, 0.9875])
@pytest.mark.parametrize("deviation", [0.002, 0.01, 0.03])
def test_as_many_pairs_as_are_needed_and_no_more(deviation, level):
    pairs = pairs_for(deviation, 0.01, level)
    assert half_width(deviation, pairs, level) <= 0.01
    assert pairs == 2 or half_width(deviation, pairs - 1, level) > 0.01
    assert pairs_for(10.0, 0.01) == MOST


def test_the_table_says_what_the_records_scatter(tmp_path, template):
    plan = load_plan(write_plan(tmp_path, seeds=[0, 1, 2], margin=0.01))
    gains = {0: 0.01, 1: 0.02, 2: 0.03}
    fill(plan, tmp_path, template, lambda arm, seed: 0.5 + (gains[seed] if arm == "re" else 0))
    header, row = power_table(plan, tmp_path)
    assert header[4] == "pairs for 1 point"
    expected = pairs_for(0.01, 0.01)
    assert row == ("Re-attention (primary)", "3", "1.00", f"{100 * half_width(0.01, 3):.2f}", str(expected), "3")
    study = load_plan(write_plan(tmp_path, "study", seeds=[0, 1, 2, 3, 4]))
    header, row = power_table(plan, tmp_path, study)
    assert header[-1] == "half width, points, with 5 seeds"
    assert row[-1] == f"{100 * half_width(0.01, 5, 1 - 0.05 / study.primary_contrasts):.1f}"
