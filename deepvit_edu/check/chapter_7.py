"""The checks of chapter 7, what attention costs."""

from collections.abc import Callable

import torch
from torch import Tensor

from .engine import are_close, by_hand, exercise, require, require_number, require_tensor


def _multiplications(tokens: list[int], channels: int, ratio: int, products: int = 2) -> int:
    return sum((4 + 2 * ratio) * n * channels**2 + products * n**2 * channels for n in tokens)


@exercise("7.1")
def network_multiplications(answer: Callable[..., float]) -> None:
    """By a sum over blocks, in whole numbers."""
    for depth, before in ((6, (2,)), (9, (3, 5, 8))):
        patches, channels, ratio = 10 * int(torch.randint(5, 20, ())), 32 * int(torch.randint(1, 6, ())), 3

        def tokens(
            class_token: int = 1, late: int = 0, of_first: bool = False, before: tuple = before, depth: int = depth,
            patches: int = patches,
        ) -> list[int]:  # fmt: skip
            cuts = [sum(layer >= each + late for each in before) for layer in range(depth)]
            return [class_token + int(patches * 0.7 ** (min(cut, 1) if of_first else cut)) for cut in cuts]

        found = require_number(answer(depth, patches, channels, ratio, before, 0.7), "the number of multiplications")
        for mistake, message in (
            (tokens(class_token=0), "the class token is missing. It goes through every block, and is never dropped."),
            (tokens(late=1), "a selection *before* a block makes this block cheaper, too."),
            (tokens(of_first=True) if len(before) > 1 else None, "only the first selection counts. Each drops more."),
        ):
            wrong = mistake and _multiplications(mistake, channels, ratio)
            require(not wrong or abs(found - wrong) > 0.5, message)
        once = _multiplications(tokens(), channels, ratio, products=1)
        require(
            abs(found - once) > 0.5, "the map costs twice: it is made from queries and keys, and multiplies values."
        )
        right = _multiplications(tokens(), channels, ratio)
        require(abs(found - right) < 0.5, "the number is not right. Count one block with one token on paper.")


def _scores(images: int, patches: int, count: int) -> tuple[Tensor, set[int]]:
    """Scores (images, patches), no two images with the same best ones, and the best places of the images' mean.

    These, taken for numbers of tokens, are not the first image's best patches: so each mistake looks different.
    """
    ranks = torch.stack([torch.arange(patches).roll(3 * b) for b in range(images)])
    while True:
        scores = (ranks + 0.2 * torch.rand(images, patches))[:, torch.randperm(patches)] / patches
        of_mean = set(scores.mean(dim=0).topk(count).indices.tolist())
        if of_mean != {1 + place for place in scores[0].topk(count).indices.tolist()}:
            return scores, of_mean


@exercise("7.2")
def keep_best(answer: Callable[..., Tensor]) -> None:
    """Image by image, with sets of places."""
    images, patches, channels, count = 3, 9, 4, 4
    x = torch.randn(images, 1 + patches, channels)
    scores, of_mean = _scores(images, patches, count)
    found = answer(x, scores, count)
    require_tensor(found, (images, 1 + count, channels), "what goes on")
    require(
        torch.equal(found[:, 0], x[:, 0]),
        "the class token is not the first any more. It goes on whatever its score is.",
    )

    def rows(places: list[list[int]]) -> list[set[tuple]]:
        return [{tuple(x[b, 1 + place].tolist()) for place in of_image} for b, of_image in enumerate(places)]

    order = scores.argsort(dim=1, descending=True).tolist()
    kept = [{tuple(token.tolist()) for token in image[1:]} for image in found]
    shifted = [{tuple(x[b, place].tolist()) for place in of[:count]} for b, of in enumerate(order)]
    mistakes = (
        (rows([of[-count:] for of in order]), "the tokens with the lowest scores go on."),
        (rows([order[0][:count]] * images), "all images keep the places of the first. Each image has its own scores."),
        (shifted, "the places are off by one: scores are of patches, and the class token stands before them."),
    )
    for wrong, message in mistakes:
        require(kept != wrong, message)
    own = [{tuple(token) for token in image} for image in x.tolist()]
    require(
        all(here <= of for here, of in zip(kept, own, strict=True)),
        "what goes on are not tokens of the same image, as they were. Look at which index belongs to which image.",
    )
    places = [{p for p, token in enumerate(x[b].tolist()) if tuple(token) in kept[b]} for b in range(images)]
    shared = (
        "all images keep tokens of the same places, though their best ones differ. Each image chooses by its own "
        "scores; a mean over the batch makes one choice for all."
    )
    if places[0] == of_mean:
        shared += " And when that is mended, count again: which number has the first patch in scores, and which in x?"
    require(not all(here == places[0] for here in places), shared)
    wanted = rows([of[:count] for of in order])
    require(kept == wanted, "these are not the tokens with the best scores. Try three tokens by hand.")


@exercise("7.3")
def masked_softmax(answer: Callable[..., Tensor]) -> None:
    """Row by row, over the keys that a query may see."""
    images, heads, tokens = 2, 3, 6
    scores = torch.randn(images, heads, tokens, tokens)
    kept = torch.tensor([[1.0, 1, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0]])
    found = answer(scores, kept)
    require_tensor(found, (images, heads, tokens, tokens), "the map")

    def by_rows(own: bool) -> Tensor:
        out = torch.zeros_like(scores)
        for b in range(images):
            for q in range(tokens):
                seen = [k for k in range(tokens) if kept[b, k] or (own and k == q)]
                out[b, :, q, seen] = scores[b, :, q, seen].softmax(dim=-1)
        return out

    keys, columns = kept[:, None, None, :], kept[:, None, :, None]
    mistakes = (
        (by_rows(own=False), "a token that is out cannot see itself. Without that, a row could be left with nothing."),
        (scores.softmax(dim=-1) * keys, "the rows do not sum to 1: the mask came after the softmax."),
        ((scores * keys).softmax(dim=-1), "a score of 0 is not a weight of 0: the mask belongs to the exponentials."),
        (scores.softmax(dim=-1), "no key is left out."),
        ((scores + columns.log().nan_to_num(neginf=-1e9)).softmax(dim=-1), "queries are masked, not keys."),
    )
    for wrong, message in mistakes:
        require(not are_close(found, wrong), message)
    require(are_close(found, by_rows(own=True), 1e-3), "the shape is right, the numbers are not. Work out one row.")
    with torch.enable_grad():  # the chapter has switched gradients off
        weights = kept.clone().requires_grad_()
        out = answer.__wrapped__(scores, weights).square().sum()
        gradient = torch.autograd.grad(out, weights, allow_unused=True)[0] if out.requires_grad else None
    message = "no gradient reaches the mask. Multiply by it; do not compare with it, and do not fill in infinities."
    require(gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.abs().sum() > 0), message)


@exercise("7.4")
def crossing(answer: Callable[..., float]) -> None:
    """Where the two sides are equal: (4 + 2r) N C² = 2 N² C."""
    channels, ratio = 64 * int(torch.randint(1, 13, ())), int(torch.randint(3, 6, ()))
    found = require_number(answer(channels, ratio), "the number of tokens")
    for wrong, message in (
        ((4 + 2 * ratio) * channels, "the map is used in two products, so it costs 2 N² C."),
        (2 * channels, "that is where the map costs as much as the projections. The MLP is missing."),
        (ratio * channels, "that is where the map costs as much as the MLP. The four projections are missing."),
        ((1 + ratio) * channels, "there are four projections, of queries, keys, values and output."),
    ):
        require(abs(found - wrong) > 1e-6, message)
    require(abs(found - (2 + ratio) * channels) < 1e-6, "not yet. Write both sides down, and divide by N C.")


by_hand(
    "7.5", "Compare with the model answer: the size of the map, where it lives, and what the kernel does for each tile."
)
by_hand(
    "7.6",
    "Compare with the rubric: the expectation first, arms that differ in the score alone, differences image by image "
    "with their errors, both networks at several depths, and the cost of the score itself on paper and on the clock.",
)
