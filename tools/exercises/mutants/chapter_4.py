"""Plausible wrong answers to the exercises of chapter 4."""

import torch
from torch import nn

from . import mutant


def _re_attention(query, key, value, theta, gain, shift, over=-1, twice=False, axes=(0, 2, 3), eps=1e-5, scale=None):
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    mixed = torch.einsum("gh,bhqt->bgqt", theta, scores.softmax(dim=over))
    mixed = mixed.softmax(dim=-1) if twice else mixed
    mean, variance = mixed.mean(dim=axes, keepdim=True), mixed.var(dim=axes, keepdim=True, correction=0)
    normed = (mixed - mean) * (variance + eps).rsqrt()
    return (gain[:, None, None] * normed + shift[:, None, None]) @ value


@mutant("4.1", says="softmax runs over the queries")
def softmax_over_queries(*parts):
    """The softmax is taken over the queries instead of the keys."""
    return _re_attention(*parts, over=-2)


@mutant("4.1", says="softmax runs over the heads")
def softmax_over_heads(*parts):
    """The softmax is taken over the heads."""
    return _re_attention(*parts, over=1)


@mutant("4.1", says="you mix the *scores*")
def mixing_before_the_softmax(query, key, value, theta, gain, shift):
    """The scores are mixed, and the softmax follows."""
    scores = torch.einsum("gh,bhqt->bgqt", theta, query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5)
    mixed = scores.softmax(dim=-1)
    mean = mixed.mean(dim=(0, 2, 3), keepdim=True)
    variance = mixed.var(dim=(0, 2, 3), keepdim=True, correction=0)
    normed = (mixed - mean) * (variance + 1e-5).rsqrt()
    return (gain[:, None, None] * normed + shift[:, None, None]) @ value


@mutant("4.1", says="no norm, gain and shift yet")
def mixing_alone(query, key, value, theta, gain, shift):
    """The maps are mixed, and meet the values as they are."""
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    return torch.einsum("gh,bhqt->bgqt", theta, scores.softmax(dim=-1)) @ value


@mutant("4.1", says="over the heads of each entry")
def layer_norm_over_heads(*parts):
    """The norm of vit-pytorch: over the heads, entry by entry."""
    return _re_attention(*parts, axes=(1,))


@mutant("4.1", says="norm the maps before you mix them")
def norm_before_mixing(query, key, value, theta, gain, shift):
    """The softmax maps are normed, and mixed after that."""
    maps = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    normed = nn.functional.batch_norm(maps, None, None, gain, shift, training=True)
    return torch.einsum("gh,bhqt->bgqt", theta, normed) @ value


@mutant("4.1", says="gain and the shift")
def no_gain(query, key, value, theta, gain, shift):
    """The norm's gain and shift are left out."""
    return _re_attention(query, key, value, theta, torch.ones_like(gain), torch.zeros_like(shift))


@mutant("4.1", says="mixing is transposed")
def mixing_transposed(query, key, value, theta, gain, shift):
    """Θ is used transposed."""
    return _re_attention(query, key, value, theta.T, gain, shift)


@mutant("4.1", says="second softmax")
def second_softmax(*parts):
    """A second softmax follows the mixing, "so that rows sum to 1 again"."""
    return _re_attention(*parts, twice=True)


@mutant("4.1", says="each image is normed by itself")
def norm_of_each_image(*parts):
    """The statistics are taken over queries and keys only, for each image."""
    return _re_attention(*parts, axes=(2, 3))


@mutant("4.1", says="depends on the other heads")
def norm_over_all_heads(*parts):
    """One mean and one variance for all heads together."""
    return _re_attention(*parts, axes=(0, 1, 2, 3))


@mutant("4.1", says="added to the *variance*")
def no_epsilon(*parts):
    """Epsilon is forgotten."""
    return _re_attention(*parts, eps=0.0)


@mutant("4.1", says="not divided by the root of D")
def no_scale(*parts):
    """The scores are not scaled."""
    return _re_attention(*parts, scale=1.0)


def _maps_in_use(maps, theta, bias, norm, of_batch=False):
    mixed = torch.einsum("gh,bhqt->bgqt", theta, maps) + bias[:, None, None]
    variance = mixed.var(dim=(0, 2, 3), correction=0) if of_batch else norm.running_var
    slope = norm.weight * (variance + norm.eps).rsqrt()
    return slope[:, None, None] * (mixed - norm.running_mean[:, None, None]) + norm.bias[:, None, None]


@mutant("4.2", says="depends on the others in the batch")
def variance_of_the_batch(maps, theta, bias, norm):
    """Only the mixing was mended: evaluation still uses the batch's variance."""
    return _maps_in_use(maps, theta, bias, norm, of_batch=True)


@mutant("4.2", says="wrong heads' maps")
def mixing_still_transposed(maps, theta, bias, norm):
    """Only the variance was mended: the mixing is still transposed."""
    return _maps_in_use(maps, theta.T, bias, norm)


@mutant("4.2", says="bias has gone")
def bias_forgotten(maps, theta, bias, norm):
    """The bias was dropped, as it may be in training."""
    return _maps_in_use(maps, theta, torch.zeros_like(bias), norm)


def _fold(attn, with_bias=True, scaled_shift=True, by_columns=False, with_eps=True):
    norm, theta = attn.norm.batch, attn.mix.weight.flatten(1)
    slope = norm.weight * (norm.running_var + norm.eps * with_eps).rsqrt()
    c = (attn.mix.bias if with_bias else 0) - norm.running_mean
    return theta * (slope if by_columns else slope[:, None]), (slope * c if scaled_shift else c) + norm.bias


@mutant("4.3", says="c lacks the mixing's bias")
def fold_without_bias(attn):
    """The mixing's bias is taken to cancel, as in training."""
    return _fold(attn, with_bias=False)


@mutant("4.3", says="c lacks the slope")
def fold_without_slope(attn):
    """The slope multiplies the mixing, not the bias and the mean."""
    return _fold(attn, scaled_shift=False)


@mutant("4.3", says="epsilon is missing")
def fold_without_epsilon(attn):
    """Epsilon is left out of the slope."""
    return _fold(attn, with_eps=False)


@mutant("4.3", says="each column of the mixing")
def fold_by_columns(attn):
    """Broadcasting multiplies columns by the slope instead of rows."""
    return _fold(attn, by_columns=True)


def _recalibrate(model, batches, momentum, reset=True, train=True):
    model.train(train)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            if reset:
                part.reset_running_stats()
            part.momentum = momentum
    with torch.no_grad():
        for batch in batches:
            model(batch)
    return model


@mutant("4.4", says="have not moved")
def in_evaluation(model, batches):
    """The model is in evaluation mode, where nothing moves."""
    return _recalibrate(model, batches, None, reset=False, train=False)


@mutant("4.4", says="since the reset")
def reset_in_evaluation(model, batches):
    """The statistics are reset, and the model stays in evaluation mode."""
    return _recalibrate(model, batches, None, train=False)


@mutant("4.4", says="what the statistics were before")
def average_without_reset(model, batches):
    """The plain average is taken, and the old statistics are still counted in."""
    return _recalibrate(model, batches, None, reset=False)


@mutant("4.4", says="last batch alone")
def momentum_of_one(model, batches):
    """A momentum of 1 keeps the last batch only."""
    return _recalibrate(model, batches, 1.0)


@mutant("4.4", says="still in them")
def usual_momentum(model, batches):
    """The usual momentum of 0.1 keeps most of what was there before."""
    return _recalibrate(model, batches, 0.1, reset=False)


@mutant("4.4", says="a weight has changed")
def trained_along(model, batches):
    """A training loop was copied, step included."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for batch in batches:
        model(batch).square().mean().backward()
        optimizer.step()
    return model


@mutant("4.7", says="this is the old mean")
def old_mean(running_mean, bias, old_tokens, new_tokens):
    """The running mean is kept as it is."""
    return running_mean


@mutant("4.7", says="the bias is scaled as well")
def bias_scaled_too(running_mean, bias, old_tokens, new_tokens):
    """The whole mean is scaled, the bias with it."""
    return running_mean * old_tokens / new_tokens


@mutant("4.7", says="the wrong way round")
def scaled_up(running_mean, bias, old_tokens, new_tokens):
    """The factor is turned round."""
    return (running_mean - bias) * new_tokens / old_tokens + bias


@mutant("4.7", says="not put back")
def bias_lost(running_mean, bias, old_tokens, new_tokens):
    """The bias is taken off and forgotten."""
    return (running_mean - bias) * old_tokens / new_tokens
