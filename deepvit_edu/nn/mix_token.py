"""MixToken (Jiang et al. 2021, LV-ViT): tokens mixed with those of another image within a box, labels with them."""

import math

import torch
from torch import Tensor

Box = tuple[int, int, int, int]  # top, left, bottom, right, in cells of the grid of tokens; the last two are outside


def random_box(grid_size: int, alpha: float = 1.0) -> Box:
    """MixToken's box (top, left, bottom, right) in cells of the grid, by CutMix's rule (Yun et al. 2019).

    Its area is a fraction from Beta(alpha, alpha), its centre anywhere; what is outside the grid is cut off.
    """
    area = torch.distributions.Beta(alpha, alpha).sample().item()
    side = int(grid_size * math.sqrt(area))
    top, left = (torch.randint(grid_size, (2,)) - side // 2).tolist()
    bottom, right = (min(edge + side, grid_size) for edge in (top, left))
    return max(top, 0), max(left, 0), bottom, right


def swap_within(tokens: Tensor, box: Box) -> Tensor:
    """Tokens (B, N, C) of a square grid, those within the box from the batch-flipped sample.

    Applying it twice gives the input back.

    Raises:
        ValueError: when the box is not within the grid.
    """
    side = math.isqrt(tokens.shape[1])
    top, left, bottom, right = box
    if not (0 <= top <= bottom <= side and 0 <= left <= right <= side):
        raise ValueError(f"box {tuple(box)} is not a (top, left, bottom, right) within the {side} × {side} tokens")
    inside = torch.zeros(side, side, 1, dtype=torch.bool, device=tokens.device)
    inside[top:bottom, left:right] = True
    return torch.where(inside.flatten(0, 1), tokens.flip(0), tokens)


def mix_class_targets(targets: Tensor, box: Box, grid_size: int) -> Tensor:
    """Class targets (B, K), mixed with the batch-flipped sample's by the area of the box.

    The tokens' targets stay as they are: `VisionTransformer.forward_dense` puts their logits back in place.
    """
    top, left, bottom, right = box
    area = (bottom - top) * (right - left) / grid_size**2
    return (1 - area) * targets + area * targets.flip(0)
