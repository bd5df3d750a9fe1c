"""Plausible wrong answers to the exercises of chapter 3."""

from copy import deepcopy

import torch
import torch.nn.functional as F

from . import mutant

# 3.1


@mutant("3.1", says="square of the cosine")
def no_root(p, q, start):
    """The lengths' squares are divided, and the root is forgotten."""
    p, q = sorted((p, q))
    return (start**2 + p) / (start**2 + q)


@mutant("3.1", says="add as squares")
def start_not_squared(p, q, start):
    """The start enters by its length instead of its square."""
    p, q = sorted((p, q))
    return ((start + p) / (start + q)) ** 0.5


@mutant("3.1", says="does not depend on `start`")
def start_of_length_one(p, q, start):
    """The start is taken to be as long as a branch."""
    p, q = sorted((p, q))
    return ((1 + p) / (1 + q)) ** 0.5


@mutant("3.1", says="point the same way")
def branches_in_one_direction(p, q, start):
    """The lengths of the branches between are added, as if all pointed the same way."""
    p, q = sorted((p, q))
    return (1 + (q - p) ** 2 / (start**2 + p)) ** -0.5


@mutant("3.1", says="in either order")
def first_comes_first(p, q, start):
    """Only the case p ≤ q was thought of."""
    return ((start**2 + p) / (start**2 + q)) ** 0.5


# 3.2


def _centred_likeness(one, other, centre=-1, dim=-2, early=False):
    if centre is not None:
        one, other = (attn - attn.mean(dim=centre, keepdim=True) for attn in (one, other))
    products, lengths = (one * other).sum(dim=dim), one.norm(dim=dim) * other.norm(dim=dim)
    return (products.mean() / lengths.mean() if early else (products / lengths).mean()).item()


@mutant("3.2", says="images and tokens do not count alike: those with long columns decide")
def mean_still_early(one, other):
    """Only the centring was mended: products and lengths are still averaged before they are divided."""
    return _centred_likeness(one, other, early=True)


@mutant("3.2", says="a token that both maps like leaves no trace")
def columns_still_centred(one, other):
    """Only the mean was mended: the columns are still centred, not the rows."""
    return _centred_likeness(one, other, centre=-2)


@mutant("3.2", says="nothing is centred any more")
def centring_dropped(one, other):
    """The centring was removed instead of mended."""
    return _centred_likeness(one, other, centre=None)


@mutant("3.2", says="the cosine is that of rows")
def everything_along_keys(one, other):
    """Every -2 was turned into -1, the cosine's as well."""
    return _centred_likeness(one, other, dim=-1)


@mutant("3.2", says="cosine of whole maps")
def whole_maps(one, other):
    """Each map is compared as one long vector."""
    one, other = ((attn - attn.mean(dim=-1, keepdim=True)).flatten(2) for attn in (one, other))
    return F.cosine_similarity(one, other, dim=-1).mean().item()


@mutant("3.2", says="with all heads of the other map")
def all_pairs_of_heads(one, other):
    """Each head is compared with every head of the other block."""
    one, other = (F.normalize(attn - attn.mean(dim=-1, keepdim=True), dim=-2) for attn in (one, other))
    return torch.einsum("bgqt,bhqt->bght", one, other).mean().item()


# 3.3


def _renumbered(attn, order, moved=(0, 1, 2), bias=True, columns=True, rows=False, copy=True, layout="parts"):
    copied = deepcopy(attn)
    target = copied if copy else attn
    heads = attn.num_heads
    with torch.no_grad():
        for name in ("weight", "bias") if bias else ("weight",):
            old = getattr(copied.qkv, name).clone()
            if layout == "heads":
                new = old.unflatten(0, (heads, -1))[order].flatten(0, 1)
            elif layout == "strided":
                new = old.unflatten(0, (3, -1, heads))[:, :, order].flatten(0, 2)
            else:
                new = old.unflatten(0, (3, heads, -1)).clone()
                for part in moved:
                    new[part] = old.unflatten(0, (3, heads, -1))[part, order]
                new = new.flatten(0, 2)
            getattr(target.qkv, name).copy_(new)
        weight = copied.proj.weight.clone()
        if columns:
            target.proj.weight.copy_(weight.unflatten(1, (heads, -1))[:, order].flatten(1))
        if rows:
            target.proj.weight.copy_(weight.unflatten(0, (heads, -1))[order].flatten(0, 1))
    return target


@mutant("3.3", says="projection still expects")
def projection_forgotten(attn, order):
    """The projection's columns stay where they were."""
    return _renumbered(attn, order, columns=False)


@mutant("3.3", says="the projection's columns the inverse one")
def projection_backwards(attn, order):
    """The projection's columns are put in the inverse order."""
    copied = _renumbered(attn, order, columns=False)
    dim = attn.proj.in_features // attn.num_heads
    with torch.no_grad():
        for new, old in enumerate(order):
            here, there = slice(old * dim, (old + 1) * dim), slice(new * dim, (new + 1) * dim)
            copied.proj.weight[:, here] = attn.proj.weight[:, there]
    return copied


@mutant("3.3", says="*rows* of `proj.weight`")
def rows_of_the_projection(attn, order):
    """The projection's rows are renumbered instead of its columns."""
    return _renumbered(attn, order, columns=False, rows=True)


@mutant("3.3", says="bias of `qkv` stayed")
def bias_forgotten(attn, order):
    """The bias of queries, keys and values stays where it was."""
    return _renumbered(attn, order, bias=False)


@mutant("3.3", says="the values the old one")
def values_forgotten(attn, order):
    """Only queries and keys are renumbered, as they alone make the map."""
    return _renumbered(attn, order, moved=(0, 1))


@mutant("3.3", says="as if each head had its queries, keys and values together")
def heads_before_parts(attn, order):
    """The rows of `qkv` are split into heads first, instead of queries, keys and values."""
    return _renumbered(attn, order, layout="heads")


@mutant("3.3", says="one by one")
def channels_before_heads(attn, order):
    """The rows of one head are taken to lie H apart."""
    return _renumbered(attn, order, layout="strided")


@mutant("3.3", says="backwards")
def inverse_order(attn, order):
    """Head h is moved to place order[h], instead of taken from there."""
    return _renumbered(attn, sorted(range(len(order)), key=lambda head: order[head]))


@mutant("3.3", says="has changed")
def changed_in_place(attn, order):
    """The weights are changed in the module that was given."""
    return _renumbered(attn, order, copy=False)


# 3.4


def _mean_cosine(one, other):
    return F.cosine_similarity(one, other, dim=-2).mean().item()


def _shuffled(attn, dim):
    return attn.gather(dim, torch.rand_like(attn).argsort(dim=dim))


@mutant("3.4", says="every query still meets itself")
def both_in_one_order(one, other):
    """Both maps are put in the same new order, which changes no cosine."""
    order = torch.randperm(one.shape[-2])
    return _mean_cosine(one[..., order, :], other[..., order, :])


@mutant("3.4", says="in an order of its own")
def one_order_for_all_columns(one, other):
    """All columns of the second map get one and the same order."""
    return _mean_cosine(one, other[..., torch.randperm(other.shape[-2]), :])


@mutant("3.4", says="in an order of its own")
def one_order_from_a_seed(one, other):
    """The same, and the order is the same in each call."""
    order = torch.randperm(other.shape[-2], generator=torch.Generator().manual_seed(0))
    return _mean_cosine(one, other[..., order, :])


@mutant("3.4", says="in an order of its own")
def one_order_after_seeding(one, other):
    """The same, by seeding PyTorch's own generator."""
    torch.manual_seed(1)
    return one_order_for_all_columns(one, other)


@mutant("3.4", says="entries of each *row* were shuffled")
def shuffled_in_rows(one, other):
    """The entries are shuffled along the keys, within each row."""
    return sum(_mean_cosine(one, _shuffled(other, -1)) for _ in range(10)) / 10


@mutant("3.4", says="whole columns changed places")
def columns_of_other_tokens(one, other):
    """Columns of different tokens are compared, with the queries in their old order."""
    orders = (torch.randperm(one.shape[-1]) for _ in range(20))
    return sum(_mean_cosine(one, other[..., order]) for order in orders) / 20


@mutant("3.4", says="N times too small")
def product_of_means(one, other):
    """The closed form without its factor N."""
    lengths = one.norm(dim=-2) * other.norm(dim=-2)
    return (one.mean(dim=-2) * other.mean(dim=-2) / lengths).mean().item()


@mutant("3.4", says="mean of a *row* is 1/N")
def columns_with_mean_one_over_n(one, other):
    """The mean of each column is taken to be 1/N."""
    return (1 / (one.shape[-1] * one.norm(dim=-2) * other.norm(dim=-2))).mean().item()


@mutant("3.4", says="takes all scores to be normal")
def floor_of_normal_scores(one, other):
    """The chapter's rule of thumb for normal scores, exp(-s²)."""
    logs = torch.stack([one, other]).log()
    return torch.exp(-((logs - logs.mean(dim=-2, keepdim=True)).std() ** 2)).item()


# 3.7


@mutant("3.7", says="heads of *one* block")
def heads_of_a_block(num_heads, heads_alike):
    """The similarity of a block's heads is taken for the bound."""
    return heads_alike


@mutant("3.7", says="a head with itself are missing")
def without_itself(num_heads, heads_alike):
    """A head's cosine with itself is forgotten."""
    return (1 - 1 / num_heads) * heads_alike


@mutant("3.7", says="length of *one* mean head")
def one_length(num_heads, heads_alike):
    """The root is taken, and only one block counted."""
    return (1 / num_heads + (1 - 1 / num_heads) * heads_alike) ** 0.5


@mutant("3.7", says="not all of them")
def all_pairs_differ(num_heads, heads_alike):
    """All pairs are counted as pairs of different heads."""
    return 1 / num_heads + heads_alike
