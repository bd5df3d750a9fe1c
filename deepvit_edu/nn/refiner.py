"""Refiner's released code (Zhou et al. 2021): blocks that pass their attention map on to the next block.

The even blocks add a multiple of the last map to their own, the odd ones refine the last map instead of making one.
They are the only blocks that take or give more than tokens: a pair of tokens (B, N, C) and a map (B, H, N, N).
"""

from collections import OrderedDict
from typing import Any

from einops import rearrange
from torch import Tensor, fx, nn

from .attention import Attention, expanded_maps
from .blocks import Block
from .paths import by_fast_path

fx.wrap("rearrange")  # torch.fx cannot look into it

TokensAndMap = tuple[Tensor, Tensor]
"""Tokens (B, N, C) and an attention map (B, H, N, N)."""


class PassesMap(nn.Module):
    """Marks an attention that is called with tokens and the last block's map, or None, and returns tokens and a map."""


def passes_map(attn: nn.Module | type) -> bool:
    """Whether an attention, or a class of attentions, passes its map on."""
    return issubclass(attn if isinstance(attn, type) else type(attn), PassesMap)


def tokens_of(x: Tensor | TokensAndMap) -> Tensor:
    """The tokens (B, N, C) of what a block returned."""
    return x[0] if isinstance(x, tuple) else x


class ChainedBlock(Block):
    """A block whose attention uses the last block's map, and gives its own to the next one.

    Args:
        args, options: as for `Block`; the attention is one that passes maps.
        takes_map: it is called with a pair of tokens and map, not with tokens alone.
        gives_map: it returns such a pair.
    """

    def __init__(self, *args: Any, takes_map: bool = True, gives_map: bool = True, **options: Any) -> None:
        super().__init__(*args, **options)
        self.takes_map, self.gives_map = takes_map, gives_map

    def forward(self, x: Tensor | TokensAndMap) -> Tensor | TokensAndMap:
        """Tokens, or a pair of tokens and map, to tokens, or a pair of them and this block's map."""
        x, last_map = x if self.takes_map else (x, None)
        branch, attn = self.attn(self.norm1(x), last_map)
        x = x + self.drop_path(self.scale1(branch)) * self.branch_scale
        x = x + self.drop_path(self.scale2(self.mlp(self.norm2(x)))) * self.branch_scale
        return (x, attn) if self.gives_map else x


class AccumulatedAttention(PassesMap, Attention):
    """Attention that adds a multiple of the last map to its own (the even blocks)."""

    def forward(self, x: Tensor, last_map: Tensor | None = None) -> TokensAndMap:
        """Tokens (B, N, C) and the last map (B, H, N, N) or None, to (tokens (B, N, C), this map)."""
        query, key, value = self.split_heads(self.qkv(x))
        attn = by_fast_path(self, (self.accumulated_map, self.attention_map, self.softmax_of), query, key, last_map)
        if attn is None:
            attn = self.accumulated_map(query, key, last_map)
        attn = self.used_map(self.attn_drop(attn))
        return self.merge_heads(attn @ value), attn

    def accumulated_map(self, query: Tensor, key: Tensor, last_map: Tensor | None) -> Tensor:
        """Queries and keys (B, H, N, D) and the last map or None, to the sum of the maps, before dropout."""
        attn = self.attention_map(query, key)
        return attn if last_map is None else attn + self.scale * last_map

    def attention_map(self, query: Tensor, key: Tensor) -> Tensor:
        """Queries and keys (B, H, N, D) to the block's own map (B, H, N, N), before a multiple of the last is added."""
        return self.softmax_of(query, key)


class SharedAttention(PassesMap):
    """Attention with the last block's map, without queries and keys of its own: both blocks are forced to use one map.

    Args:
        dim, num_heads, qkv_bias, attn_drop, proj_drop: as for `Attention`; no map is dropped here.
    """

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = True, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.value = nn.Linear(dim, dim, bias=qkv_bias)
        self.softmax_map, self.used_map = nn.Identity(), nn.Identity()
        self.proj, self.proj_drop = nn.Linear(dim, dim), nn.Dropout(proj_drop)

    def forward(self, x: Tensor, last_map: Tensor | None = None) -> TokensAndMap:
        """Tokens (B, N, C) and the last block's map (B, H, N, N), to (tokens (B, N, C), the same map).

        Raises:
            ValueError: when the block before gave no map.
        """
        if last_map is None:
            raise ValueError(
                "a 'handed' or 'reused' block needs the map of the block before it, but that block passes none on; "
                "put a 'handing' or 'accumulated' block before it"
            )
        value = rearrange(self.value(x), "b n (h d) -> b h n d", h=self.num_heads)
        out = by_fast_path(self, (self.map_for_values,), last_map, value)
        if out is None:
            out = self.map_for_values(last_map) @ value  # (B, H, N, D)
        return self.proj_drop(self.proj(rearrange(out, "b h n d -> b n (h d)"))), last_map

    def map_for_values(self, last_map: Tensor) -> Tensor:
        """The last block's map (B, H, N, N) to the map that multiplies the values (B, H, N, N)."""
        return self.used_map(self.softmax_map(last_map))


class ReusedAttention(SharedAttention):
    """Attention that refines the last block's map (the odd blocks).

    The refinement: 1×1 convolution to `expansion` times the heads, depth-wise 3×3, 1×1 back, each with BatchNorm, the
    first two with ReLU6; a skip connection; a BatchNorm; a factor D^-0.5. The map is passed on unchanged.

    Args:
        dim, num_heads, args, options: as for `SharedAttention`.
        expansion: maps after the expansion, as a multiple of the heads.
    """

    def __init__(self, dim: int, num_heads: int = 8, *args: Any, expansion: int = 3, **options: Any) -> None:
        super().__init__(dim, num_heads, *args, **options)
        wide = expanded_maps(num_heads, expansion)
        self.scale = (dim // num_heads) ** -0.5
        self.refine = nn.Sequential(
            OrderedDict(
                expand=nn.Conv2d(num_heads, wide, 1, bias=False),
                norm1=nn.BatchNorm2d(wide),
                act1=nn.ReLU6(),
                local=nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
                norm2=nn.BatchNorm2d(wide),
                act2=nn.ReLU6(),
                reduce=nn.Conv2d(wide, num_heads, 1, bias=False),
                norm3=nn.BatchNorm2d(num_heads),
            )
        )
        self.norm = nn.BatchNorm2d(num_heads)

    def map_for_values(self, last_map: Tensor) -> Tensor:
        """The last block's map (B, H, N, N), refined, to the map that multiplies the values (B, H, N, N)."""
        shared = self.softmax_map(last_map)
        return self.used_map(self.norm(self.refine(shared) + shared) * self.scale)
