"""The ideas from convolutional networks that T2T-ViT tried (Yuan et al. 2021, section 3.2): dense, SE and ghost."""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, fx, nn

from .attention import Attention

fx.wrap("rearrange")  # torch.fx cannot trace through it


class SqueezeExciteAttention(Attention):
    """Attention whose output channels are gated by their mean over tokens (`t2t_vit_14_se`).

    Args:
        args, options: as for `Attention`.
        reduction: channels of the gate's hidden layer, as a fraction 1 / reduction of C.
    """

    def __init__(self, *args: Any, reduction: int = 16, **options: Any) -> None:
        super().__init__(*args, **options)
        dim = self.proj.in_features
        self.gate = nn.Sequential(
            nn.Linear(dim, dim // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(dim // reduction, dim, bias=False),
            nn.Sigmoid(),
        )

    def merge_heads(self, out: Tensor) -> Tensor:
        """Head outputs (B, H, N, D), side by side, projected and gated, to tokens (B, N, C)."""
        x = self.proj(rearrange(out, "b h n d -> b n (h d)"))
        return self.proj_drop(x * self.gate(x.mean(dim=1, keepdim=True)))


class GhostLinear(nn.Module):
    """Half of the output channels from a linear map, the other half from a cheap one-tap convolution of each.

    Args:
        dim: channels in and out.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.primary = nn.Linear(dim, dim // 2, bias=False)
        self.cheap = nn.Parameter(torch.empty(dim // 2).uniform_(-1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        x = self.primary(x)
        return torch.cat([x, x * self.cheap], dim=-1)


class GhostAttention(Attention):
    """Attention whose queries, keys and values are `GhostLinear` maps (`t2t_vit_16_ghost`); it has no qkv bias."""

    def __init__(
        self, dim: int, num_heads: int = 8, qkv_bias: bool = False, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__(dim, num_heads, False, attn_drop, proj_drop)
        self.qkv = _SideBySide(*(GhostLinear(dim) for _ in range(3)))


class _SideBySide(nn.ModuleList):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__(parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self], dim=-1)


class GhostMlp(nn.Module):
    """An MLP of three times the width, of which two thirds are cheap one-tap convolutions (`t2t_vit_16_ghost`).

    Args:
        dim: channels C of a token.
        hidden_dim: ignored; it is always 3 C.
        drop: dropout probability after each layer.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, dim)
        self.cheap = nn.ParameterList(torch.empty(dim).uniform_(-1, 1) for _ in range(2))
        self.act = nn.GELU()
        self.fc2 = nn.Linear(3 * dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        x = self.act(self.fc1(x))
        x = torch.cat([x, *(self.act(x * taps) for taps in self.cheap)], dim=-1)
        return self.drop(self.fc2(self.drop(x)))


class DenseBlock(nn.Module):
    """A block that concatenates its projected output to its input (`t2t_vit_dense`): C channels in, C + growth out.

    Args:
        block: the block inside, of width C.
        dim: channels C of a token.
        growth: channels added.
    """

    def __init__(self, block: nn.Module, dim: int, growth: int) -> None:
        super().__init__()
        self.block = block
        self.narrow = nn.Linear(dim, growth)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C + growth)."""
        return torch.cat([x, self.narrow(self.block(x))], dim=-1)


class Transition(nn.Module):
    """Halves the channels between the stages of `t2t_vit_dense`.

    Args:
        dim: channels in.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim // 2)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C / 2)."""
        return self.act(self.linear(x))


def dense_blocks(
    new: Callable[[int, int, float], nn.Module], stages: tuple[int, ...], dim: int, growth: int, drop_path_rate: float
) -> tuple[list[nn.Module], list[int]]:
    """The blocks of `t2t_vit_dense`, and the channels that come out of each.

    Args:
        new: makes the block inside, given its depth, width and rate of stochastic depth.
        stages: blocks of each stage.
        dim: channels in.
        growth: channels that a block adds.
        drop_path_rate: the rate that the last block would have in a model of 12 stages.
    """
    blocks: list[nn.Module] = []
    widths = [dim]
    for stage, count in enumerate(stages):
        if stage:
            blocks.append(Transition(widths[-1]))
            widths.append(widths[-1] // 2)
        # The authors' rate follows the stage's number in a model of 12 blocks, not the block's.
        rate = drop_path_rate * stage / 11
        for _ in range(count):
            blocks.append(DenseBlock(new(len(blocks), widths[-1], rate), widths[-1], growth))
            widths.append(widths[-1] + growth)
    return blocks, widths[1:]
