import pytest
import torch

from deepvit_edu import data
from deepvit_edu.data import DrawnSet, drawn
from deepvit_edu.data.shapes import CHUNK, draw_shapes


def test_an_image_follows_from_its_number_alone():
    whole = data.load("framed-quarter", "train", limit=2500)
    numbers = torch.tensor([2400, 3, 1700, 3, 999, 1000])
    images, labels = data.load("framed-quarter", "train").batch(numbers)
    assert torch.equal(images, whole.images[numbers])
    assert torch.equal(labels, whole.labels[numbers])
    assert images.shape == (6, 3, 64, 64)


def test_one_chunk_is_kept_and_each_is_drawn_once_in_a_pass(monkeypatch):
    train, drawn_chunks = data.load("framed-quarter", "train", limit=3500), []
    draw = train.draw
    train.draw = lambda seed, split, number: drawn_chunks.append(number) or draw(seed, split, number)
    order = train.order(torch.Generator().manual_seed(1))
    assert sorted(order.tolist()) == list(range(3500))
    assert not torch.equal(order, torch.arange(3500))
    for batch in order.split(50):
        train.batch(batch)
    assert sorted(drawn_chunks) == [0, 1, 2, 3]


def test_the_label_is_the_class_of_the_figure_under_the_bar():
    """The framed figure, without its bar, is the `shapes` figure of that label; any quarter may be framed."""
    images, labels = drawn.draw_framed_quarters(0, "train", 0)
    quarters = images.unfold(2, 32, 32).unfold(3, 32, 32).permute(0, 2, 3, 1, 4, 5).reshape(CHUNK, 4, 3, 32, 32)
    framed = (quarters[:, :, :, :3] == torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]).flatten(2).all(2)
    assert (framed.sum(dim=1) == 1).all()
    assert framed.sum(dim=0).min() > 200
    stream = drawn.np.random.default_rng([drawn.VERSION, 0, 0, 0])
    figures = draw_shapes("train", count=4 * CHUNK, img_size=32, seed=int(stream.integers(2**31)))
    known = {
        figure[:, 3:].numpy().tobytes(): label
        for figure, label in zip(figures.images, figures.labels.tolist(), strict=True)
    }
    under_bar = quarters[framed][:, :, 3:]
    assert [known[part.contiguous().numpy().tobytes()] for part in under_bar] == labels.tolist()
    assert labels.bincount(minlength=10).min() > 60


def test_naming_any_of_the_four_figures_is_right_a_third_of_the_time_at_most():
    stream = drawn.np.random.default_rng([drawn.VERSION, 0, 0, 0])
    figures = draw_shapes("train", count=4 * CHUNK, img_size=32, seed=int(stream.integers(2**31)))
    order = stream.permutation(4 * CHUNK).reshape(CHUNK, 4)
    shown, (_, labels) = figures.labels[order], drawn.draw_framed_quarters(0, "train", 0)
    right = (shown == labels[:, None]).float().mean()
    assert 0.25 < right < 0.4


def test_sets_are_known_by_version_seed_split_and_count(monkeypatch):
    train = data.load("framed-quarter", "train", limit=1000)
    others = [
        data.load("framed-quarter", "train", limit=1001),
        data.load("framed-quarter", "train", limit=1000, seed=1),
        data.load("framed-quarter", "test", limit=1000),
    ]
    assert len({train.hash(), *(other.hash() for other in others)}) == 4
    known = train.hash()
    assert known == data.load("framed-quarter", "train", limit=1000).hash() == train.to("cpu").hash()
    monkeypatch.setattr(drawn, "VERSION", 2)
    assert train.hash() != known


def test_training_and_test_images_have_nothing_in_common():
    train, test = (data.load("framed-quarter", split, limit=1000) for split in ("train", "test"))
    seen = {image.numpy().tobytes() for image in train.images}
    assert len(seen) == 1000
    assert not any(image.numpy().tobytes() in seen for image in test.images)


def test_the_pixels_are_those_of_version_1():
    """Any change of a pixel must raise VERSION, or records would be compared that cannot be."""
    images, labels = drawn.draw_framed_quarters(0, "train", 0)
    assert drawn.VERSION == 1
    assert (images.long().sum().item(), labels.sum().item()) == (1558572336, 4649)


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="drawn at 64 pixels, not 32"):
        data.load("framed-quarter", "train", img_size=32)
    train = data.load("framed-quarter", "train", limit=10)
    assert isinstance(train, DrawnSet)
    with pytest.raises(IndexError, match="images 0 to 9"):
        train.batch(torch.tensor([10]))
    with pytest.raises(data.DataError, match="memory"):
        _ = data.load("framed-quarter", "train", limit=10**7).images
    assert "10 images of 64 × 64 pixels in 10 classes, drawn when needed" in train.describe()
