"""The checks of chapter 4, Re-attention."""

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.attention import ReAttention, legible_attention
from ..zoo import create_model
from .engine import are_close, by_hand, exercise, require, require_tensor


@exercise("4.1")
def re_attention(answer: Callable[..., Tensor]) -> None:
    """Loops over heads, with PyTorch's own BatchNorm."""
    images, heads, tokens, dim = 3, 4, 7, 5
    query, key, value = torch.randn(3, images, heads, tokens, dim)
    theta, gain, shift = torch.randn(heads, heads), torch.rand(heads) + 0.5, torch.randn(heads)
    found = answer(query, key, value, theta, gain, shift)
    require_tensor(found, (images, heads, tokens, dim), "the output")

    def wanted(
        theta: Tensor,
        over: int = -1,
        eps: float = 1e-5,
        twice: bool = False,
        normed: bool = True,
        affine: bool = True,
        before: bool = False,
    ) -> Tensor:
        scores = torch.stack([query[:, h] @ key[:, h].transpose(1, 2) / dim**0.5 for h in range(heads)], dim=1)
        maps = (scores if before else scores.softmax(over)).unbind(1)
        mixed = torch.stack([sum(theta[g, h] * maps[h] for h in range(heads)) for g in range(heads)], dim=1)
        mixed = mixed.softmax(-1) if before else mixed
        mixed = mixed.softmax(-1) if twice else mixed
        norm = nn.BatchNorm2d(heads, eps=eps).train()
        nn.init.zeros_(norm.bias)
        out = norm(mixed) if normed else mixed
        return (gain[:, None, None] * out + shift[:, None, None] if affine else out) @ value

    with torch.no_grad():
        without = {"no norm yet": {}, "no norm, gain and shift yet": {"affine": False}}
        for missing, also in without.items():
            message = f"there is {missing} between the mixing and the values."
            require(not are_close(found, wanted(theta, normed=False, **also)), message)
        require(
            not are_close(found, wanted(theta.T)),
            "the mixing is transposed: row g of theta belongs to the head that gets a map. The sum runs over columns.",
        )
        require(
            not are_close(found, _norm_first(query, key, value, theta, gain, shift)),
            "you norm the maps before you mix them. The norm comes after the mixing, and sees the mixed maps.",
        )
        for also in ({}, {"normed": False}, {"normed": False, "affine": False}):
            message = "you mix the *scores*, before the softmax. Re-attention mixes the maps that come out of it."
            require(not are_close(found, wanted(theta, before=True, **also)), message)
        require(
            not are_close(found, _layer_norm_over_heads(query, key, value, theta, gain, shift)),
            "your norm runs over the heads of each entry, as vit-pytorch's does. Here every head has a mean and a "
            "variance of its own, over images, queries and keys.",
        )
        require(
            not are_close(found, wanted(theta, over=1)),
            "your softmax runs over the heads. Each query distributes its attention over the keys, the last axis.",
        )
        require(
            not are_close(found, wanted(theta, affine=False)), "the gain and the shift of the norm are still missing."
        )
        require(
            not are_close(found, wanted(theta, over=-2)),
            "your softmax runs over the queries. Each query distributes its attention over the keys, the last axis.",
        )
        require(
            not are_close(found, wanted(theta, twice=True)),
            "your rows sum to 1 after the mixing. What comes after it is the norm, not a second softmax.",
        )
        _require_scale(answer, query, key, value, theta)
        _require_statistics(answer, query, key, value)
        _require_eps(answer)
        require(are_close(found, wanted(theta)), _differs(found, wanted(theta)))


def _layer_norm_over_heads(
    query: Tensor, key: Tensor, value: Tensor, theta: Tensor, gain: Tensor, shift: Tensor
) -> Tensor:
    """The output with a norm over the heads of each entry, in place of BatchNorm."""
    maps = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    mixed = torch.einsum("gh,bhqt->bqtg", theta, maps)
    normed = nn.functional.layer_norm(mixed, (len(theta),), gain, shift)
    return normed.movedim(-1, 1) @ value


def _norm_first(query: Tensor, key: Tensor, value: Tensor, theta: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """The output with the norm before the mixing."""
    maps = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    normed = F.batch_norm(maps, None, None, gain, shift, training=True)
    return torch.einsum("gh,bhqt->bgqt", theta, normed) @ value


def _require_scale(answer: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, theta: Tensor) -> None:
    """Keys twice as wide by zeros leave the scores as they are; only the scale sees the width."""
    heads, ones, zeros = len(theta), torch.ones(len(theta)), torch.zeros(len(theta))
    wide = [torch.cat([part, torch.zeros_like(part)], dim=-1) for part in (query, key)]
    same = answer(wide[0] * 2**0.5, wide[1], value, theta, ones, zeros)
    plain = answer(query, key, value, theta, ones, zeros)
    message = "the scores are not divided by the root of D, the channels of one head."
    require(are_close(same, plain, 1e-3) and heads == query.shape[1], message)


def _require_statistics(answer: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor) -> None:
    """One image's output has to depend on the others', through the statistics; one head's must not on another's."""
    heads = query.shape[1]
    identity, ones, zeros = torch.eye(heads), torch.ones(heads), torch.zeros(heads)
    whole = answer(query, key, value, identity, ones, zeros)
    others = torch.cat([query[:1], 4 * query[1:]])  # far from alike, or statistics might agree by luck
    beside_others = answer(others, key, value, identity, ones, zeros)
    message = "each image is normed by itself. The statistics of a head are taken over all images of the batch, too."
    require(not are_close(whole[:1], beside_others[:1]), message)
    other = torch.cat([query[:, :1], 3 * query[:, 1:]], dim=1)
    message = "a head's norm depends on the other heads. Every head has a mean and a variance of its own."
    require(are_close(answer(other, key, value, identity, ones, zeros)[:, 0], whole[:, 0], 1e-3), message)


def _require_eps(answer: Callable[..., Tensor]) -> None:
    """Nearly uniform maps, as a new model of many tokens has them: there epsilon decides."""
    query, key, value = torch.randn(3, 2, 3, 24, 8)
    query, theta, ones, zeros = 0.05 * query, torch.eye(3), torch.ones(3), torch.zeros(3)
    maps = (query @ key.transpose(-2, -1) / 8**0.5).softmax(-1)
    centred = maps - maps.mean(dim=(0, 2, 3), keepdim=True)
    variance = (centred**2).mean(dim=(0, 2, 3), keepdim=True)
    found = answer(query, key, value, theta, ones, zeros)
    message = "where maps are flat your norm amplifies too much: 1e-5 has to be added to the *variance*."
    require(not are_close(found, centred / variance.sqrt() @ value, 1e-2), message)
    message = "where maps are flat the output is not right: exactly 1e-5 has to be added to the *variance*."
    require(are_close(found, centred * (variance + 1e-5).rsqrt() @ value, 1e-3), message)


def _differs(found: Tensor, wanted: Tensor) -> str:
    if are_close(found - found.mean(), wanted - wanted.mean(), 2e-2):
        return "nearly: is the variance divided by the number of entries, and by no less?"
    return "the shape is right, the numbers are not. Go through softmax, mixing, norm and values one by one."


@exercise("4.2")
def maps_in_use(answer: Callable[..., Tensor]) -> None:
    """Head by head, with the running statistics written out."""
    heads, tokens = 4, 6
    maps = torch.randn(3, heads, tokens, tokens).softmax(dim=-1)
    theta, bias, norm = torch.randn(heads, heads), torch.randn(heads), _trained_norm(heads).eval()
    found = answer(maps, theta, bias, norm)
    require_tensor(found, tuple(maps.shape), "the maps in use")

    def wanted(theta: Tensor, bias: Tensor) -> Tensor:
        mixed = [sum(theta[g, h] * maps[:, h] for h in range(heads)) + bias[g] for g in range(heads)]
        return norm(torch.stack(mixed, dim=1))

    with torch.no_grad():
        depends = not are_close(found, torch.cat([answer(one[None], theta, bias, norm) for one in maps]))
        shapes = [_directions(out) for out in (found, wanted(theta, bias), wanted(theta.T, bias))]
        transposed = not are_close(shapes[0], shapes[1], 1e-2) and are_close(shapes[0], shapes[2], 1e-2)
        both = "it still has both of its faults. Try it on one image alone, and with a theta that has a single 1."
        require(not (depends and transposed), both)
        message = "what an image gets depends on the others in the batch. Which variance does evaluation use?"
        require(not depends, message)
        require(not transposed, "a head gets the wrong heads' maps: which index of theta is the head that gets one?")
        message = "the mixing's bias has gone. In training it cancels; in evaluation it does not."
        require(not are_close(found, wanted(theta, torch.zeros(heads))), message)
        require(are_close(found, wanted(theta, bias)), "the two faults are gone, and another one has come in.")


def _directions(maps: Tensor) -> Tensor:
    """Rows of maps (B, H, N, N) with mean 0 and length 1: what no slope, shift or bias of a head can change."""
    return F.normalize(maps - maps.mean(dim=-1, keepdim=True), dim=-1)


def _contrast(maps: Tensor) -> Tensor:
    """What is left of maps (B, H, N, N) when each row's mean is taken off: no mean of a norm, no bias."""
    return maps - maps.mean(dim=-1, keepdim=True)


def _slope(norm: nn.BatchNorm2d) -> Tensor:
    return (norm.running_var + norm.eps).rsqrt()[:, None, None]


def _trained_norm(heads: int) -> nn.BatchNorm2d:
    """A BatchNorm over heads whose numbers are those of no fresh one."""
    norm = nn.BatchNorm2d(heads)
    for numbers, low in ((norm.weight, 0.5), (norm.bias, -1), (norm.running_mean, -1), (norm.running_var, 0.1)):
        nn.init.uniform_(numbers, low, low + 1)
    return norm


@exercise("4.3")
def fold(answer: Callable[[ReAttention], tuple[Tensor, Tensor]]) -> None:
    """The module itself, on random maps."""
    heads = 4
    attn = ReAttention(16, num_heads=heads)
    attn.norm.batch = _trained_norm(heads)
    attn.norm.batch.running_var.mul_(1e-5)  # as where maps are flat: there epsilon decides
    attn.eval()
    with torch.no_grad():
        found = answer(deepcopy(attn))
        require(isinstance(found, (tuple, list)) and len(found) == 2, "return two tensors, T and c.")
        T, c = found
        require_tensor(T, (heads, heads), "T")
        require_tensor(c, (heads,), "c")
        maps = torch.randn(2, heads, 5, 5).softmax(dim=-1)
        wanted = attn.norm(attn.mix(maps))

        def apply(T, c):
            return torch.einsum("gh,bhqt->bgqt", T, maps) + c[:, None, None]

        slope = attn.norm.batch.weight * _slope(attn.norm.batch)[:, 0, 0]
        if not are_close(_contrast(apply(T, c)), _contrast(wanted)):
            slope_without = attn.norm.batch.weight * attn.norm.batch.running_var.rsqrt()
            message = "epsilon is missing from the slope: where maps are flat, the variance is no larger than it."
            require(not are_close(T, attn.mix.weight.flatten(1) * slope_without[:, None]), message)
            message = "each column of the mixing has a slope. The slope belongs to the head that gets the map, a row."
            require(not are_close(T, attn.mix.weight.flatten(1) * slope), message)
            require(False, "T is not right: it is the mixing, each row times the slope of its head's norm.")
        shift = (wanted - apply(T, torch.zeros(heads))).mean(dim=(0, 2, 3))
        require(
            not are_close(c, shift - slope * attn.mix.bias),
            "c lacks the mixing's bias. In evaluation it does not cancel against the running mean.",
        )
        require(
            not are_close(c, attn.mix.bias - attn.norm.batch.running_mean + attn.norm.batch.bias),
            "the norm multiplies the bias and the mean as well, not the map alone: c lacks the slope.",
        )
        require(are_close(c, shift), "T is right, c is not. What does the norm make of a map that is zero everywhere?")


@exercise("4.4")
def recalibrate(answer: Callable[..., nn.Module]) -> None:
    """The averages of the batches' statistics, layer by layer, from hooks."""
    model = create_model("cifar_vit_4x64", num_classes=3, depth=2, embed_dim=16, num_heads=4, attention=("re",))
    for norm, block in zip(_norms(model), model.blocks, strict=True):
        nn.init.uniform_(norm.running_mean, 1, 2)
        norm.num_batches_tracked.fill_(7)  # the plain average goes on from there, unless it is reset
        block.attn.qkv.weight.data.mul_(20)  # sharp maps, so that batches differ in their variance
    batches = (torch.randn(3, 4, 3, 32, 32) * torch.tensor([0.1, 1.0, 5.0])[:, None, None, None, None]).unbind()
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    each = [_statistics(model, batch) for batch in batches]
    wanted = [torch.stack(stats).mean(dim=0) for stats in zip(*each, strict=True)]
    mended = answer(deepcopy(model), batches)
    require(isinstance(mended, nn.Module), "return the model, so that it can be used at once.")
    same = all(torch.equal(old, new) for old, new in zip(weights, mended.parameters(), strict=True))
    require(same, "a weight has changed. Only the running statistics may move: no optimizer, no step.")
    means, variances = _running(mended)
    message = "the running statistics have not moved: they do in training mode only."
    require(not torch.equal(means, _running(model)[0]), message)
    message = "nothing has moved since the reset: statistics move in training mode only."
    require(means.any().item(), message)
    # Rows of softmax maps sum to 1, so the mean is the same for every batch: it shows what was there before. The
    # variances show which batches were used.
    message = "what the statistics were before is still in them. Reset them first, then take the plain average."
    require(are_close(means, torch.stack(wanted[0::2]), 1e-3), message)
    last = torch.stack(each[-1][1::2])
    message = "the statistics are those of the last batch alone: a momentum of 1 forgets. The plain average is None."
    require(not are_close(variances, last, 1e-3), message)
    message = "the statistics moved, but are not the plain average over the batches. Was every batch used once?"
    require(are_close(variances, torch.stack(wanted[1::2]), 1e-3), message)


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]


def _running(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Running means and variances of all norms, each (norms, H)."""
    norms = _norms(model)
    return torch.stack([n.running_mean for n in norms]), torch.stack([n.running_var for n in norms])


def _statistics(model: nn.Module, batch: Tensor) -> list[Tensor]:
    """Mean and variance of each norm's input in training mode: mean, variance, mean, variance, and so on."""
    watched, found = deepcopy(model).train(), []
    for norm in _norms(watched):
        norm.register_forward_pre_hook(
            lambda _, inputs: found.extend([inputs[0].mean(dim=(0, 2, 3)), inputs[0].var(dim=(0, 2, 3))])
        )
    with torch.no_grad(), legible_attention():  # the fast path does without the norm, and without its hooks
        watched(batch)
    return found


@exercise("4.7")
def mean_at(answer: Callable[..., Tensor]) -> None:
    """The mean of mixed random maps of both sizes, entry by entry."""
    heads, old, new = 5, 7, 19
    theta, bias = torch.randn(heads, heads) + 0.5, torch.randn(heads)

    def mean_of(tokens: int) -> Tensor:
        maps = torch.randn(heads, tokens, tokens).softmax(-1)
        mixed = torch.stack([sum(theta[g, h] * maps[h] for h in range(heads)) + bias[g] for g in range(heads)])
        return mixed.mean(dim=(1, 2))

    before, wanted = mean_of(old), mean_of(new)
    found = answer(before, bias, old, new)
    require_tensor(found, (heads,), "the mean")
    mistakes = [
        (
            before,
            "this is the old mean. Rows of a softmax sum to 1 at any length, so longer rows have smaller entries.",
        ),
        (before * old / new, "the bias is scaled as well. Which part of the mean depends on the number of tokens?"),
        ((before - bias) * new / old + bias, "it is scaled the wrong way round: longer rows have smaller entries."),
        ((before - bias) * old / new, "the bias is taken off and not put back. The norm sees the map with its bias."),
    ]
    for mistaken, message in mistakes:
        require(not are_close(found, mistaken), message)
    require(are_close(found, wanted), "nearly: write the mean of a mixed map as a part of theta over N, and the bias.")


by_hand("4.5", "Open the solution, and give yourself the points of its rubric one by one.")
by_hand("4.6", "Open the solution for what a good trial has, or ask somebody else to read yours by its rubric.")
