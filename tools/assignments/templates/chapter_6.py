"""Graded questions on token labeling."""

from random import Random
from textwrap import indent

from ..question import Question, Test, all_or_nothing, number_test, template

IMPORTS = """\
import math

import torch
import torch.nn.functional as F
from torch import nn

from deepvit_edu import labels
"""


@template(6)
def trust_in_the_annotator(draw: Random) -> Question:
    """Mix the annotator's token targets with the image's label, by another rule of trust than the book's."""
    high, low = draw.choice([(0.9, 0.3), (0.8, 0.2), (0.95, 0.4), (0.7, 0.1)])
    rank, margin = draw.choice([2, 3]), draw.choice([0.2, 0.3, 0.4])
    described, code, reference = draw.choice(
        [
            (
                f"$r = {high}$ where the image's class is among the {rank} best classes of the token's own target, "
                f"else $r = {low}$",
                f"best = targets.topk({rank}, dim=-1).indices\n"
                f"trust = torch.where((best == classes[:, None, None]).any(dim=-1), {high}, {low})",
                f"{high} if sum(share > row[label] for share in row) < {rank} else {low}",
            ),
            (
                f"$r = {high}$ where the token's largest probability is ahead of its second largest by more than "
                f"{margin}, else $r = {low}$",
                "first, second = targets.topk(2, dim=-1).values.unbind(-1)\n"
                f"trust = torch.where(first - second > {margin}, {high}, {low})",
                f"{high} if sorted(row)[-1] - sorted(row)[-2] > {margin} else {low}",
            ),
            (
                f"$r = {low} + {round(high - low, 2)}\\, q$, where $q$ is the probability that the token's own target "
                "gives to the image's class",
                "own = (targets * F.one_hot(classes, targets.shape[-1])[:, None]).sum(dim=-1)\n"
                f"trust = {low} + {round(high - low, 2)} * own",
                f"{low} + {round(high - low, 2)} * row[label]",
            ),
            (
                f"$r = {high}\\,(1 - h / \\log K)$, where $h$ is the entropy of the token's own target with natural "
                "logarithms and $K$ the number of classes",
                "entropy = -(targets * targets.log()).sum(dim=-1)\n"
                f"trust = {high} * (1 - entropy / math.log(targets.shape[-1]))",
                f"{high} * (1 + sum(share * math.log(share) for share in row) / math.log(len(row)))",
            ),
        ]
    )
    head = '''\
def mixed_with_label(targets, classes):
    """Token targets (B, N, K), none of them 0, and the images' classes (B,) to token targets (B, N, K)."""
'''
    body = (
        f"{code}\ntrust = trust[..., None]  # (B, N, 1)\n"
        "return trust * targets + (1 - trust) * F.one_hot(classes, targets.shape[-1])[:, None]\n"
    )
    hidden = f"""\
def by_loops(targets, classes):
    mixed = torch.zeros(targets.shape)
    for b, label in enumerate(classes.tolist()):
        for t, row in enumerate(targets[b].tolist()):
            trust = {reference}
            for k, share in enumerate(row):
                mixed[b, t, k] = trust * share + (1 - trust) * (k == label)
    return mixed


targets, classes = (2 * torch.randn(6, 9, 5)).softmax(dim=-1), torch.randint(5, (6,))
torch.testing.assert_close(mixed_with_label(targets, classes), by_loops(targets, classes), rtol=1e-4, atol=1e-5)
"""
    return Question(
        exercise="6.1",
        variant=described,
        text=(
            "The annotator gives every patch token a target $p$ over $K$ classes; the image has a true class with the "
            "one-hot vector $o$. Replace each token's target by $r p + (1 - r)\\, o$. Each token has an $r$ of its "
            f"own: {described}."
        ),
        stub=head + "    ...\n",
        solution=head + indent(body, "    "),
        tests=(
            Test(
                1,
                "targets, classes = torch.randn(2, 4, 5).softmax(dim=-1), torch.tensor([0, 3])\n"
                "out = mixed_with_label(targets, classes)\n"
                "assert out.shape == (2, 4, 5), 'targets keep their shape'\n",
                "torch.testing.assert_close(out.sum(dim=-1), torch.ones(2, 4), rtol=1e-4, atol=1e-5)\n",
            ),
            Test(3, "# Probabilities are compared here with those of loops over images, tokens and classes.\n", hidden),
        ),
    )


@template(6)
def faulty_mixtoken(draw: Random) -> Question:
    """MixToken with a fault that the seed chooses: tokens, class targets and logits put back."""
    lines = {
        "inside": "inside[top:bottom, left:right] = True",
        "tokens": "mixed = torch.where(inside.flatten()[:, None], tokens.flip(0), tokens)",
        "logits": "logits = head(mixed)",
        "back": "logits = torch.where(inside.flatten()[:, None], logits.flip(0), logits)",
        "share": "share = (bottom - top) * (right - left) / side**2",
        "targets": "return logits, (1 - share) * targets + share * targets.flip(0)",
    }
    fault, wrong = draw.choice(
        [
            ("inside", "inside[left:right, top:bottom] = True"),
            ("inside", "inside[top : bottom + 1, left : right + 1] = True"),
            ("tokens", "mixed = torch.where(inside.flatten()[:, None], tokens.roll(1, 0), tokens)"),
            ("tokens", "mixed = torch.where(inside.flatten()[:, None], tokens, tokens.flip(0))"),
            ("back", "logits = torch.where(inside.flatten()[:, None], logits, logits.flip(0))"),
            ("back", "logits = logits.flip(0)"),
            ("share", "share = (bottom - top + right - left) / (2 * side)"),
            ("share", "share = math.sqrt((bottom - top) * (right - left)) / side"),
            ("targets", "return logits, share * targets + (1 - share) * targets.flip(0)"),
            ("targets", "return logits, (1 - share) * targets + share * targets.roll(1, 0)"),
        ]
    )
    head = '''\
def mix(tokens, targets, box, head):
    """Tokens (B, N, C), class targets (B, K), a box and a head: each token's logits, back in place, and the targets."""
    side, (top, left, bottom, right) = math.isqrt(tokens.shape[1]), box
    inside = torch.zeros(side, side, dtype=torch.bool)
'''
    setup = """\
tokens, targets = torch.randn(5, 36, 8), torch.randn(5, 3).softmax(dim=-1)
# What stands in for blocks and head looks at the neighbour, and at where a token stands.
places = torch.randn(36, 8)
head = lambda x: x.roll(1, 1) + places * x ** 2
boxes = [(0, 1, 3, 5), (2, 0, 5, 4), (1, 3, 5, 6), (3, 3, 3, 5), (0, 0, 6, 6)]
"""
    hidden = """\
for box in boxes:
    top, left, bottom, right = box
    cells = [row * 6 + column for row in range(top, bottom) for column in range(left, right)]
    pairs = [(b, cell) for b in range(5) for cell in cells]
    mixed = tokens.clone()
    for b, cell in pairs:
        mixed[b, cell] = tokens[4 - b, cell]
    seen = head(mixed)
    wanted = seen.clone()
    for b, cell in pairs:
        wanted[b, cell] = seen[4 - b, cell]
    found, found_targets = mix(tokens, targets, box, head)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    wanted = torch.stack([((36 - len(cells)) * targets[b] + len(cells) * targets[4 - b]) / 36 for b in range(5)])
    torch.testing.assert_close(found_targets, wanted, rtol=1e-4, atol=1e-5)
"""

    def write(parts: dict[str, str]) -> str:
        return head + indent("\n".join(parts.values()) + "\n", "    ")

    return Question(
        exercise="6.5",
        variant=f"fault in {fault}: {wrong}",
        text=(
            "This function should do MixToken: inside the box (top, left, bottom, right in cells, the last two "
            "outside) the tokens come from the flipped batch; then come the blocks and the head, here one function "
            "`head`; the logits inside the box are put back to their own image; and the class targets are mixed by "
            "area. It runs, and one line of it is wrong. Mend it."
        ),
        stub=write({**lines, fault: wrong}),
        solution=write(lines),
        tests=(
            all_or_nothing(
                Test(
                    1,
                    "out = mix(torch.randn(3, 16, 2), torch.randn(3, 7), (1, 1, 3, 4), nn.Linear(2, 7))\n"
                    "assert out[0].shape == (3, 16, 7) and out[1].shape == (3, 7)\n",
                    "assert out[0].isfinite().all() and out[1].isfinite().all()\n",
                ),
                # One test for both outputs: the stub has one of them right already.
                Test(3, "# Logits and class targets are compared here with those of loops.\n", setup + hidden),
            ),
        ),
    )


@template(6)
def count_a_cut_box(draw: Random) -> Question:
    """Count what the edge of the grid leaves of a box of fixed size."""
    grid = draw.choice([7, 8, 10, 12, 14])
    height, width = draw.sample([2, 3, 4, 5, 6], 2)

    def kept(side: int) -> list[range]:
        starts = [centre - side // 2 for centre in range(grid)]
        return [range(max(start, 0), min(start + side, grid)) for start in starts]

    rows, columns = kept(height), kept(width)
    share = sum(map(len, rows)) * sum(map(len, columns)) / grid**4
    whole = sum(len(part) == height for part in rows) * sum(len(part) == width for part in columns) / grid**2
    corner = sum(0 in part for part in rows) * sum(0 in part for part in columns) / grid**2
    numbers = {"mean_share": share, "cut": 1 - whole, "corner": corner}
    solution = f"""\
grid, height, width = {grid}, {height}, {width}


def parts(side):
    starts = [centre - side // 2 for centre in range(grid)]
    return [range(max(start, 0), min(start + side, grid)) for start in starts]


pairs = [(rows, columns) for rows in parts(height) for columns in parts(width)]
mean_share = sum(len(rows) * len(columns) for rows, columns in pairs) / len(pairs) / grid**2
cut = sum(len(rows) * len(columns) < height * width for rows, columns in pairs) / len(pairs)
corner = sum(0 in rows and 0 in columns for rows, columns in pairs) / len(pairs)
"""
    tests = [
        number_test(points, name, f"assert abs({name} - {value!r}) < 5e-4\n")
        for (name, value), points in zip(numbers.items(), (2, 1, 2), strict=True)
    ]
    return Question(
        exercise="6.3",
        variant=f"{height} x {width} on {grid} x {grid}",
        text=(
            f"A variant of MixToken has a box of {height} × {width} cells (height × width) on a grid of {grid} × "
            f"{grid} tokens. Its centre is any cell, all with the same probability. The box begins ⌊height / 2⌋ rows "
            "above the centre's and ⌊width / 2⌋ columns left of it; what hangs over the edge is cut off. Find, to "
            "three decimals: (a) `mean_share`, the mean weight of the partner in the class target; (b) `cut`, the "
            "probability that a part of the box is cut off; (c) `corner`, the probability that the token in the upper "
            "left corner comes from the partner. Assign numbers, or expressions that compute them exactly."
        ),
        stub="mean_share = ...\ncut = ...\ncorner = ...\n",
        solution=solution,
        tests=tuple(tests),
        secrets=tuple(f"{value:.4f}" for value in numbers.values()),
    )


@template(6)
def gradient_of_soft_targets(draw: Random) -> Question:
    """Derive the gradient of the patch tokens' term, with targets that need not sum to 1."""
    temperature = draw.choice([0.5, 2.0, 4.0])
    beta = draw.choice([0.25, 0.5, 2.0])
    smoothing = draw.choice([0.1, 0.2, 0.3])
    over, divisor = draw.choice(
        [("mean over images and tokens", "B * N"), ("sum over tokens and mean over images", "B")]
    )
    head = '''\
def gradient(logits, targets):
    """Token logits and token targets (B, N, K) to the gradient of the loss with respect to the logits (B, N, K)."""
'''
    body = f"""\
B, N, K = logits.shape
smooth = targets * (1 - {smoothing} + {smoothing} / K) + {smoothing} / K
total = smooth.sum(dim=-1, keepdim=True)
return {beta} / ({divisor}) * (total * (logits / {temperature}).softmax(dim=-1) - smooth) / {temperature}
"""
    hidden = f"""\
def wanted(logits, targets):
    B, N, K = logits.shape
    logits = logits.clone().requires_grad_()
    smooth = targets * (1 - {smoothing} + {smoothing} / K) + {smoothing} / K
    loss = -{beta} * (smooth * (logits / {temperature}).log_softmax(dim=-1)).sum() / ({divisor})
    return torch.autograd.grad(loss, logits)[0]


logits = 2 * torch.randn(4, 6, 5)
"""
    call = """\
expected = wanted(logits, targets)
with torch.inference_mode():
    torch.testing.assert_close(gradient(logits, targets), expected, rtol=1e-3, atol=1e-6)
"""
    return Question(
        exercise="6.5",
        variant=f"temperature {temperature}, beta {beta}, smoothing {smoothing}, {over}",
        text=(
            "Derive the gradient of a loss, and write it without autograd (the tests switch it off). The target $p$ "
            "of a token need not sum to 1, for some classes may have been left out. Each $p_k$ is smoothed to $p'_k = "
            f"p_k (1 - s + s / K) + s / K$ with $s = {smoothing}$. The cross-entropy of the token is $-\\sum_k p'_k "
            f"\\log \\operatorname{{softmax}}(z / T)_k$ with $T = {temperature}$, and the loss is $\\beta = {beta}$ "
            f"times the {over} of these cross-entropies."
        ),
        stub=head + "    ...\n",
        solution=head + indent(body, "    "),
        tests=(
            Test(
                1,
                "out = gradient(torch.randn(2, 3, 4), torch.randn(2, 3, 4).softmax(dim=-1))\n"
                "assert out.shape == (2, 3, 4), 'a gradient has the shape of the logits'\n",
                "assert out.isfinite().all()\n",
            ),
            Test(
                2,
                "# Compared here with autograd, for targets that are probabilities.\n",
                hidden + "targets = torch.randn(4, 6, 5).softmax(dim=-1)\n" + call,
            ),
            Test(
                2,
                "# And for targets of which some classes were left out, so that tokens differ in their sum.\n",
                hidden + "targets = torch.rand(4, 6, 5) * (torch.rand(4, 6, 5) < 0.6)\n" + call,
            ),
        ),
    )


@template(6)
def which_part_helps(draw: Random) -> Question:
    """What a table of arms says about knowledge, number and places of labels, in words."""
    base = draw.randint(640, 780) / 10
    half = draw.choice([0.3, 0.4, 0.5])
    gains, reading = draw.choice(
        [
            (
                (0.1, 2.1, 2.0, 2.2),
                "What the annotator knows of whole crops gives nearly the whole gain: the class token's soft target "
                "alone has it, and neither more targets nor places add anything that the intervals could tell from "
                "zero.",
            ),
            (
                (1.8, 0.1, 1.9, 2.0),
                "The number of targets does the work: the image's own label, given to all tokens, has nearly the "
                "whole gain, and neither the annotator's knowledge nor places add to it measurably.",
            ),
            (
                (0.1, 0.2, 0.1, 2.3),
                "Places do the work: the same soft labels at shuffled places give nothing, at their own places all of "
                "the gain.",
            ),
            (
                (0.2, 1.1, 1.2, 2.4),
                "Two parts add up: the annotator's knowledge of whole crops gives about half of the gain and labels "
                "at the right places the other half; many targets as such add nothing.",
            ),
            (
                (0.1, 0.2, 2.2, 2.3),
                "Knowledge and number are needed together: soft labels for all tokens help even at shuffled places, "
                "while the soft label of the class token alone and hard labels for all do not.",
            ),
        ]
    )
    arms = [
        "the image's label for every token",
        "annotator's soft label, class token only",
        "annotator's labels for all tokens, places shuffled within each image",
        "annotator's labels for all tokens, in place",
    ]
    rows = "\n".join(
        f"| {arm} | {base + gain:.1f} | {gain:+.1f} ± {half} |" for arm, gain in zip(arms, gains, strict=True)
    )
    return Question(
        exercise="6.6",
        variant=f"{gains}, base {base}, ± {half}",
        text=(
            "A study on made-up numbers, ten seeds an arm, paired, the same model and steps:\n\n"
            "| taught with | accuracy, % | difference to the first row, points, 95 % interval |\n|---|---|---|\n"
            f"| the image's label, class token only | {base:.1f} | – |\n{rows}\n\n"
            "All rows are read off the class token alone. Write five to seven sentences. Which part of token labeling "
            "does the work here: what the annotator knows, the number of targets, or their places? Name the pair of "
            "rows behind each statement. A colleague notes that the last row has the highest training loss: does that "
            "count against it? Another compares the last row with a published model that has other layers and was "
            "taught with class labels: what can be concluded?"
        ),
        stub="",
        solution=(
            f"{reading} The pairs: the second row against the first for number without knowledge, the third against "
            "the first for knowledge without number, the fourth against the third for number with knowledge, the "
            "fifth against the fourth for places. The training loss counts for nothing, since soft targets put a "
            "floor under it, their own entropy, and the second term is added on top; losses with different targets "
            "cannot be compared. Against the published model both layers and labels differ, so nothing follows about "
            "the layers: one has to teach both with the same labels. The intervals hold for this model and these "
            "steps only."
        ),
        points=6,
        rubric=(
            "2: names the part that does the work as the numbers have it, and reads the intervals",
            "1: names for each statement a pair of rows that differs in that part alone",
            "1: losses with different targets cannot be compared; soft targets have a floor",
            "1: against the published model two things differ, so layers cannot be judged",
            "1: says what would be needed: the same labels for both, or names the limits of this study",
        ),
        secrets=(reading,),
    )
