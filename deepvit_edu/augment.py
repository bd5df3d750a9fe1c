"""Augmentation of whole batches where they lie: on the device."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor
from torchvision.ops import roi_align
from torchvision.transforms import v2


def random_crop(images: Tensor, padding: int) -> Tensor:
    """Shifts each image by up to `padding` pixels, black where it leaves the frame; (B, 3, H, W) to the same."""
    if padding == 0:
        return images
    batch, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, batch), device=images.device)
    if images.device.type == "cpu":  # copying one window after the other is faster there than gathering pixels
        pixels, cropped = padded.numpy(), np.empty(images.shape, images.numpy().dtype)
        for i, (t, x) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
            cropped[i] = pixels[i, :, t : t + height, x : x + width]
        return torch.from_numpy(cropped)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, 3, 2p + 1, 2p + 1, H, W), a view
    return windows[torch.arange(batch, device=images.device), :, top, left]


def random_flip(images: Tensor, probability: float = 0.5) -> Tensor:
    """Mirrors each image left to right with that probability; (B, 3, H, W) to the same."""
    if probability == 0:
        return images
    count, device = len(images), images.device
    mirrored = torch.rand(count, device=device) < probability
    both = torch.cat([images, images.flip(-1)])
    return both.index_select(0, torch.arange(count, device=device) + count * mirrored)  # much faster than a mask


def rand_augment(images: Tensor, num_ops: int, magnitude: int = 9, groups: int = 8) -> Tensor:
    """RandAugment (Cubuk et al. 2019) by torchvision, drawn separately for each of `groups` parts of the batch.

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


def mixed(mixup: Mixup, images: Tensor) -> tuple[Tensor, float]:
    """Images (B, 3, H, W), mixed in place with the batch-flipped ones, and the share of themselves that is left.

    Args:
        mixup: timm's, made with `num_classes=2` and no label smoothing.
        images: an even number of them.
    """
    # timm tells the share only through targets: of two classes, one in each half of the batch.
    halves = torch.arange(len(images), device=images.device) >= len(images) // 2
    images, targets = mixup(images, halves.long())
    return images, targets[0, 0]


class Views(NamedTuple):
    """Which part of each image is used.

    `crops` (B, 4) are left, top, right and bottom as fractions of the image, 0 to 1; `mirrored` (B,) is bool.
    """

    crops: Tensor
    mirrored: Tensor


def whole_views(count: int) -> Views:
    """Views of `count` images as they are."""
    return Views(torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(count, 1), torch.zeros(count, dtype=torch.bool))


def random_views(count: int, smallest_area: float = 0.08, flip: float = 0.5) -> Views:
    """Square crops of `smallest_area` to all of the image, anywhere in it, mirrored with the probability `flip`."""
    side = torch.empty(count, 1).uniform_(smallest_area, 1).sqrt()
    corner = torch.rand(count, 2) * (1 - side)  # left and top
    return Views(torch.cat([corner, corner + side], dim=1), torch.rand(count) < flip)


def take_views(pictures: Tensor, views: Views, size: int) -> Tensor:
    """Crops, resizes and mirrors float pictures (B, C, H, W), images or score maps, to (B, C, size, size)."""
    height, width = pictures.shape[2:]
    corners = views.crops.to(pictures) * torch.tensor([width, height, width, height]).to(pictures)
    numbers = torch.arange(len(pictures)).to(pictures)[:, None]
    # The authors subtract half a pixel by hand, which is what `aligned` does.
    taken = roi_align(pictures, torch.cat([numbers, corners], dim=1), size, aligned=True)
    return torch.where(views.mirrored.to(pictures.device)[:, None, None, None], taken.flip(-1), taken)
