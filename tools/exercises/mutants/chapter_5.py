"""Plausible wrong answers to the exercises of chapter 5."""

import torch
import torch.nn.functional as F
from torch import nn

from . import mutant, wrong_value


@torch.no_grad()
def _make_plain(attn, place=None, fill=0.0, copies=False, share=True, rest="random"):
    heads, size = attn.num_heads, attn.local.kernel_size[0]
    wide = attn.local.out_channels
    place = (size // 2, size // 2) if place is None else place
    attn.local.weight.fill_(fill)
    attn.local.weight[:, :, place[0], place[1]] = 1
    if copies:
        times = wide // heads
        attn.expand.weight.copy_(torch.eye(heads).repeat(times, 1)[:, :, None, None])
        attn.reduce.weight.copy_(torch.eye(heads).repeat(1, times)[:, :, None, None] / (times if share else 1))
        return
    if rest == "zero":
        attn.expand.weight.zero_()
    attn.expand.weight[:heads] = torch.eye(heads)[:, :, None, None]
    attn.reduce.weight.zero_()
    attn.reduce.weight[:, :heads] = torch.eye(heads)[:, :, None, None]


@mutant("5.1", says="takes something from its neighbours")
def smoothing_kernels(attn):
    """All weights of the kernels are 1, as if a convolution with ones left a map alone."""
    _make_plain(attn, fill=1.0)


@mutant("5.1", says="moved by a row or a column")
def one_in_the_corner(attn):
    """The 1 of the kernel stands in its first place, not in the middle."""
    _make_plain(attn, place=(0, 0))


@mutant("5.1", says="wrong for 2 and 5")
def middle_of_three(attn):
    """The middle of the kernel is written as 1, which is right for a kernel of 3 only."""
    _make_plain(attn, place=(1, 1) if attn.local.kernel_size[0] > 1 else None)


@mutant("5.1", says="copies of it are added up")
def copies_added_up(attn):
    """Every head is copied r times, and the reduction adds the copies without a share."""
    _make_plain(attn, copies=True, share=False)


@mutant("5.1", says="stay copies for good")
def copies_with_a_share(attn):
    """Every head is copied r times and the copies are averaged: plain, but copies they remain."""
    _make_plain(attn, copies=True)


@mutant("5.1", says="can never learn")
def unused_maps_are_zero(attn):
    """Unused maps have zeros in the expansion and in the reduction, so that no gradient reaches them."""
    _make_plain(attn, rest="zero")


@mutant("5.1", says="another head's")
@torch.no_grad()
def two_orders_of_copies(attn):
    """The expansion counts copies of all heads, the reduction copies of one head after the other."""
    _make_plain(attn, copies=True)
    heads = attn.num_heads
    times = attn.local.out_channels // heads
    attn.reduce.weight.copy_(torch.eye(heads).repeat_interleave(times, dim=1)[:, :, None, None] / times)


@mutant("5.1", says="layer has been replaced")
def layers_taken_out(attn):
    """The three layers are replaced by identities."""
    attn.expand, attn.local, attn.reduce = nn.Identity(), nn.Identity(), nn.Identity()


def _refine(maps, expand, kernels, reduce, mode="constant", one_kernel=False):
    wide, size = torch.einsum("gh,bhqt->bgqt", expand, maps), kernels.shape[-1]
    padded = F.pad(wide, (size // 2,) * 4, mode=mode)
    if one_kernel:
        kernels = kernels.sum(dim=0, keepdim=True).expand_as(kernels)
    local = F.conv2d(padded, kernels[:, None], groups=len(kernels))
    return torch.einsum("hg,bgqt->bhqt", reduce, local)


@mutant("5.2", says="the other end of the list")
def still_circular(*parts):
    """Only the kernels were mended: the map still goes around at its border."""
    return _refine(*parts, mode="circular")


@mutant("5.2", says="first axis of a kernel belongs to queries")
def still_transposed(maps, expand, kernels, reduce):
    """Only the border was mended: queries and keys are still exchanged in the kernels."""
    return _refine(maps, expand, kernels.mT, reduce)


@mutant("5.2", says="repeat the entries at the border")
def border_repeated(*parts):
    """The border was "mended" by repeating it."""
    return _refine(*parts, mode="replicate")


@mutant("5.2", says="turned around along both axes")
def kernels_flipped(maps, expand, kernels, reduce):
    """The kernels are turned around, as mathematics would have it for a convolution."""
    return _refine(maps, expand, kernels.flip(1, 2), reduce)


@mutant("5.2", says="the sum of all kernels")
def one_kernel_for_all(*parts):
    """The index of the map was lost, so that kernels are summed over maps."""
    return _refine(*parts, one_kernel=True)


@mutant("5.2", says="takes something from the others")
def one_group(maps, expand, kernels, reduce):
    """The convolution has one group, so that every kernel sees all maps."""
    wide = torch.einsum("gh,bhqt->bgqt", expand, maps)
    dense = kernels[:, None].expand(-1, len(kernels), -1, -1)
    return torch.einsum("hg,bgqt->bhqt", reduce, F.conv2d(wide, dense, padding=kernels.shape[-1] // 2))


def _image_local(attn, kernel, mode="constant", swapped=False):
    side = round((attn.shape[-1] - 1) ** 0.5)
    pictures = attn[..., 1:].reshape(-1, 1, side, side)
    pictures = F.pad(pictures.mT if swapped else pictures, (len(kernel) // 2,) * 4, mode=mode)
    convolved = F.conv2d(pictures, kernel[None, None])
    patches = (convolved.mT if swapped else convolved).reshape(attn[..., 1:].shape)
    return torch.cat([attn[..., :1], patches], dim=-1)


def _values_local(value, kernel):
    return _image_local(value.mT, kernel.flip(0, 1)).mT


def _in_the_list(attn, kernel):
    convolved = F.conv2d(attn.flatten(0, 1)[:, None], kernel[None, None], padding=len(kernel) // 2)
    return convolved.reshape(attn.shape)


for _map, _values, _mistake, _says in (
    (_in_the_list, _values_local, "The map itself is taken for the picture.", "neighbours in the list"),
    (
        lambda attn, kernel: _image_local(attn.mT, kernel).mT,
        _values_local,
        "Columns of the map are laid out: queries, not keys.",
        "made of queries",
    ),
    (
        lambda attn, kernel: _image_local(attn, kernel.flip(0, 1)),
        _values_local,
        "The kernel is turned around for the map.",
        "kernel is turned around. That is right for the values",
    ),
    (
        lambda attn, kernel: _image_local(attn, kernel, swapped=True),
        _values_local,
        "The picture is laid out column by column.",
        "rows and columns of the image",
    ),
    (
        lambda attn, kernel: _image_local(attn, kernel, mode="circular"),
        _values_local,
        "The picture wraps around at its border.",
        "wraps around",
    ),
    (
        lambda attn, kernel: F.pad(_image_local(attn, kernel)[..., 1:], (1, 0)),
        _values_local,
        "The class token's column is filled with zeros.",
        "class token's column",
    ),
    (
        lambda attn, kernel: torch.cat([attn[..., :1, :], _image_local(attn, kernel)[..., 1:, :]], dim=-2),
        _values_local,
        "The class token's row is left out.",
        "class token's row",
    ),
    (
        _image_local,
        lambda value, kernel: _image_local(value.mT, kernel).mT,
        "The values are gathered with the kernel as it is.",
        "takes the value from the left",
    ),
    (
        _image_local,
        lambda value, kernel: _image_local(value.mT, kernel.flip(1)).mT,
        "For the values, the kernel is turned around along one axis.",
        "along one axis only",
    ),
    (
        _image_local,
        lambda value, kernel: F.pad(_values_local(value, kernel)[..., 1:, :], (0, 0, 1, 0)),
        "The class token's value is lost.",
        "class token's has changed",
    ),
):
    wrong_value("5.3", _map, _values, mistake=_mistake, says=_says)


def _by_pairs(target):
    heads = len(target)
    expand, reduce = torch.eye(heads).repeat(heads, 1), torch.eye(heads).repeat_interleave(heads, dim=1)
    return expand, target.flatten(0, 1), reduce


def _by_places(target):
    heads, size = target.shape[1:3]
    expand = torch.eye(heads).repeat_interleave(size * size, dim=0)
    return expand, torch.eye(size * size).reshape(-1, size, size).repeat(heads, 1, 1), target.flatten(1)


def _steps(target):
    heads, size = target.shape[1:3]
    return _by_places(target) if size * size < heads else _by_pairs(target)


def _one_kernel_a_head(target):
    heads = len(target)
    return torch.eye(heads), target.mean(dim=0), torch.ones(heads, heads)


def _free_numbers(heads, ratio, size):
    return ratio * heads * (2 * heads + size**2 - 2)


for _answer, _count, _mistake, _says in (
    (_by_pairs, _free_numbers, "A map for each pair of heads, always.", "a map for each head and place is enough"),
    (_by_places, _free_numbers, "A map for each head and place, always.", "a map for each pair of heads is enough"),
    (
        lambda target: _steps(target.transpose(0, 1)),
        _free_numbers,
        "The head that gives and the head that gets a map are exchanged.",
        "heads exchanged",
    ),
    (
        lambda target: _steps(target.flip(2, 3)),
        _free_numbers,
        "The kernels are turned around.",
        "kernels turned around",
    ),
    (
        _one_kernel_a_head,
        _free_numbers,
        "An expansion of 1, where every head has the mean of its kernels.",
        "has to be exact",
    ),
    (
        _steps,
        lambda heads, ratio, size: ratio * heads * (2 * heads + size**2),
        "All weights are counted, those that cancel as well.",
        "every weight",
    ),
    (
        _steps,
        lambda heads, ratio, size: ratio * heads * (2 * heads + size**2 - 1),
        "One factor of each map is taken off, where two are free.",
        "one number a map",
    ),
    (
        _steps,
        lambda heads, ratio, size: ratio * heads * (2 * heads + size**2) - 2,
        "Two factors are taken off for all maps together.",
        "two numbers in all",
    ),
):
    wrong_value("5.5", _answer, _count, mistake=_mistake, says=_says)
