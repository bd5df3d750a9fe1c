"""The transformer block and its MLP."""

from timm.layers import DropPath
from timm.models.vision_transformer import LayerScale
from torch import Tensor, nn


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, applied to every token by itself.

    Args:
        dim: channels C of a token.
        hidden_dim: channels between the two layers.
        drop: dropout probability after each layer.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Block(nn.Module):
    """A pre-norm transformer block: two branches, each added to the residual stream.

    Args:
        dim: channels C of a token.
        attn: the module that mixes tokens, (B, N, C) to (B, N, C).
        mlp: the module that works on every token by itself, (B, N, C) to (B, N, C).
        drop_path: probability that a sample skips a branch in training (stochastic depth, Huang et al. 2016).
        norm_eps: epsilon of the LayerNorms.
        branch_scale: factor on what a branch adds.
        attn_scale, mlp_scale: start of a LayerScale (Touvron et al. 2021, CaiT) on the branch; none where None.
    """

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp: nn.Module,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
        branch_scale: float = 1.0,
        attn_scale: float | None = None,
        mlp_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attn
        self.scale1 = nn.Identity() if attn_scale is None else LayerScale(dim, attn_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = mlp
        self.scale2 = nn.Identity() if mlp_scale is None else LayerScale(dim, mlp_scale)
        self.drop_path = DropPath(drop_path)
        self.branch_scale = branch_scale

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        x = x + self.drop_path(self.scale1(self.attn(self.norm1(x)))) * self.branch_scale
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x)))) * self.branch_scale
