"""Multi-head self-attention, on two equal paths: a legible one that forms the map, and a fast one that never does."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn

_legible_only = False


@contextmanager
def legible_attention() -> Iterator[None]:
    """Within this context every attention forms its map explicitly, step by step, as the chapters write it.

    Outside it an attention takes the fastest path that gives the same output.
    """
    global _legible_only
    before, _legible_only = _legible_only, True
    try:
        yield
    finally:
        _legible_only = before


def fast_path_allowed() -> bool:
    """False within `legible_attention()`."""
    return not _legible_only


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2; Dosovitskiy et al. 2021, appendix A).

    Args:
        dim: channels C of a token.
        num_heads: heads H; each sees D = C / H channels.
        qkv_bias: give queries, keys and values a bias.
        attn_drop: dropout probability of the map's entries.
        proj_drop: dropout probability of the output.

    Raises:
        ValueError: when `dim` is not a multiple of `num_heads`.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"{dim} channels cannot be shared equally by {num_heads} heads; choose a divisor of {dim}")
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        # On the legible path the map passes through these two, so that the diagnostics can read or replace it.
        self.softmax_map = nn.Identity()
        self.used_map = nn.Identity()
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        if not fast_path_allowed():
            return self.forward_with_map(x)[0]
        query, key, value = self.split_heads(self.qkv(x))
        dropout = self.attn_drop.p if self.training else 0.0
        out = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=self.scale)
        return self.merge_heads(out)

    def forward_with_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) to (tokens (B, N, C), the attention map that multiplied the values (B, H, N, N))."""
        query, key, value = self.split_heads(self.qkv(x))
        attn = self.attention_map(query, key)  # (B, H, N, N)
        return self.merge_heads(attn @ value), attn

    def split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 3C), queries then keys then values, to three tensors (B, H, N, D)."""
        return qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def attention_map(self, query: Tensor, key: Tensor) -> Tensor:
        """Queries and keys (B, H, N, D) to the map (B, H, N, N): one distribution over keys for every query."""
        scores = query @ key.transpose(-2, -1) * self.scale  # (B, H, N, N)
        attn = self.softmax_map(scores.softmax(dim=-1))
        return self.used_map(self.attn_drop(attn))

    def merge_heads(self, out: Tensor) -> Tensor:
        """Head outputs (B, H, N, D), side by side and projected, to tokens (B, N, C)."""
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))
