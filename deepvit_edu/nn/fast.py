"""The fast paths: each computes the result of some methods of an attention without forming the map that they form.

A path is a function of the attention and of the inputs of those methods; it returns None where it does not apply. The
table at the end of this file names, for each path, the methods that it replaces and the parts that it does not call.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import kernels
from .attention import Attention, HeadNorm, ReAttention, RefinedAttention
from .paths import register_fast_path, traced
from .refiner import AccumulatedAttention, ReusedAttention

SHORT = 40
"""Up to this number of tokens, two matrix products beat PyTorch's fused kernel on a CPU.

Measured were 17 and 65 (book/records/measurements/training_cpu.json); the limit lies between them.
"""


def plain_values(attn: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
    """The path of `Attention`: PyTorch's fused kernel; None for few tokens on a CPU, where it is slower."""
    if query.device.type == "cpu" and not traced() and query.shape[-2] <= SHORT:
        return None
    dropout = attn.attn_drop.p if attn.attn_drop.training else 0.0
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=attn.scale)


def mixed_values(attn: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
    """The path of `ReAttention`: its norm is folded into its mixing, by the statistics of the heads' own maps.

    None for LayerNorm, dropped entries and parts in different modes; where the older exporters trace the model, which
    would keep the number of images; and while a training step is compiled, since the compiler fuses the explicit path
    by itself.
    """
    one_mode = all(part.training == attn.training for part in attn.modules())
    usual = one_mode and _is_pointwise(attn.mix, bias=True) and _is_affine(attn.norm)
    if not usual or torch.jit.is_tracing() or (attn.training and not _trains(attn.attn_drop)):
        return None
    tokens, mixing = query.shape[-2], attn.mix.weight.flatten(1)  # (H, H)
    mean = mixing.sum(dim=1) / tokens + attn.mix.bias  # of the mixed map, as rows of the softmax map sum to 1
    if not attn.training:
        slope, shift = norm_affine(attn.norm, mean, None, 0, 1 / tokens)
        mixing, shift = attn.map_scale * slope[:, None] * mixing, attn.map_scale * shift
        return kernels.mixed_attention(query, key, value, attn.scale, mixing, shift)
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()  # once, for all products below
    centred, covariance = kernels.CentredMap.apply(query, key, attn.scale)
    variance = kernels.mixed_variance(mixing, covariance)
    slope, shift = norm_affine(attn.norm, mean, variance, len(query) * tokens**2, 1 / tokens)
    out = kernels.MixedValues.apply(centred, value, attn.map_scale * slope[:, None] * mixing)
    return out + kernels.constant_map(attn.map_scale * shift, value)


def _trains(dropout: nn.Dropout) -> bool:
    """Whether the paths for training apply: no dropout, no compilation, and torch has the operations they need."""
    return dropout.p == 0 and not traced() and kernels.torch_has_private_operations()


def _is_pointwise(conv: nn.Conv2d, bias: bool) -> bool:
    """Whether a convolution is one matrix for all entries of the map."""
    return (
        conv.kernel_size == conv.stride == (1, 1)
        and conv.groups == 1
        and conv.padding in ((0, 0), 0)
        and (conv.bias is not None) == bias
    )


def _is_local(conv: nn.Conv2d) -> bool:
    """Whether a convolution works on each map by itself and keeps its size, with zeros around it."""
    size, channels = conv.kernel_size[0], conv.in_channels
    return (
        conv.kernel_size == (size, size)
        and conv.padding == (size // 2, size // 2)
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == conv.out_channels == channels
        and conv.padding_mode == "zeros"
        and conv.bias is None
        and size % 2 == 1
    )


def _is_affine(norm: HeadNorm) -> bool:
    """Whether a `HeadNorm` is a slope and a shift for each head: every kind but "layer" is."""
    return norm.layer is None and (norm.batch is None or _is_usual(norm.batch))


def _is_usual(norm: nn.BatchNorm2d) -> bool:
    """Whether a BatchNorm has all its parts: asked of themselves, since its flags stay when one is taken away."""
    parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return norm.track_running_stats and all(part is not None for part in parts)


def norm_affine(
    norm: nn.Module, mean: Tensor, variance: Tensor | None, entries: int, uniform: float
) -> tuple[Tensor, Tensor]:
    """Slope and shift (H,) with which `norm` of `mean + x` is `slope * x + shift`.

    Args:
        norm: a `HeadNorm` of any kind but "layer".
        mean, variance: of each head's map over the batch (H,); BatchNorm needs the variance in training.
        entries: the number of entries of the map that they are computed from, per head.
        uniform: 1 / N.
    """
    if norm.batch is not None:
        return kernels.batch_norm_affine(norm.batch, mean, variance, entries)
    slope = torch.ones_like(mean) if norm.gain is None else norm.gain
    from_uniform = {"centre": 0.0, "amplify": uniform}  # the norm's output for the uniform map
    if norm.kind in from_uniform:
        return slope, from_uniform[norm.kind] + slope * (mean - uniform)
    return slope, slope * mean


def refined_values(attn: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
    """The path of `RefinedAttention`: its three convolutions merged into one; None if they were replaced."""
    pointwise = _is_pointwise(attn.expand, bias=False) and _is_pointwise(attn.reduce, bias=False)
    if not (pointwise and _is_local(attn.local)):
        return None
    maps = attn.attn_drop(attn.softmax_of(query, key))
    weights = attn.expand.weight, attn.local.weight, attn.reduce.weight
    return kernels.refined_as_one_convolution(maps, *weights) @ value


def accumulated_map(attn: nn.Module, query: Tensor, key: Tensor, last_map: Tensor | None) -> Tensor:
    """The path of `AccumulatedAttention`, which must form its map to pass it on: two passes over the map fewer."""
    maps = kernels.scores_of(query, key, attn.scale).softmax(dim=-1)
    return maps if last_map is None else torch.add(maps, last_map, alpha=attn.scale)


def reused_values(attn: nn.Module, last_map: Tensor, value: Tensor) -> Tensor | None:
    """The path of `ReusedAttention`, for the last block's map (B, H, N, N) and values (B, H, N, D).

    None if its layers were replaced, and while a training step is compiled.
    """
    refine = attn.refine
    trains = torch.is_grad_enabled() or any(part.training for part in attn.modules())
    pointwise = _is_pointwise(refine.expand, bias=False) and _is_pointwise(refine.reduce, bias=False)
    usual = all(map(_is_usual, (refine.norm1, refine.norm2, refine.norm3, attn.norm)))
    if not (pointwise and _is_local(refine.local) and usual):
        return None
    if not trains:
        return kernels.reused_in_evaluation(last_map, value, refine, attn.norm, attn.scale)
    if traced() or not kernels.torch_has_private_operations():
        return None
    refined = kernels.refine_in_training(last_map, refine)
    return kernels.batch_norm(attn.norm, refined + last_map) * attn.scale @ value


_MAP = {"softmax_map": nn.Identity, "used_map": nn.Identity}

register_fast_path((Attention.attention_map, Attention.softmax_of), plain_values, **_MAP, attn_drop=nn.Dropout)
register_fast_path(
    (ReAttention.attention_map, Attention.softmax_of),
    mixed_values,
    **_MAP,
    attn_drop=nn.Dropout,
    mix=nn.Conv2d,
    norm=HeadNorm,
    norm__batch=(nn.BatchNorm2d, type(None)),
    norm__layer=type(None),
)
register_fast_path(
    (RefinedAttention.attention_map, Attention.softmax_of),
    refined_values,
    used_map=nn.Identity,
    expand=nn.Conv2d,
    local=nn.Conv2d,
    reduce=nn.Conv2d,
)
register_fast_path(
    (AccumulatedAttention.accumulated_map, AccumulatedAttention.attention_map, Attention.softmax_of),
    accumulated_map,
    softmax_map=nn.Identity,
)
register_fast_path(
    (ReusedAttention.map_for_values,),
    reused_values,
    **_MAP,
    norm=nn.BatchNorm2d,
    refine=nn.Sequential,
    **{f"refine__{name}": nn.Conv2d for name in ("expand", "local", "reduce")},
    **{f"refine__norm{i}": nn.BatchNorm2d for i in (1, 2, 3)},
    **{f"refine__act{i}": nn.ReLU6 for i in (1, 2)},
)
