"""The Vision Transformer: MLP, block, configuration and model."""

from dataclasses import dataclass

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.init import trunc_normal_, zeros_
from torch.utils.checkpoint import checkpoint

from .attention import Attention
from .tokens import PatchEmbed


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
    """

    def __init__(
        self, dim: int, attn: nn.Module, mlp: nn.Module, drop_path: float = 0.0, norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@dataclass(frozen=True)
class ViTConfig:
    """All that tells one Vision Transformer from another. Sizes in pixels, tokens or channels.

    Raises:
        ValueError: when a number is out of its range.
    """

    img_size: int = 224
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 384
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 3.0
    qkv_bias: bool = True
    class_token: bool = True  # False: the head reads the mean over the patch tokens
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0  # of the last block; block l of L has rate * l / (L - 1)
    norm_eps: float = 1e-6
    init_std: float = 0.02  # of the truncated normal that linear weights, positions and class token start from

    def __post_init__(self) -> None:
        for name in ("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_classes < 0:
            raise ValueError(f"num_classes is {self.num_classes}; use 0 for features without a head, or more")
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a probability from 0 to below 1 fits")


class VisionTransformer(nn.Module):
    """Vision Transformer (Dosovitskiy et al. 2021, section 3.1): patches, positions, blocks, norm, linear head.

    Parameters carry timm's names, so that weights of timm's plain ViTs load as they are.

    Args:
        config: the sizes; see `ViTConfig`.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.num_features = dim
        self.patch_embed = PatchEmbed(config.img_size, config.patch_size, config.in_chans, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.class_token else None
        num_positions = self.patch_embed.num_tokens + int(config.class_token)
        self.pos_embed = nn.Parameter(torch.zeros(1, num_positions, dim))
        self.pos_drop = nn.Dropout(config.drop_rate)
        self.blocks = nn.ModuleList(self._block(layer) for layer in range(config.depth))
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.head = nn.Linear(dim, config.num_classes) if config.num_classes else nn.Identity()
        self.grad_checkpointing = False
        self._init_weights()

    def _block(self, layer: int) -> Block:
        c = self.config
        attn = Attention(c.embed_dim, c.num_heads, c.qkv_bias, c.attn_drop_rate, c.drop_rate)
        mlp = Mlp(c.embed_dim, int(c.embed_dim * c.mlp_ratio), c.drop_rate)
        return Block(c.embed_dim, attn, mlp, c.drop_path_rate * layer / max(c.depth - 1, 1), c.norm_eps)

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                self._init_linear(module)
        trunc_normal_(self.pos_embed, std=self.config.init_std)
        if self.cls_token is not None:
            trunc_normal_(self.cls_token, std=self.config.init_std)

    def _init_linear(self, linear: nn.Linear) -> None:
        trunc_normal_(linear.weight, std=self.config.init_std)
        if linear.bias is not None:
            zeros_(linear.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the blocks' input: class token and patches, with positions (B, N + 1, C)."""
        x = self.patch_embed(images)  # (B, N, C)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)  # (B, N + 1, C)
        return self.pos_drop(x + self.pos_embed)

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the tokens after the last norm (B, N + 1, C); (B, N, C) without a class token."""
        x = self.embed(images)
        for block in self.blocks:
            recompute = self.grad_checkpointing and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, N + 1, C) to logits (B, K); to the pooled features (B, C) where `pre_logits`."""
        pooled = x.mean(dim=1) if self.cls_token is None else x[:, 0]
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Images, float (B, 3, H, W), to logits (B, K)."""
        return self.forward_head(self.forward_features(images))

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should leave alone (timm's optimizers ask for it)."""
        return {"pos_embed", "cls_token"}

    def get_classifier(self) -> nn.Module:
        """The linear head, or an identity where there are no classes."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A new, untrained head for `num_classes` classes; 0 takes the head off."""
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        if num_classes:
            self._init_linear(self.head.to(self.pos_embed.device, self.pos_embed.dtype))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping what it made: less memory, more time."""
        self.grad_checkpointing = enable
