"""Attentions that no paper proposes: controls, which tell the parts of an effect from each other in experiments."""

from typing import Any

from torch import Tensor, nn

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


class HandedAttention(nn.Module):
    """Attention with the map of the block before it, and no queries or keys of its own: collapse, by force.

    Args:
        dim, num_heads, qkv_bias, attn_drop, proj_drop: as of `Attention`; no map is dropped here.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.value = nn.Linear(dim, dim, bias=qkv_bias)
        self.softmax_map, self.used_map = nn.Identity(), nn.Identity()
        self.proj, self.proj_drop = nn.Linear(dim, dim), nn.Dropout(proj_drop)

    def forward_chain(self, x: Tensor, handed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) and the map (B, H, N, N) handed on, to (tokens (B, N, C), the same map).

        Raises:
            ValueError: when the block before handed no map on.
        """
        if handed is None:
            raise ValueError("a 'handed' block needs a 'handing' or 'handed' one before it, and there is none")
        attn = self.used_map(self.softmax_map(handed))
        value = self.value(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, N, D)
        return self.proj_drop(self.proj((attn @ value).transpose(1, 2).flatten(2))), handed
