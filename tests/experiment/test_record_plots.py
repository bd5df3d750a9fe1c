"""Figures from records: that they show what the records hold, and say so where none is there."""

import json
import math
import warnings

import matplotlib.pyplot as plt
import pytest

from deepvit_edu import plot
from deepvit_edu.experiment import load_plan
from deepvit_edu.experiment.ledger import Claim, Entry, ledger
from deepvit_edu.experiment.plan import Job
from deepvit_edu.experiment.results import record_path
from deepvit_edu.record_plots import (
    draw_aliveness,
    draw_curves,
    draw_doses,
    draw_forest,
    draw_likeness,
    forced_blocks,
    rank_correlation,
)
from deepvit_edu.records import load_record, save_record

from .plans import fill, write_plan

ARMS = {
    "plain-2": {},
    "plain-4": {"model": {"depth": 4}},
    "shared-2": {"model": {"depth": 4, "attention": ["handing", "handed"]}},
    "tied-1": {"model": {"depth": 4, "attention": ["tied"], "attention_start": 3}},
}
CONTRASTS = [
    {"name": "depth", "treatment": "plain-4", "control": "plain-2"},
    {"name": "one map for two blocks", "treatment": "shared-2", "control": "plain-4"},
    {"name": "queries and keys tied", "treatment": "tied-1", "control": "plain-4"},
]
ACCURACY = {"plain-2": 0.5, "plain-4": 0.4, "shared-2": 0.3, "tied-1": 0.35}


@pytest.fixture
def study(tmp_path):
    return load_plan(write_plan(tmp_path, arms=ARMS, contrasts=CONTRASTS, seeds=[0, 1], margin=0.01))


@pytest.fixture
def recorded(study, tmp_path, template):
    """Records of every arm, with curves by images and diagnostics that a test can tell apart."""
    fill(study, tmp_path, template, lambda arm, seed: ACCURACY[arm] + 0.002 * seed)
    for place, arm in enumerate(ARMS):
        depth = 2 if arm == "plain-2" else 4
        for seed in study.seeds:
            path = record_path(study, Job(arm, seed), tmp_path)
            record = load_record(path)
            record["diagnostics"] = {
                "repetition_excess": [9.0] * (depth // 2 - 1) + [0.1 * place] * (depth // 2),
                "map_matters": bool(place),
                "interventions": [
                    {"layer": layer, "how": how, "loss": loss + 0.1 * layer}
                    for layer in range(depth)
                    for how, loss in (("uniform", 0.5), ("no attention", 0.2), ("head shuffle", 0.0))
                ],
            }
            record["curves"]["images"] = [40, 80]
            save_record(record, path)
    return tmp_path


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_curves_are_means_over_runs_in_a_panel_for_each_depth(study, recorded):
    drawn = draw_curves(study, recorded)
    assert [ax.get_title() for ax in drawn.figure.axes] == ["2 blocks", "4 blocks"]
    assert [len(ax.lines) for ax in drawn.figure.axes] == [1, 3]
    assert drawn.figure.axes[0].lines[0].get_xdata().tolist() == [0.04, 0.08]
    assert drawn.figure.axes[0].lines[0].get_ydata()[-1] == pytest.approx(50.1)
    assert "plain attention, 4 blocks: 40.1 %; shared-2: 30.1 %" in drawn.says
    assert "study TINY, each the mean of 2 runs. At their ends: plain attention, 2 blocks: 50.1 %" in drawn.says
    labels = [[line.get_label() for line in ax.lines] for ax in drawn.figure.axes]
    assert labels == [["plain attention"], ["plain attention", "shared-2", "tied-1"]]  # panels tell the depth


def test_doses_stand_at_the_number_of_blocks_that_are_forced(study, recorded):
    assert [forced_blocks(study, arm) for arm in ARMS] == [0, 0, 2, 1]
    drawn = draw_doses(study, recorded)
    assert "one map for two blocks, 2 blocks: -10.0 points" in drawn.says
    assert "queries and keys tied, 1 block: -5.0 points" in drawn.says
    assert "depth" not in drawn.says  # neither arm of that contrast is forced
    assert [row[2] for row in drawn.figure.own_table[2]] == ["2", "1"]


def test_a_dose_waits_for_all_its_pairs(study, recorded):
    record_path(study, Job("tied-1", 1), recorded).unlink()
    drawn = draw_doses(study, recorded)
    assert "one map for two blocks" in drawn.says
    assert "queries and keys tied" not in drawn.says


def test_aliveness_takes_the_least_harmful_replacement_of_each_block(study, recorded):
    drawn = draw_aliveness(study, recorded)
    shallow, deep = drawn.figure.axes[:2]
    assert shallow.lines[0].get_ydata().tolist() == pytest.approx([0.2, 0.3])
    assert len(deep.lines[0].get_ydata()) == 4
    assert "plain attention, 2 blocks: in 0 of 2 runs; plain attention, 4 blocks: in 2 of 2 runs" in drawn.says


def test_a_run_whose_maps_are_undecided_is_counted_as_such(study, recorded):
    path = record_path(study, Job("plain-4", 1), recorded)
    record = json.loads(path.read_text())
    record["diagnostics"]["map_matters"] = None
    path.write_text(json.dumps(record))
    assert "plain attention, 4 blocks: in 1 of 2 runs (1 undecided)" in draw_aliveness(study, recorded).says


def test_likeness_is_set_against_accuracy_over_all_arms(study, recorded):
    drawn = draw_likeness([study], recorded)
    points = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in drawn.figure.axes[0].lines}
    assert points["shared-2 (TINY)"] == pytest.approx((0.2, 30.1))
    assert "rank correlation -0.80 over 4 arms" in drawn.says


def test_an_arm_whose_measure_is_undefined_is_named(study, recorded):
    for seed in study.seeds:
        path = record_path(study, Job("tied-1", seed), recorded)
        record = load_record(path)
        record["diagnostics"]["repetition_excess"] = [None] * 3
        save_record(record, path)
    drawn = draw_likeness([study], recorded)
    assert drawn.says.endswith("not defined for such maps: tied-1 (TINY).")


def test_arms_differ_in_shape_not_in_colour_alone(study, recorded):
    lines = draw_likeness([study], recorded).figure.axes[0].lines
    shapes = [line.get_marker() for line in lines]
    assert len(set(shapes)) == len(shapes) == len(ARMS)


def test_a_legend_of_many_arms_leaves_room_for_the_points(study, recorded, tmp_path):
    record = load_record(record_path(study, Job("plain-4", 0), recorded))
    many = load_plan(
        write_plan(tmp_path, "many", arms={f"arm-{n}": None for n in range(24)}, contrasts=None, seeds=[0])
    )
    fill(many, tmp_path, record, lambda arm, seed: 0.5)
    drawn = draw_likeness([many], tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "axes sizes collapsed to zero"
        assert "figure-narrow" in plot.figure_html(drawn.figure, alt="points")  # on a phone, too


@pytest.mark.parametrize("draw", [draw_curves, draw_aliveness])
def test_a_legend_lies_below_the_label_of_its_axis(study, recorded, draw):
    fig = draw(study, recorded).figure
    for stacked in (False, True):  # wide, then as on a phone
        assert not stacked or plot._stack_panels(fig)
        fig.canvas.draw()
        for ax in fig.axes:
            assert ax.get_legend().get_window_extent().y1 <= ax.xaxis.get_tightbbox().y0


def test_three_depths_leave_a_place_without_a_legend(study, recorded, monkeypatch):
    monkeypatch.setattr("deepvit_edu.record_plots._depth", lambda _plan, arm: min(2, list(ARMS).index(arm)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = draw_aliveness(study, recorded).figure
    assert [ax.get_legend() is not None for ax in fig.axes] == [True, True, True, False]
    assert fig.get_figheight() == 8  # two rows


def test_rank_correlation_looks_at_the_order_alone():
    assert rank_correlation([(1, 10), (2, 20), (3, 1000), (4, 500)]) == pytest.approx(0.8)  # one pair in another order
    ties = [(1, 1), (1, 2), (2, 3), (3, 4)]  # equal values share the mean of their ranks
    assert rank_correlation(ties) == pytest.approx(4.5 / 22.5**0.5)
    assert math.isnan(rank_correlation([(1, 2), (1, 3)]))


def test_the_forest_shows_intervals_pairs_and_the_margin(study, recorded):
    claims = [
        Claim("Deeper is worse.", "b", "c", plan="tiny", contrast="depth", expects="lower"),
        Claim("It repeats.", "b", "c", plan="tiny", contrast="depth", measure="repetition_excess", subject="maps"),
        Claim("Nobody knows.", "b", "c", subject="open"),
    ]
    drawn = draw_forest(ledger(claims, recorded, recorded))
    rows = drawn.figure.own_table[2]
    assert [row[:3] for row in rows] == [("depth (TINY)", "reproduced", "-10.00")]
    assert rows[0][-1] == "-10.00, -10.00"
    (words,) = drawn.figure.axes[0].texts
    assert words.get_text() == "depth (TINY): reproduced"
    dots = [line for line in drawn.figure.axes[0].lines if line.get_marker() == "."]
    assert dots[0].get_xdata() == pytest.approx([-10, -10])
    assert "1 claim. " in drawn.says
    assert "1 more claim without an interval yet" in drawn.says


@pytest.mark.parametrize("draw", [draw_curves, draw_doses, draw_aliveness])
def test_a_sentence_stands_where_runs_are_missing(study, tmp_path, draw):
    assert draw(study, tmp_path).endswith("0 of 8 runs of tiny are recorded.")


def test_what_cannot_be_drawn_yet_is_said(study, tmp_path):
    assert draw_likeness([study], tmp_path) == "Not drawn yet: no run with this measure is recorded."
    waiting = Entry(Claim("a", "b", "c"), "–", "not decided yet", "–", "–", recorded=3, needed=10)
    assert draw_forest([waiting]) == "No effect to draw yet: 3 of 10 runs of these claims are recorded."


@pytest.mark.parametrize(
    ("draw", "caption"),
    [
        (draw_doses, "Doses of forced collapse"),
        (lambda study, folder: draw_likeness([study], folder), "Likeness against accuracy"),
    ],
)
def test_a_figure_brings_its_own_table(study, recorded, draw, caption):
    page = plot.figure_html(draw(study, recorded).figure, alt="points", with_numbers=True)
    assert f"<caption>{caption}</caption>" in page
    assert page.count("<table>") == 1
