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


@template(7)
def part_of_the_map(draw: Random) -> Question:
    """At how many tokens the map has a part of the price that the seed chooses, in a block that it changes."""
    part = draw.choice([2, 3, 4, 5])
    described, left, squared = draw.choice(
        [
            ("a usual block", "(4 + 2 * ratio)", 2),
            ("a block without its MLP, attention alone", "4", 2),
            (
                "a block whose queries see a quarter of the keys, all of which are still projected",
                "(4 + 2 * ratio)",
                0.5,
            ),
            ("a block whose queries and keys are half as wide as its values, C/2", "(3 + 2 * ratio)", 1.5),
            ("a block that takes its map from the block before: no queries, no keys, no scores", "(2 + 2 * ratio)", 1),
        ]
    )
    words = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}[part]
    head = '''\
def crossing(channels, ratio):
    """The number of tokens, as a number that need not be whole."""
'''
    hidden = f"""\
for channels, ratio in ((64, 3), (192, 4), (384, 2)):
    low, high = 0.0, 1e9
    for _ in range(200):  # the part grows with the tokens
        n = (low + high) / 2
        the_map = {squared} * n * n * channels
        others = {left} * n * channels * channels
        low, high = (n, high) if the_map * {part} < the_map + others else (low, n)
    assert abs(crossing(channels, ratio) / n - 1) < 1e-6, (channels, ratio)
"""
    return Question(
        exercise="7.4",
        variant=f"{described}, {words}",
        text=(
            f"Think of {described}, of $C$ channels; an MLP, where there is one, is `ratio` times as wide. At how many "
            f"tokens do the products that make or use its map take {words} of all the multiplications of its matrix "
            "products? Exponentials are not counted. Derive it, and write it as a function."
        ),
        stub=head + "    ...\n",
        solution=head + f"    return {left} * channels / ({squared} * {part - 1})\n",
        tests=(
            Test(1, "assert crossing(128, 4) > crossing(64, 4), 'a wider block needs more tokens'\n", ""),
            Test(3, "# The number is compared here with one that is searched, at several sizes.\n", hidden),
        ),
    )


@template(7)
def own_score(draw: Random) -> Question:
    """A small study of a score for tokens, designed and then run."""
    case, trap = draw.choice(
        [
            (
                "the length of a token after the last norm before the selection",
                "In a residual stream lengths grow with depth, and some places are always long: compare with fixed "
                "places, too, which tell whether the image was looked at.",
            ),
            (
                "the attention that a patch gets from all queries, and not from the class token alone",
                "The map must be formed for it, so the fused kernel is given up: the clock decides, not the count.",
            ),
            (
                "the distance of a token from the mean of its image's tokens",
                "Where deep tokens have become alike, the distances are small, and their order may be that of noise: "
                "report how alike the tokens are in each network.",
            ),
            (
                "how much a block has just changed a token, by the length of the difference",
                "Tokens of the block before have to be kept for it: that is memory, which no multiplications show.",
            ),
        ]
    )
    return Question(
        exercise="7.6",
        variant=case,
        text=(
            f"Somebody proposes to keep the quarter of the patch tokens with the largest score. The score is {case}. "
            "Plan a comparison with random dropping in two trained networks, plain and with LayerScale, and carry it "
            "out. Hand in the rule that you wrote before the runs, a table with differences and their errors, the "
            "cost of the score on paper and on the clock, and two sentences on what the result does not say."
        ),
        stub="",
        solution=(
            "Both arms keep equally many tokens before the same block, and differ in the score alone. The rule names "
            "the block, the difference that counts, and what would change one's mind. Differences of right and wrong "
            "are taken image by image, so that their error is that of a pair; several depths are shown, not the best. "
            f"{trap} One network of each kind, without training, says nothing of other networks, nor of networks that "
            "were trained to drop tokens."
        ),
        points=10,
        rubric=(
            "2: the rule and the expectation stand before the numbers",
            "2: arms differ in the score alone, with equal numbers of tokens",
            "2: differences are paired by image, with errors",
            "1: both networks, and several depths",
            "2: the cost of the score itself, on paper and on the clock, with what this score asks for",
            "1: limits: no training, one network of each kind",
        ),
    )
