"""Augmentation of whole batches where they lie: on the device, as uint8."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2


def random_crop(images: Tensor, padding: int) -> Tensor:
    """Shifts each image by up to `padding` pixels, black where it leaves the frame; (B, 3, H, W) to the same."""
    if padding == 0:
        return images
    batch, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, 3, 2p + 1, 2p + 1, H, W), a view
    top, left = torch.randint(2 * padding + 1, (2, batch, 1), device=images.device)
    each = torch.arange(batch, device=images.device)[:, None]
    channel = torch.arange(images.shape[1], device=images.device)
    return windows[each, channel, top, left]


def random_flip(images: Tensor) -> Tensor:
    """Mirrors each image left to right with probability one half; (B, 3, H, W) to the same."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


def rand_augment(images: Tensor, num_ops: int, magnitude: int = 9, groups: int = 8) -> Tensor:
    """RandAugment (Cubuk et al. 2019) by torchvision, drawn anew for each of `groups` parts of the batch.

    torchvision draws one list of operations a call; parts make a batch varied without a loop over images.

    Args:
        images: uint8 (B, 3, H, W).
        num_ops: operations in a row; 0 leaves the images as they are.
        magnitude: their strength, 0 to 30.
        groups: parts of the batch that draw apart.
    """
    if num_ops == 0:
        return images
    transform = v2.RandAugment(num_ops=num_ops, magnitude=magnitude)
    return torch.cat([transform(part) for part in images.chunk(groups)])
