"""The checks of chapter 1, the Vision Transformer."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import product
from math import sqrt
from numbers import Real

import torch
from torch import Tensor, nn

from ..diagnostics import record_attention
from ..nn.model import VisionTransformer
from ..zoo import create_model
from .engine import are_close, by_hand, exercise, require, require_tensor


@exercise("1.1")
def from_patches(answer: Callable[[Tensor, int], Tensor]) -> None:
    """The image that the patches were cut from, with two loops."""
    for side, size in ((5, 4), (3, 2), (4, 7)):  # no size equals the grid's side or the colours, so none can stand in
        image = torch.randn(3, side * size, side * size)
        squares = torch.stack([_square(image, row, column, size) for row in range(side) for column in range(side)])
        found = answer(squares.flatten(1), size)
        require_tensor(found, tuple(image.shape), "the image")
        pixels = found.flatten().sort().values, image.flatten().sort().values
        require(
            are_close(*pixels, 1e-6),
            "some pixels have changed, gone or come twice. Your function should only move them.",
        )
        for wrong, message in _misplaced(squares, side):
            require(not are_close(found, wrong), message)
        require(
            are_close(found, image),
            "all pixels are there, but not in their places. Try an image of 2 by 2 patches by eye.",
        )


def _square(image: Tensor, row: int, column: int, size: int) -> Tensor:
    return image[:, row * size : (row + 1) * size, column * size : (column + 1) * size]


def _joined(squares: Tensor, side: int) -> Tensor:
    """Squares (side * side, 3, P, P) side by side, row by row."""
    rows = [torch.cat(list(squares[row * side : (row + 1) * side]), dim=2) for row in range(side)]
    return torch.cat(rows, dim=1)


def _misplaced(squares: Tensor, side: int) -> list[tuple[Tensor, str]]:
    """Images with their pixels in the wrong places, and what is wrong with each."""
    size = squares.shape[-1]
    grid = squares.unflatten(0, (side, side))  # (side, side, 3, P, P)
    by_columns = grid.transpose(0, 1).flatten(0, 1)
    colours_last = squares.reshape(-1, size, size, 3).movedim(-1, 1)
    spread = grid.permute(2, 3, 0, 4, 1).flatten(3).flatten(1, 2)  # a square's pixels, `side` apart
    return [
        (
            squares.reshape(3, side * size, side * size),
            "the numbers are in the order in which they came, patch after patch. A reshape moves no number in memory; "
            "an image row runs through several patches, so axes have to change places first.",
        ),
        (
            _joined(by_columns, side),
            "every patch is right in itself, but they are laid out column by column. Patch 1 stands to the right of "
            "patch 0, not below it.",
        ),
        (
            _joined(squares.mT, side),
            "every patch is in its place, but mirrored along its diagonal: its rows became columns.",
        ),
        (
            _joined(by_columns.mT, side),
            "the whole image is mirrored along its diagonal: height and width have changed places.",
        ),
        (
            _joined(colours_last, side),
            "the colours are mixed up. A patch holds all its red numbers first, then all green, then all blue.",
        ),
        (
            spread,
            "the pixels of one patch are spread over the whole image. Along the height, the grid's row has to come "
            "before the pixel's row within the patch.",
        ),
    ]


@exercise("1.2")
def attention(answer: Callable[[Tensor, int], Tensor]) -> None:
    """Head by head, once with every combination of faults."""
    images, tokens, heads, dim = 3, 5, 4, 6
    query, key, value = torch.randn(3, images, heads, tokens, dim)
    qkv = torch.cat([part[:, head] for part in (query, key, value) for head in range(heads)], dim=-1)
    found = answer(qkv, heads)
    require_tensor(found, (images, tokens, heads * dim), "the output")

    def output(over: int, width: int, merge: str) -> Tensor:
        scores = [query[:, head] @ key[:, head].mT / sqrt(width) for head in range(heads)]
        maps = torch.stack(scores, dim=1).softmax(dim=over)
        outs = [maps[:, head] @ value[:, head] for head in range(heads)]  # H times (B, N, D)
        merged = {"joined": torch.cat(outs, -1), "alternating": torch.stack(outs, -1).flatten(2)}
        return merged.get(merge, torch.stack(outs, dim=1).reshape(images, tokens, -1))

    overs = {
        -1: "",
        -2: "the probabilities of one query do not sum to 1",
        1: "a head's probabilities depend on the other heads'",
    }
    widths = {
        dim: "",
        heads * dim: "the scores shrink as more heads stand side by side, though a head sees its own channels only",
        dim**2: "the scores are divided by the channels of a head. Their deviation grows like the root of these",
        1: "the scores are not divided, so they grow with the channels of a head",
        heads: "the scores are divided by the root of the number of heads. A dot product has as many terms as one "
        "head has channels, C / H",
        tokens: "the scores are divided by the root of the number of tokens. A dot product has as many terms as one "
        "head has channels, C / H",
    }
    merges = {
        "joined": "",
        "as they lie": "a token's output is pieced together from the outputs of several tokens",
        "alternating": "the heads' channels alternate in the output, where all of head 0 should come first",
    }
    late = any(are_close(found, output(-1, 1, merge) / sqrt(dim)) for merge in merges)
    require(not late, "the division comes after the softmax. It belongs to the scores, which the softmax takes.")
    for over, width, merge in product(overs, widths, merges):
        faults = [fault for fault in (overs[over], widths[width], merges[merge]) if fault]
        if are_close(found, output(over, width, merge)):
            left = "one fault is left" if len(faults) == 1 else f"it has {len(faults)} faults. One of them"
            require(not faults, f"{left}: {next(iter(faults), '')}.")
            return
    require(
        False, "there is a fault that was not in it before. Go back to the given code, and change one line at a time."
    )


@exercise("1.3")
def first_side(answer: Callable[[int, int, int], int]) -> None:
    """Counts the products of one block, image size by image size."""
    cases = _block_sizes()
    found = [answer(*case) for case in cases]
    for pixels in found:
        require(isinstance(pixels, Real), f"return a number of pixels, not a {type(pixels).__name__}.")
        require(pixels == int(pixels), f"an image has whole pixels and whole patches along a side, not {pixels:.1f}.")
    wanted = _sides(cases)
    if found == wanted:
        return
    in_patches = [pixels // patch for pixels, (_, _, patch) in zip(wanted, cases, strict=True)]
    before = [pixels - patch for pixels, (_, _, patch) in zip(wanted, cases, strict=True)]
    for wrong, message in (
        (in_patches, "this is the number of patches along a side. The question is for pixels."),
        (before, "this is the *last* size at which the linear layers keep up. Which one comes next?"),
        (
            _sides(cases, class_token=0),
            "nearly: of the sizes tried, one is decided by a single token. How many tokens do so many patches give?",
        ),
        (
            _sides(cases, strict=False),
            "nearly: at one of the sizes tried the two costs are equal, and *more* is asked for.",
        ),
        (_sides(cases, square=3), "a linear layer of the attention is missing: something follows the heads."),
        (_sides(cases, hidden=1), "the MLP has two linear layers: it widens the token, and narrows it again."),
        (_sides(cases, maps=1), "a map takes part in two products: it is made in one, and used in another."),
    ):
        require(found != wrong, message)
    first = next(index for index, (mine, right) in enumerate(zip(found, wanted, strict=True)) if mine != right)
    dim, hidden_dim, patch = cases[first]
    low = "small" if found[first] < wanted[first] else "large"
    sizes = f"{dim} channels, {hidden_dim} in the MLP and patches of {patch}"
    require(
        False, f"for {sizes}, your {found[first]} pixels are too {low}. Write both costs for n tokens, and compare."
    )


def _block_sizes() -> list[tuple[int, int, int]]:
    """Channels, channels inside the MLP and patch size: three free ones, and two with 2C + M next to a square."""
    ratios = (1, *torch.randint(1, 6, (2,)).tolist())  # at 1 a forgotten layer makes a difference of several patches
    draws = zip(torch.randint(24, 60, (3,)).tolist(), ratios, (8, 14, 16), strict=True)
    cases = [(16 * width, 16 * width * ratio, patch) for width, ratio, patch in draws]
    for excess, patch in ((0, 4), (1, 32)):
        dim, side = int(torch.randint(100, 200, ())), int(torch.randint(28, 40, ()))
        cases.append((dim, side**2 + excess - 2 * dim, patch))
    return cases


def _sides(
    cases: list[tuple[int, int, int]],
    *,
    class_token: int = 1,
    strict: bool = True,
    square: int = 4,
    hidden: int = 2,
    maps: int = 2,
) -> list[int]:
    """The sides in pixels, with so many products of each kind in a block."""

    def taken_over(tokens: int, dim: int, hidden_dim: int) -> bool:
        linear = square * tokens * dim * dim + hidden * tokens * dim * hidden_dim
        quadratic = maps * tokens * tokens * dim
        return quadratic > linear or (quadratic == linear and not strict)

    sides = []
    for dim, hidden_dim, patch in cases:
        side = 1
        while not taken_over(side * side + class_token, dim, hidden_dim):
            side += 1
        sides.append(side * patch)
    return sides


@exercise("1.4")
def sharpened(answer: Callable[[nn.Module, float], nn.Module]) -> None:
    """The maps of every block, written out."""
    model = create_model("cifar_vit_4x64", num_classes=3, img_size=16, depth=3, embed_dim=16, num_heads=2).eval()
    for block in model.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.3)
        nn.init.normal_(block.attn.qkv.bias, std=0.5)
    images = torch.randn(2, 3, 16, 16)
    given = deepcopy(model)
    changed = answer(given, 3.0)
    require(isinstance(changed, nn.Module), f"return a model, not a {type(changed).__name__}.")
    untouched = are_close(_recorded(given, images), _recorded(model, images))
    swapped = not untouched and are_close(_recorded(changed, images), _recorded(model, images))
    require(
        not swapped,
        "you return an untouched copy, and have changed the model that was given. Go through the blocks of the copy.",
    )
    message = "the model that was given has changed, too: the next factor would come on top of this one. Return a copy."
    require(untouched, message)
    _require_factor(_recorded(changed, images), model, images, 3.0)
    _require_factor(_recorded(answer(deepcopy(model), 0.5), images), model, images, 0.5)
    flat = _recorded(answer(deepcopy(model), 0.0), images)
    require(
        are_close(flat, torch.full_like(flat, 1 / flat.shape[-1])),
        "with the factor 0, all scores are 0, so all probabilities should be equal; yours are not. Does your code "
        "treat 0 as if no factor were given?",
    )


def _recorded(model: nn.Module, images: Tensor) -> Tensor:
    return torch.stack(record_attention(model, images))  # (L, B, H, N + 1, N + 1)


def _require_factor(found: Tensor, model: VisionTransformer, images: Tensor, factor: float) -> None:
    blocks, heads = len(model.blocks), model.config.num_heads
    head_dim = model.config.embed_dim // heads

    def maps(*factors: float) -> Tensor:
        return _written_out(model, images, factors * blocks if len(factors) == 1 else factors)

    require(not are_close(found, maps(1.0), 1e-3), f"with the factor {factor}, the maps are what they were before.")
    require(
        not are_close(found, maps(1 / factor), 1e-3),
        "it works the wrong way round: a factor above 1 should make the maps sharper.",
    )
    require(
        not are_close(found, maps(factor * sqrt(head_dim)), 1e-3),
        "the scale has *become* the factor. It should be multiplied by it.",
    )
    require(
        not are_close(found[0], maps(factor**2)[0], 1e-3),
        "the scores are multiplied by the factor's square. Does it enter through the queries and the keys?",
    )
    for multiple, message in (
        (factor**0.5, "the scores are multiplied by the root of the factor. Multiply them by the factor itself."),
        (
            1 + factor * sqrt(head_dim),
            "the factor is *added* to the scale of the scores. Multiply the scale by it.",
        ),
        (
            factor / sqrt(heads),
            "the scale was made anew, with the root of all channels of a token; a head has C / H of them. Multiply the "
            "scale that is there.",
        ),
        (factor**blocks, f"the factor comes in {blocks} times, once for each block. Multiply each block's scale once."),
    ):
        require(not are_close(found[0], maps(multiple)[0], 1e-3), message)
    piled_up = maps(*(factor ** (block + 1) for block in range(blocks)))
    require(
        not are_close(found, piled_up, 1e-3),
        "the factor piles up: the second block has it twice, the third three times. Start from each block's own scale.",
    )
    for factors in product((1.0, factor), repeat=blocks):
        some = len(set(factors)) > 1 and are_close(found, maps(*factors), 1e-3)
        require(not some, "some blocks still have their old maps. Every block has an attention of its own.")
    require(
        not are_close(found[0], _weights_only(model, images, factor), 1e-3),
        "the weights of queries or keys are multiplied and their biases are not, so the scores change in another way. "
        "Multiply the scores themselves.",
    )
    require(
        not are_close(found[0], maps(factor)[0], 1e-3) or are_close(found, maps(factor), 1e-3),
        "the first block's maps are right and later ones are not, so that something besides the scores has changed on "
        "the way: the values?",
    )
    sums = are_close(found.sum(dim=-1), torch.ones(found.shape[:-1]), 1e-3)
    require(sums, "the probabilities of a query no longer sum to 1: multiply the scores, before the softmax.")
    if are_close(found, maps(factor), 1e-3):
        return
    multiple = _multiple(found[0], maps(1.0)[0])
    require(
        not are_close(found[0], maps(multiple)[0], 1e-3),
        f"with the factor {factor}, the first block's scores are multiplied by {multiple:.2f}. Multiply each block's "
        f"scale by {factor}, once.",
    )
    require(
        False,
        f"with the factor {factor}, the first block's map is not the softmax of its scores times any number: leave all "
        "else as it is, and multiply the scores alone.",
    )


def _multiple(found: Tensor, base: Tensor) -> float:
    """The number by which the scores behind a map (..., n, n) seem to be multiplied, beside the map as it was."""
    x, y = (attn.clamp_min(1e-30).log() for attn in (base, found))
    x, y = x - x.mean(dim=-1, keepdim=True), y - y.mean(dim=-1, keepdim=True)
    return ((x * y).sum() / (x * x).sum()).item()


def _weights_only(model: VisionTransformer, images: Tensor, factor: float) -> Tensor:
    """The first block's map (B, H, N + 1, N + 1) when the weights behind it are multiplied without their biases."""
    changed = deepcopy(model)
    changed.blocks[0].attn.qkv.weight.data *= factor
    return _recorded(changed, images)[0]


@torch.no_grad()
def _written_out(model: VisionTransformer, images: Tensor, factors: Sequence[float]) -> Tensor:
    """The maps of all blocks (L, B, H, N + 1, N + 1), each block's scores times a factor of its own."""
    x, maps = model.embed(images), []
    for block, factor in zip(model.blocks, factors, strict=True):
        parts = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for part in parts)
        maps.append((factor * (query @ key.mT) / sqrt(query.shape[-1])).softmax(dim=-1))
        x = x + block.attn.proj((maps[-1] @ value).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return torch.stack(maps)


by_hand("1.5", "Open the solution, and give yourself the points of its rubric one by one.")
by_hand("1.6", "Open the solution for what a good comparison has, or ask somebody else to read yours by its rubric.")
