"""From an image to a sequence of tokens."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, fx, nn

from .paths import fast_path_allowed, without_autocast

fx.wrap("rearrange")  # torch.fx cannot trace through these two
fx.wrap("check_images")


def check_tiling(img_size: int, multiple: int, what: str) -> None:
    """Raises ValueError, saying which sizes fit, unless `img_size` is a multiple of `multiple`."""
    if img_size < multiple or img_size % multiple:
        below = img_size // multiple * multiple
        fits = f"{below} and {below + multiple} are" if below else f"{multiple} is"
        raise ValueError(f"img_size {img_size} is not a multiple of the {what} {multiple}; {fits}")


class PatchEmbed(nn.Module):
    """Cuts an image into square patches and projects each to a token (Dosovitskiy et al. 2021, section 3.1).

    A convolution whose stride is its kernel size is the same linear map applied to every patch.

    Args:
        img_size: height and width of the images, in pixels.
        patch_size: height and width P of a patch, in pixels.
        in_chans: colour channels of the images.
        embed_dim: channels C of a token.

    Raises:
        ValueError: when patches do not tile the image.
    """

    def __init__(self, img_size: int = 224, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 768) -> None:
        super().__init__()
        check_tiling(img_size, patch_size, "patch size")
        self.img_size = img_size
        self.patch_size = patch_size
        self.grid_size = img_size // patch_size
        self.num_tokens = self.grid_size**2
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to tokens (B, N, C), row by row from the top left; ValueError at another size."""
        check_images(images, self.proj.in_channels, self.img_size)
        return rearrange(self.proj(images), "b c row col -> b (row col) c")


def check_images(images: Tensor, in_chans: int, img_size: int) -> None:
    """Raises ValueError, saying what fits, unless `images` is (B, in_chans, img_size, img_size)."""
    if images.ndim != 4 or tuple(images.shape[1:]) != (in_chans, img_size, img_size):
        raise ValueError(
            f"images of shape {tuple(images.shape)} do not fit this model: it takes (B, {in_chans}, {img_size}, "
            f"{img_size}); resize them, or create the model with another img_size or in_chans"
        )


class ConvStem(nn.Module):
    """Convolutions before the patch embedding (the stem of DeepViT-S/L, Refiner and LV-ViT).

    A 7×7 convolution that halves the image, 3×3 ones after it, each with BatchNorm and ReLU, then patches.

    Args:
        img_size, patch_size, in_chans, embed_dim: as for `PatchEmbed`.
        widths: channels of each convolution.

    Raises:
        ValueError: when patches do not tile the image, or `patch_size` is odd.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 384,
        widths: tuple[int, ...] = (64, 64),
    ) -> None:
        super().__init__()
        if patch_size % 2:
            raise ValueError(f"patch_size {patch_size} is odd; the stem halves the image, so it must be even")
        self.img_size, self.in_chans = img_size, in_chans
        layers: list[nn.Module] = []
        for i, (before, width) in enumerate(zip((in_chans, *widths), widths, strict=False)):
            kernel, stride = (7, 2) if i == 0 else (3, 1)
            conv = nn.Conv2d(before, width, kernel, stride, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        self.stem = nn.Sequential(*layers)
        self.patches = PatchEmbed(img_size // 2, patch_size // 2, widths[-1], embed_dim)
        self.grid_size, self.num_tokens = self.patches.grid_size, self.patches.num_tokens

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to tokens (B, N, C)."""
        check_images(images, self.in_chans, self.img_size)
        return self.patches(self.stem(images))


class PerformerLayer(nn.Module):
    """Linear-cost attention with random features, then an MLP (T2T-ViT's `Token_performer`; Choromanski et al. 2020).

    Queries and keys are not scaled, and the skip connection starts at the values, since input and output widths differ.

    Args:
        dim: channels of an input token.
        out_dim: channels of an output token.
        feature_ratio: random features per output channel.
        drop: dropout probability.
    """

    def __init__(self, dim: int, out_dim: int = 64, feature_ratio: float = 0.5, drop: float = 0.1) -> None:
        super().__init__()
        num_features = int(out_dim * feature_ratio)
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * out_dim)
        self.proj = nn.Linear(out_dim, out_dim)
        self.norm2 = nn.LayerNorm(out_dim)
        self.mlp = nn.Sequential(nn.Linear(out_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim), nn.Dropout(drop))
        self.drop = nn.Dropout(drop)
        random = torch.empty(num_features, out_dim)
        nn.init.orthogonal_(random).mul_(num_features**0.5)
        self.random_features = nn.Parameter(random, requires_grad=False)  # (M, D), rows orthogonal, fixed

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, dim) to tokens (B, N, out_dim)."""
        query, key, value = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = value + self.drop(self.proj(self.linear_attention(query, key, value)))
        return x + self.mlp(self.norm2(x))

    def linear_attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Three (B, N, D) to (B, N, D): φ(q) (φ(k)ᵀ v), normalised, without ever forming an N × N map."""
        dtype = value.dtype
        with without_autocast(value):  # exp and its sums overflow and underflow in 16 bits
            full = torch.promote_types(dtype, torch.float32)
            query, key, value = self.features(query.to(full)), self.features(key.to(full)), value.to(full)
            total = query @ key.sum(dim=1).unsqueeze(-1)  # (B, N, 1)
            out = query @ (key.transpose(1, 2) @ value) / (total + 1e-8)
        return out.to(dtype)

    def features(self, x: Tensor) -> Tensor:
        """φ(x) = exp(W x - |x|² / 2) / √M, positive features; (B, N, D) to (B, N, M).

        Were the rows of W as long as normal vectors, E[φ(x)·φ(y)] would be exp(x·y). They have length √M = √(D / 2), as
        the authors', and it is about exp(-|x - y|² / 4). No exponent exceeds M / 2, 16 here: float32 cannot overflow.
        """
        weight = self.random_features.to(x.dtype)
        return torch.exp(x @ weight.T - x.square().sum(dim=-1, keepdim=True) / 2) / weight.shape[0] ** 0.5


class TransformerLayer(nn.Module):
    """Exact attention with one head, then an MLP (T2T-ViT's `Token_transformer`).

    As in the authors' code the scores are scaled by the width of the input, not of the head, and the skip connection
    starts at the values.

    Args:
        dim: channels of an input token.
        out_dim: channels of an output token.
    """

    def __init__(self, dim: int, out_dim: int = 64) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * out_dim, bias=False)
        self.proj = nn.Linear(out_dim, out_dim)
        self.norm2 = nn.LayerNorm(out_dim)
        self.mlp = nn.Sequential(nn.Linear(out_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, dim) to tokens (B, N, out_dim)."""
        query, key, value = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        if fast_path_allowed():
            heads = (part[:, None] for part in (query, key, value))  # without a dimension of heads it is not fused
            out = F.scaled_dot_product_attention(*heads, scale=self.scale)[:, 0]
        else:
            out = (query @ key.transpose(1, 2) * self.scale).softmax(dim=-1) @ value
        x = value + self.proj(out)
        return x + self.mlp(self.norm2(x))


class TokensToToken(nn.Module):
    """Overlapping soft splits with an attention layer between them (Yuan et al. 2021, section 3.1).

    Args:
        img_size, in_chans, embed_dim: as for `PatchEmbed`.
        layer: `PerformerLayer` or `TransformerLayer`, called with the width of its input.
        strides: of the soft splits; their product is the patch size. Kernels overlap: 7 for a stride of 4, else 3.
        token_dim: channels between the soft splits.

    Raises:
        ValueError: when the strides do not divide the image.
    """

    def __init__(
        self,
        img_size: int = 224,
        in_chans: int = 3,
        embed_dim: int = 384,
        layer: Callable[[int, int], nn.Module] = PerformerLayer,
        strides: tuple[int, ...] = (4, 2, 2),
        token_dim: int = 64,
    ) -> None:
        super().__init__()
        check_tiling(img_size, math.prod(strides), "product of the strides")
        self.img_size, self.in_chans = img_size, in_chans
        self.grid_size = img_size // math.prod(strides)
        self.num_tokens = self.grid_size**2
        kernels = [7 if stride == 4 else 3 for stride in strides]
        self.splits = nn.ModuleList(
            nn.Unfold(kernel, stride=stride, padding=max(stride // 2, 1))
            for kernel, stride in zip(kernels, strides, strict=True)
        )
        self.sides = [img_size // math.prod(strides[: i + 1]) for i in range(len(strides) - 1)]  # of the inner images
        channels = [in_chans] + [token_dim] * (len(strides) - 1)
        widths = [width * kernel**2 for width, kernel in zip(channels, kernels, strict=True)]
        self.layers = nn.ModuleList(layer(width, token_dim) for width in widths[:-1])
        self.proj = nn.Linear(widths[-1], embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to tokens (B, N, C)."""
        check_images(images, self.in_chans, self.img_size)
        for split, layer, side in zip(self.splits[:-1], self.layers, self.sides, strict=True):
            tokens = layer(rearrange(split(images), "b d n -> b n d"))
            # Re-structurisation: the tokens form an image again, of side h = w.
            images = rearrange(tokens, "b (row col) d -> b d row col", row=side)
        return self.proj(rearrange(self.splits[-1](images), "b d n -> b n d"))
