"""Attentions that no paper proposes: controls, which tell the parts of an effect from each other in experiments."""

from typing import Any

from torch import Tensor

from .attention import Attention


class SharpenedAttention(Attention):
    """Plain attention with larger scores: the softmax leaves the uniform map sooner, and nothing else changes.

    Args:
        dim, num_heads, options: as of `Attention`.
        sharpness: factor on the scores.
    """

    def __init__(self, dim: int, num_heads: int, *options: Any, sharpness: float = 4.0) -> None:
        super().__init__(dim, num_heads, *options)
        self.scale *= sharpness


class HandingAttention(Attention):
    """Plain attention that hands its map on to the next block."""

    def forward_chain(self, x: Tensor, handed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) to (tokens (B, N, C), this map (B, H, N, N))."""
        return self.forward_with_map(x)
