"""Graded questions on attention collapse."""

import math
from random import Random
from textwrap import dedent, indent

from ..question import Question, Test, all_or_nothing, number_test, template

IMPORTS = """\
import math
from copy import deepcopy

import torch
import torch.nn.functional as F

from deepvit_edu.nn.attention import Attention, legible_attention
"""


@template(3)
def likeness_of_maps(draw: Random) -> Question:
    """A likeness of two maps: what is compared, what is taken off, and what is reported."""
    unit = draw.choice(["column", "row", "head"])
    centre = draw.choice(["nothing", "uniform", "column"])
    report = draw.choice(["lowest", "by image", "highest"])
    axes = {"column": "(-2,)", "row": "(-1,)", "head": "(-2, -1)"}[unit]
    compared = {
        "column": "column of the one map with the same column of the other",
        "row": "row of the one map with the same row of the other",
        "head": "head's whole map, as one long vector, with the whole map of the same head",
    }[unit]
    taken_off, centring = {
        "nothing": ("It takes nothing off before that.", ""),
        "uniform": (
            "Before that it takes the uniform map's entry, $1/N$, off both maps.",
            "one, other = (attn - 1 / attn.shape[-1] for attn in (one, other))\n",
        ),
        "column": (
            "Before that it takes from each column, in both maps, its mean over the queries.",
            "one, other = (attn - attn.mean(dim=-2, keepdim=True) for attn in (one, other))\n",
        ),
    }[centre]
    wanted, ending, loops = {
        "lowest": (
            "a tensor `(B,)`: for each image, the *lowest* mean among its heads (of a whole head: its one cosine)",
            "by_head.amin(dim=1)",
            "torch.stack([by_head[b].min() for b in range(3)])",
        ),
        "by image": (
            "a tensor `(B,)`: for each image, the mean over its heads",
            "by_head.mean(dim=1)",
            "torch.stack([sum(by_head[b]) / 4 for b in range(3)])",
        ),
        "highest": (
            "a tensor `(B,)`: for each image, the *highest* mean among its heads (of a whole head: its one cosine)",
            "by_head.amax(dim=1)",
            "torch.stack([by_head[b].max() for b in range(3)])",
        ),
    }[report]
    head = '''\
def likeness(one, other):
    """Two blocks' softmax maps (B, H, N, N) to one number for each image, (B,)."""
'''
    body = f"""\
{centring}products = (one * other).sum(dim={axes})
lengths = one.square().sum(dim={axes}).sqrt() * other.square().sum(dim={axes}).sqrt()
by_head = {"products / lengths" if unit == "head" else "(products / lengths).mean(dim=2)"}
return {ending}
"""
    vectors = {
        "column": "[(a[:, t], c[:, t]) for t in range(9)]",
        "row": "[(a[t], c[t]) for t in range(9)]",
        "head": "[(a.flatten(), c.flatten())]",
    }[unit]
    reference = {
        "uniform": "each - torch.full((9, 9), 1 / 9)",
        "column": "each - torch.full((9, 9), 1 / 9) @ each",
        "nothing": "each",
    }[centre]
    hidden = f"""\
for _ in range(3):
    size = torch.tensor([0.6, 1.2, 2.0])[:, None, None, None] * torch.linspace(0.2, 2, 9)[:, None]
    share = torch.tensor([0.1, 0.3, 0.5, 0.7])[:, None, None]
    common, *own = torch.randn(3, 3, 4, 9, 9)
    one, other = ((size * (share * common + (1 - share) * part)).softmax(dim=-1) for part in own)
    by_head = torch.zeros(3, 4)
    for b in range(3):
        for h in range(4):
            a, c = ({reference} for each in (one[b, h], other[b, h]))
            cosines = [F.cosine_similarity(u, v, dim=0) for u, v in {vectors}]
            by_head[b, h] = sum(cosines) / len(cosines)
    wanted = {loops}
    torch.testing.assert_close(likeness(one.clone(), other.clone()), wanted, rtol=1e-3, atol=1e-4)
"""
    return Question(
        exercise="3.2",
        variant=f"{unit}, {centre}, {report}",
        text=(
            "Write a likeness of two blocks' softmax maps. For every image and head it compares, by the cosine, each "
            f"{compared}. {taken_off} (Where a head has several cosines, its value is their mean.) Return {wanted}."
        ),
        stub=head + "    ...\n",
        solution=head + _indented(body),
        tests=(
            Test(
                1,
                "maps = torch.randn(2, 3, 4, 6, 6).softmax(dim=-1)\n"
                "assert likeness(*maps).shape == (3,), 'one number for each image'\n",
                "assert likeness(*maps).isfinite().all()\n"
                "torch.testing.assert_close(likeness(maps[0], maps[0]), torch.ones(3))\n",
            ),
            Test(4, "# The numbers are compared here with those of loops.\n", hidden),
        ),
    )


@template(3)
def faulty_renumbering(draw: Random) -> Question:
    """A renumbering of heads with a fault that the seed chooses, in an order that the seed chooses."""
    told, order = draw.choice(
        [
            ("in reverse: the last head first", "list(range(heads))[::-1]"),
            ("moved on by one: the last head first, then the others as they were", "[heads - 1, *range(heads - 1)]"),
            ("with the first two exchanged", "[1, 0, *range(2, heads)]"),
            ("with heads of odd number first, then those of even number", "[*range(1, heads, 2), *range(0, heads, 2)]"),
        ]
    )
    lines = {
        "order": f"order = {order}",
        "weight": "weight = attn.qkv.weight.unflatten(0, (3, heads, -1))[:, order].flatten(0, 2)",
        "bias": "bias = attn.qkv.bias.unflatten(0, (3, heads, -1))[:, order].flatten(0, 2)",
        "columns": "columns = attn.proj.weight.unflatten(1, (heads, -1))[:, order].flatten(1)",
    }
    fault, wrong = draw.choice(
        [
            ("weight", "weight = attn.qkv.weight.unflatten(0, (heads, 3, -1))[order].flatten(0, 2)"),
            ("weight", "weight = attn.qkv.weight.unflatten(0, (3, -1, heads))[:, :, order].flatten(0, 2)"),
            ("bias", "bias = attn.qkv.bias"),
            ("bias", "bias = attn.qkv.bias.unflatten(0, (3, -1, heads))[:, :, order].flatten(0, 2)"),
            ("columns", "columns = attn.proj.weight.unflatten(0, (heads, -1))[order].flatten(0, 1)"),
            ("columns", "columns = attn.proj.weight.unflatten(1, (-1, heads))[:, :, order].flatten(1)"),
        ]
    )
    head = '''\
def renumber(attn):
    """A copy of an attention that computes the same, with its heads in another order."""
    heads, copied = attn.num_heads, deepcopy(attn)
'''
    ending = (
        "with torch.no_grad():\n    copied.qkv.weight.copy_(weight)\n    copied.qkv.bias.copy_(bias)\n"
        "    copied.proj.weight.copy_(columns)\nreturn copied\n"
    )

    def write(parts: dict[str, str]) -> str:
        return head + _indented("\n".join(parts.values()) + "\n" + ending)

    prepared = """\
heads = 6
attn, x, order = Attention(24, num_heads=6).eval(), torch.randn(2, 5, 24), ORDER
torch.nn.init.normal_(attn.qkv.weight, std=0.4)
torch.nn.init.normal_(attn.qkv.bias)
with torch.no_grad(), legible_attention():
    out, maps = attn.forward_with_map(x)
    new_out, new_maps = renumber(attn).eval().forward_with_map(x)
""".replace("ORDER", order)
    return Question(
        exercise="3.3",
        variant=f"{told}; {wrong}",
        text=(
            "This function should return a copy of an attention that computes exactly the same, with its heads in "
            f"another order: {told}. It runs, and one line of it is wrong. Mend it. (Head `h` of the copy is head "
            "`order[h]` of the original; `qkv` makes queries, keys and values in this order, each with all its heads.)"
        ),
        stub=write({**lines, fault: wrong}),
        solution=write(lines),
        tests=(
            all_or_nothing(
                Test(
                    2,
                    "attn = Attention(12, num_heads=3)\n"
                    "assert renumber(attn).qkv.weight.shape == (36, 12), 'the shapes stay as they were'\n",
                    prepared + "for new, old in enumerate(order):\n"
                    "    torch.testing.assert_close(new_maps[:, new], maps[:, old], rtol=1e-3, atol=1e-5)\n",
                ),
                Test(
                    2,
                    "# Here the copy's output is compared with the original's.\n",
                    prepared + "torch.testing.assert_close(new_out, out, rtol=1e-3, atol=1e-4)\n",
                ),
            ),
        ),
    )


@template(3)
def turns_of_the_stream(draw: Random) -> Question:
    """Cosines along a stream of orthogonal branches, in numbers."""
    start, attention, mlp = draw.choice([2, 3, 5]), draw.choice([0.6, 0.8, 1.0]), draw.choice([1.2, 1.5, 2.0])
    block, bound = draw.choice([3, 4, 6, 8]), draw.choice([0.97, 0.98, 0.99])
    gained = attention**2 + mlp**2
    cosine = math.sqrt((start**2 + block * gained) / (start**2 + (block + 1) * gained))
    kept = math.sqrt(start**2 / (start**2 + block * gained))
    first = next(n for n in range(1000) if math.sqrt((start**2 + n * gained) / (start**2 + (n + 1) * gained)) >= bound)
    return Question(
        exercise="3.1",
        variant=f"start {start}, branches {attention} and {mlp}, block {block}, bound {bound}",
        text=(
            f"A residual stream starts with the length {start}. Each block adds two branches, attention's of length "
            f"{attention} and the MLP's of length {mlp}. All these vectors are orthogonal to each other. Assign "
            f"numbers, or expressions that compute them: (a) `cosine`, between the stream after {block} blocks and "
            f"after {block + 1}; (b) `kept`, the cosine between the start and the stream after {block} blocks; (c) "
            f"`first`, the smallest number $n$ of blocks, counted from 0, such that the stream after $n$ and after $n "
            f"+ 1$ blocks have a cosine of at least {bound}."
        ),
        stub="cosine = ...\nkept = ...\nfirst = ...\n",
        solution=(
            f"gained = {attention} ** 2 + {mlp} ** 2\n"
            f"squares = [{start} ** 2 + n * gained for n in range(1000)]\n"
            "cosines = [math.sqrt(now / then) for now, then in zip(squares, squares[1:])]\n"
            f"cosine = cosines[{block}]\nkept = math.sqrt(squares[0] / squares[{block}])\n"
            f"first = next(n for n, value in enumerate(cosines) if value >= {bound})\n"
        ),
        tests=(
            number_test(2, "cosine", f"assert abs(cosine - {cosine!r}) < 1e-3\n"),
            number_test(1, "kept", f"assert abs(kept - {kept!r}) < 2e-3\n"),
            number_test(2, "first", f"assert first == {first}\n"),
        ),
        secrets=(f"{cosine:.4f}", f"{kept:.4f}"),
    )


@template(3)
def level_by_chance(draw: Random) -> Question:
    """What a measure gives where there is nothing to find, for another measure and another shuffle than the book's."""
    what = draw.choice(["row cosine", "row distance", "column distance", "column overlap"])
    squared = draw.choice([False, True])
    axis = -1 if what.startswith("row") else -2
    name, other_axis = ("row", "keys") if axis == -1 else ("column", "queries")
    measure, code, one_order = {
        "row cosine": (
            "the cosine of the two rows",
            "n * one.mean(dim=-1) * other.mean(dim=-1) / (one.norm(dim=-1) * other.norm(dim=-1))",
            "F.cosine_similarity(a, c, dim=0)",
        ),
        "row distance": (
            "the *squared* distance between the two rows, $\\lVert a - a' \\rVert^2$",
            "one.square().sum(dim=-1) + other.square().sum(dim=-1) - 2 * n * one.mean(dim=-1) * other.mean(dim=-1)",
            "(a - c).square().sum()",
        ),
        "column distance": (
            "the *squared* distance between the two columns, $\\lVert a - a' \\rVert^2$",
            "one.square().sum(dim=-2) + other.square().sum(dim=-2) - 2 * n * one.mean(dim=-2) * other.mean(dim=-2)",
            "(a - c).square().sum()",
        ),
        "column overlap": (
            "the inner product of the two columns",
            "n * one.mean(dim=-2) * other.mean(dim=-2)",
            "a @ c",
        ),
    }[what]
    prepare = "one, other = one.square(), other.square()\n" if squared else ""
    head = '''\
def by_chance(one, other):
    """Mean of the measure over all orders, for two blocks' maps (B, H, N, N)."""
'''
    pick = "one[b, h, t], other[b, h, t]" if axis == -1 else "one[b, h, :, t], other[b, h, :, t]"
    hidden = f"""\
import itertools
for _ in range(2):
    maps = [(2 * torch.randn(2, 2, 4, 4) + torch.tensor([2.0, 0, 0, 0])).softmax(dim=-1) for _ in range(2)]
    one, other = {"(attn.square() for attn in maps)" if squared else "maps"}
    found, total = by_chance(*(attn.clone() for attn in maps)), []
    for b, h, t in itertools.product(range(2), range(2), range(4)):
        a, mixed = {pick}
        for order in itertools.permutations(range(4)):
            c = mixed[list(order)]
            total.append({one_order})
    wanted = torch.stack(total).mean().item()
    assert abs(float(found) - wanted) < 1e-3 * abs(wanted) + 1e-5
"""
    first = " Before anything else, every entry of both maps is squared." if squared else ""
    return Question(
        exercise="3.4",
        variant=f"{what}, squared {squared}",
        text=(
            f"A measure compares the {name}s of two blocks' maps, for every image, head and token: it takes {measure}, "
            f"and then the mean.{first} To see what it gives where there is nothing to find, the entries of each "
            f"{name} of the second map are put in a random order along the {other_axis}, each {name} for itself. Write "
            "`by_chance(one, other)`, the mean of the measure over **all** orders, exactly: in closed form, without "
            "shuffling. Return one number."
        ),
        stub=head + "    ...\n",
        solution=head + _indented(f"n = one.shape[-1]\n{prepare}return ({code}).mean()\n"),
        tests=(
            Test(
                1,
                "maps = torch.randn(2, 3, 2, 6, 6).softmax(dim=-1)\n"
                "assert torch.as_tensor(by_chance(*maps)).numel() == 1, 'one number'\n",
                "shuffled = maps[1].flip(AXIS)\n"
                "torch.testing.assert_close(torch.as_tensor(by_chance(maps[0], shuffled)), "
                "torch.as_tensor(by_chance(*maps)), rtol=1e-3, atol=1e-5)\n".replace("AXIS", str(axis)),
            ),
            Test(4, "# The number is compared here with the mean over all orders of small maps.\n", hidden),
        ),
    )


@template(3)
def attention_with_another_map(draw: Random) -> Question:
    """Replace the map of an attention, in part."""
    kind = draw.choice(["next image", "mean of heads", "uniform", "transposed", "next head"])
    part = draw.choice([0.25, 0.4, 0.75, -0.5])
    told, code, reference = {
        "next image": (
            "the map of the *next* image in the batch (for the last image, that of the first)",
            "attn.roll(-1, dims=0)",
            "torch.stack([attn[(b + 1) % 3] for b in range(3)])",
        ),
        "mean of heads": (
            "the mean of the maps of all heads of the same image",
            "attn.mean(dim=1, keepdim=True)",
            "torch.stack([sum(attn[:, h] for h in range(4)) / 4] * 4, dim=1)",
        ),
        "uniform": ("the uniform map", "1 / attn.shape[-1]", "torch.full_like(attn, 1 / 6)"),
        "transposed": (
            "its own map with queries and keys exchanged",
            "attn.transpose(-2, -1)",
            "torch.einsum('bhqt->bhtq', attn)",
        ),
        "next head": (
            "the map of the *next* head of the same image (for the last head, that of the first)",
            "attn.roll(-1, dims=1)",
            "torch.stack([attn[:, (h + 1) % 4] for h in range(4)], dim=1)",
        ),
    }[kind]
    head = '''\
def blended(attention, x):
    """Tokens (B, N, C) to what the attention would give with the blended map, (B, N, C)."""
'''
    body = f"""\
query, key, value = attention.split_heads(attention.qkv(x))
attn = attention.attention_map(query, key)
attn = {1 - part:g} * attn + {part} * {code}
return attention.merge_heads(attn @ value)
"""
    hidden = f"""\
attention, x = Attention(16, num_heads=4).eval(), torch.randn(3, 6, 16)
torch.nn.init.normal_(attention.qkv.weight, std=0.5)
with torch.no_grad():
    found = blended(attention, x)
    hook = attention.used_map.register_forward_hook(
        lambda module, inputs, attn: attn - {part} * (attn - {reference})
    )
    with legible_attention():
        wanted = attention(x)
    hook.remove()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
"""
    return Question(
        exercise="3.5",
        variant=f"{kind}, alpha {part}",
        text=(
            "Write `blended(attention, x)`: what an `Attention` of the book gives for tokens `x` when its map $A$ is "
            f"replaced by $(1 - \\alpha) A + \\alpha A'$ with $\\alpha = {part}$, where $A'$ is, for every head, "
            f"{told}. The attention is to be left as it was."
        ),
        stub=head + "    ...\n",
        solution=head + _indented(body),
        tests=(
            Test(
                1,
                "attention = Attention(8, num_heads=2).eval()\n"
                "assert blended(attention, torch.randn(3, 5, 8)).shape == (3, 5, 8), 'tokens to tokens'\n",
                "assert not attention.used_map._forward_hooks, 'a hook was left behind'\n",
            ),
            Test(3, "# The output is compared here with that of an attention whose map was replaced.\n", hidden),
        ),
    )


@template(3)
def reading_collapse(draw: Random) -> Question:
    """What likenesses and replacements of two made-up networks show, in words."""
    measures, meant, reading = draw.choice(_CASES)
    shift, images = draw.randint(-2, 2) / 100, draw.choice([500, 800, 2000])
    likeness, changes = measures[:4], measures[4:]
    rows = " | ".join(f"{value + shift:.2f}" for value in likeness)
    error = draw.choice([0.003, 0.004, 0.005])
    costs = " | ".join(f"{value:+.3f} ± {error}" for value in changes)
    return Question(
        exercise="3.5",
        variant=f"{meant}, shift {shift}, {images} images, error {error}",
        text=(
            "Made-up numbers: means over the deep half of one trained network. Likeness is the paper's measure.\n\n"
            "| neighbouring blocks | heads of one block | different images | neighbouring blocks before training |\n"
            f"|---|---|---|---|\n| {rows} |\n\n"
            f"Change of the loss on {images} images when a map is replaced, with its standard error:\n\n"
            "| map of the block before | another image's | uniform | no attention |\n|---|---|---|---|\n"
            f"| {costs} |\n\n"
            "Write five to seven sentences. What does the high or low value in the first column mean here, given the "
            "three beside it? Do neighbouring maps do the same work? Is it shown that similar maps hold this network "
            "back? What would you measure or train next, and what would each outcome tell?"
        ),
        stub="",
        solution=(
            f"{reading} Nothing here shows that similar maps hold the network back: all numbers describe one network "
            "as it was trained. Next I would train networks with the maps of the deep half shared by force, and the "
            "same number of blocks without, over several seeds. If sharing costs nothing, likeness is no limit; if it "
            "costs accuracy, own maps are worth something, and a remedy that makes maps differ may help."
        ),
        points=6,
        rubric=(
            "2: reads the first column against heads, images and the new network, not against 0.9 alone",
            "1: reads *no attention* first, as the control that gives the test its force or takes it",
            "1: compares the neighbour's map with the other replacements, within their standard errors",
            "1: does not conclude a cause from likeness or from replacements after training",
            "1: names a next measurement or training and says what each outcome would tell",
        ),
        secrets=(reading,),
    )


_CASES = [
    (
        (0.95, 0.28, 0.41, 0.97, 0.002, 0.151, 0.163, 0.220),
        "collapse",
        "This is the paper's picture: neighbours agree while heads and images differ, though the new network scores as "
        "high for another reason, flatness. Attention matters here, and among all replacements only the neighbour's "
        "map costs nothing that its error could tell from zero, so on these images it does the same work.",
    ),
    (
        (0.95, 0.95, 0.94, 0.97, 0.061, 0.060, 0.062, 0.180),
        "flat, an average needed",
        "All likenesses are high together, as before training: the maps are nearly uniform, which is no collapse in "
        "the paper's sense. The neighbour's map costs as much as the uniform one, so what the two maps share is the "
        "common part; what the block adds to an average is its own, and the neighbour does not have it.",
    ),
    (
        (0.95, 0.30, 0.45, 0.97, 0.001, -0.002, 0.002, 0.003),
        "collapse in looks, no force",
        "The maps look like the paper's picture: neighbours agree while heads and images differ. But even without "
        "attention nothing is lost, so these blocks cannot tell whether their maps do the same work: nobody reads "
        "them.",
    ),
    (
        (0.46, 0.30, 0.41, 0.97, 0.003, 0.140, 0.150, 0.200),
        "low likeness, same work",
        "By the measure the neighbours are hardly more alike than different images. Yet the neighbour's map costs "
        "nothing that its error could tell from zero, and every other replacement does: maps may differ in what the "
        "values do not see, so a low likeness is no proof of different work.",
    ),
    (
        (0.95, 0.29, 0.93, 0.97, 0.004, 0.003, 0.150, 0.210),
        "positions only",
        "Neighbours agree and heads differ, but so do maps of different images: what repeats is a pattern of positions "
        "that does not depend on the image. The replacements agree, as the neighbour's map and another image's both "
        "cost nothing, while the uniform map does: the pattern is needed, the image's own map is not.",
    ),
]


def _indented(code: str) -> str:
    return indent(dedent(code), "    ")
