import time

import numpy as np
import pytest
import torch
from torch import nn

from deepvit_edu.data.shapes import CLASSES, LAYOUTS, PAIRS, TEXTURES, draw_shapes


@pytest.fixture(scope="module")
def few():
    return draw_shapes("train", count=1000)


def test_shapes_types_and_balance(few):
    assert few.images.shape == (1000, 3, 32, 32)
    assert few.images.dtype == torch.uint8
    assert few.labels.dtype == torch.int64
    assert few.labels.bincount().tolist() == [100] * 10
    assert few.classes[0] == "striped disc"
    assert few.rung == "shapes"


def test_each_layout_and_texture_occurs_in_exactly_two_classes():
    assert len(set(PAIRS)) == len(set(CLASSES)) == 10
    for kinds, which in ((LAYOUTS, 0), (TEXTURES, 1)):
        assert np.bincount([pair[which] for pair in PAIRS], minlength=len(kinds)).tolist() == [2] * 5


def test_the_bytes_of_a_seed_never_change(few):
    # A changed drawing changes every recorded number on shapes: do it knowingly.
    assert few.hash() == "205e4dad909cb28502b3651d16ff083ffbee526117231b82ebe2d3ef1bead58b"
    assert (
        draw_shapes("test", count=20, img_size=96, seed=3).hash()
        == "ec4309379c034daa2c3159e2c89b09d8ae8b3a7d6c68040a53390e3c316ee85a"
    )


def test_seed_split_and_size_differ_and_a_shorter_set_is_a_prefix(few):
    hashes = {draw_shapes(split, count=20, seed=seed).hash() for split in ("train", "test") for seed in (0, 1)}
    assert len(hashes) == 4
    assert torch.equal(draw_shapes("train", count=30).images, few.images[:30])
    longer = draw_shapes("train", count=1010)
    assert torch.equal(longer.images[:1000], few.images)
    assert not torch.equal(longer.images[1000:], few.images[:10])


@pytest.mark.parametrize("size", [32, 50, 224])
def test_sizes_show_the_same_kind_of_picture(size):
    images = draw_shapes("test", count=100, img_size=size).images.float() / 255
    assert images.shape[-2:] == (size, size)
    assert images.mean() == pytest.approx(0.5, abs=0.06)
    assert images.std() == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("size", [8, 31, 225])
def test_a_wrong_size_names_the_range(size):
    with pytest.raises(ValueError, match="32 to 224"):
        draw_shapes("train", count=1, img_size=size)


def test_normalise_centres_the_pixels(few):
    batch = few.normalise(few.images)
    assert batch.dtype == torch.float32
    assert batch.mean().abs() < 0.05
    assert batch.std() == pytest.approx(1, abs=0.05)


def test_twenty_thousand_are_drawn_in_seconds():
    start = time.process_time()
    draw_shapes("train", count=20_000)
    assert time.process_time() - start < 10  # about 1.5 s on an idle core


def test_layouts_cover_equal_areas():
    """Else the share of figure pixels, which shuffled patches keep, would tell the layout."""
    drawn = draw_shapes("train", count=1000, img_size=64, hide="texture")
    # The commonest colour is the ground's; figure and ground differ by 0.25 and more in brightness.
    images = drawn.images.float().mean(1) / 255
    ground = images[:, :6, :6].flatten(1).median(1).values
    far = ((images - ground[:, None, None]).abs() > 0.17).float().mean((1, 2))
    areas = torch.stack([far[drawn.labels // 2 == layout].median() for layout in range(5)])
    assert areas.max() / areas.min() < 1.35


def _accuracy(hide):
    """Test accuracy of a small convolutional network trained on the whole images or on what `hide` leaves."""
    torch.manual_seed(0)
    train_set, test_set = draw_shapes("train", count=2000, hide=hide), draw_shapes("test", count=500, hide=hide)
    layers = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4 * 4, len(CLASSES)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    pixels = train_set.normalise(train_set.images)
    for _ in range(5):
        for indices in torch.randperm(len(train_set)).split(50):
            loss = nn.functional.cross_entropy(model(pixels[indices]), train_set.labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        guesses = model(test_set.normalise(test_set.images)).argmax(1)
    return (guesses == test_set.labels).float().mean().item()


@pytest.fixture
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is no faster on more, and far slower where others compute too
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_one_thread")
def test_texture_and_layout_both_matter():
    whole, texture_only, layout_only = _accuracy(None), _accuracy("layout"), _accuracy("texture")
    # A guess between two classes is right half the time; four standard deviations of 500 guesses are 0.09.
    assert texture_only < 0.6
    assert layout_only < 0.6
    assert whole > max(texture_only, layout_only) + 0.2
    # The hidden views are not just noise: either alone does far better than one in ten.
    assert min(texture_only, layout_only) > 0.3


def test_hide_keeps_the_labels_and_rejects_other_words(few):
    assert torch.equal(draw_shapes("train", count=1000, hide="layout").labels, few.labels)
    with pytest.raises(ValueError, match="hide"):
        draw_shapes("train", count=1, hide="colour")
