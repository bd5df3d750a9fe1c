"""Graded questions on Refiner."""

from random import Random

from ..question import Question, Test, all_or_nothing, number_test, template

IMPORTS = """\
import math

import torch
import torch.nn.functional as F
from torch import nn
"""


@template(5)
def kernels_for_a_wish(draw: Random) -> Question:
    """Two kernels: one asked for by what it does to a map, one by what it does to the values."""
    back, ahead = draw.choice([1, 2]), draw.choice([1, 2])
    near, far = draw.sample([-2, -1, 1, 2], 2)
    weight = draw.choice([0.25, 0.5, 0.75])
    described = "before" if near < 0 else "after", "before" if far < 0 else "after"
    hidden_rows = f"""\
attn, made = torch.rand(9, 9), torch.zeros(9, 9)
for q in range({back}, 9):
    made[q, {ahead}:] = attn[q - {back}, : 9 - {ahead}]
found = F.conv2d(attn[None, None], rows_and_keys.float()[None, None], padding=2)[0, 0]
torch.testing.assert_close(found, made)
"""
    hidden_values = f"""\
attn, value, gathered = torch.rand(9, 9), torch.rand(9, 4), torch.zeros(9, 4)
for s in range(9):
    gathered[s] += {weight} * value[s + {near}] if 0 <= s + {near} < 9 else 0.0
    gathered[s] -= {1 - weight} * value[s + {far}] if 0 <= s + {far} < 9 else 0.0
found = F.conv2d(attn[None, None], as_values.float()[None, None], padding=2)[0, 0] @ value
torch.testing.assert_close(found, attn @ gathered)
"""
    return Question(
        exercise="5.3",
        variant=f"rows {back}, keys {ahead}, values {near} and {far}, weight {weight}",
        text=(
            "A kernel $w$ of 5 × 5 turns a map $A$ into $\\hat{A}_{q,t} = \\sum_{i,j} w_{i,j} "
            "A_{q+i,\\,t+j}$, with offsets from −2 to 2 and zeros beyond the ends; the entry for the offset $(i, "
            "j)$ stands at `[2 + i, 2 + j]`. Give two tensors of shape (5, 5).\n\n"
            f"(a) `rows_and_keys`: each query uses the row of the query {_places(back)} *before* it in the list, and "
            f"attends to the token {_places(ahead)} *after* each one to which that row points.\n\n"
            "(b) `as_values`: $\\hat{A} V$ is what $A$ would make of other values. In place of $V_s$ stands "
            f"{weight} times the value {_places(abs(near))} {described[0]} it, less {1 - weight} times the value "
            f"{_places(abs(far))} {described[1]} it (zero where there is none)."
        ),
        stub="rows_and_keys = ...\nas_values = ...\n",
        solution=(
            f"rows_and_keys, as_values = torch.zeros(2, 5, 5)\nrows_and_keys[2 - {back}, 2 - {ahead}] = 1\n"
            f"as_values[2, 2 - ({near})] = {weight}\nas_values[2, 2 - ({far})] = -{1 - weight}\n"
        ),
        tests=(
            Test(
                2,
                "assert isinstance(rows_and_keys, torch.Tensor) and rows_and_keys.shape == (5, 5)\n",
                hidden_rows,
            ),
            Test(2, "assert isinstance(as_values, torch.Tensor) and as_values.shape == (5, 5)\n", hidden_values),
        ),
    )


@template(5)
def attention_over_offsets(draw: Random) -> Question:
    """Outputs of a map that is refined over three offsets, along one axis."""
    axis = draw.choice(["keys", "queries"])
    offsets = sorted(draw.sample(range(-3, 4), 3))
    while sorted(-o for o in offsets) == offsets or sum(offsets) == 0:  # turned around, it would be no other question
        offsets = sorted(draw.sample(range(-3, 4), 3))
    told = ", ".join(str(o).replace("-", "−") for o in offsets)
    formula = "A_{q,\\,t+o_m}" if axis == "keys" else "A_{q+o_m,\\,t}"
    head = '''\
def outputs(attn, value, w):
    """Maps (H, N, N), values (H, N, D), weights (H, 3), each head its own: to the outputs (H, N, D)."""
'''
    moved, result = {
        "keys": ("F.pad(value, (0, 0, 3, 3))", "attn @ gathered"),
        "queries": ("F.pad(attn @ value, (0, 0, 3, 3))", "gathered"),
    }[axis]
    sign = "-" if axis == "keys" else "+"
    body = f"""\
    tokens, gathered = value.shape[1], 0
    padded = {moved}
    for m, o in enumerate({tuple(offsets)}):
        gathered = gathered + w[:, m, None, None] * padded[:, 3 {sign} o : 3 {sign} o + tokens]
    return {result}
"""
    entry = "attn[h, q, t + o] if 0 <= t + o < 11" if axis == "keys" else "attn[h, q + o, t] if 0 <= q + o < 11"
    reference = f"""\
refined = torch.zeros_like(attn)
for h in range(2):
    for q in range(11):
        for t in range(11):
            for m, o in enumerate({tuple(offsets)}):
                refined[h, q, t] += w[h, m] * ({entry} else 0.0)
torch.testing.assert_close(outputs(attn, value, w), refined @ value, rtol=1e-3, atol=1e-4)
"""
    drawn = "attn, value, w = torch.rand(2, 11, 11), torch.randn(2, 11, 4), torch.randn(2, 3)\n"
    quiet = "attn[:, :3], attn[:, -3:], attn[..., :3], attn[..., -3:], value[:, :3], value[:, -3:] = 0, 0, 0, 0, 0, 0\n"
    return Question(
        exercise="5.3",
        variant=f"{axis}, offsets {offsets}",
        text=(
            f"Each head's map is refined along the {axis} only, with three offsets $o = ({told})$ and three weights: "
            f"$\\hat{{A}}_{{q,t}} = \\sum_m w_m\\, {formula}$, zero where there is no token. Write `outputs(attn, "
            "value, w)`, which gives $\\hat{A} V$ for all heads of one image. You may convolve the map, or do the "
            "same to the values or to the outputs, which takes less."
        ),
        stub=head + "    ...\n",
        solution=head + body,
        tests=(
            Test(
                1,
                "out = outputs(torch.rand(2, 8, 8), torch.rand(2, 8, 5), torch.rand(2, 3))\n"
                "assert out.shape == (2, 8, 5), 'outputs have the shape of the values'\n",
                "assert out.isfinite().all()\n",
            ),
            Test(2, "# Here maps and values are zero near the ends of the list.\n", drawn + quiet + reference),
            Test(2, "# And here they are not.\n", drawn + reference),
        ),
    )


@template(5)
def faulty_dilated_refinement(draw: Random) -> Question:
    """A refinement whose kernels reach further along one axis, with a fault that the seed chooses."""
    apart, axis = draw.choice([2, 3]), draw.choice(["keys", "queries"])
    reach = (1, apart) if axis == "keys" else (apart, 1)
    other = reach[::-1]
    lines = {
        "wide": 'wide = torch.einsum("gh,bhqt->bgqt", expand, maps)',
        "local": _dilated("wide", "kernels[:, None]", reach, reach),
        "out": 'return torch.einsum("hg,bgqt->bhqt", reduce, local)',
    }
    around = f"F.pad(wide, ({reach[1]}, {reach[1]}, {reach[0]}, {reach[0]}), mode='circular')"
    one_sided = f"F.pad(wide, ({2 * reach[1]}, 0, {reach[0]}, {reach[0]}))"
    fault, wrong = draw.choice(
        [
            ("wide", 'wide = torch.einsum("hg,bhqt->bgqt", expand.reshape(maps.shape[1], -1), maps)'),
            ("wide", 'wide = torch.einsum("gh,bhqt->bgtq", expand, maps)'),
            ("local", _dilated("wide", "kernels[:, None]", other, other)),
            ("local", _dilated("wide", "kernels[:, None].flip(2, 3)", reach, reach)),
            ("local", _dilated("wide", "kernels[:, None].transpose(2, 3)", reach, reach)),
            ("local", _dilated(around, "kernels[:, None]", (0, 0), reach)),
            ("local", _dilated(one_sided, "kernels[:, None]", (0, 0), reach)),
            ("out", 'return torch.einsum("gh,bgqt->bhqt", reduce.reshape(-1, maps.shape[1]), local)'),
        ]
    )
    head = '''\
def dilated_refinement(maps, expand, kernels, reduce):
    """Maps (B, H, N, N), expansion (G, H), kernels (G, 3, 3), reduction (H, G): to refined maps (B, H, N, N)."""
'''

    def write(parts: dict[str, str]) -> str:
        return head + "".join(f"    {line}\n" for part in parts.values() for line in part.splitlines())

    hidden = f"""\
maps, expand = torch.rand(2, 3, 9, 9), torch.randn(6, 3)
kernels, reduce = torch.randn(6, 3, 3), torch.randn(3, 6)
refined = torch.zeros_like(maps)
for g in range(6):
    wide = (expand[g, :, None, None] * maps).sum(dim=1)
    padded = F.pad(wide, ({apart},) * 4)
    local = torch.zeros_like(wide)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            row, column = {apart} + i * {reach[0]}, {apart} + j * {reach[1]}
            local += kernels[g, 1 + i, 1 + j] * padded[:, row : row + 9, column : column + 9]
    refined += reduce[:, g, None, None] * local[:, None]
torch.testing.assert_close(dilated_refinement(maps, expand, kernels, reduce), refined, rtol=1e-3, atol=1e-4)
"""
    still = "queries" if axis == "keys" else "keys"
    return Question(
        exercise="5.2",
        variant=f"{axis} {apart} apart, fault in {fault}: {wrong}",
        text=(
            "This function should expand, convolve and reduce maps as Refiner does, with one change: the kernels join "
            f"{axis} that stand {apart} apart in the list, and {still} that stand side by side. So the offset $(i, j)$ "
            f"of a kernel reads the entry $(q + {'' if reach[0] == 1 else reach[0]}i,\\ t + "
            f"{'' if reach[1] == 1 else reach[1]}j)$, zero where there is no token. It runs and gives the right shape, "
            "and one statement of it is wrong. Mend it."
        ),
        stub=write({**lines, fault: wrong}),
        solution=write(lines),
        tests=(
            all_or_nothing(
                Test(
                    1,
                    "out = dilated_refinement(torch.rand(2, 2, 7, 7), torch.rand(4, 2), torch.rand(4, 3, 3), "
                    "torch.rand(2, 4))\nassert out.shape == (2, 2, 7, 7), 'refined maps have the shape of the maps'\n",
                    "assert out.isfinite().all()\n",
                ),
                Test(3, "# The numbers are compared here with those of loops over maps and offsets.\n", hidden),
            ),
        ),
    )


@template(5)
def cost_of_refinement(draw: Random) -> Question:
    """Count what the three steps add to a block."""
    heads, dim = draw.choice([(6, 32), (8, 48), (8, 64), (12, 32), (12, 64), (16, 32)])
    ratio, side = draw.choice([2, 3, 4, 6]), draw.choice([7, 8, 14, 16, 24])
    rows, columns = draw.choice([(1, 3), (1, 5), (3, 5), (5, 5)])
    tokens, wide = side * side + 1, ratio * heads
    weights = wide * (2 * heads + rows * columns)
    macs, attention = tokens**2 * weights, 2 * tokens**2 * heads * dim
    times = macs / attention
    return Question(
        exercise="5.5",
        variant=f"{heads} heads of {dim}, r {ratio}, kernel {rows} x {columns}, {side} x {side} patches",
        text=(
            f"A block has {heads} heads of {dim} channels, and {side} × {side} patches with a class token in front. "
            f"Its maps are expanded {ratio}-fold, each is convolved with a kernel of its own over {rows} "
            f"{'query' if rows == 1 else 'queries'} and {columns} keys, and they are reduced again, all without a "
            "bias. Count (a) the weights of the three steps; (b) their multiplications for one image, those with "
            "zeros beyond the border included; (c) how many times the multiplications of $Q K^T$ and $A V$ together "
            "these are. Assign numbers, or expressions that compute them."
        ),
        stub="weights = ...\nmacs = ...\ntimes = ...\n",
        solution=(
            f"maps = {ratio} * {heads}\nweights = maps * (2 * {heads} + {rows} * {columns})\n"
            f"macs = ({side} ** 2 + 1) ** 2 * weights\ntimes = macs / (2 * ({side} ** 2 + 1) ** 2 * {heads * dim})\n"
        ),
        tests=(
            number_test(
                2,
                "weights",
                f"assert weights == {weights}\n",
            ),
            number_test(
                1,
                "macs",
                f"assert macs == {macs}\n",
            ),
            number_test(
                1,
                "times",
                f"assert abs(times - {times!r}) < 0.005\n",
            ),
        ),
        secrets=(str(macs), f"{macs:,}", f"{times:.4f}"),
    )


@template(5)
def sum_of_a_row(draw: Random) -> Question:
    """What a row of a convolved map sums to, from two columns of the map."""
    kernel = [[draw.randint(-9, 9) / 10 for _ in range(3)] for _ in range(3)]
    first, last = ([draw.randint(2, 30) / 100 for _ in range(3)] for _ in range(2))
    lost = [[last[i], 0.0, first[i]] for i in range(3)]  # by the offset of the key: −1, 0, 1
    inner = sum(kernel[i][j] * (1 - lost[i][j]) for i in range(3) for j in range(3))
    edge = sum(kernel[i][j] * (1 - lost[i][j]) for i in (0, 1) for j in range(3))
    hidden = f"""\
kernel, first, last = torch.tensor({kernel}), torch.tensor({first}), torch.tensor({last})
between = (1 - first - last)[:, None] * torch.randn(3, 6).softmax(dim=-1)
attn = torch.cat([first[:, None], between, last[:, None]], dim=1)
"""
    convolved = (
        "found = F.conv2d(F.pad({rows}, (1, 1, 0, {below}))[None, None], kernel[None, None])[0, 0].sum().item()\n"
    )
    rows = "\n".join(
        f"| ${name}$ | {a:.2f} | {b:.2f} |" for name, a, b in zip(("q - 1", "q", "q + 1"), first, last, strict=True)
    )
    return Question(
        exercise="5.2",
        variant=f"kernel {kernel}, first {first}, last {last}",
        text=(
            "A softmax map $A$ is convolved to $\\hat{A}_{q,t} = \\sum_{i,j} w_{i,j} A_{q+i,\\,t+j}$, with "
            "zeros beyond the ends of the list. The kernel, with a line for each offset of the query from −1 to 1, is "
            f"`{kernel}`. Of three rows you know what they give to the first and to the last token:\n\n"
            f"| row | first token | last token |\n|---|---|---|\n{rows}\n\n"
            "What does row $q$ of $\\hat{A}$ sum to, (a) `inner`, where $q + 1$ is a token; (b) `at_the_end`, where "
            "$q$ is the last token, so that the third row does not exist? Assign numbers, or expressions that compute "
            "them."
        ),
        stub="inner = ...\nat_the_end = ...\n",
        solution=(
            f"kernel = torch.tensor({kernel})\nfirst, last = torch.tensor({first}), torch.tensor({last})\n"
            "lost = torch.stack([last, torch.zeros(3), first], dim=1)  # what the offsets −1, 0, 1 never reach\n"
            "sums = (kernel * (1 - lost)).sum(dim=1)\n"
            "inner, at_the_end = sums.sum().item(), sums[:2].sum().item()\n"
        ),
        tests=(
            number_test(
                2,
                "inner",
                hidden + convolved.format(rows="attn", below=0) + "assert abs(float(inner) - found) < 1e-3\n",
            ),
            number_test(
                2,
                "at_the_end",
                hidden + convolved.format(rows="attn[:2]", below=1) + "assert abs(float(at_the_end) - found) < 1e-3\n",
            ),
        ),
        secrets=(f"{inner:.3f}", f"{edge:.3f}"),
    )


@template(5)
def reading_controls(draw: Random) -> Question:
    """What a table of arms with a shuffled control shows, in words."""
    base, half = draw.randint(550, 850) / 10, draw.choice([0.3, 0.4, 0.5])
    reading, gains = draw.choice(
        [
            (
                "Only the refined network with the image's order gains; shuffling the patches takes the gain away. "
                "Weights, cost and start were the same, so what helps here is which patches are neighbours.",
                (0.1, 1.7, 0.2),
            ),
            (
                "The kernels help, and they help just as much when neighbours are meaningless. So the gain comes "
                "with the weights or with the way they train, not from locality.",
                (0.2, 1.6, 1.7),
            ),
            (
                "Mixing heads alone gives the whole gain. The kernels add nothing that the intervals could tell from "
                "zero, in either order, so there is no effect of neighbours to explain.",
                (1.5, 1.6, 1.5),
            ),
            (
                "No arm differs from plain attention by more than its interval. There is no gain to explain at this "
                "scale, and the table says how large an effect it could have missed.",
                (0.1, 0.2, 0.0),
            ),
            (
                "The kernels help in both orders, and more in the image's. Part of the gain comes with the weights, "
                "part from the neighbourhood; the table separates the two.",
                (0.1, 2.6, 1.2),
            ),
        ]
    )
    names = ("refined, kernels 1 × 1", "refined, kernels 3 × 3", "refined, 3 × 3, patches in a fixed random order")
    rows = "\n".join(
        f"| {name} | {base + gain:.1f} | {gain:+.1f} ± {half} |" for name, gain in zip(names, gains, strict=True)
    )
    return Question(
        exercise="5.6",
        variant=f"{gains}, base {base}, ± {half}",
        text=(
            "A study on made-up numbers, eight seeds an arm, paired:\n\n"
            f"| arm | accuracy, % | difference to plain, points, 95 % interval |\n|---|---|---|\n| plain | {base:.1f} "
            f"| – |\n{rows}\n\n"
            "Write five to seven sentences. What do the kernels bring here, and is it their neighbourhood? Which two "
            "rows have to be compared for that, and why is the interval of that comparison not the one printed? What "
            "does the study say about neighbours *in the image*? Name one arm that you would add, and what its "
            "outcomes would mean."
        ),
        stub="",
        solution=(
            f"{reading} To see it, compare the two rows with 3 × 3 kernels: they differ in the order of the list "
            "alone. The printed intervals are those of differences to plain; the one that is needed belongs to the "
            "paired differences between these two rows, and may be narrower or wider. Neighbours in the list are side "
            "by side in the image, or at opposite ends of two rows, and never one above the other; so the study "
            "speaks of the list. An arm whose rows of the map are convolved as pictures would have the image's "
            "neighbours: if it does better than 3 × 3, locality in the image is worth more than the list gives; if "
            "not, this study knows of no use for it."
        ),
        points=6,
        rubric=(
            "2: reads the pattern of the three refined arms rightly, the kernels apart from the mixing",
            "1: compares 3 × 3 with its shuffled control, and says that only the order differs",
            "1: the interval needed is that of the paired differences between these two arms",
            "1: tells neighbours in the list from neighbours in the image",
            "1: names an arm that differs in one thing, and what its outcomes would mean",
        ),
        secrets=(reading,),
    )


def _places(count: int) -> str:
    return {1: "one place", 2: "two places"}[count]


def _dilated(maps: str, kernels: str, padding: tuple[int, int], dilation: tuple[int, int]) -> str:
    """The statement of a depth-wise convolution, in two lines."""
    return (
        f"padded, weight = {maps}, {kernels}\n"
        f"local = F.conv2d(padded, weight, padding={padding}, dilation={dilation}, groups=len(weight))"
    )
