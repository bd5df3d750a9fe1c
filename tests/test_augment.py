import torch
from timm.data import Mixup

from deepvit_edu.augment import mixed, rand_augment, random_crop, random_flip

IMAGES = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)


def test_crop_is_a_shift_by_at_most_the_padding():
    marked = torch.zeros(200, 3, 9, 9, dtype=torch.uint8)
    marked[:, :, 4, 4] = torch.arange(1, 4, dtype=torch.uint8)
    shifted = random_crop(marked, padding=2)
    assert shifted.shape == marked.shape
    channel, row, column = shifted.nonzero().T[1:]
    assert len(row) == 600  # the marks stay in the frame, one in each channel
    assert (shifted[shifted > 0] == channel + 1).all()
    assert set(row.tolist()) == set(column.tolist()) == {2, 3, 4, 5, 6}
    assert len({tuple(pair) for pair in torch.stack([row, column]).T.tolist()}) == 25


def test_crop_without_padding_changes_nothing():
    assert random_crop(IMAGES, 0) is IMAGES


def test_flip_mirrors_about_half_and_only_left_to_right():
    flipped = random_flip(IMAGES)
    same = (flipped == IMAGES).flatten(1).all(dim=1)
    mirrored = (flipped == IMAGES.flip(-1)).flatten(1).all(dim=1)
    assert (same | mirrored).all()
    assert 15 < same.sum() < 49


def test_rand_augment_varies_within_a_batch():
    same = IMAGES[:1].expand(64, -1, -1, -1)
    out = rand_augment(same, num_ops=2, magnitude=15)
    assert out.shape == IMAGES.shape
    assert out.dtype == torch.uint8
    assert len({tuple(image.flatten().tolist()) for image in out}) > 3
    assert rand_augment(IMAGES, 0) is IMAGES


def test_images_are_mirrored_with_the_probability_given():
    assert torch.equal(random_flip(IMAGES, 0), IMAGES)
    assert torch.equal(random_flip(IMAGES, 1), IMAGES.flip(-1))


def test_mixing_reports_the_share_of_themselves_that_is_left():
    mixup, levels = Mixup(1.0, label_smoothing=0.0, num_classes=2), torch.tensor([1.0, 2.0, 4.0, 8.0])
    images, share = mixed(mixup, levels[:, None, None, None].expand(-1, 3, 8, 8).clone())
    assert torch.allclose(images[:, 0, 0, 0], share * levels + (1 - share) * levels.flip(0))
    assert 0 < share < 1
