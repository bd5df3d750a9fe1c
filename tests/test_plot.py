import base64
import re
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest
import torch

from deepvit_edu import plot


@pytest.fixture
def shown(monkeypatch):
    pages = []
    monkeypatch.setattr(plot, "display", lambda html: pages.append(html.data))
    return pages


def test_figure_carries_its_text_and_caption_and_is_closed(shown):
    fig, ax = plot.figure()
    ax.plot([1, 2])
    plot.show(fig, 'a line that <rises> & "shines"', caption="It rises by 1 < 2.")
    (page,) = shown
    assert 'aria-label="a line that &lt;rises&gt; &amp; &quot;shines&quot;"' in page
    assert "<figcaption>It rises by 1 &lt; 2.</figcaption>" in page
    assert "figure-data" in page
    assert not plt.fignum_exists(fig.number)


def svgs(page):
    names = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    found = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    return [ElementTree.fromstring(svg.replace("<svg ", names, 1)) for svg in found]


def test_figure_takes_the_colours_of_the_page():
    fig, ax = plot.figure()
    ax.plot([1, 2], label="a line")
    ax.plot([2, 1], color="black")
    ax.legend()
    page = plot.figure_html(fig, "two lines")
    assert "stroke: var(--figure-1, #0072b2)" in page
    assert "#000000" not in page  # black is the colour of the text around it
    assert "#ffffff" not in page  # no ground of its own
    texts = [text for text in svgs(page)[0].iter("{http://www.w3.org/2000/svg}text")]
    assert "a line" in [text.text for text in texts]
    assert all("fill" not in text.get("style") for text in texts)  # inherited from the picture, which is currentColor
    assert svgs(page)[0].get("fill") == "currentColor"


def test_map_is_a_picture_of_bounded_size_whose_colours_stay():
    fig, ax = plot.figure(width=3, height=3)
    ax.imshow(torch.rand(2000, 2000), cmap="viridis")
    page = plot.figure_html(fig, "noise")
    data = re.search(r"data:image/png;base64,([^\"]+)", page).group(1)
    png = base64.b64decode(re.sub(r"\s", "", data))
    assert png.startswith(b"\x89PNG")
    width = int.from_bytes(png[16:20], "big")
    assert 1.5 * 96 * 2 < width < 3 * 96 * 2  # twice a screen's resolution, however large the map


def assert_named_once(page):
    names = re.findall(r' id="([^"]+)"', page)
    assert len(names) == len(set(names))


def test_panels_stand_one_below_the_other_on_a_phone():
    fig, axes = plot.figure(1, 3, width=9, height=3)
    for number, ax in enumerate(axes):
        ax.plot([1, number])
        ax.set_title(f"panel {number}")
    axes[0].set_ylabel("loss")
    page = plot.figure_html(fig, "three panels")
    wide, narrow = (list(map(float, svg.get("viewBox").split()))[2:] for svg in svgs(page))
    assert wide[0] > 2 * wide[1]
    assert narrow[0] < 300 < 2 * narrow[0] < narrow[1] * 1.5
    assert page.count(">panel 2</text>") == 2
    assert page.count(">loss</text>") == 1 + 3  # a panel by itself says what it counts
    assert_named_once(page)  # a clip of the hidden one must not stand for the other's


def test_a_row_of_pictures_stands_in_twos_on_a_phone():
    page = plot.figure_html(plot.plot_images(torch.rand(4, 3, 8, 8)), "four pictures")
    wide, narrow = (list(map(float, svg.get("viewBox").split()))[2:] for svg in svgs(page))
    assert wide[0] > 3 * wide[1]
    assert 0.7 < narrow[0] / narrow[1] < 1.4


def test_drawings_for_wide_and_for_narrow_share_no_names():
    fig, axes = plot.figure(1, 3, width=9, height=3)
    for ax in axes:
        ax.plot([1, 2])
        ax.set(xticks=[], yticks=[])  # matplotlib writes what is empty another way
    assert_named_once(plot.figure_html(fig, "three panels without ticks"))


@pytest.mark.parametrize(("heads", "rows"), [(2, [3]), (4, [3, 2]), (6, [3, 3, 1])])
def test_a_row_of_pictures_that_is_not_full_stands_in_the_middle_on_a_phone(heads, rows):
    fig = plot.plot_attention(torch.rand(3, 8, 8), torch.rand(heads, 4), 2)
    assert len(svgs(plot.figure_html(fig, "an image and its maps"))) == 2
    places = [ax.get_position() for ax in fig.axes]  # in the form for phones, which is drawn last
    for count in rows:
        row, places = places[:count], places[count:]
        assert len({round(place.y0, 2) for place in row}) == 1
        assert (row[0].x0 + row[-1].x1) / 2 == pytest.approx(0.5, abs=0.02)
    assert not places


def test_titles_and_the_scale_of_a_row_of_maps_fit_a_phone():
    titles = ("as in the paper", "rows centred", "before training, as in the paper")
    page = plot.figure_html(plot.plot_similarity(dict.fromkeys(titles, torch.eye(3))), "three maps")
    wide, narrow = svgs(page)
    assert "before training, as in the paper" in "".join(wide.itertext())
    assert "before training, as in the paper" not in "".join(narrow.itertext())  # it stands in two lines
    for picture in (wide, narrow):
        assert "".join(picture.itertext()).count("cosine") == 1
    width, height = list(map(float, narrow.get("viewBox").split()))[2:]
    assert 0.6 < width / height < 1.4


def lines_with_a_legend():
    fig, ax = plot.figure(width=6, height=3)
    ax.plot([0, 48], [80, 30], label="most attended left out first")
    ax.set(xlabel="patches left out", ylabel="accuracy (%)")
    ax.legend(fontsize=8)
    return fig


@pytest.mark.parametrize(
    "draw",
    [
        lines_with_a_legend,
        lambda: plot.plot_images(torch.rand(8, 3, 8, 8), ["speckled triangle"] * 8, columns=4),
        lambda: plot.plot_effects({"Re-attention with mean pooling": (1, 0, 2), "norm": (0, -1, 1)}, 0.5, "points"),
        lambda: plot.plot_similarity({"a": torch.eye(3), "b": torch.eye(3)}),
    ],
    ids=["lines", "rows of pictures", "effects", "maps with a scale"],
)
def test_what_would_be_too_small_on_a_phone_is_drawn_anew_for_it(draw):
    wide, narrow = svgs(plot.figure_html(draw(), "a figure"))
    for picture, small in ((wide, True), (narrow, False)):
        width = float(picture.get("viewBox").split()[2])  # in points, as the sizes of text
        scale = min(1, 0.97 * 72 * plot.NARROW_WIDTH / width)  # a phone's column
        sizes = [
            float(size)
            for size in re.findall(r"font(?:-size)?:[^;]*?([\d.]+)px", ElementTree.tostring(picture, "unicode"))
        ]
        assert sizes
        assert (min(sizes) * scale < 0.93 * plot.SMALLEST_TEXT) == small


@pytest.mark.parametrize("kind", ["one panel", "two pictures", "rows of pictures"])
def test_what_belongs_together_has_one_form(kind):
    draw = {
        "one panel": lambda: plot.figure(width=3.6)[0],
        "two pictures": lambda: plot.plot_images(torch.rand(2, 3, 8, 8)),
        "rows of pictures": lambda: plot.plot_images(torch.rand(4, 3, 8, 8), columns=2),
    }
    page = plot.figure_html(draw[kind](), "as it is")
    assert len(svgs(page)) == 1
    assert "figure-stacked" not in page.split(">")[0]


def test_figure_leaves_the_rest_of_the_page_alone():
    fig, _ = plot.figure()
    page = plot.figure_html(fig, "axes")
    (rules,) = re.findall(r"<style>(.*?)</style>", page)
    assert all("figure" in rule or "@media" in rule for rule in re.findall(r"[^{}]+(?=\{)", rules))
    assert "<style" not in page.replace(f"<style>{rules}</style>", "")


def test_figure_without_text_is_refused():
    fig, _ = plot.figure()
    with pytest.raises(ValueError, match="text alternative"):
        plot.show(fig, " ")
    plt.close(fig)


def test_source_is_that_of_the_objects_and_starts_at_the_margin(shown, monkeypatch):
    monkeypatch.setattr(plot, "get_ipython", lambda: "a notebook")
    plot.show_source(torch.nn.Identity.forward, plot.figure)
    (page,) = shown
    assert page.startswith("```python\ndef forward(self, input: Tensor) -> Tensor:")
    assert "\n\ndef figure(\n" in page
    assert page.endswith("```")


def test_findings_are_one_marked_paragraph(shown, monkeypatch):
    monkeypatch.setattr(plot, "get_ipython", lambda: "a notebook")
    plot.measured("It is -3.", "So it holds.")
    plot.recorded("It was 4.")
    assert shown == ["> **Measured on this page.** It is −3. So it holds.", "> **From the records.** It was 4."]


def test_a_plain_script_prints_source_and_findings(capsys):
    plot.show_source(torch.nn.Identity.forward)
    plot.measured("It is 3.")
    printed = capsys.readouterr().out
    assert printed.startswith("def forward(self, input: Tensor) -> Tensor:")
    assert printed.endswith("**Measured on this page.** It is 3.\n")


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


def test_similarity_may_begin_its_scale_where_the_cosines_begin():
    fig = plot.plot_similarity({"alike": 0.9 + 0.1 * torch.eye(3)}, lowest=0.9)
    assert fig.axes[0].images[0].get_clim() == (0.9, 1)
    plt.close(fig)


def test_effects_stand_in_order_and_those_that_hold_zero_are_open():
    fig = plot.plot_effects({"first": (2, 1, 3), "second": (0.5, -1, 2)}, margin=0.5, xlabel="points")
    (ax,) = fig.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["first", "second"]
    points = [line for line in ax.lines if line.get_marker() in "os"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in points] == [(2, 2), (0.5, 1)]
    assert [line.get_markerfacecolor() == "none" for line in points] == [False, True]
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


@pytest.mark.parametrize("name", ["cost $5 and $6", r"$\bogus{$"])
def test_a_dollar_in_a_name_is_a_dollar(name):
    fig = plot.plot_images(torch.zeros(1, 3, 8, 8), titles=[name])
    fig.canvas.draw()
    assert fig.axes[0].get_title() == name
