"""The captions of the live figures: what each shows as it opens, in numbers that are computed here as its script does.

The settings are those of the scripts in web/live; tests/book/test_live.py compares the words of both.
"""

from __future__ import annotations

from math import cos, exp, radians, sin, sqrt

from deepvit_edu.words import minus

KEYS = ((1.6, 0.3), (1.1, 1.2), (-0.2, 1.5), (-1.5, 0.4), (0.4, -1.4))  # of query.js
ANGLE, LENGTH = 60, 1.5
SIDE, KERNEL, STRIDE, PADDING = 12, 4, 2, 1  # of split.js
PATCHES, QUERY, KEY = 9, 4, 5  # of kernel.js
BLOCKS, TOKENS, KEPT, FIRST, WIDTH, HIDDEN = 24, 17, 5, 12, 64, 128  # of drop.js, the class token included


def live_caption(kind: str) -> str:
    """The caption of a live figure by its class, such as "live-query".

    Raises:
        KeyError: for a live figure without one.
    """
    return minus(CAPTIONS[kind]())


def largest_probability(length: float) -> tuple[int, float]:
    """The key that the query of chapter 1's figure looks at most, and its probability."""
    query = length * cos(radians(ANGLE)), length * sin(radians(ANGLE))
    powers = [exp((x * query[0] + y * query[1]) / sqrt(2)) for x, y in KEYS]
    key = max(range(len(KEYS)), key=powers.__getitem__)
    return key, powers[key] / sum(powers)


def query_caption() -> str:
    """Chapter 1: one query meets five keys."""
    (key, before), (_, after) = largest_probability(LENGTH), largest_probability(2 * LENGTH)
    return (
        f"One query and five keys. As it opens, key {key} has the largest probability, {before:.2f}; a query twice "
        f"as long gives it {after:.2f}."
    )


def split_caption() -> str:
    """Chapter 2: the windows of a soft split."""
    along = (SIDE + 2 * PADDING - KERNEL) // STRIDE + 1
    return (
        f"Which windows hold a pixel. As it opens, windows of {KERNEL} pixels start every {STRIDE}, with a padding of "
        f"{PADDING}: {along**2} windows in {SIDE} × {SIDE} pixels, and a pixel in the middle is in "
        f"{(KERNEL // STRIDE) ** 2} of them."
    )


def kernel_caption() -> str:
    """Chapter 5: a kernel over a map."""
    powers = [exp(3 * (key == (QUERY + 1) % PATCHES) + 1.5 * (key == 4)) for key in range(PATCHES)]
    return (
        f"A kernel over an attention map of {PATCHES} patches. As it opens, the kernel keeps every entry as it is: "
        f"query {QUERY} gives key {KEY} {powers[KEY] / sum(powers):.2f} before and after."
    )


def drop_caption() -> str:
    """Chapter 7: patches are dropped."""

    def work(tokens: int) -> int:
        return tokens * WIDTH * (4 * WIDTH + 2 * HIDDEN) + 2 * tokens * tokens * WIDTH

    left = (FIRST * work(TOKENS) + (BLOCKS - FIRST) * work(KEPT)) / (BLOCKS * work(TOKENS))
    return (
        f"Patches are dropped on the way through {BLOCKS} blocks. As it opens, it is set so that {KEPT - 1} of "
        f"{TOKENS - 1} stay from block {FIRST} on, those that the class token looks at most, and {left:.0%} of the "
        "multiplications."
    )


def networks_caption() -> str:
    """The front page and chapter 3: trained networks in the page."""
    from tools.book.live import MIDDLE, looks_most, start

    return (
        f"Where the {BLOCKS} blocks of a plain network (left) and of one with Re-attention look from one patch. As it "
        f"opens, block {MIDDLE} looks most: {looks_most(start()['networks'])}. Most is largest in size: maps of "
        "Re-attention are mixed and normed, so their entries have both signs."
    )


CAPTIONS = {
    "live-query": query_caption,
    "live-split": split_caption,
    "live-kernel": kernel_caption,
    "live-drop": drop_caption,
    "live-networks": networks_caption,
}
