"""The checks of chapter 6, token labeling."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor

from .engine import are_close, by_hand, exercise, require, require_number, require_tensor

Crop = tuple[int, int, int, int]  # left, top, right, bottom, in cells of a label map
Box = tuple[int, int, int, int]  # top, left, bottom, right, in cells of the token grid


def _require_none_of(found: Tensor, right: Tensor, mistakes: list[tuple[Tensor, str]]) -> None:
    """Ends with the message of the first mistake whose numbers were found; one that changes nothing here is none."""
    for mistaken, message in mistakes:
        require(are_close(mistaken, right) or not are_close(found, mistaken), message)


@exercise("6.1")
def with_truth(answer: Callable[..., Tensor]) -> None:
    """Image by image, in plain numbers."""
    images, classes, same, other = 6, 7, 0.15 + 0.2 * torch.rand(()).item(), 0.65 + 0.2 * torch.rand(()).item()
    targets = (2 * torch.randn(images, classes)).softmax(dim=1)
    agrees = [b % 2 == 0 for b in range(images)]
    truth = torch.where(torch.tensor(agrees), targets.argmax(dim=1), targets.argmin(dim=1))
    found = answer(targets, truth, same, other)
    require_tensor(found, (images, classes), "the mixed target")
    handed = targets.clone()
    answer.__wrapped__(handed, truth, same, other)
    require(torch.equal(handed, targets), "the annotator's targets have been changed in place. Work on new tensors.")

    def wanted(weights: list[float], of_truth: bool = True) -> Tensor:
        mixed = [
            [weight * targets[b, k] + (1 - weight) * (of_truth and k == truth[b].item()) for k in range(classes)]
            for b, weight in enumerate(weights)
        ]
        return torch.tensor(mixed)

    weights = [same if agree else other for agree in agrees]
    swapped = [other if agree else same for agree in agrees]
    own = [same * share + other * (1 - share) for share in targets[torch.arange(images), truth].tolist()]
    one_for_all = "all images get one and the same weight. Each image is compared with its own label."
    mistakes = [
        (
            wanted(swapped),
            "`alike` and `unlike` have changed places: `alike` is for images whose best class is the true one.",
        ),
        (
            wanted([1 - weight for weight in weights]),
            "the weights stand at the wrong parts: `alike` and `unlike` say what the *annotator's* target weighs.",
        ),
        (
            wanted(own),
            "the weight slides with the probability of the true class. It takes two values only: the best class is the "
            "true one, or it is not.",
        ),
        (
            wanted(weights, of_truth=False),
            "the rows do not sum to 1 any more. What the annotator's target gives up goes to the true class.",
        ),
        *((wanted([weight] * images), one_for_all) for weight in (same, other, sum(weights) / images)),
    ]
    _require_none_of(found, wanted(weights), mistakes)
    message = "the shape is right, the numbers are not. Take one image, and work out its target on paper."
    require(are_close(found, wanted(weights)), message)


@exercise("6.2")
def targets_of_crop(answer: Callable[..., Tensor]) -> None:
    """Token by token, from the cells that it covers."""
    images, classes, grid = 2, 5, 3
    for ratio, mirrored in product((2, 1), (True, False)):
        left = int(torch.randint(3, ()))
        top = left + 3
        crop = (left, top, left + ratio * grid, top + ratio * grid)
        scores = 3 * torch.randn(images, classes, 12, 12)
        found = answer(scores, crop, mirrored, grid)
        require_tensor(found, (images, grid**2, classes), "the targets")
        handed = scores.clone()
        answer.__wrapped__(handed, crop, mirrored, grid)
        require(torch.equal(handed, scores), "the score maps have been changed in place. Work on new tensors.")
        _require_targets(found, scores, crop, mirrored, grid)


def _require_targets(found: Tensor, scores: Tensor, crop: Crop, mirrored: bool, grid: int) -> None:
    def shares(places: Tensor) -> Tensor:
        return places.softmax(dim=-1)

    places = _of_tokens(scores, crop, mirrored, grid)
    slipped = _of_tokens(scores, crop, mirrored, grid, mirror_first=True)
    left, top, right, bottom = crop
    height = scores.shape[-2]
    upside_down = _of_tokens(scores.flip(-2), (left, height - bottom, right, height - top), False, grid)
    mirror = "a mirrored crop gets the labels of another part of the image, from the other side of the whole map"
    axes = "what stands in one token's row are not the scores of one place: a reshape does not move axes"
    mistakes = [
        (shares(_garbled(places)), f"{axes}."),
        (shares(slipped), f"{mirror}."),
        (places, "these are still scores. The softmax over classes is missing."),
        (
            _of_tokens(scores.softmax(dim=1), crop, mirrored, grid),
            "the softmax comes before the resizing. Means are taken of scores; the softmax is last.",
        ),
        (places.softmax(dim=1), "the softmax runs over tokens. Each token has its own probabilities, over classes."),
        (
            shares(_of_tokens(scores, (top, left, bottom, right), mirrored, grid)),
            "x and y have changed places: a crop is left, top, right, bottom, and rows go from top to bottom.",
        ),
        (
            shares(places.unflatten(1, (grid, grid)).transpose(1, 2).flatten(1, 2)),
            "the tokens are numbered column by column. They go row by row, as patches do.",
        ),
        (
            shares(_of_tokens(scores, crop, False, grid)),
            "a mirrored crop gets the labels of the crop that is not mirrored.",
        ),
        (shares(upside_down), "the map is turned upside down. Mirroring exchanges left and right."),
    ]
    if mirrored:
        both = f"it still has both of its faults. {mirror.capitalize()}. And {axes}."
        mistakes.insert(0, (shares(_garbled(slipped)), both))
    _require_none_of(found, shares(places), mistakes)
    require(are_close(found, shares(places)), "the two faults are gone, and another one has come in.")


def _of_tokens(scores: Tensor, crop: Crop, mirrored: bool, grid: int, mirror_first: bool = False) -> Tensor:
    """The mean scores of the cells under each token (B, N, K)."""
    left, top, right, bottom = crop
    high, wide = (bottom - top) // grid, (right - left) // grid
    places = []
    for row, column in product(range(grid), range(grid)):
        number = grid - 1 - column if mirrored and not mirror_first else column
        across = [left + number * wide + i for i in range(wide)]
        if mirrored and mirror_first:
            across = [scores.shape[-1] - 1 - x for x in across]
        cells = [scores[:, :, top + row * high + j, x] for j in range(high) for x in across]
        places.append(sum(cells) / len(cells))
    return torch.stack(places, dim=1)


def _garbled(places: Tensor) -> Tensor:
    """The same numbers (B, N, K) where maps (B, K, h, w) were reshaped instead of transposed."""
    return places.transpose(1, 2).reshape(places.shape)


@exercise("6.3")
def expected_fraction(answer: Callable[[int], float]) -> None:
    """Every box that can be drawn, with its probability."""
    for grid in (4, 7, 5 + int(torch.randint(8, ()))):
        found = require_number(answer(grid), "the fraction")
        chances = [(2 * side + 1) / grid**2 for side in range(grid)]
        lengths = [[_inside(centre - side // 2, side, grid) for centre in range(grid)] for side in range(grid)]

        def mean(values: list[float], chances: list[float] = chances) -> float:
            return sum(chance * value for chance, value in zip(chances, values, strict=True))

        areas = [sum(high * wide for high, wide in product(row, row)) / grid**2 for row in lengths]
        wanted = mean(areas) / grid**2
        mistakes = [
            (wanted * grid**2, "this is a number of cells. A fraction is a part of all of them."),
            (0.5, "this is the fraction that was wanted. The box that is drawn is smaller, for two reasons."),
            (
                mean([(side / grid) ** 2 for side in range(grid)]),
                "you have rounded the side down. What hangs over the edge of the grid is not lost yet.",
            ),
            (
                77 / 240,
                "this holds where cells are tiny. On a grid the side is a whole number of cells, rounded down.",
            ),
            (
                sum(areas) / grid**3,
                "every side has the same probability here. Uniform is the wanted *area*: for which areas is the root, "
                "rounded down, this side?",
            ),
            (
                mean([sum(row) / grid**2 for row in lengths]) ** 2,
                "this is the square of the mean length. Height and width have one side in common: take the product for "
                "each side, and the mean over sides after that.",
            ),
            (
                mean([sum(length**2 for length in row) / grid for row in lengths]) / grid**2,
                "the centre's row and column are the same number here. They are drawn one by one.",
            ),
        ]
        for mistaken, message in mistakes:
            require(not math.isclose(found, mistaken, rel_tol=1e-5), message)
        if not math.isclose(found, wanted, rel_tol=1e-5):
            message = "two calls differ: this is a mean of draws. What is asked for is exact, and needs no chance."
            again = [require_number(answer(grid), "the fraction") for _ in range(4)]  # two means may agree by chance
            require(again == [found] * 4, message)
            message = f"on a grid of {grid} the fraction is not right. Do a grid of 2 on paper: its sides are 0 and 1."
            require(False, message)


def _inside(start: int, side: int, grid: int) -> int:
    """The part of a side that lies within the grid."""
    return min(start + side, grid) - max(start, 0)


_BOXES = [(1, 0, 4, 2), (0, 2, 2, 5), (2, 1, 5, 3), (0, 3, 4, 5)]  # several: one loss may agree by chance
_PARTNER = "images get a wrong partner: it is the one at the same place of the flipped batch."


@exercise("6.5")
def mixed_loss(answer: Callable[..., Tensor]) -> None:
    """Image by image and token by token, each term by itself."""
    images, classes, grid = 5, 6, 5
    class_logits, y = _draw_where_partners_matter(images, classes)
    token_logits, token_y = _draw_where_partners_matter(images, grid**2, classes)

    def loss(beta: float, box: Box) -> Tensor:
        logits = class_logits.clone().requires_grad_()
        found = answer(logits, token_logits, y, token_y, box, beta)
        require_tensor(found, (), "the loss")
        message = "no gradient comes back from the loss to the logits. Keep to tensors: no `.item()`, no `float()`."
        require(found.requires_grad or beta == 0, message)
        return found.detach()

    whole, of_class = (torch.stack([loss(beta, box) for box in _BOXES]) for beta in (2.0, 0.0))
    _require_class_term(of_class, whole, class_logits, y, grid)
    _require_tokens_term((whole - of_class) / 2, token_logits, token_y)
    none, every = (2, 3, 2, 3), (0, 0, grid, grid)
    wanted = _cross_entropy(class_logits, y) + 0.5 * _cross_entropy(token_logits, token_y)
    require(
        are_close(loss(0.5, none), wanted), "right for most boxes, but not for an empty one, where nothing is mixed."
    )
    wanted = _cross_entropy(class_logits, y.flip(0)) + 0.5 * _cross_entropy(token_logits, token_y.flip(0))
    require(are_close(loss(0.5, every), wanted), "right for most boxes, but not for one that covers the whole grid.")


def _draw_where_partners_matter(*shape: int) -> tuple[Tensor, Tensor]:
    """Random logits and targets whose loss is another one with the partners' targets.

    It is one number, which may be the same by chance; then a target that is not mixed would look right.
    """
    while True:
        logits, targets = 3 * torch.randn(shape), (3 * torch.randn(shape)).softmax(dim=-1)
        if (_cross_entropy(logits, targets) - _cross_entropy(logits, targets.flip(0))).abs() > 0.1:
            return logits, targets


def _for_boxes(term: Callable[[Box], Tensor]) -> Tensor:
    return torch.stack([term(box) for box in _BOXES])


def _require_class_term(found: Tensor, whole: Tensor, logits: Tensor, y: Tensor, grid: int) -> None:
    """`found` are the losses where beta is 0, `whole` where it is 2."""
    images, classes = y.shape

    def mixed(box: Box, more: int = 0, partner: Tensor | None = None) -> Tensor:
        top, left, bottom, right = box
        share = (bottom - top + more) * (right - left + more) / grid**2
        return (1 - share) * y + share * (y.flip(0) if partner is None else partner)

    def term(of_class: Callable[[Tensor, Tensor], Tensor], **options: Any) -> Tensor:
        return _for_boxes(lambda box: of_class(logits, mixed(box, **options)))

    wanted = term(_cross_entropy)
    message = "with beta = 0 nothing is left of the loss. The class token's term does not depend on beta."
    require(found.abs().max().item() > 1e-6, message)
    message = "beta is at the class token's term. It weighs the *patch tokens'* term."
    require(not are_close((whole - found) / 2, wanted), message)
    require(not are_close(found, whole), "beta changes nothing. It weighs the patch tokens' term.")
    mistakes = [
        (
            _for_boxes(lambda _: _cross_entropy(logits, y)),
            "the class target is not mixed. The class token sees both images, each by its area.",
        ),
        (
            _for_boxes(lambda box: _cross_entropy(logits, mixed(box).flip(0))),
            "the class target takes each image for the other: the *partner* has the box, the image itself the rest.",
        ),
        (
            term(_cross_entropy, more=1),
            "the box has a row and a column too many: bottom and right are the first ones outside.",
        ),
        *((term(_cross_entropy, partner=y.roll(step, 0)), _PARTNER) for step in (1, -1)),
        (
            term(lambda z, p: _cross_entropy(z.softmax(dim=-1), p)),
            "there are two softmaxes in a row. Cross-entropy takes logits, and makes probabilities of them itself.",
        ),
        (term(lambda z, p: -(p * z).sum() / images), "the logarithm of the softmax is missing."),
        (term(lambda z, p: -(p * z.softmax(dim=-1)).sum() / images), "the logarithm behind the softmax is missing."),
        (
            term(lambda z, p: _cross_entropy(z, p) - (p * p.log()).sum(dim=-1).neg().mean()),
            "the entropy of the targets has been taken off. Its gradient is the same; a cross-entropy keeps it.",
        ),
        (-wanted, "the sign is wrong: this loss falls where the prediction gets worse."),
        (images * wanted, "the class token's term is a sum over images. Take the mean."),
        (wanted / classes, "the class token's term is a mean over classes. A cross-entropy sums over them."),
    ]
    _require_none_of(found, wanted, mistakes)
    message = "the term of the class token is not right. Set beta to 0, and compare with a loop over images."
    require(are_close(found, wanted), message)


def _require_tokens_term(found: Tensor, logits: Tensor, y: Tensor) -> None:
    """`found` are the patch tokens' terms, without beta."""
    images, tokens, classes = y.shape

    def term(targets: Callable[[Box], Tensor]) -> Tensor:
        return _for_boxes(lambda box: _cross_entropy(logits, targets(box)))

    def by_area(box: Box) -> Tensor:
        top, left, bottom, right = box
        share = (bottom - top) * (right - left) / tokens
        return (1 - share) * y + share * y.flip(0)

    wanted = term(lambda box: _moved(y, box))
    mistakes = [
        (
            term(lambda _: y),
            "inside the box, the patch tokens' logits and targets belong to different images: neither has been moved.",
        ),
        (
            term(by_area),
            "every patch token's target is mixed by area. That is for the class token; a patch token has one source.",
        ),
        (
            term(lambda box: _moved(y, (box[1], box[0], box[3], box[2]))),
            "the box of the patch tokens lies on its side: a token's number is row times width, plus column.",
        ),
        (
            term(lambda box: _moved(y.flip(0), box)),
            "the tokens *outside* the box have been taken from the partner, and those inside left as they were.",
        ),
        (term(lambda _: y.flip(0)), "all targets come from the partner. Only those inside the box do."),
        *((term(lambda box, step=step: _moved(y, box, y.roll(step, 0))), _PARTNER) for step in (1, -1)),
        (tokens * wanted, "the patch tokens' term is a sum over the tokens. Take the mean."),
        (images * wanted, "the patch tokens' term is a sum over images. Take the mean."),
        (images * tokens * wanted, "the patch tokens' term is a sum over images and tokens. Take the mean."),
        (wanted / classes, "the patch tokens' term is a mean over classes. A cross-entropy sums over them."),
    ]
    _require_none_of(found, wanted, mistakes)
    message = "the class token's term is right, the patch tokens' is not. Follow one token inside the box."
    require(are_close(found, wanted), message)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over images, and over tokens where there are any: logits and targets are (B, K), or (B, N, K)."""
    of_images = [
        -(target * (scores - scores.logsumexp(dim=-1, keepdim=True))).sum(dim=-1).mean()
        for scores, target in zip(logits, targets, strict=True)
    ]
    return sum(of_images) / len(of_images)


def _moved(targets: Tensor, box: Box, partner: Tensor | None = None) -> Tensor:
    """Targets (B, N, K), the partner's inside the box."""
    grid = math.isqrt(targets.shape[1])
    top, left, bottom, right = box
    partner, moved = targets.flip(0) if partner is None else partner, targets.clone()
    for row, column in product(range(top, bottom), range(left, right)):
        moved[:, row * grid + column] = partner[:, row * grid + column]
    return moved


by_hand("6.4", "Open the solution, and give yourself the points of its rubric one by one.")
by_hand("6.6", "Open the solution for what a good comparison has, or ask somebody else to read yours by its rubric.")
