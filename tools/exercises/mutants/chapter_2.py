"""Plausible wrong answers to the exercises of chapter 2."""

import math

import torch
import torch.nn.functional as F

from . import mutant


def _added(tokens, side, kernel, stride, padding):
    return F.fold(tokens.transpose(1, 2), side, kernel, stride=stride, padding=padding)


def _counts(tokens, side, kernel, stride, padding):
    return _added(torch.ones_like(tokens), side, kernel, stride, padding)


@mutant("2.1", says="their numbers are added")
def fold_alone(*split):
    """`F.fold` alone, which adds what lies on one another."""
    return _added(*split)


@mutant("2.1", says="divided by the same number")
def divided_by_a_constant(tokens, side, kernel, stride, padding):
    """Every pixel is divided by (kernel / stride)², as if there were no border."""
    return _added(tokens, side, kernel, stride, padding) / (kernel / stride) ** 2


@mutant("2.1", says="a reshape from")
def reshaped(tokens, side, kernel, stride, padding):
    """A reshape in the place of the transpose."""
    windows = tokens.reshape(len(tokens), tokens.shape[2], tokens.shape[1]).transpose(1, 2)
    return _added(windows, side, kernel, stride, padding) / _counts(tokens, side, kernel, stride, padding)


@mutant("2.1", says="whole window of one channel first")
def channels_last(tokens, side, kernel, stride, padding):
    """The numbers of a token are taken pixel by pixel."""
    windows = tokens.unflatten(2, (kernel**2, -1)).transpose(2, 3).flatten(2)
    return _added(windows, side, kernel, stride, padding) / _counts(tokens, side, kernel, stride, padding)


@mutant("2.1", says="overwrite the others")
def last_window_wins(tokens, side, kernel, stride, padding):
    """Loops write window over window; it only works where all agree."""
    image = torch.zeros(len(tokens), tokens.shape[2] // kernel**2, side + 2 * padding, side + 2 * padding)
    across = math.isqrt(tokens.shape[1])
    for number in range(across**2):
        top, left = number // across * stride, number % across * stride
        window = tokens[:, number].unflatten(1, (-1, kernel, kernel))
        image[:, :, top : top + kernel, left : left + kernel] = window
    return image[:, :, padding : padding + side, padding : padding + side]


@mutant("2.1", says="divided by zero")
def divided_by_zero(*split):
    """Pixels that no window holds become 0 / 0."""
    return _added(*split) / _counts(*split)


def _seen(kernels, strides, own=False, less=1):
    seen, apart, found = less, 1, []
    for kernel, stride in zip(kernels, strides, strict=True):
        seen += (kernel - less) * (apart * stride if own else apart)
        apart *= stride
        found.append((seen, seen - apart))
    return found


@mutant("2.2", says="own stride widen")
def own_stride_counted(kernels, strides):
    """A split's own stride is multiplied in before its window is counted."""
    return _seen(kernels, strides, own=True)


@mutant("2.2", says="posts and gaps")
def whole_windows_added(kernels, strides):
    """Each split adds its kernel times the distance, not one less."""
    return _seen(kernels, strides, less=0)


@mutant("2.2", says="side of a patch")
def patches_of_the_grid(kernels, strides):
    """Only the strides are multiplied, as for patches."""
    sides = [math.prod(strides[: i + 1]) for i in range(len(strides))]
    return [(side, 0) for side in sides]


@mutant("2.2", says="the last stride only")
def one_stride_back(kernels, strides):
    """Only the stride just before counts, not the product of all."""
    steps, seen = [1, *strides[:-1]], 1
    found = []
    for kernel, step in zip(kernels, steps, strict=True):
        seen += (kernel - 1) * step
        found.append((seen, 0))
    return found


@mutant("2.2", says="in the image that the split cuts")
def shared_of_the_last_image(kernels, strides):
    """The overlap is kernel minus stride, in pixels of the image before."""
    pairs = zip(_seen(kernels, strides), kernels, strides, strict=True)
    return [(seen, kernel - stride) for (seen, _), kernel, stride in pairs]


@mutant("2.2", says="the product of all strides so far")
def neighbour_one_stride_off(kernels, strides):
    """The neighbour is taken to stand one stride away, in pixels of the picture."""
    return [(seen, seen - stride) for (seen, _), stride in zip(_seen(kernels, strides), strides, strict=True)]


def _performer(query, key, value, W, part=0.5, over_images=False):
    phi_q, phi_k = (torch.exp(x @ W.T - part * x.square().sum(dim=-1, keepdim=True)) for x in (query, key))
    total = phi_k.sum(dim=0) if over_images else phi_k.sum(dim=1, keepdim=True)
    return phi_q @ (phi_k.transpose(1, 2) @ value) / (phi_q * total).sum(dim=-1, keepdim=True)


@mutant("2.3", says="how much of |x|² to take off")
def whole_squared_length(query, key, value, W):
    """The exponent still lacks its half; sums and cost are mended."""
    return _performer(query, key, value, W, part=1.0)


@mutant("2.3", says="the squared length is missing")
def no_squared_length(query, key, value, W):
    """The exponent was mended by taking the squared length out."""
    return _performer(query, key, value, W, part=0.0)


@mutant("2.3", says="the probabilities of a *key* over all queries")
def shares_of_a_key(query, key, value, W):
    """Divides by sums over queries: quick, and with the right exponent."""
    phi_q, phi_k = (torch.exp(x @ W.T - x.square().sum(dim=-1, keepdim=True) / 2) for x in (query, key))
    total = phi_k @ phi_q.sum(dim=1)[..., None]
    return phi_q @ (phi_k.transpose(1, 2) @ (value / total))


@mutant("2.3", says="the probabilities of a query do not sum to 1")
def no_division(query, key, value, W):
    """The wrong division was taken out, and none put in."""
    phi_q, phi_k = (torch.exp(x @ W.T - x.square().sum(dim=-1, keepdim=True) / 2) for x in (query, key))
    return phi_q @ (phi_k.transpose(1, 2) @ value) / len(W)


@mutant("2.3", says="a map of N × N entries")
def map_still_formed(query, key, value, W):
    """The numbers are right, and cost as much as exact attention."""
    phi_q, phi_k = (torch.exp(x @ W.T - x.square().sum(dim=-1, keepdim=True) / 2) for x in (query, key))
    likeness = phi_q @ phi_k.transpose(1, 2)
    return likeness / likeness.sum(dim=2, keepdim=True) @ value


@mutant("2.3", says="runs over images")
def sum_over_images(query, key, value, W):
    """The sum of the keys' features runs over the first axis, which was the tokens' where there was no batch."""
    return _performer(query, key, value, W, over_images=True)


def _estimates(query, key, W, other=None, part=0.5):
    phi_q, phi_k = (
        torch.exp(x @ w.transpose(-2, -1) - part * x @ x) for x, w in ((query, W), (key, W if other is None else other))
    )
    return (phi_q * phi_k).mean(dim=-1)  # (draws,)


def _ratios(query, key, M, draws, **options):
    return _estimates(query, key, torch.randn(draws, M, len(query)), **options) / (query @ key).exp()


def _root_mean_square(x):
    return x.square().mean().sqrt().item()


@mutant("2.4", says="the formula's number")
def formula(query, key, num_features, draws=200):
    """Nothing is measured: the formula's own number is returned."""
    return math.sqrt(math.expm1((query + key).square().sum().item()) / num_features)


@mutant("2.4", says="Its root is missing")
def relative_variance(query, key, num_features, draws=200):
    """The formula's left side: the variance, not its root."""
    return (_ratios(query, key, num_features, draws) - 1).square().mean().item()


@mutant("2.4", says="the absolute error")
def absolute_error(query, key, num_features, draws=200):
    """The error is not divided by the exact value."""
    return _root_mean_square(_ratios(query, key, num_features, draws) - 1) * (query @ key).exp().item()


@mutant("2.4", says="averaged before they are compared")
def averaged_first(query, key, num_features, draws=200):
    """All draws are averaged into one estimate, whose error is taken."""
    return abs(_ratios(query, key, num_features, draws).mean().item() - 1)


@mutant("2.4", says="Draw W anew")
def one_set_of_directions(query, key, num_features, draws=200):
    """The directions are drawn once, in front of the loop."""
    ratio = _ratios(query, key, num_features, 1)
    return _root_mean_square(torch.cat([ratio] * draws) - 1)


@mutant("2.4", says="the same directions")
def directions_apart(query, key, num_features, draws=200):
    """The query's and the key's features are made of different directions."""
    other = torch.randn(draws, num_features, len(query))
    return _root_mean_square(_ratios(query, key, num_features, draws, other=other) - 1)


@mutant("2.4", says="squared lengths are missing")
def no_lengths(query, key, num_features, draws=200):
    """The features lack the squared length."""
    return _root_mean_square(_ratios(query, key, num_features, draws, part=0.0) - 1)


@mutant("2.4", says="M times too large")
def sum_of_features(query, key, num_features, draws=200):
    """Products of features are added, and never divided by their number."""
    return _root_mean_square(_ratios(query, key, num_features, draws) * num_features - 1)
