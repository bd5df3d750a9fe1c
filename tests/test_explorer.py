import base64
import json
import re
import sys
import zlib
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from bs4 import BeautifulSoup

from deepvit_edu import data, explorer, zoo
from deepvit_edu.diagnostics import INTERVENTIONS, intervene, record_attention, similarity_matrices
from deepvit_edu.explorer import AttentionRecording, CollapseRecording

DEPTH, EPOCHS = 3, 30


def payload_of(page: str) -> dict:
    return json.loads(BeautifulSoup(page, "html.parser").find("script", type="application/json").string)


def unpack(text: str, kind: str, *shape: int) -> np.ndarray:
    """What explorer.js does."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind).reshape(shape)


@pytest.fixture(scope="module")
def recording() -> AttentionRecording:
    torch.manual_seed(0)
    maps = {"plain": torch.rand(2, 3, 2, 17, 17).softmax(dim=-1), "re": torch.randn(2, 3, 2, 17, 17)}
    pictures = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    return AttentionRecording(pictures, ["disc", "</script>", 'ring "two"'], [0, 5], maps)


@pytest.fixture(scope="module")
def page(recording) -> str:
    return explorer.attention_html(recording)


@pytest.fixture
def specimens(monkeypatch):
    """Small untrained models and made-up measures in the place of the trained ones."""

    def load(remedy: str, data: str) -> torch.nn.Module:
        torch.manual_seed(0)
        return zoo.create_model("cifar_vit_4x64", depth=10, num_classes=10, attention=(remedy,)).eval()

    def similarity(remedy: str, data: str) -> dict[str, torch.Tensor]:
        epochs = torch.linspace(-1, 1, EPOCHS + 1)[:, None, None]
        return {key: (epochs / (1 + number)).expand(-1, DEPTH, DEPTH) for number, key in enumerate(explorer.MEASURES)}

    def interventions(remedy: str, data: str) -> list[dict]:
        kinds = [(layer, how) for layer in range(DEPTH) for how in INTERVENTIONS if layer or how != "previous"]
        effect = {"kl": 0.0, "loss_error": 0.5, "accuracy": -0.125, "accuracy_error": 0.0625}
        return [{"layer": at, "how": how, "loss": 0.25 + at, **effect} for at, how in kinds]

    monkeypatch.setattr(explorer.specimens, "load_specimen", load)
    monkeypatch.setattr(explorer.specimens, "specimen_similarity", similarity)
    monkeypatch.setattr(explorer.specimens, "specimen_interventions", interventions)


@pytest.fixture
def colab(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))


@pytest.fixture
def shown(monkeypatch):
    texts = []

    def show(fig, alt):
        texts.append(alt)
        explorer.plt.close(fig)

    monkeypatch.setattr(explorer.plot, "show", show)
    return texts


@pytest.fixture
def undrawn(monkeypatch):
    """Pages without their picture, which takes seconds to draw."""
    monkeypatch.setattr(explorer.plot, "figure_html", lambda fig, alt: explorer.plt.close(fig) or "")


# What is packed


def test_weights_survive_in_one_byte_each():
    torch.manual_seed(0)
    maps = torch.randn(2, 5, 9)
    maps[0, 0] = 0
    maps[1, 0, :2] = torch.tensor([4.99, -5.0])  # as good as alike, and still told apart
    steps, scales = explorer.quantise(maps)
    assert steps.dtype == np.int8
    restored = torch.tensor(scales[..., None] * steps / explorer.LEVELS)
    step = maps.abs().amax(dim=-1, keepdim=True) / explorer.LEVELS
    assert (restored - maps).abs().le(step + 1e-6).all()
    assert (restored - maps).abs().mean() < 0.3 * step.mean()
    assert np.array_equal(np.abs(steps).argmax(-1), maps.abs().argmax(-1))


def test_page_holds_the_maps_in_the_order_that_the_script_reads(recording, page):
    payload = payload_of(page)
    shape = (2, 2, 3, 2, 17, 17)
    steps = unpack(payload["steps"], "i1", *shape)
    scales = unpack(payload["scales"], "<f4", *shape[:-1])
    at = (1, 0, 2, 1, 9, 4)  # model, layer, image, head, query, key
    scale = float(scales[at[:-1]])
    weight = scale * steps[at] / payload["levels"]
    expected = recording.maps["re"][at[1:]].item()
    assert weight == pytest.approx(expected, abs=1.01 * scale / payload["levels"])
    pictures = unpack(payload["pictures"], "u1", 3, 8, 8, 3)
    assert pictures[1, 2, 3].tolist() == recording.pictures[1, :, 2, 3].tolist()
    assert (payload["grid"], payload["extra"], payload["heads"], payload["side"]) == (4, 1, 2, 8)


def test_page_holds_the_cosines_and_the_effects(specimens, undrawn):
    payload = payload_of(explorer.collapse_explorer("cifar10", ["plain", "re"]).data)
    epochs = payload["epochs"]
    assert (epochs[0], epochs[-1]) == (0, EPOCHS)
    assert len(epochs) <= explorer.EPOCHS
    cosines = unpack(payload["cosines"], "<i2", 2, 4, len(epochs), DEPTH, DEPTH) / payload["steps"]
    assert cosines[0, :, -1, 0, 1] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4], abs=1e-4)
    assert cosines[1, 0, 0, 2, 2] == pytest.approx(-1, abs=1e-4)
    previous = list(INTERVENTIONS).index("previous")
    assert payload["effects"][0][previous] == [None, [1.25, 0.5, -0.125, 0.0625], [2.25, 0.5, -0.125, 0.0625]]


def test_cosine_that_there_is_not_is_told_apart(undrawn):
    matrix = torch.tensor([[[1.0, 0.5], [float("nan"), 1.0]]])
    found = CollapseRecording("shapes", [0], {"plain": dict.fromkeys(explorer.MEASURES, matrix)}, {"plain": []})
    payload = payload_of(explorer.collapse_html(found))
    cosines = unpack(payload["cosines"], "<i2", 4, 2, 2)
    assert cosines[0].tolist() == [[10_000, 5_000], [payload["missing"], 10_000]]


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(1, 5, [0]), (4, 8, [0, 1, 2, 3]), (24, 4, [0, 8, 15, 23]), (24, 24, list(range(24)))],
)
def test_what_is_kept_is_spread_evenly(count, most, expected):
    assert explorer.evenly_chosen(count, most) == expected


# What the page is


def test_attention_page_is_small_enough(undrawn):
    torch.manual_seed(0)
    shape = (explorer.LAYERS, explorer.IMAGES, 8, 65, 65)
    maps = {name: torch.randn(shape).softmax(dim=-1) for name in ("plain", "re", "refiner")}
    pictures = torch.randint(0, 256, (explorer.IMAGES, 3, 32, 32), dtype=torch.uint8)
    page = explorer.attention_html(AttentionRecording(pictures, ["one"] * 3, list(range(explorer.LAYERS)), maps))
    assert len(page) < 2_800_000  # noise packs worse than what a network has learned


def test_page_stands_alone_and_reads_without_scripts(page):
    soup = BeautifulSoup(page, "html.parser")
    assert not re.search(r"https?://|@import|src=\"(?!data:)", page)
    assert soup.select_one(".explorer-title").string == "What does a patch attend to?"
    assert soup.select_one(".explorer-live").has_attr("hidden")
    assert not soup.select_one(".explorer-plain").has_attr("hidden")
    assert len(soup.select(".explorer-plain figure")) == 1
    assert [row.th.string for row in soup.select("tbody tr")] == ["block 0", "block 5"]
    assert len(soup.find_all("script")) == 2  # no title ends a script
    assert payload_of(page)["images"][1] == "2: </script>"


def test_text_and_table_name_the_largest_weight_and_its_place(recording):
    maps = {"plain": torch.full((2, 3, 2, 17, 17), 0.01), "re": torch.full((2, 3, 2, 17, 17), 0.01)}
    query = 1 + 2 * 4 + 2
    maps["plain"][1, 0, 0, query, 1 + 3 * 4 + 0] = 0.5
    maps["re"][1, 0, 0, query, 0] = -0.75
    marked = AttentionRecording(recording.pictures, recording.titles, recording.layers, maps)
    soup = BeautifulSoup(explorer.attention_html(marked), "html.parser")
    text = soup.svg["aria-label"]
    assert "block 5, head 0, from row 3, column 3" in text
    assert "plain, 0.500 at row 4, column 1; Re-attention, −0.750 at the class token" in text
    assert soup.figcaption.string == f"As it opens: a{text[1:]}"
    assert [cell.string for cell in soup.select("tbody tr")[1].find_all("td")] == [
        "0.500 at row 4, column 1",
        "−0.750 at the class token",
    ]


def test_numbers_below_zero_have_a_true_minus_without_scripts(recording):
    maps = {"re": torch.full((2, 3, 2, 17, 17), -0.082)}
    below = AttentionRecording(recording.pictures, recording.titles, recording.layers, maps)
    soup = BeautifulSoup(explorer.attention_html(below), "html.parser")
    still = soup.select_one(".explorer-plain")
    assert "largest −0.082" in still.get_text(" ")
    for text in (still.get_text(" "), soup.svg["aria-label"], soup.figcaption.string, soup.table.get_text(" ")):
        assert not re.search(r"-\d", text)


def test_collapse_tables_hold_the_means(specimens, undrawn):
    soup = BeautifulSoup(explorer.collapse_explorer("cifar10", ["plain"]).data, "html.parser")
    cells = {row.th.string: [cell.string for cell in row.find_all("td")] for row in soup.select("tbody tr")}
    assert cells["plain, same image, rows centred"] == ["−0.500", "0.500"]
    assert (
        "the mean plain cosine of all pairs of neighbouring blocks, and in brackets that of centred rows, is: "
        "plain 1.00 (0.50)." in soup.figcaption.string
    )
    assert cells["the map of the block before"] == ["loss +1.750, accuracy −12.5"]
    assert cells["the uniform map"] == ["loss +1.250, accuracy −12.5"]


def test_two_explorers_on_a_page_are_told_apart(recording, page, undrawn):
    pages = [page, explorer.attention_html(recording)]
    ids = [BeautifulSoup(page, "html.parser").div["id"] for page in pages]
    assert ids[0] != ids[1]
    assert all(f'deepvitExplorer("{name}")' in page for name, page in zip(ids, pages, strict=True))


# What is recorded


def test_maps_are_the_used_ones_of_the_given_images(specimens):
    images = data.load("shapes", "test", limit=5)
    found = explorer.record_explored("shapes", images, ["plain", "re"])
    assert found.layers == explorer.evenly_chosen(10, explorer.LAYERS)
    assert torch.equal(found.pictures, images.images[: explorer.IMAGES])
    assert found.titles == [images.classes[label] for label in images.labels[: explorer.IMAGES]]
    model = explorer.specimens.load_specimen("re", "shapes")
    maps = record_attention(model, images.normalise(images.images[: explorer.IMAGES]), "used")
    torch.testing.assert_close(found.maps["re"][1], maps[found.layers[1]])


# Where a kernel is at hand


def test_attention_in_colab_is_widgets_that_draw(specimens, colab, shown):
    widget = explorer.attention_explorer(remedies=["plain", "re"])
    image, layer, head, row, column = widget.children[:5]
    image.value, layer.value, head.value, row.value, column.value = 1, 0, 2, 1, 8
    titles = [title for title, _ in image.options]
    assert f"block 0, head 2, from row 1, column 8 in an image ({titles[1]})" in shown[-1]
    assert head.max == 3


def test_collapse_in_colab_answers_when_pressed(specimens, colab, shown, answers):
    matrices, what_if = explorer.collapse_explorer("cifar10", ["plain"]).children
    epoch, measure = matrices.children[:2]
    epoch.value, measure.value = 0, "row"
    assert "at initialisation" in shown[-1]
    assert "plain same image, rows centred: -0.50" in shown[-1]
    block, replacement, button = what_if.children[:3]
    block.value, replacement.value = 2, "uniform"
    assert answers == []
    button.click()
    assert answers == ["- plain: loss +2.250, accuracy -12.5"]
    block.value, replacement.value = 0, "previous"
    button.click()
    assert "plain: not measured" in answers[-1]


# The reader's own model


@pytest.fixture
def answers(monkeypatch):
    texts = []
    monkeypatch.setattr(explorer, "display", lambda markdown: texts.append(markdown.data))
    return texts


def own_model(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    return zoo.create_model("cifar_vit_4x64", **{"num_classes": 10, "depth": 3, "attention": ("re",), **options}).eval()


@pytest.fixture
def images() -> data.ImageSet:
    return data.load("shapes", "test", limit=12).subset(torch.arange(11, -1, -1))


def test_any_kernel_shows_where_a_patch_of_an_own_model_looks(images, shown):
    model = own_model()
    attention = explorer.explore(model, images).children[0]
    image, layer, head, row, column = attention.children[:5]
    assert [len(image.options), len(layer.options), head.max] == [12, 3, 3]
    image.value, layer.value, head.value, row.value, column.value = 7, 2, 1, 2, 8
    maps = record_attention(model, images.normalise(images.images[7:8]))[2][0, 1]
    largest = maps[1 + 1 * 8 + 7].abs().max()
    assert f"block 2, head 1, from row 2, column 8 in an image ({images.classes[images.labels[7]]})" in shown[-1]
    assert f"your model, {largest:.3f} at" in shown[-1].replace("-", "")


def test_matrices_of_an_own_model_are_those_of_its_maps_in_use(images, shown):
    model = own_model()
    matrices = explorer.explore(model, images).children[1].children[0]
    for measure, (centre, number) in {"raw": (None, 0), "row": ("row", 0), "images_row": ("row", 1)}.items():
        matrices.children[0].value = measure
        found = similarity_matrices(model, images.normalise(images.images), centre=centre, which="used")[number]
        assert f"{explorer.MEASURES[measure]}: {found.diagonal(1).mean():.2f}" in shown[-1]
    assert "in your model, mean over 12 images of shapes" in shown[-1]


def test_replacing_a_map_of_an_own_model_is_measured_when_asked(images, shown, answers):
    model = own_model()
    block, replacement, button = explorer.explore(model, images).children[1].children[1].children[:3]
    block.value, replacement.value = 2, "uniform"
    assert answers == []
    button.click()
    effect = intervene(model, images.normalise(images.images), 2, "uniform", images.labels)
    assert f"change by {effect['kl']:.4f} nats" in answers[-1]
    assert f"loss {effect['loss']:+.3f}, accuracy {100 * effect['accuracy']:+.1f}" in answers[-1]
    block.value, replacement.value = 0, "previous"
    button.click()
    assert "the first block, 0, has none before it" in answers[-1]


def test_a_model_of_timm_with_other_classes_is_explored_without_labels(shown, answers):
    model = timm.create_model("test_vit", img_size=64).eval()
    images = data.load("shapes", "test", limit=3, img_size=64)
    tabs = explorer.explore(model, images)
    assert "your model" in shown[0]
    tabs.children[1].children[1].children[2].click()
    assert "nats" in answers[-1]
    assert "loss" not in answers[-1]


def test_what_cannot_be_explored_gets_one_sentence(images):
    with pytest.raises(TypeError, match="are a Tensor; give an ImageSet"):
        explorer.explore(own_model(), images.images)
    with pytest.raises(ValueError, match="give two images or more, not 1"):
        explorer.explore(own_model(), images.subset([0]))
    with pytest.raises(ValueError, match="of a Linear cannot be found"):
        explorer.explore(torch.nn.Linear(2, 2), images)
    for model in (timm.create_model("test_vit", dynamic_img_size=False), own_model(img_size=64)):
        with pytest.raises(ValueError, match=r"does not take images of 32 pixels|takes \(B, 3, 64, 64\)"):
            explorer.explore(model, images)
