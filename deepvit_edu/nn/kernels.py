"""The operations that the fast paths are built from: fewer maps, and maps that are freed sooner.

They rest on four facts. A norm that is affine in the map folds into the mixing: `Norm(Θ A) = T A + c`. A constant added
to a map needs no map: `(M + c) V = M V + c · (sum of V over tokens)`. The rows of a softmax sum to 1, so its mean is
1/N, and the variance of a mixed map follows from the H×H covariance of the heads' maps: a BatchNorm's statistics in
training need no mixed map. And a few images at a time fit a processor's cache, where a batch of maps does not.

In training and in narrow types the map is centred before it is mixed: near the start of training it is almost uniform,
and BatchNorm amplifies what is left of it some 300-fold, rounding errors included.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from .paths import traced, without_autocast

CACHE_BYTES = 2**21  # of the maps that are worked on at once on a CPU
PRIVATE_OPERATIONS = ("_softmax_backward_data", "native_group_norm", "native_batch_norm_backward")


def torch_has_private_operations() -> bool:
    """Whether this torch has the private operations that are used below; the fast paths for training need them."""
    return all(hasattr(torch.ops.aten, name) for name in PRIVATE_OPERATIONS)


def images_at_once(value: Tensor, num_maps: int) -> int:
    """How many images to work on together, of values (B, H, N, D): as fit a cache, or all on a GPU or for autograd."""
    if value.device.type != "cpu" or torch.is_grad_enabled() or traced():
        return value.shape[0]
    return max(1, CACHE_BYTES // (num_maps * value.shape[-2] ** 2 * value.element_size()))


def pieces(count: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors (B, ...), `count` images at a time."""
    return zip(*(tensor.split(count) for tensor in tensors), strict=True)


def in_pieces(function: Callable[..., Tensor], count: int, *tensors: Tensor) -> Tensor:
    """`function`, which gives (B, H, N, D) like the last of the tensors, of `count` images at a time.

    Its last argument, `out`, is the tensor that torch writes the result to, or None.
    """
    if count >= tensors[0].shape[0]:
        return function(*tensors, None)
    out = torch.empty_like(tensors[-1].transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
    for piece in pieces(count, *tensors, out):  # in memory (B, N, H, D): the heads lie side by side already
        function(*piece)
    return out


def mix_heads(mixing: Tensor, maps: Tensor) -> Tensor:
    """A 1×1 convolution as one matrix product: (G, H) and maps (B, H, N, N) to maps (B, G, N, N)."""
    # Expanded and not broadcast: under autograd a broadcast product would copy, and keep, the maps.
    return torch.bmm(mixing.expand(maps.shape[0], -1, -1), maps.flatten(2)).unflatten(2, maps.shape[2:])


def scores_of(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Queries and keys (B, H, N, D) to the attention scores (B, H, N, N), scaled on the way."""
    query, key, heads = query.flatten(0, 1), key.flatten(0, 1), query.shape[:2]
    return torch.baddbmm(query.new_empty(1), query, key.transpose(1, 2), beta=0, alpha=scale).unflatten(0, heads)


def softmax_of(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Queries and keys (B, H, N, D) to the attention map (B, H, N, N), at least in float32."""
    scores = scores_of(query, key, scale)
    return scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def mixed_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, mixing: Tensor, shift: Tensor) -> Tensor:
    """`(T (A - 1/N) + c) V` for queries, keys and values (B, H, N, D), T (H, H) and c (H,), to (B, H, N, D)."""
    uniform, narrow = 1 / query.shape[-2], torch.finfo(value.dtype).bits < 32
    if not narrow:  # float32 is exact enough to leave 1/N in the map and take it off with the constant: a pass less
        shift = shift - uniform * mixing.sum(dim=1)

    def attend(query: Tensor, key: Tensor, value: Tensor, out: Tensor | None) -> Tensor:
        maps = softmax_of(query, key, scale)
        maps = (maps - uniform).to(value.dtype) if narrow else maps
        return torch.add(mix_heads(mixing.to(value.dtype), maps) @ value, constant_map(shift, value), out=out)

    return in_pieces(attend, images_at_once(value, value.shape[1]), query, key, value)


def constant_map(shift: Tensor, value: Tensor) -> Tensor:
    """The product of a constant map c (H,) and values (B, H, N, D): the same for every query, (B, H, 1, D)."""
    return (shift[:, None, None] * value.sum(dim=-2, keepdim=True)).to(value.dtype)


def _check_once() -> None:
    """RuntimeError in a backward pass that would itself be differentiated."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the fast path of attention can be differentiated once only; compute a gradient of a gradient inside "
            "deepvit_edu.nn.attention.legible_attention()"
        )


class CentredMap(torch.autograd.Function):
    """Queries and keys (B, H, N, D) to the map less its mean, A - 1/N (B, H, N, N), and its covariance (H, H)."""

    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Called by `apply`."""
        heads, tokens = query.shape[1:3]
        centred = query.new_empty(len(query), heads, tokens, tokens)
        covariance = query.new_zeros(heads, heads, dtype=torch.promote_types(query.dtype, torch.float32))
        count = images_at_once(query, heads)
        # Sums are taken in the types that the tensors have, whatever autocast would choose.
        with without_autocast(query):
            for q, k, maps in pieces(count, query, key, centred):
                torch.sub(softmax_of(q, k, scale), 1 / tokens, out=maps)
                covariance += head_products(maps, maps)
        ctx.scale, ctx.entries = scale, centred.numel() // heads
        ctx.save_for_backward(query, key, centred)
        return centred, covariance / ctx.entries

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, grad_covariance: Tensor) -> tuple[Tensor, Tensor, None]:
        """Called by autograd."""
        _check_once()
        query, key, centred = ctx.saved_tensors
        coupling = ((grad_covariance + grad_covariance.T) / ctx.entries).to(centred.dtype)
        grads = torch.empty_like(query), torch.empty_like(key)
        count = images_at_once(query, query.shape[1])
        for q, k, maps, g, *outs in pieces(count, query, key, centred, grad, *grads):
            through_covariance = coupling.expand(len(maps), -1, -1)
            grad_maps = torch.baddbmm(g.flatten(2), through_covariance, maps.flatten(2)).view_as(maps)
            grad_scores = torch.ops.aten._softmax_backward_data(grad_maps, maps + 1 / maps.shape[-1], -1, maps.dtype)
            torch.matmul(grad_scores, k * ctx.scale, out=outs[0])
            torch.matmul(grad_scores.transpose(-2, -1), q * ctx.scale, out=outs[1])
        return *grads, None


class MixedValues(torch.autograd.Function):
    """`(T A) V` for maps A (B, H, N, N), values V (B, H, N, D) and T (H, H).

    The mixed map is not kept, but computed again in the backward pass.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, maps: Tensor, value: Tensor, mixing: Tensor) -> Tensor:
        """Called by `apply`."""
        ctx.save_for_backward(maps, value, mixing)
        count = images_at_once(value, value.shape[1])
        with without_autocast(value):
            mixing = mixing.to(maps.dtype)
            return in_pieces(lambda a, v, out: torch.matmul(mix_heads(mixing, a), v, out=out), count, maps, value)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Called by autograd."""
        _check_once()
        maps, value, mixing = ctx.saved_tensors
        narrow, grad_mixing = mixing.to(maps.dtype), torch.zeros_like(mixing)
        grads = torch.empty_like(maps), torch.empty_like(value)
        count = images_at_once(value, value.shape[1])
        for a, v, g, *outs in pieces(count, maps, value, grad.contiguous(), *grads):
            grad_mixed = g @ v.transpose(-2, -1)
            grad_mixing += head_products(grad_mixed, a)
            torch.bmm(narrow.T.expand(len(a), -1, -1), grad_mixed.flatten(2), out=outs[0].flatten(2))
            torch.matmul(mix_heads(narrow, a).transpose(-2, -1), g, out=outs[1])
        return *grads, grad_mixing


def head_products(first: Tensor, second: Tensor) -> Tensor:
    """Sums over images and entries of the products of every two heads' maps: twice (B, H, N, N) to (H, H).

    At least in float32: of products rounded to 16 bits, a variance that is nearly 0 could come out below it.
    """
    full = torch.promote_types(first.dtype, torch.float32)
    return torch.bmm(first.to(full).flatten(2), second.to(full).flatten(2).transpose(1, 2)).sum(dim=0)


def mixed_variance(mixing: Tensor, covariance: Tensor) -> Tensor:
    """The variances (G,) of maps mixed by Θ (G, H) of maps of covariance C (H, H): Θ C Θ' has them on its diagonal."""
    return (mixing[:, :, None] * covariance * mixing[:, None, :]).sum(dim=(1, 2))


def batch_norm_affine(
    norm: nn.BatchNorm2d, mean: Tensor | float = 0.0, variance: Tensor | None = None, entries: int = 0
) -> tuple[Tensor, Tensor]:
    """Slope and shift (H,) with which `norm` of `mean + x` is `slope * x + shift`.

    In training it normalises by the batch's `mean` and `variance` (H,), over `entries` numbers, and updates the running
    statistics; otherwise it uses the running statistics.

    Raises:
        ValueError: in training, when there is only one entry.
    """
    if norm.training:
        variance = variance.clamp(min=0)  # rounding
        if entries < 2:
            raise ValueError("BatchNorm cannot train on a single entry of the map; give it more tokens or images")
        _update_running_statistics(norm, mean, variance * entries / (entries - 1))
    used_mean, used_variance = (mean, variance) if norm.training else (norm.running_mean, norm.running_var)
    slope = norm.weight * (used_variance + norm.eps).rsqrt()
    # In training the difference is 0; left in, it gives the mixing's bias its gradient of zeros, as autograd has it.
    return slope, norm.bias + slope * (mean - used_mean)


@torch.no_grad()
def _update_running_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    norm.num_batches_tracked += 1
    momentum = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    for running, new in ((norm.running_mean, mean), (norm.running_var, variance)):
        running.data.lerp_(new.to(running.dtype), momentum)  # as torch does it: unseen by autograd


def reused_in_evaluation(
    maps: Tensor, value: Tensor, refine: nn.Sequential, norm: nn.BatchNorm2d, scale: float
) -> Tensor:
    """`(scale * norm(refine(A) + A)) V` with running statistics, the norms folded into the convolutions.

    Maps A (B, H, N, N) and values V (B, H, N, D) to (B, H, N, D); `refine` as in `ReusedAttention`.
    """
    folded = [batch_norm_affine(part) for part in (refine.norm1, refine.norm2, refine.norm3, norm)]
    (slope1, shift1), (slope2, shift2), (slope3, shift3), (outer_slope, outer_shift) = folded
    expand = slope1[:, None, None, None] * refine.expand.weight
    local = slope2[:, None, None, None] * refine.local.weight
    skip = scale * outer_slope  # (H,)
    reduce = (skip * slope3)[:, None, None, None] * refine.reduce.weight
    shift = skip * shift3 + scale * outer_shift

    def attend(maps: Tensor, value: Tensor, out: Tensor | None) -> Tensor:
        wide = F.relu6(F.conv2d(maps, expand, shift1), inplace=True)
        wide = F.conv2d(wide, local, shift2, padding=refine.local.padding, groups=len(local))
        refined = torch.addcmul(F.conv2d(F.relu6(wide, inplace=True), reduce), skip[:, None, None], maps)
        return torch.add(refined @ value, constant_map(shift, value), out=out)

    return in_pieces(attend, images_at_once(value, len(local)), maps, value)


def refine_in_training(maps: Tensor, refine: nn.Sequential) -> Tensor:
    """`refine(A)` for maps A (B, H, N, N), with 1×1 convolutions as matrix products, the first norm folded into one.

    That norm's statistics follow from those of the heads' maps, of which there are fewer.
    """
    entries = maps.numel() // maps.shape[1]
    with without_autocast(maps):
        mean = maps.mean(dim=(0, 2, 3))  # (H,)
        centred = maps - mean[:, None, None]
        covariance = head_products(centred, centred) / entries
        mixing = refine.expand.weight.flatten(1).to(covariance.dtype)  # (G, H)
        variance, mean = mixed_variance(mixing, covariance), mixing @ mean.to(mixing.dtype)  # (G,)
        slope, shift = batch_norm_affine(refine.norm1, mean, variance, entries)
        mixing, shift = (slope[:, None] * mixing).to(maps.dtype), shift[:, None].to(maps.dtype)
    wide = F.relu6(torch.baddbmm(shift, mixing.expand(len(maps), -1, -1), centred.flatten(2)), inplace=True)
    wide = F.relu6(batch_norm(refine.norm2, refine.local(wide.unflatten(2, maps.shape[2:]))), inplace=True)
    return batch_norm(refine.norm3, mix_heads(refine.reduce.weight.flatten(1), wide))


def batch_norm(norm: nn.BatchNorm2d, maps: Tensor) -> Tensor:
    """`norm(maps)`; in training on a CPU, in float32 or wider, by kernels of torch that are faster together."""
    if norm.training and maps.device.type == "cpu" and torch.finfo(maps.dtype).bits >= 32:
        return _BatchNorm.apply(maps, norm.weight, norm.bias, norm)
    return norm(maps)


class _BatchNorm(torch.autograd.Function):
    """GroupNorm's kernel, with a group a channel, takes statistics four times as fast as BatchNorm's."""

    @staticmethod
    def forward(ctx: FunctionCtx, maps: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        """Called by `apply`."""
        images, heads, *sides = maps.shape
        entries = maps.numel() // heads
        _, means, rstds = torch.ops.aten.native_group_norm(
            maps, None, None, images, heads, math.prod(sides), heads, 0.0
        )
        mean = means.mean(dim=0)
        variance = (rstds**-2 + (means - mean) ** 2).mean(dim=0)
        _update_running_statistics(norm, mean, variance * entries / (entries - 1))
        ctx.save_for_backward(maps, weight, mean, (variance + norm.eps).rsqrt())
        ctx.eps = norm.eps
        return F.batch_norm(maps, mean, variance, weight, bias, training=False, eps=norm.eps)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Called by autograd."""
        _check_once()
        maps, weight, mean, rstd = ctx.saved_tensors
        grads = torch.ops.aten.native_batch_norm_backward(
            grad, maps, weight, None, None, mean, rstd, True, ctx.eps, [True, True, True]
        )
        return *grads, None


def refined_as_one_convolution(maps: Tensor, expand: Tensor, local: Tensor, reduce: Tensor) -> Tensor:
    """1×1, depth-wise k×k and 1×1 convolutions of maps (B, H, N, N), given their weights, merged into one."""
    kernel = torch.einsum("gw,wij,wh->ghij", reduce.flatten(1), local[:, 0], expand.flatten(1))
    size, uniform = int(local.shape[-1]), torch.full_like(maps[:1, :1], 1 / maps.shape[-1])
    # The map's mean is handled apart: otherwise rounding errors would exceed the weights' small gradients. It is the
    # same for every image and head, so it costs one small matrix product.
    mean_part = kernel.sum(dim=1).flatten(1) @ F.unfold(uniform, size, padding=size // 2)[0]  # (H, N * N)
    return F.conv2d(maps - uniform, kernel, padding=size // 2) + mean_part.unflatten(1, maps.shape[2:])
