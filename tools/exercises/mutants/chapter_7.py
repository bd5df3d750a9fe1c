"""Plausible wrong answers to the exercises of chapter 7."""

import torch

from . import mutant


def _count(depth, tokens_of, channels, ratio, products=2):
    return sum(
        (4 + 2 * ratio) * tokens_of(layer) * channels**2 + products * tokens_of(layer) ** 2 * channels
        for layer in range(depth)
    )


def _left(layer, patches, before, keep, late=0):
    return int(patches * keep ** sum(layer >= each + late for each in before))


@mutant("7.1", says="the class token is missing")
def no_class_token(depth, patches, channels, ratio, before, keep):
    """Only the patch tokens are counted."""
    return _count(depth, lambda layer: _left(layer, patches, before, keep), channels, ratio)


@mutant("7.1", says="makes this block cheaper")
def one_block_late(depth, patches, channels, ratio, before, keep):
    """The block before which tokens are dropped is still counted with all of them."""
    return _count(depth, lambda layer: 1 + _left(layer, patches, before, keep, late=1), channels, ratio)


@mutant("7.1", says="the map costs twice")
def one_product(depth, patches, channels, ratio, before, keep):
    """The product of the map with the values is forgotten."""
    return _count(depth, lambda layer: 1 + _left(layer, patches, before, keep), channels, ratio, products=1)


@mutant("7.1", says="only the first selection counts")
def first_selection_only(depth, patches, channels, ratio, before, keep):
    """Tokens are taken to go once, however many selections there are."""
    return _count(depth, lambda layer: 1 + _left(layer, patches, before[:1], keep), channels, ratio)


def _take(x, index):
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


@mutant("7.2", says="with the lowest scores")
def the_worst(x, scores, count):
    """Sorted in rising order, and the first ones taken."""
    index = scores.argsort(dim=1)[:, :count]
    return torch.cat([x[:, :1], _take(x[:, 1:], index)], dim=1)


@mutant("7.2", says="the places of the first")
def one_choice_for_all(x, scores, count):
    """The first image's places are used for the whole batch."""
    return torch.cat([x[:, :1], x[:, 1:][:, scores[0].topk(count).indices]], dim=1)


@mutant("7.2", says="count again: which number has the first patch in scores")
def as_it_was_handed_out(x, scores, count):
    """Both faults of the stub: a mean over the batch, and places of patches used as those of tokens."""
    index = scores.mean(dim=0).topk(count).indices
    return torch.cat([x[:, :1], x[:, index]], dim=1)


@mutant("7.2", says="a mean over the batch makes one choice for all")
def one_mean_for_all(x, scores, count):
    """The places are right, and all images have those of the mean score."""
    return torch.cat([x[:, :1], x[:, 1:][:, scores.mean(dim=0).topk(count).indices]], dim=1)


@mutant("7.2", says="not tokens of the same image")
def from_another_image(x, scores, count):
    """Every image's best places, taken from the image after it."""
    return torch.cat([x[:, :1], _take(x[:, 1:].roll(1, 0), scores.topk(count, dim=1).indices)], dim=1)


@mutant("7.2", says="off by one")
def class_token_counted_in(x, scores, count):
    """Places of patches are used as places of tokens."""
    return torch.cat([x[:, :1], _take(x, scores.topk(count, dim=1).indices)], dim=1)


@mutant("7.2", says="the class token is not the first")
def class_token_dropped(x, scores, count):
    """One token more is kept in the place of the class token."""
    return _take(x[:, 1:], scores.topk(count + 1, dim=1).indices)


@mutant("7.3", says="cannot see itself")
def never_itself(scores, kept):
    """Only the mask counts, so that a token that is out does not see itself."""
    weights = scores.exp() * kept[:, None, None, :]
    return weights / weights.sum(dim=-1, keepdim=True)


@mutant("7.3", says="the mask came after the softmax")
def masked_afterwards(scores, kept):
    """The softmax is taken over all keys, and then masked."""
    return scores.softmax(dim=-1) * kept[:, None, None, :]


@mutant("7.3", says="a score of 0 is not a weight of 0")
def scores_of_zero(scores, kept):
    """Scores of dropped keys are set to 0."""
    return (scores * kept[:, None, None, :]).softmax(dim=-1)


@mutant("7.3", says="no gradient reaches the mask")
def filled_with_infinities(scores, kept):
    """Minus infinity where the mask is 0: the right numbers, and no gradient."""
    seen = (kept[:, None, None, :] > 0) | torch.eye(kept.shape[1], dtype=torch.bool)
    return scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)


@mutant("7.4", says="used in two products")
def map_counted_once(channels, ratio):
    """One product with the map instead of two."""
    return (4 + 2 * ratio) * channels


@mutant("7.4", says="The MLP is missing")
def projections_alone(channels, ratio):
    """Compared with the four projections alone."""
    return 2 * channels


@mutant("7.4", says="The four projections are missing")
def mlp_alone(channels, ratio):
    """Compared with the MLP alone."""
    return ratio * channels
