"""Attentions that no paper proposes: controls, which separate the parts of an effect in experiments."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .attention import Attention
from .refiner import PassesMap, TokensAndMap


class SharpenedAttention(Attention):
    """Plain attention with larger scores, so that the softmax is less uniform; nothing else changes.

    Args:
        args, options: as for `Attention`.
        sharpness: factor on the scores.
    """

    def __init__(self, *args: Any, sharpness: float = 4.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scale *= sharpness


class SharingAttention(PassesMap, Attention):
    """Plain attention that passes its map on to the next block, which may use it instead of computing its own."""

    def forward(self, x: Tensor, last_map: Tensor | None = None) -> TokensAndMap:
        """Tokens (B, N, C) and the last block's map, which is not used, to (tokens (B, N, C), this map)."""
        return self.forward_with_map(x)


class QueryMeanAttention(Attention):
    """Plain attention in which all queries use the same row, the mean over queries: the map is forced to be striped."""

    def softmax_of(self, query: Tensor, key: Tensor) -> Tensor:
        """Queries and keys (B, H, N, D) to maps (B, H, N, N) whose rows are the same."""
        scores = query @ key.transpose(-2, -1) * self.scale
        row = scores.softmax(dim=-1).mean(dim=-2, keepdim=True)  # (B, H, 1, N)
        return self.softmax_map(row.expand_as(scores))


class SplitProjection(nn.Module):
    """Queries, keys and values from two linear layers, so that blocks can share the one for queries and keys.

    Args:
        dim: channels C.
        bias: of both layers.
    """

    def __init__(self, dim: int, bias: bool = True) -> None:
        super().__init__()
        self.query_key = nn.Linear(dim, 2 * dim, bias=bias)
        self.value = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to queries, keys and values side by side (B, N, 3C)."""
        return torch.cat([self.query_key(x), self.value(x)], dim=-1)


class TiedAttention(Attention):
    """Plain attention that shares its projection of queries and keys with the tied blocks before it.

    A model ties its blocks when it is built, see `tie_queries_and_keys`; a single block has nothing to be tied to.
    """

    def __init__(self, dim: int, *args: Any, qkv_bias: bool = True, **options: Any) -> None:
        super().__init__(dim, *args, qkv_bias=qkv_bias, **options)
        self.qkv = SplitProjection(dim, qkv_bias)


def tie_queries_and_keys(attentions: Iterable[nn.Module]) -> None:
    """Makes each tied attention use the query and key projection of the tied block directly before it."""
    for before, attn in pairwise(attentions):
        if isinstance(before, TiedAttention) and isinstance(attn, TiedAttention):
            attn.qkv.query_key = before.qkv.query_key
