"""Looking inside a model without changing what it computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from .nn.attention import legible_attention
from .nn.transformer import VisionTransformer

WhichMap = Literal["softmax", "used"]


@torch.no_grad()
def record_attention(model: VisionTransformer, images: Tensor, which: WhichMap = "used") -> list[Tensor]:
    """The attention maps of every block, in eval mode.

    Args:
        model: a model of the zoo; it is left as it was.
        images: normalised images (B, 3, H, W).
        which: "softmax" for the map as the softmax gives it, "used" for the one that multiplies the values.

    Returns:
        one map (B, H, N, N) a block, from the first to the last.

    Raises:
        ValueError: when `which` is another word.
    """
    if which not in ("softmax", "used"):
        raise ValueError(f"which is '{which}'; choose 'softmax' or 'used'")
    maps: list[Tensor] = []
    hooks = [
        getattr(block.attn, f"{which}_map").register_forward_hook(lambda module, inputs, attn: maps.append(attn))
        for block in model.blocks
    ]
    try:
        with _eval_mode(model), legible_attention():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return maps


@contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
