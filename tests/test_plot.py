import base64
import re

import matplotlib.pyplot as plt
import pytest
import torch

from deepvit_edu import plot


@pytest.fixture
def shown(monkeypatch):
    pages = []
    monkeypatch.setattr(plot, "display", lambda html: pages.append(html.data))
    return pages


def test_figure_carries_its_text_and_is_closed(shown):
    fig, ax = plot.figure()
    ax.plot([1, 2])
    plot.show(fig, 'a line that <rises> & "shines"')
    (page,) = shown
    assert 'alt="a line that &lt;rises> &amp; &quot;shines&quot;"' in page
    data = re.search(r"base64,([^\"]+)", page).group(1)
    assert base64.b64decode(data).startswith(b"\x89PNG")
    assert not plt.fignum_exists(fig.number)


def test_figure_without_text_is_refused():
    fig, _ = plot.figure()
    with pytest.raises(ValueError, match="text alternative"):
        plot.show(fig, " ")
    plt.close(fig)


def test_source_is_that_of_the_objects_and_starts_at_the_margin():
    shown = plot.show_source(torch.nn.Identity.forward, plot.figure).data
    assert shown.startswith("```python\ndef forward(self, input: Tensor) -> Tensor:")
    assert "\n\ndef figure(\n" in shown
    assert shown.endswith("```")


def test_curves_show_every_run_from_its_record():
    curves = {"epoch": [1, 2], "train_loss": [2.0, 1.0], "test_loss": [2.1, 1.5], "test_accuracy": [0.25, 0.5]}
    fig = plot.plot_curves({"ours": {"curves": curves}, "yours": {"curves": curves}})
    left, right = fig.axes
    assert len(left.lines) == 4
    assert right.lines[0].get_ydata().tolist() == [25.0, 50.0]
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["ours", "yours"]
    plt.close(fig)


@pytest.mark.parametrize("count", [1, 3, 10])
def test_images_and_attention_take_any_number(count):
    fig = plot.plot_images(torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8), columns=4)
    assert sum(bool(ax.images) for ax in fig.axes) == count
    plt.close(fig)
    fig = plot.plot_attention(torch.rand(3, 8, 8), torch.rand(count, 16), grid_size=4)
    assert len(fig.axes) == count + 1
    assert fig.axes[1].images[0].get_array().shape == (4, 4)
    plt.close(fig)


def test_similarity_shows_every_matrix_on_one_scale():
    matrices = {
        "raw": torch.eye(3),
        "at initialisation": torch.ones(3, 3),
        "centred": -torch.eye(3),
        "other": torch.eye(3),
    }
    fig = plot.plot_similarity(matrices)
    panels = [ax for ax in fig.axes if ax.images]
    assert [ax.get_title() for ax in panels] == list(matrices)
    assert {ax.images[0].get_clim() for ax in panels} == {(-1, 1)}
    assert panels[2].images[0].get_array().tolist() == (-torch.eye(3)).tolist()
    plt.close(fig)


def test_plot_by_block_puts_all_panels_on_one_scale_that_holds_every_line():
    panels = {name: {"rising": [float("nan"), high]} for name, high in (("a", 0.2), ("b", 0.9), ("c", 0.5))}
    fig = plot.plot_by_block(panels, ylabel="cosine", xlabel="epoch")
    shown = [ax for ax in fig.axes if ax.lines]
    assert [ax.get_title() for ax in shown] == ["a", "b", "c"]
    assert {ax.get_ylim() for ax in shown} == {shown[0].get_ylim()}
    assert shown[0].get_ylim()[1] > 0.9
    plt.close(fig)


def test_plot_interventions_has_a_panel_a_model_and_a_line_a_kind():
    effects = {
        "plain": {"uniform": [0.1, 0.2], "previous": [float("nan"), 0.3]},
        "re": {"uniform": [0.0, 0.1]},
        "x": {},
    }
    first, second = plot.plot_interventions(effects).axes
    assert (first.get_title(), second.get_title()) == ("plain", "re")
    assert [line.get_label() for line in first.get_lines()[:2]] == ["uniform", "previous"]
    assert first.get_ylim() == second.get_ylim()
    with pytest.raises(ValueError, match="no effect to draw"):
        plot.plot_interventions({"x": {}})
