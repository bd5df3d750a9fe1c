"""The checks of chapter 3, attention collapse."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diagnostics import cross_layer_similarity
from ..nn.attention import Attention, legible_attention
from .engine import are_close, by_hand, exercise, require, require_number, require_tensor

# 3.1 -----------------------------------------------------------------------------------------------------------------


@exercise("3.1")
def stream_cosine(answer: Callable[[int, int, float], Any]) -> None:
    """A stream whose branches are the axes of a large space."""
    for start in (0.5, 1.0, 3.0, 1 + 4 * torch.rand(()).item()):
        for p, q in ((0, 1), (4, 5), (2, 14), (9, 40), (7, 3), (5, 5)):
            found, wanted = require_number(answer(p, q, start), "the cosine"), _cosine_on_axes(p, q, start)
            close = abs(found - wanted) < 1e-3
            place = f"from a start of length {start:.2f}, after {p} and {q} branches"
            _explain_stream(found, wanted, p, q, start)
            require(close, f"{place} the cosine is {wanted:.3f}; yours is {found:.3f}. Begin with the two lengths.")


def _cosine_on_axes(p: int, q: int, start: float) -> float:
    axes = torch.eye(64, dtype=torch.float64)
    axes[0] *= start
    return F.cosine_similarity(axes[: p + 1].sum(dim=0), axes[: q + 1].sum(dim=0), dim=0).item()


def _explain_stream(found: float, wanted: float, p: int, q: int, start: float) -> None:
    """The mistakes that a wrong cosine tells of."""
    low, high = min(p, q), max(p, q)
    before, after = start**2 + low, start**2 + high

    def is_like(mistake: float) -> bool:
        return abs(found - mistake) < 1e-3 < abs(wanted - mistake)

    require(
        not (p > q and is_like((after / before) ** 0.5)),
        "the cosine is above 1 where the first of the two comes later. It should take p and q in either order.",
    )
    require(
        not is_like(before / after),
        "your number is the square of the cosine. The shorter stream's length stands once in the product of lengths.",
    )
    require(
        not is_like(((start + low) / (start + high)) ** 0.5),
        "the start is counted by its length. Lengths of orthogonal vectors add as squares.",
    )
    require(
        not is_like(((1 + low) / (1 + high)) ** 0.5),
        "your number does not depend on `start`, and a long start makes all later features more alike.",
    )
    require(
        not (low > 0 and is_like((low / high) ** 0.5)),
        "the start is missing: after p branches the stream holds the start and p branches.",
    )
    require(
        not is_like((1 + (high - low) ** 2 / before) ** -0.5),
        "the branches between p and q are taken to point the same way. Together they are as long as the root of their "
        "number.",
    )
    require(
        not is_like((before / (before + 1)) ** 0.5),
        "that is the cosine across one branch. Between p and q there are more of them.",
    )


# 3.2 -----------------------------------------------------------------------------------------------------------------


@exercise("3.2")
def centred_likeness(answer: Callable[[Tensor, Tensor], Any]) -> None:
    """Every mistake on the same maps, and the package's measure."""
    one, other = _maps_of_unlike_images()
    found = require_number(answer(one, other), "the likeness")

    def value(centre: tuple[int, ...] = (-1,), dim: int = -2, pool: str = "cosines") -> float:
        pair = [one, other]
        for axis in centre:
            pair = [attn - attn.mean(dim=axis, keepdim=True) for attn in pair]
        if pool == "maps":
            return F.cosine_similarity(*(attn.flatten(2) for attn in pair), dim=-1).mean().item()
        if pool == "all heads":
            return F.cosine_similarity(pair[0][:, :, None], pair[1][:, None], dim=-2).mean().item()
        if pool == "products":
            lengths = pair[0].norm(dim=dim) * pair[1].norm(dim=dim)
            return ((pair[0] * pair[1]).sum(dim=dim).mean() / lengths.mean()).item()
        return F.cosine_similarity(*pair, dim=dim).mean().item()

    wanted = cross_layer_similarity([one, other], centre="row")[0, 1].item()
    stripes = "a token that both maps like leaves no trace in your number: each column's mean is taken off, not each "
    pooled = "images and tokens do not count alike: those with long columns decide. When is the mean to be taken?"
    mistakes = {
        f"it still has both of its faults: {stripes}row's; and {pooled}": value((-2,), pool="products"),
        stripes + "row's.": value((-2,)),
        pooled: value(pool="products"),
        "nothing is centred any more. Maps that share only the 1/N should score near 0.": value(()),
        "the cosine is that of rows. The measure compares columns: who looks at a token.": value(dim=-1),
        "the cosine of whole maps lets popular tokens decide, as their columns are long. One cosine for each column, "
        "then the mean.": value(pool="maps"),
        "each head is compared with all heads of the other map, not with the one of its own number.": value(
            pool="all heads"
        ),
    }
    nearest = min(mistakes, key=lambda message: abs(found - mistakes[message]))
    require(not (abs(found - mistakes[nearest]) < 1e-4 < abs(wanted - mistakes[nearest])), nearest)
    message = f"the measure of these maps is {wanted:.3f}; yours is {found:.3f}. Do centring, cosine and mean in turn."
    require(abs(found - wanted) < 1e-3, message)


def _maps_of_unlike_images(heads: int = 4, tokens: int = 24) -> tuple[Tensor, Tensor]:
    """Two blocks' maps of three images, flat to sharp, each with a share of likeness; both like two tokens."""
    size = torch.tensor([0.2, 1.0, 2.0])[:, None, None, None] * torch.linspace(0.2, 1.8, tokens)[:, None]
    share = torch.tensor([0.6, 0.4, 0.2])[:, None, None, None]
    shared, first, second = torch.randn(3, 3, heads, tokens, tokens)
    token = torch.arange(tokens)
    liked = (1.5 * (token < 3), 1.5 * ((token < 2) | (token == 3)))
    one, other = (
        (size * (share * shared + (1 - share) * own) + popular).softmax(dim=-1)
        for own, popular in zip((first, second), liked, strict=True)
    )
    return one, other


# 3.3 -----------------------------------------------------------------------------------------------------------------


@exercise("3.3")
def renumbered(answer: Callable[[Attention, Sequence[int]], Attention]) -> None:
    """Weights cut and pasted head by head."""
    heads, dim = 5, 4
    attn = Attention(heads * dim, num_heads=heads).eval()
    for part in (attn.qkv.weight, attn.qkv.bias):
        nn.init.normal_(part, std=0.5)
    order = _order_without_return(heads)
    inverse = sorted(range(heads), key=order.__getitem__)
    before, x = deepcopy(attn.state_dict()), torch.randn(2, 6, heads * dim)
    with torch.no_grad(), legible_attention():
        copied = answer(attn, list(order))
        same = all(torch.equal(before[name], now) for name, now in attn.state_dict().items())
        require(same, "the attention that was given has changed. Leave it as it is, and renumber a `deepcopy`.")
        require(isinstance(copied, Attention), "return the attention with the new numbers, a copy of the one given.")
        out, maps = copied.eval().forward_with_map(x)
        require_tensor(maps, (2, heads, 6, 6), "the copy's map")

        def is_like(other: Attention) -> bool:
            their_out, their_maps = other.forward_with_map(x)
            return are_close(out, their_out, 1e-3) and are_close(maps, their_maps, 1e-3)

        wanted_out, old_maps = attn.forward_with_map(x)
        message = "the copy's heads stand in the old order: its maps are those of the attention it was made from."
        require(not are_close(maps, old_maps, 1e-3), message)
        require(
            not are_close(maps, old_maps[:, inverse], 1e-3),
            "the order is applied backwards: head h of the copy should be head order[h] of the original, and yours "
            "went to place order[h].",
        )
        for mistake, message in _RENUMBERING_MISTAKES.items():
            require(not is_like(_cut_and_pasted(attn, order, mistake)), message)
        message = "the maps do not come in the asked order. Which rows of `qkv.weight` make the queries of one head?"
        require(are_close(maps, old_maps[:, order], 1e-3), message)
        message = "the maps have the new order, and the output is not the old one. What else belongs to one head?"
        require(are_close(out, wanted_out, 1e-3), message)


_RENUMBERING_MISTAKES = {
    "projection backwards": "the maps have the new order, and the projection's columns the inverse one: the columns of "
    "head h of the copy should be those of head order[h] of the original.",
    "no projection": "the maps have the new order, but the projection still expects the heads in the old one.",
    "rows of the projection": "the *rows* of `proj.weight` were renumbered. They make the output's channels; what "
    "comes from the heads goes in by the columns.",
    "no bias": "the bias of `qkv` stayed where it was. It belongs to the same rows as the weight.",
    "no values": "queries and keys have the new order, the values the old one: each map multiplies another head's "
    "values.",
    "by heads first": "rows were moved as if each head had its queries, keys and values together. In `qkv` all heads' "
    "queries come first, then all keys, then all values.",
    "single rows": "rows of `qkv` were moved one by one. A head is a run of D rows; keep them together.",
}


def _order_without_return(heads: int) -> list[int]:
    """A random cycle through all heads: none stays, and the inverse is another order."""
    cycle = torch.randperm(heads).tolist()
    order = [0] * heads
    for here, there in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        order[here] = there
    return order


def _cut_and_pasted(attn: Attention, order: Sequence[int], mistake: str) -> Attention:
    """An attention with renumbered heads, wrong in one way."""
    copied, heads = deepcopy(attn), attn.num_heads
    width = attn.proj.in_features
    dim = width // heads

    def place(part: int, head: int) -> slice:
        first = (head * 3 + part if mistake == "by heads first" else part * heads + head) * dim
        return slice(first, first + dim)

    for part in range(2 if mistake == "no values" else 3):
        for new, old in enumerate(order):
            copied.qkv.weight[place(part, new)] = attn.qkv.weight[place(part, old)]
            if mistake != "no bias":
                copied.qkv.bias[place(part, new)] = attn.qkv.bias[place(part, old)]
    if mistake == "single rows":
        for part in range(3):
            for new, old in enumerate(order):
                rows = (slice(start + part * width, (part + 1) * width, heads) for start in (new, old))
                here, there = rows
                copied.qkv.weight[here], copied.qkv.bias[here] = attn.qkv.weight[there], attn.qkv.bias[there]
    for new, old in enumerate(order):
        here, there = slice(new * dim, (new + 1) * dim), slice(old * dim, (old + 1) * dim)
        if mistake == "rows of the projection":
            copied.proj.weight[here] = attn.proj.weight[there]
        elif mistake == "projection backwards":
            copied.proj.weight[:, there] = attn.proj.weight[:, here]
        elif mistake != "no projection":
            copied.proj.weight[:, here] = attn.proj.weight[:, there]
    return copied


# 3.4 -----------------------------------------------------------------------------------------------------------------


@exercise("3.4")
def chance_level(answer: Callable[[Tensor, Tensor], Any]) -> None:
    """The mean over all orders in closed form; the tolerance leaves room for shuffles."""
    one, other = _two_maps()
    tokens = one.shape[-1]
    found, scatter = _over_calls(answer, one, other)
    wanted = _chance(one, other)

    def is_like(mistake: float, tolerance: float = 0.005) -> bool:
        return abs(found - mistake) < tolerance and abs(wanted - mistake) > 0.03

    require(
        not is_like(_mean_cosine(one, other), 1e-3),
        "your number is the measure of the maps as they are. Put the columns of *one* map in another order: where both "
        "get the same order, every query still meets itself.",
    )
    require(
        not is_like(_mean_cosine(one, _shuffled(other, -1)), 0.03),
        "the entries of each *row* were shuffled. That moves probability from popular tokens to others, and a column "
        "does not keep its numbers. Shuffle along the queries.",
    )
    shifted = [_mean_cosine(one, other.roll(step, dims=-1)) for step in range(1, tokens)]
    require(
        not is_like(sum(shifted) / len(shifted), 0.02),
        "whole columns changed places, and inside each the queries stayed in order. So what makes a query's row sharp "
        "in both maps is still there. Shuffle inside the columns, each by itself.",
    )
    require(
        not is_like(wanted / tokens, 1e-3),
        "your number is N times too small: a product of two columns is a *sum* over N queries.",
    )
    flat = 1 / (tokens * one.norm(dim=-2) * other.norm(dim=-2))
    require(
        not is_like(flat.mean().item()),
        "the mean of a *row* is 1/N; that of a column is larger where the token is popular.",
    )
    logs = torch.stack([one, other]).log()
    spread = (logs - logs.mean(dim=-2, keepdim=True)).square().mean().item()
    require(
        not is_like(torch.tensor(-spread).exp().item(), 0.02),
        "that is the floor exp(-s²), which takes all scores to be normal with one spread. Here they are not: ask the "
        "columns themselves.",
    )
    require(
        scatter < 0.016,
        f"your number changes by about {scatter:.2f} from call to call, as it does when all columns get *one* order. "
        "Put each column in an order of its own.",
    )
    message = f"in the mean over many orders the measure is {wanted:.3f} for these maps; yours is {found:.3f}."
    require(abs(found - wanted) < 0.03, message)
    one, other = one[:1], one[1:2]  # another case, for numbers that were right by luck
    found, wanted = require_number(answer(one, other), "the chance level"), _chance(one, other)
    require(abs(found - wanted) < 0.05, f"for maps of one image it should be {wanted:.3f}; yours is {found:.3f}.")


def _over_calls(
    answer: Callable[[Tensor, Tensor], Any], one: Tensor, other: Tensor, calls: int = 24
) -> tuple[float, float]:
    """Mean and deviation of an answer that may shuffle, over several calls; of one that does not, over two.

    The deviation is that of maps whose tokens are renumbered each time: otherwise one order that a learner's own seed
    fixes would show none.
    """

    def numbers(maps: Callable[[], Tensor]) -> Tensor:
        found = [require_number(answer(one, maps()), "the chance level") for _ in range(2)]
        if abs(found[0] - found[1]) > 1e-6:
            found += [float(answer(one, maps())) for _ in range(calls - 2)]
        return torch.tensor(found, dtype=torch.float64)

    drawn = torch.Generator().manual_seed(int(torch.randint(2**31, ())))  # an answer may seed PyTorch's own
    renumbered = numbers(lambda: other[..., torch.randperm(other.shape[-2], generator=drawn), :])
    return numbers(lambda: other).mean().item(), renumbered.std().item()


def _two_maps(images: int = 4, heads: int = 4, tokens: int = 48) -> tuple[Tensor, Tensor]:
    """Two maps that share popular tokens, sharp queries and some of their scores, as no two normal maps do."""
    popular = 2.5 * (torch.arange(tokens) < 6)
    sharpness = torch.linspace(0.05, 2.5, tokens)[:, None]
    shared = torch.randn(images, heads, tokens, tokens)
    scores = (0.7 * shared + 0.7 * torch.randn_like(shared) for _ in range(2))
    one, other = ((sharpness * (each + popular)).softmax(dim=-1) for each in scores)
    return one, other


def _chance(one: Tensor, other: Tensor) -> float:
    """Mean of the cosines when every order of a column is as likely as any other."""
    to_even = [F.cosine_similarity(attn, torch.ones_like(attn), dim=-2) for attn in (one, other)]
    return (to_even[0] * to_even[1]).mean().item()


def _mean_cosine(one: Tensor, other: Tensor) -> float:
    return F.cosine_similarity(one, other, dim=-2).mean().item()


def _shuffled(attn: Tensor, dim: int) -> Tensor:
    return attn.gather(dim, torch.rand_like(attn).argsort(dim=dim))


@exercise("3.7")
def highest_likeness(answer: Callable[[int, float], Any]) -> None:
    """All pairs of heads whose means are the same vector: there the bound is reached."""
    for heads in (3, 7):
        similarity = 0.2 + 0.5 * torch.rand(()).item()
        found = require_number(answer(heads, similarity), "the bound")
        gram = torch.full((heads, heads), similarity).fill_diagonal_(1.0)
        wanted = gram.mean().item()
        mistakes = [
            (
                similarity,
                "this is how alike the heads of *one* block are. In a mean over all pairs a head meets itself, too.",
            ),
            ((1 - 1 / heads) * similarity, "the H pairs of a head with itself are missing: each has a cosine of 1."),
            (1 / heads + similarity, "different heads are H (H - 1) of the H² pairs, not all of them."),
            (wanted**0.5, "that is the length of *one* mean head. The bound is the product of two lengths."),
            (wanted**2, "the squared lengths are multiplied. The bound is the product of the lengths themselves."),
        ]
        for mistaken, message in mistakes:
            require(abs(found - mistaken) > 1e-4, message)
        message = f"for {heads} heads that are {similarity:.2f} alike it should be {wanted:.3f}; yours is {found:.3f}."
        require(abs(found - wanted) < 1e-4, message)


by_hand("3.5", "Open the solution, and give yourself the points of its rubric one by one.")
by_hand("3.6", "Open the solution for one measure that was tried so, and judge yours, or another's, by the rubric.")
