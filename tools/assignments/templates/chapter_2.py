"""Graded questions on tokens to token: soft splits, what they see and cost, random features, and fair trials."""

import math
from random import Random
from textwrap import indent

from ..question import Question, Test, all_or_nothing, number_test, template

IMPORTS = """\
import math

import torch
import torch.nn.functional as F
from torch import nn
"""

# How the numbers of a window may be written into a token: in words; the token's axes; the order of these axes that
# makes (channels, rows, columns) of them; and, for tests, the place of a number (channel c, row i, column j).
_ORDERS = {
    "pixels": (
        "pixel by pixel along the rows of the window, all channels of a pixel together",
        "(kernel, kernel, channels)",
        (2, 0, 1),
        "(i * kernel + j) * channels + c",
    ),
    "pixels of columns": (
        "pixel by pixel along the *columns* of the window (the first column from top to bottom, then the next), all "
        "channels of a pixel together",
        "(kernel, kernel, channels)",
        (2, 1, 0),
        "(j * kernel + i) * channels + c",
    ),
    "columns of channels": (
        "channel by channel, and within a channel *column by column* (each from top to bottom)",
        "(channels, kernel, kernel)",
        (0, 2, 1),
        "(c * kernel + j) * kernel + i",
    ),
    "rows": (
        "row by row of the window, and within a row channel by channel",
        "(kernel, channels, kernel)",
        (1, 0, 2),
        "(i * channels + c) * kernel + j",
    ),
}


@template(2)
def merge_windows(draw: Random) -> Question:
    """Windows back to an image, in another order of numbers and with another rule for overlaps than the book's."""
    order = draw.choice(list(_ORDERS))
    rule = draw.choice(["largest", "smallest", "first", "last", "weighted"])
    told, axes, moved, place = _ORDERS[order]
    text, start, update, end, wanted = {
        "largest": (
            "the largest of their numbers counts",
            "image = torch.full((channels, side, side), -math.inf)",
            "here[...] = torch.maximum(here, window)",
            "image",
            "max(value for value, _ in said)",
        ),
        "smallest": (
            "the smallest of their numbers counts",
            "image = torch.full((channels, side, side), math.inf)",
            "here[...] = torch.minimum(here, window)",
            "image",
            "min(value for value, _ in said)",
        ),
        "first": (
            "the number of that window counts which comes first in the list of tokens",
            "image = torch.full((channels, side, side), math.nan)",
            "here[...] = torch.where(here.isnan(), window, here)",
            "image",
            "said[0][0]",
        ),
        "last": (
            "the number of that window counts which comes last in the list of tokens",
            "image = torch.zeros(channels, side, side)",
            "here[...] = window",
            "image",
            "said[-1][0]",
        ),
        "weighted": (
            "their weighted mean counts; a window's number in its row $i$ and column $j$, both counted from 0, has "
            "the weight $(i + 1)(j + 1)$",
            "image, weights = torch.zeros(channels, side, side), torch.zeros(side, side)\n"
            "line = torch.arange(1.0, kernel + 1)\nweight = line[:, None] * line",
            "here += weight * window\nweights[top : top + kernel, left : left + kernel] += weight",
            "image / weights",
            "sum(value * weight for value, weight in said) / sum(weight for _, weight in said)",
        ),
    }[rule]
    head = '''\
def merge(tokens, side, kernel, stride):
    """Tokens (N, channels * kernel²) of one image to the image (channels, side, side)."""
'''
    loop = (
        "top, left = number // across * stride, number % across * stride\n"
        f"window = token.reshape{axes}.permute{moved}\n"
        "here = image[:, top : top + kernel, left : left + kernel]\n" + update + "\n"
    )
    body = (
        "across, channels = (side - kernel) // stride + 1, tokens.shape[1] // kernel**2\n"
        f"{start}\nfor number, token in enumerate(tokens):\n{_indented(loop)}return {end}\n"
    )
    # Pixel by pixel: which windows hold it, and what do they say?
    hidden = f"""\
channels = 2
for side, kernel, stride in ((7, 3, 2), (8, 5, 3), (6, 3, 1)):
    across = (side - kernel) // stride + 1
    tokens = torch.randn(across**2, channels * kernel**2)
    wanted = torch.zeros(channels, side, side)
    for c in range(channels):
        for y in range(side):
            for x in range(side):
                said = []
                for number in range(across**2):
                    i, j = y - number // across * stride, x - number % across * stride
                    if 0 <= i < kernel and 0 <= j < kernel:
                        said.append((tokens[number, {place}].item(), (i + 1) * (j + 1)))
                wanted[c, y, x] = {wanted}
    torch.testing.assert_close(merge(tokens.clone(), side, kernel, stride), wanted, rtol=1e-4, atol=1e-5)
"""
    agree = f"""\
channels, side, kernel, stride = 3, 9, 3, 2
image, across = torch.randn(channels, side, side), 4
tokens = torch.zeros(across**2, channels * kernel**2)
for number in range(across**2):
    for c in range(channels):
        for i in range(kernel):
            for j in range(kernel):
                y, x = number // across * stride + i, number % across * stride + j
                tokens[number, {place}] = image[c, y, x]
torch.testing.assert_close(merge(tokens, side, kernel, stride), image, rtol=1e-4, atol=1e-5)
"""
    return Question(
        exercise="2.1",
        variant=f"order {order}, rule {rule}",
        text=(
            "A soft split without padding has cut an image into windows, row by row of windows from the top left. The "
            f"numbers of a window are written {told}. Write `merge`, which turns the tokens of one image back into the "
            f"image. Where several windows hold a pixel, {text}. You may rely on windows that reach every pixel."
        ),
        stub=head + "    ...\n",
        solution=head + _indented(body),
        tests=(
            Test(
                1,
                "out = merge(torch.randn(9, 18), 7, 3, 2)\n"
                "assert out.shape == (2, 7, 7), 'the image has two channels and 7 x 7 pixels'\n",
                "assert out.isfinite().all()\n",
            ),
            Test(2, "# Windows of one image, which agree, are merged here.\n", agree),
            Test(2, "# Windows that disagree are merged here.\n", hidden),
        ),
    )


@template(2)
def split_as_convolution(draw: Random) -> Question:
    """A soft split and a linear layer as one convolution, in another order of numbers than nn.Unfold's."""
    order = draw.choice(list(_ORDERS))
    before = draw.choice(["nothing", "mean", "first"])
    told, axes, moved, place = _ORDERS[order]
    text, change, prepared = {
        "nothing": ("", "weight = linear.weight", "token"),
        "mean": (
            " Before the linear layer, the mean of a token's numbers is subtracted from each of them.",
            "weight = linear.weight - linear.weight.mean(dim=1, keepdim=True)",
            "token - token.mean()",
        ),
        "first": (
            " Before the linear layer, the first number of a token is subtracted from all of its numbers.",
            "weight = linear.weight.clone()\nweight[:, 0] -= linear.weight.sum(dim=1)",
            "token - token[0]",
        ),
    }[before]
    head = '''\
def as_convolution(linear, channels, kernel, stride, padding):
    """The nn.Conv2d that does what the split and nn.Linear(channels * kernel², out) do together."""
'''
    body = (
        "convolution = nn.Conv2d(channels, linear.out_features, kernel, stride=stride, padding=padding)\n"
        "with torch.no_grad():\n"
        + _indented(
            f"{change}\nweight = weight.unflatten(1, {axes}).permute{(0, *(axis + 1 for axis in moved))}\n"
            "convolution.weight.copy_(weight)\nconvolution.bias.copy_(linear.bias)\n"
        )
        + "return convolution\n"
    )
    hidden = f"""\
for channels, kernel, stride, padding, side in ((3, 3, 2, 1, 7), (2, 4, 3, 0, 7), (4, 3, 1, 1, 4)):
    linear, image = nn.Linear(channels * kernel**2, 5), torch.randn(channels, side, side)
    padded, across = F.pad(image, (padding,) * 4), (side + 2 * padding - kernel) // stride + 1
    wanted = torch.zeros(5, across, across)
    with torch.no_grad():
        for row in range(across):
            for column in range(across):
                token = torch.zeros(channels * kernel**2)
                for c in range(channels):
                    for i in range(kernel):
                        for j in range(kernel):
                            token[{place}] = padded[c, row * stride + i, column * stride + j]
                wanted[:, row, column] = linear({prepared})
        found = as_convolution(linear, channels, kernel, stride, padding)(image[None])[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
"""
    return Question(
        exercise="2.1",
        variant=f"order {order}, before {before}",
        text=(
            "Somebody's soft split writes the numbers of a window into a token in an order of its own: "
            f"{told}. A linear layer follows.{text} Write `as_convolution`, which builds the one `nn.Conv2d` that "
            "does the same. (Its output is an image; the tokens are its pixels, row by row. Its padding is zeros, as "
            "the split's.)"
        ),
        stub=head + "    ...\n",
        solution=head + _indented(body),
        tests=(
            Test(
                2,
                "made = as_convolution(nn.Linear(27, 5), 3, 3, 2, 1)\n"
                "assert isinstance(made, nn.Conv2d), 'return an nn.Conv2d'\n"
                "assert made(torch.zeros(1, 3, 8, 8)).shape == (1, 5, 4, 4), 'windows of 3, stride 2, padding 1'\n",
                "linear = nn.Linear(27, 5)\n"
                "made = as_convolution(linear, 3, 3, 2, 1)\n"
                "torch.testing.assert_close(made(torch.zeros(1, 3, 8, 8))[0, :, 0, 0], linear.bias)\n",
            ),
            Test(3, "# The convolution is compared here with loops over windows.\n", hidden),
        ),
    )


@template(2)
def faulty_kernel(draw: Random) -> Question:
    """Random features of a tempered softmax kernel, with a fault that the seed chooses."""
    temperature = draw.choice([2, 3, 4, 9])
    pairs = draw.choice([True, False])  # each direction and its opposite, or each direction only
    lines = {
        "scale": f"query, key = query / math.sqrt({temperature}), key / math.sqrt({temperature})",
        "along": "along = torch.cat([x @ W.T, -x @ W.T], dim=-1)" if pairs else "along = x @ W.T",
        "length": "half = x.square().sum(dim=-1, keepdim=True) / 2",
        "features": f"return torch.exp(along - half) / math.sqrt({'2 * ' if pairs else ''}len(W))",
    }
    faults = [
        ("scale", f"query, key = query / {temperature}, key / {temperature}"),
        ("scale", f"query = query / math.sqrt({temperature})"),
        ("length", "half = x.norm(dim=-1, keepdim=True) / 2"),
        ("length", "half = x.square().mean(dim=-1, keepdim=True) / 2"),
        ("length", "half = x.square().sum(dim=-1, keepdim=True)"),
        ("features", f"return torch.exp(along - half) / ({'2 * ' if pairs else ''}len(W))"),
    ]
    if pairs:
        faults += [
            ("along", "along = torch.cat([x @ W.T, x @ W.T], dim=-1)"),
            ("features", "return torch.exp(along - half) / math.sqrt(len(W))"),
        ]
    fault, wrong = draw.choice(faults)
    if (fault, wrong) == faults[2] and draw.random() < 0.5:
        fault, wrong = "along", lines["along"].replace("x @ W.T", "F.normalize(x, dim=-1) @ W.T")

    def write(parts: dict[str, str]) -> str:
        inner = "def features(x):\n" + _indented("\n".join([parts["along"], parts["length"], parts["features"]]) + "\n")
        return (
            "def estimated_kernel(query, key, W):\n"
            f'    """Queries (N, D), keys (T, D), directions (M, D): to (N, T) about exp(q · k / {temperature})."""\n'
            + _indented(f"{inner}\n{parts['scale']}\nreturn features(query) @ features(key).T\n")
        )

    signs = "(1, -1)" if pairs else "(1,)"
    visible = """\
out = estimated_kernel(torch.randn(3, 4), torch.randn(5, 4), torch.randn(6, 4))
assert out.shape == (3, 5), 'one estimate for each query and key'
"""
    at_zero = """\
zeros = torch.zeros(2, 4)
torch.testing.assert_close(estimated_kernel(zeros, zeros, torch.randn(6, 4)), torch.ones(2, 2))
"""
    hidden = f"""\
query, key, W = torch.randn(4, 6), torch.randn(5, 6), torch.randn(7, 6)
wanted = torch.zeros(4, 5)
for n, q in enumerate(query):
    for t, k in enumerate(key):
        for sign in {signs}:
            powers = [sign * w @ (q + k) / {temperature}**0.5 - (q @ q + k @ k) / {2 * temperature} for w in W]
            wanted[n, t] += sum(power.exp() for power in powers) / {14 if pairs else 7}
torch.testing.assert_close(estimated_kernel(query, key, W), wanted, rtol=1e-3, atol=1e-5)
query, key = 0.5 * torch.randn(3, 4), 0.5 * torch.randn(3, 4)
found = estimated_kernel(query, key, torch.randn(300_000, 4))
torch.testing.assert_close(found, (query @ key.T / {temperature}).exp(), rtol=0.05, atol=0.0)
"""
    directions = "every direction $w$ and its opposite $-w$" if pairs else "every direction $w$"
    return Question(
        exercise="2.3",
        variant=f"temperature {temperature}, {'pairs' if pairs else 'single'}, fault in {fault}: {wrong}",
        text=(
            f"This function should estimate the kernel $e^{{q \\cdot k / {temperature}}}$ by random features, without "
            f"bias when the rows of $W$ are standard normal vectors. It uses {directions}, so each query and key has "
            f"{'$2M$' if pairs else '$M$'} features. It runs, and one line of it is wrong. Mend it."
        ),
        stub=write({**lines, fault: wrong}),
        solution=write(lines),
        tests=(
            all_or_nothing(
                Test(1, visible, at_zero),
                Test(
                    3,
                    "# The estimates are compared here with sums over single directions, and with the kernel.\n",
                    hidden,
                ),
            ),
        ),
    )


@template(2)
def count_two_splits(draw: Random) -> Question:
    """Count tokens, what they see, and what attention between the splits costs."""
    side = draw.choice([96, 128, 160, 192, 256])
    first = draw.choice([(7, 4, 2), (5, 4, 1), (9, 4, 3), (5, 2, 2)])  # window, stride, padding
    second = draw.choice([(3, 2, 1), (5, 2, 2), (4, 2, 1)])
    dim, features = draw.choice([32, 48, 64, 96]), draw.choice([16, 24, 40, 80])
    across = [(side + 2 * first[2] - first[0]) // first[1] + 1]
    across.append((across[0] + 2 * second[2] - second[0]) // second[1] + 1)
    tokens = (across[0] ** 2, across[1] ** 2)
    seen = first[0] + (second[0] - 1) * first[1]
    exact, linear = 2 * tokens[0] ** 2 * dim, 4 * tokens[0] * features * dim
    text = (
        f"Images have {side} × {side} pixels and 3 channels. A first soft split has windows of {first[0]}, stride "
        f"{first[1]} and padding {first[2]}; a layer of attention makes tokens of {dim} channels; a second soft split "
        f"has windows of {second[0]}, stride {second[1]} and padding {second[2]}. Count, for one image:\n\n"
        "- `tokens`: a pair, the numbers of tokens after the first and after the second split;\n"
        "- `width`: the numbers in a token of the second split;\n"
        "- `seen`: the columns of pixels that a token of the second split depends on, attention left out, far from the "
        "border;\n"
        f"- `exact_macs`: the multiplications of the exact layer's two products with its map, one head of {dim} "
        f"channels;\n- `linear_macs`: the multiplications of a Performer with {features} features in its place, "
        "without the map, the features of queries and keys included, the row sums and the division left out.\n\n"
        "Assign numbers, or expressions that compute them."
    )
    solution = (
        f"first = ({side} + 2 * {first[2]} - {first[0]}) // {first[1]} + 1\n"
        f"second = (first + 2 * {second[2]} - {second[0]}) // {second[1]} + 1\n"
        "tokens = (first**2, second**2)\n"
        f"width = {dim} * {second[0]} ** 2\n"
        f"seen = {first[0]} + ({second[0]} - 1) * {first[1]}  # neighbours stand {first[1]} pixels apart\n"
        f"exact_macs = 2 * tokens[0] ** 2 * {dim}\n"
        f"linear_macs = 4 * tokens[0] * {features} * {dim}\n"
    )
    return Question(
        exercise="2.2",
        variant=f"{side} pixels, {first}, {second}, {dim} channels, {features} features",
        text=text,
        stub="tokens = ..., ...\nwidth = ...\nseen = ...\nexact_macs = ...\nlinear_macs = ...\n",
        solution=solution,
        tests=(
            Test(
                1,
                "assert all(isinstance(count, int) for count in tokens), 'put two numbers in the place of the dots'\n",
                f"assert tuple(tokens) == {tokens}\n",
            ),
            number_test(1, "width", f"assert width == {dim * second[0] ** 2}\n"),
            number_test(1, "seen", f"assert seen == {seen}\n"),
            number_test(1, "exact_macs", f"assert exact_macs == {exact}\n"),
            number_test(1, "linear_macs", f"assert linear_macs == {linear}\n"),
        ),
        secrets=(str(exact), f"{exact:,}", str(linear), f"{linear:,}", str(tokens)),
    )


@template(2)
def judge_a_trial(draw: Random) -> Question:
    """What a made-up trial on sample efficiency shows, and which flaw of its design matters most, in words."""
    pattern, gains = draw.choice(
        [
            ("falls", (4.1, 2.0, 0.3)),
            ("grows", (0.2, 1.6, 3.4)),
            ("steady", (2.2, 2.1, 2.3)),
        ]
    )
    flaw, described, why, remedy = draw.choice(
        [
            (
                "one seed",
                "Each model was trained with seed 0; equal steps, equal multiplications, rates tuned for both.",
                "one seed says nothing about how far accuracies spread, so no gain can be told from chance",
                "five or more seeds, paired, with an interval for the slope",
            ),
            (
                "cost",
                "Five seeds, paired; equal steps, rates tuned for both; both have six blocks, and the T2T model takes "
                "1.7 times the multiplications.",
                "T2T has more multiplications, so its gain may be that of a larger model",
                "more blocks for the patches, until both cost the same",
            ),
            (
                "tuning",
                "Five seeds, paired; equal steps and multiplications; the rate was tuned for T2T, used for both.",
                "the rate suits T2T, so the patches may lose by their rate alone",
                "tuning both with the same effort, on held-out images",
            ),
            (
                "epochs",
                "Five seeds, paired; equal multiplications, rates tuned for both; 30 epochs at every number of images.",
                "30 epochs of few images are far fewer steps, so that few images and short training are mixed up",
                "the same number of steps at every number of images",
            ),
            (
                "classes",
                "Five seeds, paired; equal steps and multiplications, rates tuned for both; the smaller sets are the "
                "first 1,000 and 4,000 images of a folder that lies class by class.",
                "the small sets lack classes that the test set has, so that more differs than the number of images",
                "small sets drawn at random, with every class in them",
            ),
        ]
    )
    half = draw.choice([0.8, 1.1, 1.4])
    base = [draw.randint(410, 480) / 10, draw.randint(560, 620) / 10, draw.randint(700, 760) / 10]
    error = "not known" if flaw == "one seed" else f"± {half}"
    rows = "\n".join(
        f"| {count:,} | {low:.1f} | {low + gain:.1f} | {gain:+.1f} | {error} |"
        for count, low, gain in zip((1000, 4000, 16000), base, gains, strict=True)
    )
    reading = {
        "falls": "T2T's gain falls as the images grow in number, which is the pattern that the claim asks for",
        "grows": "T2T's gain grows with the number of images, which is the opposite of what the claim asks for",
        "steady": "T2T's gain is about the same at every number of images: better here, but no more sample-efficient",
    }[pattern]
    return Question(
        exercise="2.6",
        variant=f"gain {pattern}, flaw {flaw}, base {base}, ± {half}",
        text=(
            "The claim: *T2T's tokens are more sample-efficient than patches*, which is to say that its gain over "
            "patches is larger the fewer the training images are. A trial on made-up numbers, test accuracy in "
            "points:\n\n| training images | patches | T2T | gain | 95 % interval of the gain |\n|---|---|---|---|---|\n"
            f"{rows}\n\n{described}\n\n"
            "Write five to seven sentences. Do the gains, as they stand, have the pattern that the claim asks for? "
            "Which property of the design keeps you from believing it (or its opposite), and in which direction could "
            "it mislead? What would you change first? And name one outcome of the better trial that would speak "
            "*against* the claim."
        ),
        stub="",
        solution=(
            f"As they stand: {reading}. What keeps this from being evidence is the design: {why}. It could mislead "
            "either way about the slope, since its effect need not be the same at all numbers of images; the other "
            f"parts of the design are sound. The first change is {remedy}. Against the claim would speak a slope of "
            "the gain against the logarithm of the number of images whose interval lies at or above "
            f"zero{_table_note(math.log2(16), flaw)}."
        ),
        points=5,
        rubric=(
            "1: reads the pattern of the gains, as a change with the number of images and not as a single gain",
            f"2: finds the flaw that matters ({flaw}), and says how it could make such numbers by itself",
            "1: names a change of the design that removes it",
            "1: names an outcome against the claim: a gain that does not fall with more images, with an interval",
        ),
        secrets=(why, remedy, reading),
    )


def _table_note(doublings: float, flaw: str) -> str:
    """What the columns of the table can and cannot say of the slope."""
    if flaw == "one seed":
        return ", which takes more seeds than one to have at all"
    return f" over these {doublings:.0f} doublings"


def _indented(code: str) -> str:
    return indent(code, "    ", lambda line: line.strip() != "")
