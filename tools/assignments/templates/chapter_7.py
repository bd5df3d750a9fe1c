"""Graded questions on what attention costs."""

from random import Random
from textwrap import indent

from ..question import Question, Test, number_test, template

IMPORTS = """\
import torch
import torch.nn.functional as F
from torch import nn
"""


@template(7)
def pruned_network(draw: Random) -> Question:
    """Count the multiplications of a network that drops tokens, with numbers of its own."""
    depth, patches, channels = draw.choice([8, 10, 12]), draw.choice([100, 144, 196, 256]), draw.choice([192, 256, 384])
    ratio, keep = draw.choice([2, 3, 4]), draw.choice([0.5, 0.6, 0.8])
    before = draw.choice([(2, 5), (3, 6), (4, 7)])
    solution = (
        "multiplications = 0\n"
        f"for layer in range({depth}):\n"
        f"    cuts = sum(layer >= first for first in {before})\n"
        f"    n = 1 + int({patches} * {keep} ** cuts)\n"
        f"    multiplications += {4 + 2 * ratio} * n * {channels}**2 + 2 * n**2 * {channels}\n"
    )
    total = 0
    for layer in range(depth):
        n = 1 + int(patches * keep ** sum(layer >= first for first in before))
        total += (4 + 2 * ratio) * n * channels**2 + 2 * n**2 * channels
    return Question(
        exercise="7.1",
        variant=f"{depth} blocks, {patches} patches, {channels} channels, ratio {ratio}, {keep} before {before}",
        text=(
            f"A network has {depth} blocks, numbered from 0, of {channels} channels and MLP ratio {ratio}. A class "
            f"token and {patches} patch tokens enter. Before blocks {before[0]} and {before[1]} tokens are dropped: "
            f"after the $s$-th time $\\lfloor {patches} \\cdot {keep}^s \\rfloor$ patch tokens are left. How many "
            "multiplications do the blocks' matrix products take for one image? Assign the number to `multiplications`."
        ),
        stub="multiplications = ...\n",
        solution=solution,
        tests=(
            number_test(
                3,
                "multiplications",
                f"assert abs(multiplications / {total} - 1) < 1e-9, 'not the number of products'\n",
            ),
        ),
    )


@template(7)
def chosen_tokens(draw: Random) -> Question:
    """Keep tokens by a score that the seed chooses."""
    share = draw.choice([0.25, 0.3, 0.5, 0.6])
    described, code, reference = draw.choice(
        [
            ("its squared length", "scores = patches.square().sum(dim=-1)", "sum(v * v for v in token)"),
            ("minus its largest channel", "scores = -patches.amax(dim=-1)", "-max(token)"),
            (
                "its product with the class token",
                "scores = (patches * x[:, :1]).sum(dim=-1)",
                "sum(v * w for v, w in zip(token, rows[0]))",
            ),
            ("its smallest channel", "scores = patches.amin(dim=-1)", "min(token)"),
        ]
    )
    head = '''\
def keep(x):
    """Class token and patch tokens (B, 1 + N, C) to class token and the tokens that stay, in the order of the image."""
'''
    body = (
        "patches = x[:, 1:]\n"
        f"{code}\n"
        f"count = int({share} * patches.shape[1])\n"
        "index = scores.topk(count, dim=1).indices.sort(dim=1).values[..., None]\n"
        "return torch.cat([x[:, :1], patches.gather(1, index.expand(-1, -1, x.shape[-1]))], dim=1)\n"
    )
    hidden = f"""\
x = torch.randn(4, 21, 6)
found = keep(x)
for image, result in zip(x, found, strict=True):
    rows = image.tolist()
    scores = [{reference} for token in rows[1:]]
    chosen = sorted(sorted(range(20), key=scores.__getitem__)[-int({share} * 20):])
    wanted = torch.stack([image[0], *(image[1 + place] for place in chosen)])
    torch.testing.assert_close(result, wanted)
"""
    return Question(
        exercise="7.2",
        variant=f"{described}, {share}",
        text=(
            f"Every patch token gets a score: {described}. For each image the share {share} of the patch tokens, "
            "rounded down, goes on: those with the largest scores. The class token stays in front, and the others keep "
            "the order that they have in the image."
        ),
        stub=head + "    ...\n",
        solution=head + indent(body, "    "),
        tests=(
            Test(1, f"assert keep(torch.randn(2, 11, 4)).shape == (2, 1 + int({share} * 10), 4), 'the shape'\n", ""),
            Test(3, "# What is kept is compared here, image by image.\n", hidden),
        ),
    )


@template(7)
def keys_seen(draw: Random) -> Question:
    """A softmax over fewer keys, by a rule that the seed chooses."""
    number = draw.choice([2, 3, 4])
    described, rule, reference = draw.choice(
        [
            (
                f"the {number} keys with the largest scores of its own row",
                f"seen = scores >= scores.topk({number}, dim=-1).values[..., -1:]",
                f"k in sorted(range(8), key=lambda k: row[k])[-{number}:]",
            ),
            (
                f"keys at most {number} places away",
                f"place = torch.arange(scores.shape[-1])\nseen = (place[:, None] - place).abs() <= {number}",
                f"abs(k - q) <= {number}",
            ),
            (
                f"itself and every key whose number is a multiple of {number}",
                f"place = torch.arange(scores.shape[-1])\nseen = (place % {number} == 0) | (place[:, None] == place)",
                f"k % {number} == 0 or k == q",
            ),
        ]
    )
    head = '''\
def attention(scores):
    """Scores (H, N, N) to maps (H, N, N)."""
'''
    body = f"{rule}\nreturn scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)\n"
    hidden = f"""\
scores = torch.randn(2, 8, 8)
found = attention(scores)
for h in range(2):
    for q in range(8):
        row = scores[h, q].tolist()
        seen = [k for k in range(8) if {reference}]
        wanted = torch.zeros(8)
        wanted[seen] = scores[h, q, seen].softmax(dim=0)
        torch.testing.assert_close(found[h, q], wanted)
"""
    return Question(
        exercise="7.3",
        variant=described,
        text=(
            f"Each query sees {described}, and no other. Every row is a softmax over the keys that its query sees; the "
            "other entries are 0."
        ),
        stub=head + "    ...\n",
        solution=head + indent(body, "    "),
        tests=(
            Test(
                1,
                "out = attention(torch.randn(3, 8, 8))\nassert out.shape == (3, 8, 8), 'a map for each head'\n",
                "torch.testing.assert_close(out.sum(dim=-1), torch.ones(3, 8))\n",
            ),
            Test(3, "# The rows are compared here with softmaxes over the keys seen.\n", hidden),
        ),
    )


@template(7)
def saved_on_paper(draw: Random) -> Question:
    """Why a saving on paper is none on the clock."""
    case, reason = draw.choice(
        [
            (
                "tokens are masked in the softmax, and all of them still go through every block",
                "A mask takes no row out of any product: every matrix keeps its size, and the mask adds a pass.",
            ),
            (
                "a third of the weights of every projection is set to zero, at random places",
                "A dense product multiplies by zeros, too; only whole rows or columns make a matrix smaller.",
            ),
            (
                "each image keeps another number of tokens, and the batch is padded to the longest",
                "The batch costs what its longest image costs: the saving is that of the worst image, not of the mean.",
            ),
            (
                "attention is left out of a network of 17 tokens and 768 channels",
                "With so few tokens the two products with the map are a hundredth of a block, or less.",
            ),
        ]
    )
    return Question(
        exercise="7.5",
        variant=case,
        text=(
            f"Somebody reports a network with half of the attention, since {case}. The clock shows hardly a change. "
            "Explain in at most six sentences what was counted, what the machine does, and what would save time."
        ),
        stub="",
        solution=f"{reason} Time follows the sizes of the matrices and the bytes that move, not the useful products.",
        points=4,
        rubric=(
            "1: says what was counted",
            "2: says what the machine computes or moves all the same, for this case",
            "1: names a change that makes matrices smaller or moves fewer bytes",
        ),
    )
