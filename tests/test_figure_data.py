"""The tables beside figures: every number that is drawn can be read, and pictures give none."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from deepvit_edu.figure_data import MOST_ROWS, folded_tables, html_table


@pytest.fixture
def drawn():
    fig, ax = plt.subplots()
    yield fig, ax
    plt.close(fig)


def cells(page: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_lines_over_one_axis_share_a_table(drawn) -> None:
    fig, ax = drawn
    ax.plot([1, 2, 3], [0.5, 0.25, 0.125], label="plain")
    ax.plot([1, 2, 3], [1, 2, float("nan")], label="a < b")
    ax.axhline(0.3, label="chance")
    ax.set(xlabel="block", title="Loss")
    assert cells(folded_tables(fig)) == [
        ["block", "plain", "a &lt; b"], ["1", "0.5", "1"], ["2", "0.25", "2"], ["3", "0.125", "–"]
    ]  # fmt: skip
    assert "<caption>Loss</caption>" in folded_tables(fig)


def test_lines_over_other_axes_have_their_own(drawn) -> None:
    fig, ax = drawn
    ax.plot([1, 2], [3, 4])
    ax.plot([5, 6, 7], [8, 9, 10])
    assert folded_tables(fig).count("<table>") == 2


def test_words_along_the_axis_do_no_harm(drawn) -> None:
    fig, ax = drawn
    ax.plot(["plain", "re"], [1.5, 2.5])
    assert [row[1] for row in cells(folded_tables(fig))[1:]] == ["1.5", "2.5"]


def test_a_shorter_line_has_gaps(drawn) -> None:
    fig, ax = drawn
    ax.plot([0, 1], [7, 8], label="short")
    ax.plot([0, 1, 2], [4, 5, 6], label="long")
    assert cells(folded_tables(fig))[1:] == [["0", "4", "7"], ["1", "5", "8"], ["2", "6", "–"]]


def test_long_curves_are_thinned_and_keep_their_ends(drawn) -> None:
    fig, ax = drawn
    ax.plot(np.arange(1000), np.arange(1000) / 7)
    page = folded_tables(fig)
    rows = cells(page)[1:]
    assert len(rows) == MOST_ROWS
    assert f"({MOST_ROWS} of 1000 points)" in page
    assert rows[0][0] == "0"
    assert rows[-1] == ["999", "143"]


@pytest.mark.parametrize("kind", ["bar", "barh"])
def test_bars_are_named(drawn, kind: str) -> None:
    fig, ax = drawn
    getattr(ax, kind)(["texture", "layout"], [31.5, 52], label="accuracy")
    fig.canvas.draw()
    assert cells(folded_tables(fig)) == [["", "accuracy"], ["texture", "31.5"], ["layout", "52"]]


def test_bars_side_by_side_share_a_table_under_one_name(drawn) -> None:
    fig, ax = drawn
    for offset, label in ((-0.2, "roofline"), (0.2, "measured")):
        ax.barh([place + offset for place in range(2)], [1 + offset, 3], height=0.38, label=label)
    ax.set_yticks([0, 1], ["scores", "MLP"])
    assert cells(folded_tables(fig)) == [["", "roofline", "measured"], ["scores", "0.8", "1.2"], ["MLP", "3", "3"]]


def test_words_under_a_line_are_its_first_column(drawn) -> None:
    fig, ax = drawn
    ax.plot([0, 1], [31.5, 44], label="seed 0")
    ax.set(xticks=[0, 1], xticklabels=["plain", "refined"])
    assert cells(folded_tables(fig)) == [["x", "seed 0"], ["plain", "31.5"], ["refined", "44"]]


def test_values_beside_words_stand_in_one_table(drawn) -> None:
    fig, ax = drawn
    ax.plot([36.5, 35.25], [0, 0], "o")
    ax.plot(41, -1, "o")
    ax.set(yticks=[0, -1], yticklabels=["plain", "refined"], xlabel="accuracy")
    assert cells(folded_tables(fig)) == [["", "accuracy"], ["plain", "35.2, 36.5"], ["refined", "41"]]


def test_a_panel_of_a_grid_is_named_by_its_column_and_row() -> None:
    fig, axes = plt.subplots(2, 2)
    for ax in axes[1]:
        ax.imshow([[0.5]])
    axes[0, 0].set_title("dotted\nring")
    axes[0, 1].set_title("plain pair")
    axes[1, 0].set_ylabel("student")
    page = folded_tables(fig)
    plt.close(fig)
    assert re.findall(r"<caption>(.*?)</caption>", page) == [
        "dotted ring, student, row by row", "plain pair, student, row by row"
    ]  # fmt: skip


def test_points_are_listed(drawn) -> None:
    fig, ax = drawn
    ax.scatter([0.1, 0.2], [3, 4], label="uniform")
    ax.set(xlabel="similarity", ylabel="loss")
    assert cells(folded_tables(fig)) == [["similarity", "loss"], ["0.1", "3"], ["0.2", "4"]]


def test_small_matrices_are_tables_and_pictures_are_not(drawn) -> None:
    fig, ax = drawn
    image = ax.imshow(np.array([[0.5, 1.0], [0.25, 0.125]]))
    fig.colorbar(image)
    assert cells(folded_tables(fig)) == [["", "0", "1"], ["0", "0.5", "1"], ["1", "0.25", "0.125"]]
    ax.clear()
    ax.imshow(np.zeros((8, 8, 3)))
    ax.imshow(np.zeros((64, 64)))
    assert folded_tables(fig) == ""


def test_tables_can_be_scrolled_by_keyboard_and_are_folded(drawn) -> None:
    fig, ax = drawn
    ax.plot([1, 2])
    page = folded_tables(fig)
    assert page.startswith("<details")
    assert 'tabindex="0"' in page
    assert "aria-label" in page


def test_words_are_escaped() -> None:
    assert "<b>" not in html_table("<b>", ["<b>"], [["<b>", "<b>"]])


def test_a_corner_without_words_is_no_header():
    table = html_table("name", ("", "value"), [("first", "1")])
    assert table.count("<th ") == 2
    assert '<tr><td></td><th scope="col">value</th></tr>' in table


def test_effects_are_listed_by_name_with_their_intervals(drawn) -> None:
    fig, ax = drawn
    ax.axvline(0)
    for place, name, mean, reach in ((2, "mixing", 1, [[0.5], [0.25]]), (1, "norm", -2, [[1], [3]])):
        ax.errorbar(mean, place, xerr=reach, label=name)
    ax.set(xlabel="points")
    assert cells(folded_tables(fig)) == [
        ["", "points", "from", "to"], ["mixing", "1", "0.5", "1.25"], ["norm", "−2", "−3", "1"]
    ]  # fmt: skip


def test_panels_of_a_grid_are_called_by_their_own_titles() -> None:
    fig, axes = plt.subplots(2, 2)
    for name, ax in zip("abcd", axes.flat, strict=True):
        ax.plot([0, 1], [2, 3])
        ax.set_title(name)
    for ax in axes[:, 0]:
        ax.set_ylabel("loss")
    page = folded_tables(fig)
    plt.close(fig)
    assert re.findall(r"<caption>(.*?)</caption>", page) == ["a, loss", "b, loss", "c, loss", "d, loss"]
    assert [row[1] for row in cells(page)[::3]] == ["loss"] * 4  # written at the first panel of a row alone


def test_a_line_that_the_legend_leaves_out_may_have_a_name(drawn) -> None:
    fig, ax = drawn
    for seed in range(2):
        ax.plot([0, 1], [seed, 3], label=f"_with skips, seed {seed}")
    ax.plot([0, 1], [5, 6])
    ax.set_ylabel("rest")
    assert cells(folded_tables(fig))[0][1:] == ["with skips, seed 0", "with skips, seed 1", "rest"]
