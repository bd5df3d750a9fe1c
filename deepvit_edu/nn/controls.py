"""Attentions that no paper proposes: controls, which tell the parts of an effect from each other in experiments."""

from typing import Any

from torch import Tensor

from .attention import Attention
from .refiner import PassesMap, TokensAndMap


class SharpenedAttention(Attention):
    """Plain attention with larger scores: the softmax leaves the uniform map sooner, and nothing else changes.

    Args:
        args, options: as of `Attention`.
        sharpness: factor on the scores.
    """

    def __init__(self, *args: Any, sharpness: float = 4.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scale *= sharpness


class SharingAttention(PassesMap, Attention):
    """Plain attention that gives its map to the next block, which may use it in place of one of its own."""

    def forward(self, x: Tensor, last_map: Tensor | None = None) -> TokensAndMap:
        """Tokens (B, N, C) and the last block's map, which is not used, to (tokens (B, N, C), this map)."""
        return self.forward_with_map(x)
