"""Which attention may take a fast path, and which one that is.

A fast path stands in for one `attention_map`: it gives the same head outputs, and never forms the map that the legible
path forms. Each is a function of the attention, its queries, keys and values; it answers None where it does not apply.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import kernels

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


def values(attn: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
    """Queries, keys and values (B, H, N, D) to `attention_map(query, key) @ value` (B, H, N, D) by the fast path.

    None within `legible_attention()`, where something watches the map or stands in for it, and where no fast path fits.
    """
    return attn.fast_values(query, key, value) if _may_replace_map(attn) else None


def _may_replace_map(attn: nn.Module) -> bool:
    """Whether the class of an attention has a fast path for the map that it makes, and nothing watches that map."""
    return attn.fast_values is not None and _nothing_watches(attn)


def _nothing_watches(attn: nn.Module) -> bool:
    """Whether fast paths are allowed, and the identities that only the legible path calls are without hooks."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    places = (attn.softmax_map, attn.used_map)
    plain = (type(place) is nn.Identity and not any(getattr(place, hook) for hook in hooks) for place in places)
    return fast_path_allowed() and all(plain)


def plain_values(attn: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The path of `Attention`: PyTorch's fused kernel."""
    dropout = attn.attn_drop.p if attn.attn_drop.training else 0.0
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=attn.scale)


def mixed_values(attn: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
    """The path of `ReAttention`: its norm is folded into its mixing, by the statistics of the heads' own maps.

    None for LayerNorm, dropped entries and parts in different modes; and while a training step is compiled, since the
    compiler fuses the legible path by itself.
    """
    one_mode = all(part.training == attn.training for part in attn.modules())
    compiled_or_drops = attn.training and (kernels.traced() or attn.attn_drop.p > 0)
    if not (_is_affine(attn.norm) and one_mode) or compiled_or_drops:
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


def _is_affine(norm: nn.Module) -> bool:
    """Whether a `HeadNorm` is a slope and a shift for each head: every kind but "layer" is."""
    return norm.layer is None and (norm.batch is None or _is_usual(norm.batch))


def _is_usual(norm: nn.Module) -> bool:
    """Whether a norm is a BatchNorm with all its parts, and not one that asks other processes."""
    return type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats


def norm_affine(
    norm: nn.Module, mean: Tensor, variance: Tensor | None, entries: int, uniform: float
) -> tuple[Tensor, Tensor]:
    """Slope and shift (H,) with which `norm` of `mean + x` is `slope * x + shift`.

    Args:
        norm: a `HeadNorm` of any kind but "layer".
        mean, variance: of each head's map over the batch (H,); BatchNorm needs the variance in training.
        entries: from how many entries of the map a head has them.
        uniform: 1 / N.
    """
    if norm.batch is not None:
        return kernels.batch_norm_affine(norm.batch, mean, variance, entries)
    slope = torch.ones_like(mean) if norm.gain is None else norm.gain
    from_uniform = {"centre": 0.0, "amplify": uniform}  # what the norm makes of the uniform map
    if norm.kind in from_uniform:
        return slope, from_uniform[norm.kind] + slope * (mean - uniform)
    return slope, slope * mean


def refined_values(attn: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The path of `RefinedAttention`: one convolution that is all three."""
    maps = attn.attn_drop(attn.softmax_of(query, key))
    return kernels.refined_at_once(maps, attn.expand.weight, attn.local.weight, attn.reduce.weight) @ value


def accumulated_map(attn: nn.Module, query: Tensor, key: Tensor, handed: Tensor | None) -> Tensor | None:
    """The path of `AccumulatedAttention`, which has to form its map to hand it on: two passes over it fewer.

    Queries and keys (B, H, N, D) and the last map (B, H, N, N) or None, to this map before dropout; None where `values`
    gives None.
    """
    if not _may_replace_map(attn):
        return None
    maps = kernels.scores_of(query, key, attn.scale).softmax(dim=-1)
    return maps if handed is None else torch.add(maps, handed, alpha=attn.scale)


def reused_values(attn: nn.Module, handed: Tensor, value: Tensor) -> Tensor | None:
    """The path of `ReusedAttention`, for the map handed on (B, H, N, N) and values (B, H, N, D).

    None where `values` gives None, and while a training step is compiled.
    """
    trains = torch.is_grad_enabled() or any(part.training for part in attn.modules())
    usual = all(map(_is_usual, (attn.refine.norm1, attn.refine.norm2, attn.refine.norm3, attn.norm)))
    if not (_nothing_watches(attn) and usual) or (trains and kernels.traced()):
        return None
    if not trains:
        return kernels.refined_values(handed, value, attn.refine, attn.norm, attn.scale)
    refined = kernels.refine_in_training(handed, attn.refine)
    return kernels.batch_norm(attn.norm, refined + handed) * attn.scale @ value
