"""The checks of chapter 2, Tokens to token."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .engine import are_close, by_hand, exercise, require, require_number, require_tensor


@exercise("2.1")
def undo_a_split(answer: Callable[..., Tensor]) -> None:
    """Loops over windows, on windows of one image and on windows that disagree."""
    for case in ((7, 4, 2, 12), (3, 2, 1, 8), (4, 2, 0, 8)):
        kernel, stride, padding, side = case
        image = torch.randn(2, 3, side, side)
        tokens = F.unfold(image, kernel, padding=padding, stride=stride).transpose(1, 2)
        setting = f"the image of {side} pixels (windows of {kernel}, stride {stride}, padding {padding})"
        found = answer(tokens, side, kernel, stride, padding)
        require_tensor(found, tuple(image.shape), setting)
        _require_order(found, tokens, image, case)
        summed, counts = _stacked(tokens, *case)
        require(
            not are_close(found, summed),
            "where windows overlap, their numbers are added: a pixel that lies in four windows comes back four times "
            "as large. How many windows hold each pixel?",
        )
        shares = found / summed  # what each sum was multiplied with
        require(
            not are_close(shares, shares.mean().expand_as(shares)) or counts.min() == counts.max(),
            "every pixel is divided by the same number. Near the border fewer windows hold a pixel than in the "
            "middle, and in the middle it may also depend on the place.",
        )
        require(
            are_close(found, image),
            "the windows of an image do not give that image back. Try an image of 4 × 4 pixels.",
        )
        _require_average(answer, tokens, case)
    _require_bare_pixels(answer)


def _stacked(tokens: Tensor, kernel: int, stride: int, padding: int, side: int) -> tuple[Tensor, Tensor]:
    """Sums (B, C, side, side) of what the windows say about each pixel, and how many say something (side, side)."""
    across = (side + 2 * padding - kernel) // stride + 1
    channels, whole = tokens.shape[-1] // kernel**2, side + 2 * padding
    summed, counts = torch.zeros(len(tokens), channels, whole, whole), torch.zeros(whole, whole)
    for number in range(across**2):
        top, left = number // across * stride, number % across * stride
        window = tokens[:, number].reshape(len(tokens), channels, kernel, kernel)
        summed[:, :, top : top + kernel, left : left + kernel] += window
        counts[top : top + kernel, left : left + kernel] += 1
    inside = slice(padding, padding + side)
    return summed[:, :, inside, inside], counts[inside, inside]


def _require_order(found: Tensor, tokens: Tensor, image: Tensor, case: tuple[int, ...]) -> None:
    """No other order of tokens, or of the numbers in a token, than that of the split."""
    images, number, numbers = tokens.shape
    kernel = case[0]

    def merged(tokens: Tensor) -> Tensor:
        summed, counts = _stacked(tokens, *case)
        return summed / counts.clamp(min=1)

    scrambled = tokens.reshape(images, numbers, number).transpose(1, 2)
    message = (
        "the numbers are scrambled: a reshape from (B, N, numbers) to (B, numbers, N) keeps the order in memory, and "
        "so mixes windows. What moves an axis?"
    )
    require(not _either(found, scrambled, merged, case), message)
    channels_last = tokens.unflatten(2, (kernel, kernel, 3)).permute(0, 1, 4, 2, 3).flatten(2)
    message = (
        "the channels are mixed up within a window. A token holds the whole window of one channel first, then the next "
        "channel's."
    )
    require(not _either(found, channels_last, merged, case), message)
    message = "rows and columns are swapped: the first tokens are the first *row* of windows."
    require(not are_close(found, image.transpose(2, 3)), message)
    across = math.isqrt(number)
    by_columns = tokens.unflatten(1, (across, across)).transpose(1, 2).flatten(1, 2)
    require(not _either(found, by_columns, merged, case), message)


def _either(found: Tensor, tokens: Tensor, merged: Callable[[Tensor], Tensor], case: tuple[int, ...]) -> bool:
    """Whether `found` is made of these tokens, averaged or only added."""
    return are_close(found, merged(tokens)) or are_close(found, _stacked(tokens, *case)[0])


def _require_average(answer: Callable[..., Tensor], tokens: Tensor, case: tuple[int, ...]) -> None:
    """Windows that disagree."""
    kernel, stride, padding, side = case
    tokens = torch.randn_like(tokens)
    summed, counts = _stacked(tokens, *case)
    found = answer(tokens, side, kernel, stride, padding)
    require_tensor(found, tuple(summed.shape), "the image made of random tokens")
    message = (
        "windows of one image come back right, but where windows *disagree* about a pixel you do not take the "
        "average: does one of them overwrite the others?"
    )
    require(are_close(found, summed / counts), message)


def _require_bare_pixels(answer: Callable[..., Tensor]) -> None:
    """Windows that end before the image does."""
    kernel, stride, padding, side = 3, 2, 0, 8
    image = torch.randn(2, 3, side, side)
    tokens = F.unfold(image, kernel, padding=padding, stride=stride).transpose(1, 2)
    found = answer(tokens, side, kernel, stride, padding)
    require(
        isinstance(found, Tensor) and found.shape == image.shape, "the image should have the side that was asked for."
    )
    image[:, :, -1], image[:, :, :, -1] = 0, 0  # windows of 3, stride 2: the last one ends at pixel 6
    message = (
        "a pixel that no window holds is divided by zero, and becomes NaN. (Windows of 3 with stride 2 leave the last "
        "row and column of 8 pixels out.) It should be 0."
    )
    require(not bool(found.isnan().any()), message)
    require(are_close(found, image), "pixels that no window holds should be 0, and all others what the windows say.")


@exercise("2.2")
def seen_and_shared(answer: Callable[..., Sequence[Sequence[int]]]) -> None:
    """Counts pixels: windows of windows, as sets of places."""
    cases = [((7, 3, 3), (4, 2, 2)), ((7, 3, 3), (4, 2, 1)), ((4, 3, 2), (4, 2, 1)), ((5, 4, 3, 2), (2, 3, 1, 2))]
    cases.append((tuple(torch.randint(4, 8, (3,)).tolist()), tuple(torch.randint(2, 5, (3,)).tolist())))
    for kernels, strides in cases:
        found = answer(kernels, strides)
        case = f"windows {kernels}, strides {strides}"
        fits = isinstance(found, (list, tuple)) and len(found) == len(kernels)
        require(fits, f"{case}: return a list with one pair for each of the {len(kernels)} splits.")
        fits = all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in found)
        require(fits, f"{case}: each entry should be a pair (seen, shared).")
        _require_seen([float(seen) for seen, _ in found], kernels, strides, case)
        _require_shared([float(shared) for _, shared in found], kernels, strides, case)


def _columns(token: int, kernels: Sequence[int], strides: Sequence[int]) -> set[int]:
    """The columns of pixels that a token of the last of these splits depends on."""
    places = {token}
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        places = {place * stride + offset for place in places for offset in range(kernel)}
    return places


def _require_seen(found: list[float], kernels: Sequence[int], strides: Sequence[int], case: str) -> None:
    splits = range(1, len(kernels) + 1)
    wanted = [len(_columns(0, kernels[:i], strides[:i])) for i in splits]
    patches = [math.prod(strides[:i]) for i in splits]
    before = [1, *patches[:-1]]  # how far apart the pixels of the image stand that a split cuts

    def grown(steps: Sequence[int], start: int = 1) -> list[int]:
        """Each split adds (kernel - start) steps to a beginning of `start` pixels."""
        return [start + sum((kernels[n] - start) * steps[n] for n in range(i)) for i in splits]

    mistakes = [
        (
            grown(patches),
            "you let a split's own stride widen its window. What a window spans depends on how far apart the pixels "
            "stand that it is cut from; its own stride says how far apart the *next* image's pixels stand.",
        ),
        (grown(before, start=0), "posts and gaps: a window of 3 pixels spans from the first to the third, two gaps."),
        (patches, "that is the side of a patch of the same grid. Windows overlap, so a token sees more."),
        (
            [math.prod(kernels[:i]) for i in splits],
            "windows overlap, so the product of their sides counts pixels twice.",
        ),
        (grown([1] * len(kernels)), "after a stride of 4, neighbours in the image stand 4 pixels apart, not one."),
        (grown([1, *strides[:-1]]), "you count the last stride only. *All* strides before a split drive pixels apart."),
    ]
    for mistaken, message in mistakes:
        require(found == wanted or found != mistaken, f"{case}: {message}")
    wrong = [i for i in splits if found[i - 1] != wanted[i - 1]]
    message = f"{case}: what a token sees is wrong after split {min(wrong, default=0)}."
    require(not wrong, f"{message} Draw a row of pixels, and two splits with windows of 3 and stride 2.")


def _require_shared(found: list[float], kernels: Sequence[int], strides: Sequence[int], case: str) -> None:
    splits = range(1, len(kernels) + 1)
    seen = [_columns(0, kernels[:i], strides[:i]) for i in splits]
    wanted = [len(seen[i - 1] & _columns(1, kernels[:i], strides[:i])) for i in splits]
    message = (
        "the shared columns are counted in the image that the split cuts. How many pixels of the *picture* are that?"
    )
    mistaken = [kernel - stride for kernel, stride in zip(kernels, strides, strict=True)]
    require(found == wanted or found != mistaken, f"{case}: {message}")
    message = "neighbours after the last split are not its stride apart, but the product of all strides so far."
    mistaken = [len(columns) - stride for columns, stride in zip(seen, strides, strict=True)]
    require(found == wanted or found != mistaken, f"{case}: {message}")
    wrong = [i for i in splits if found[i - 1] != wanted[i - 1]]
    message = f"{case}: what a token sees is right, what it shares with its neighbour is wrong after split"
    require(not wrong, f"{message} {min(wrong, default=0)}. How far is the neighbour's window from its own?")


@exercise("2.3")
def performer(answer: Callable[..., Tensor]) -> None:
    """Every pair of a query and a key by itself, and a look at the largest tensor that is made."""
    images, tokens, dim, features = 2, 6, 4, 5
    query, key = 0.7 * torch.randn(2, images, tokens, dim)
    value, W = torch.randn(images, tokens, dim + 2), torch.randn(features, dim)
    found = answer(query, key, value, W)
    require_tensor(found, tuple(value.shape), "the output")
    alone = torch.cat([answer(*(part[n : n + 1] for part in (query, key, value)), W) for n in range(images)])
    message = "what an image gets depends on the others in the batch: a sum runs over images instead of keys."
    require(are_close(found, alone), message)
    faults = _faults(answer, found, query, key, value, W)
    if faults:
        more = ". One of them" if len(faults) > 1 else ""
        require(False, f"{_COUNTED[len(faults)]} in it{more}: {faults[0]}")
    exact = _shares(query, key, W, 0.5) @ value
    require(are_close(found, exact, 1e-3), "no fault that was handed out is left, and another one has come in.")


_COUNTED = {1: "there is still one fault", 2: "there are still two faults", 3: "there are still three faults"}


def _faults(answer: Callable[..., Tensor], found: Tensor, *parts: Tensor) -> list[str]:
    """What is wrong with the numbers of a Performer, and with its cost, in words."""
    query, key, value, W = parts
    outs = {(part, over): _shares(query, key, W, part, over) @ value for part in (0.0, 0.5, 1.0) for over in (1, 2)}
    part, over = next((name for name, out in outs.items() if are_close(found, out, 1e-3)), (None, None))
    faults = []
    if part == 1.0:
        faults.append(
            "the exponents are too small, so far too little comes out for long vectors. The mean of e^(w·x) "
            "over w says how much of |x|² to take off."
        )
    if part == 0.0:
        faults.append(
            "the squared length is missing in the exponents, so long vectors get too much. What does e^(w·x) average "
            "to?"
        )
    sums = answer(query, key, torch.ones_like(value), W)
    if over == 1:
        faults.append(
            "the probabilities of a *key* over all queries sum to 1. Each query distributes its attention over the "
            "keys."
        )
    elif not are_close(sums, torch.ones_like(sums), 1e-3):
        faults.append("the probabilities of a query do not sum to 1. Put ones in the place of the values to see it.")
    many = 160
    if _largest(answer, many, W) >= many**2:
        faults.append(
            "it costs too much: a map of N × N entries is formed on the way. Which two of three factors can be "
            "multiplied first?"
        )
    return faults


def _shares(query: Tensor, key: Tensor, W: Tensor, part: float, over: int = 2) -> Tensor:
    """The map (B, N, N) with which a Performer mixes, from all sums of a query and a key."""
    pairs = query[:, :, None] + key[:, None]  # (B, N, N, D)
    lengths = query.square().sum(-1)[:, :, None] + key.square().sum(-1)[:, None]
    likeness = sum((pairs @ w - part * lengths).exp() for w in W)
    return likeness / likeness.sum(dim=over, keepdim=True)


class _Sizes(TorchDispatchMode):
    """Notes the number of entries of the largest tensor that is made inside."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.largest = max(self.largest, out.numel())
        return out


def _largest(answer: Callable[..., Tensor], tokens: int, W: Tensor) -> int:
    query, key, value = 0.3 * torch.randn(3, 1, tokens, W.shape[1])
    with _Sizes() as sizes:
        answer(query, key, value, W)
    return sizes.largest


@exercise("2.4")
def relative_error(answer: Callable[..., float]) -> None:
    """The formula of the chapter, for vectors so short that chance leaves it alone."""
    M, draws, squared = 32, 1000, 0.5
    query, key = _pair(squared, product=-0.8)
    wanted = math.sqrt(math.expm1(squared) / M)
    found = require_number(answer(query, key, M, draws), "the relative error")
    _require_opposite(answer, query, M)
    message = "that is the formula's number, to many digits. The exercise asks for a measurement to compare it with."
    require(abs(found - wanted) > 1e-6 * wanted, message)
    few, many = (_seeded(answer, query, key, M, draws) for draws in (2, 50))
    message = "50 draws give the same error as 2, as if all had one set of directions. Draw W anew each time."
    require(abs(few - many) > 1e-5 * many, message)
    mistakes = [
        (wanted * math.exp(query @ key), "that is the absolute error. Divide it by what it is an error of."),
        (wanted**2, "that is the relative *variance*, a mean of squares. Its root is missing."),
        (wanted * math.sqrt(M), "that is the error of a single feature: average over the features before you compare."),
    ]
    again = float(answer(query, key, M, draws))  # one error of averaged estimates may lie anywhere
    for mistaken, message in mistakes:
        require(not all(0.7 < error / mistaken < 1.4 for error in (found, again)), message)
    message = "the estimates of all draws are averaged before they are compared, so that their errors cancel."
    require(found > wanted / 3, message)
    message = "that is the mean of the absolute errors. Take the root of the mean square."
    require(not 0.91 < found / wanted / math.sqrt(2 / math.pi) < 1.09, message)
    message = f"about {wanted:.3f} was expected for |q + k|² = {squared} and {M} features, and you measure {found:.3f}."
    require(0.87 < found / wanted < 1.13, f"{message} Are the directions standard normal numbers?")
    query, key = _pair(0.3, product=-0.2)
    found, wanted = float(answer(query, key, 8, 500)), math.sqrt(math.expm1(0.3) / 8)
    require(0.8 < found / wanted < 1.2, "right for 32 features, wrong for 8. Is a number of features written in?")


def _pair(squared: float, product: float, dim: int = 6) -> tuple[Tensor, Tensor]:
    """A query and a key with this |q + k|² and this q · k."""
    one, other = torch.linalg.qr(torch.randn(dim, 2)).Q.T
    total, difference = math.sqrt(squared) * one, math.sqrt(squared - 4 * product) * other
    return (total + difference) / 2, (total - difference) / 2


def _require_opposite(answer: Callable[..., float], query: Tensor, M: int) -> None:
    """For k = -q the directions cancel, and leave the mistakes in the features alone."""
    found, *again = (float(answer(query, -query, M, 20)) for _ in range(4))  # two may agree by chance
    message = (
        "for k = -q the product of the features is the same whatever the directions, and the error 0. Yours is not: do "
        "query and key have the same directions?"
    )
    alike = all(abs(found - other) < 1e-3 * found for other in again)
    require(max(found, *again) < 1e-2 or alike, message)
    length = (query @ query).item()
    mistakes = [
        (M - 1, "estimates are M times too large: divide features by the root of M, or average over their products."),
        (math.expm1(length), "estimates are too large by a factor: the squared lengths are missing in the features."),
        (-math.expm1(-length), "estimates are too small by a factor: *half* of a squared length comes off."),
    ]
    for mistaken, message in mistakes:
        require(abs(found - mistaken) > 0.01 * mistaken, message)
    message = f"for k = -q the estimate is exact, whatever the directions. Yours has an error of {found:.3g}."
    require(found < 1e-2, f"{message} Compare features and exact value for q of zeros, too.")


def _seeded(answer: Callable[..., float], query: Tensor, key: Tensor, M: int, draws: int) -> float:
    """An error from the same random numbers each time."""
    torch.manual_seed(2)
    return float(answer(query, key, M, draws))


by_hand("2.5", "Open the solution, and give yourself the points of its rubric one by one.")
by_hand("2.6", "Open the solution for what a good comparison has, or ask somebody else to read yours by its rubric.")
