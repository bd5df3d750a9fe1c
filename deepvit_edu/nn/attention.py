"""Multi-head self-attention, Re-attention, and refined attention, as the chapters write them."""

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, fx, nn

from .paths import by_fast_path, without_autocast
from .paths import legible_attention as legible_attention

fx.wrap("rearrange")  # torch.fx cannot trace through it


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
            raise ValueError(
                f"{dim} channels cannot be divided equally among {num_heads} heads; choose a divisor of {dim}"
            )
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        # The map passes through these two, so that hooks on them can read or replace it.
        self.softmax_map = nn.Identity()
        self.used_map = nn.Identity()
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        query, key, value = self.split_heads(self.qkv(x))
        # The same result, computed faster (nn/fast.py); None if no fast path applies.
        out = by_fast_path(self, (self.attention_map, self.softmax_of), query, key, value)
        if out is None:
            out = self.attention_map(query, key) @ value  # (B, H, N, D)
        return self.merge_heads(out)

    def forward_with_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) to (tokens (B, N, C), the attention map that multiplied the values (B, H, N, N))."""
        query, key, value = self.split_heads(self.qkv(x))
        attn = self.attention_map(query, key)  # (B, H, N, N)
        return self.merge_heads(attn @ value), attn

    def split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 3C), queries then keys then values, to three tensors (B, H, N, D)."""
        return rearrange(qkv, "b n (part h d) -> part b h n d", part=3, h=self.num_heads).unbind(0)

    def attention_map(self, query: Tensor, key: Tensor) -> Tensor:
        """Queries and keys (B, H, N, D) to the map (B, H, N, N): one distribution over keys for every query."""
        return self.used_map(self.attn_drop(self.softmax_of(query, key)))

    def softmax_of(self, query: Tensor, key: Tensor) -> Tensor:
        """Queries and keys (B, H, N, D) to the softmax of their scores (B, H, N, N)."""
        scores = query @ key.transpose(-2, -1) * self.scale  # (B, H, N, N)
        return self.softmax_map(scores.softmax(dim=-1))

    def merge_heads(self, out: Tensor) -> Tensor:
        """Head outputs (B, H, N, D), side by side and projected, to tokens (B, N, C)."""
        return self.proj_drop(self.proj(rearrange(out, "b h n d -> b n (h d)")))


class HeadNorm(nn.Module):
    """The norm after the mixing of heads in Re-attention, in six kinds that experiments compare.

    Args:
        kind: "batch" (the paper's: BatchNorm over heads), "none", "layer" (over the heads of each entry, as in
            vit-pytorch), "centre" (A - 1/N), "amplify" (1/N + g (A - 1/N)) or "gain" (g A), g learned per head.
        num_heads: heads H.
        gain: initial value of g.
        eps: of BatchNorm or LayerNorm.

    Raises:
        ValueError: for another kind.
    """

    KINDS = ("batch", "none", "layer", "centre", "amplify", "gain")

    def __init__(self, kind: str, num_heads: int, gain: float = 1.0, eps: float = 1e-5) -> None:
        super().__init__()
        if kind not in self.KINDS:
            raise ValueError(f"unknown norm '{kind}' for maps; choose one of {', '.join(self.KINDS)}")
        self.kind = kind
        self.batch = nn.BatchNorm2d(num_heads, eps=eps) if kind == "batch" else None
        self.layer = nn.LayerNorm(num_heads, eps=eps) if kind == "layer" else None
        # One-dimensional, as BatchNorm's: the optimizers' rule leaves it without weight decay.
        self.gain = nn.Parameter(torch.full((num_heads,), gain)) if kind in ("amplify", "gain") else None

    def forward(self, attn: Tensor) -> Tensor:
        """Maps (B, H, N, N) to maps (B, H, N, N)."""
        uniform = 1 / attn.shape[-1]
        if self.batch is not None:
            return self.batch(attn)
        if self.layer is not None:
            return self.layer(attn.movedim(1, -1)).movedim(-1, 1)
        if self.kind == "centre":
            return attn - uniform
        if self.kind == "amplify":
            return uniform + self.gain[:, None, None] * (attn - uniform)
        return attn if self.gain is None else self.gain[:, None, None] * attn


class ReAttention(Attention):
    """Attention whose heads exchange their maps before they multiply the values (Zhou et al. 2021, DeepViT).

    Out = Norm(Θ A) V: Θ is a 1×1 convolution over heads with a bias, the norm is BatchNorm over heads, as in the
    authors' code; the papers' formula has neither bias nor scale.

    Args:
        args, options: as for `Attention`.
        mixing: initial value of Θ: "random" (the authors'), "identity" (plus noise of deviation 0.1), or "frozen" (the
            identity, which does not learn).
        norm: see `HeadNorm`.
        map_scale: factor on the normed map.
        gain, eps: of the norm.

    Raises:
        ValueError: for an unknown mixing or norm.
    """

    MIXINGS = ("random", "identity", "frozen")

    def __init__(
        self,
        *args: Any,
        mixing: str = "random",
        norm: str = "batch",
        map_scale: float = 1.0,
        gain: float = 1.0,
        eps: float = 1e-5,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        if mixing not in self.MIXINGS:
            raise ValueError(f"unknown mixing '{mixing}'; choose one of {', '.join(self.MIXINGS)}")
        self.mix = nn.Conv2d(self.num_heads, self.num_heads, kernel_size=1)
        self.norm = HeadNorm(norm, self.num_heads, gain, eps)
        self.map_scale = map_scale
        if mixing != "random":
            identity = torch.eye(self.num_heads)[:, :, None, None]
            noise = 0.1 * torch.randn_like(identity) if mixing == "identity" else 0.0
            self.mix.weight.data.copy_(identity + noise)
            nn.init.zeros_(self.mix.bias)
            self.mix.requires_grad_(mixing == "identity")

    def attention_map(self, query: Tensor, key: Tensor) -> Tensor:
        """Queries and keys (B, H, N, D) to the mixed and normed map (B, H, N, N); its rows need not sum to 1."""
        attn = self.attn_drop(self.softmax_of(query, key))
        with without_autocast(attn):  # added to the bias in 16 bits, what the norm amplifies would be rounded away
            weights = list(self.mix.parameters())
            if weights:  # in whatever format they are: another module may stand here
                attn = attn.to(weights[0].dtype)
            attn = self.norm(self.mix(attn)) * self.map_scale
        return self.used_map(attn)


def expanded_maps(num_heads: int, expansion: int) -> int:
    """The number of maps after an expansion; ValueError unless that is a whole multiple of the heads."""
    if not isinstance(expansion, int) or expansion < 1:
        raise ValueError(f"expansion is {expansion}; it must be a whole number, 1 or more")
    return expansion * num_heads


class RefinedAttention(Attention):
    """Attention whose map is expanded, convolved and reduced before use (Refiner, Zhou et al. 2021).

    This is the paper's reading: attention expansion, distributed local attention and linear reduction in every block.
    The released code differs; see `nn/refiner.py`.

    Args:
        args, options: as for `Attention`.
        expansion: maps after the expansion, as a multiple of the heads.
        kernel_size: of the depth-wise convolution over (query, key); odd.

    Raises:
        ValueError: when `kernel_size` is even, or `expansion` is less than 1.
    """

    def __init__(self, *args: Any, expansion: int = 3, kernel_size: int = 3, **options: Any) -> None:
        super().__init__(*args, **options)
        if kernel_size % 2 == 0 or kernel_size < 1:
            raise ValueError(f"kernel_size is {kernel_size}; an odd one, 1 or more, keeps the map's size")
        wide = expanded_maps(self.num_heads, expansion)
        self.expand = nn.Conv2d(self.num_heads, wide, 1, bias=False)
        self.local = nn.Conv2d(wide, wide, kernel_size, padding=kernel_size // 2, groups=wide, bias=False)
        self.reduce = nn.Conv2d(wide, self.num_heads, 1, bias=False)

    def attention_map(self, query: Tensor, key: Tensor) -> Tensor:
        """Queries and keys (B, H, N, D) to the refined map (B, H, N, N); its rows need not sum to 1."""
        attn = self.attn_drop(self.softmax_of(query, key))
        return self.used_map(self.reduce(self.local(self.expand(attn))))
