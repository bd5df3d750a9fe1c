import pytest
import torch

from deepvit_edu.nn.mix_token import swap_within
from deepvit_edu.nn.tokens import PatchEmbed


def test_each_token_is_a_linear_map_of_its_patch():
    embed = PatchEmbed(img_size=8, patch_size=4, embed_dim=5)
    images = torch.randn(2, 3, 8, 8)
    tokens = embed(images)
    assert tokens.shape == (2, 4, 5)
    patch = images[:, :, 4:8, 0:4].flatten(1)  # second row, first column: token 2
    by_hand = patch @ embed.proj.weight.flatten(1).T + embed.proj.bias
    torch.testing.assert_close(tokens[:, 2], by_hand, rtol=1e-5, atol=1e-5)


def test_sizes_are_told():
    embed = PatchEmbed(img_size=224, patch_size=16, embed_dim=5)
    assert (embed.grid_size, embed.num_tokens) == (14, 196)


def test_size_that_patches_do_not_tile_names_those_that_fit():
    with pytest.raises(ValueError, match="30 is not a multiple of the patch size 4; 28 and 32 are"):
        PatchEmbed(img_size=30, patch_size=4)
    with pytest.raises(ValueError, match="16 is"):
        PatchEmbed(img_size=8, patch_size=16)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 3, 28, 28), (1, 1, 32, 32)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"it takes \(B, 3, 32, 32\)"):
        PatchEmbed(img_size=32, patch_size=4)(torch.zeros(shape))


def test_tokens_within_a_box_come_from_the_flipped_batch():
    tokens = torch.arange(3 * 9.0).view(3, 9, 1)  # sample b has tokens 9 b to 9 b + 8, three a row
    swapped = swap_within(tokens, (1, 0, 3, 2))  # rows 1 and 2, columns 0 and 1: tokens 3, 4, 6, 7
    assert swapped[0].flatten().tolist() == [0, 1, 2, 21, 22, 5, 24, 25, 8]
    assert torch.equal(swapped[1], tokens[1])
    assert torch.equal(swap_within(swapped, (1, 0, 3, 2)), tokens)
    assert torch.equal(swap_within(tokens, (2, 2, 2, 2)), tokens)


@pytest.mark.parametrize("box", [(0, 0, 4, 1), (-1, 0, 2, 2), (2, 0, 1, 3)])
def test_boxes_outside_the_grid_are_refused(box):
    with pytest.raises(ValueError, match="within the 3 × 3 tokens"):
        swap_within(torch.zeros(2, 9, 1), box)
