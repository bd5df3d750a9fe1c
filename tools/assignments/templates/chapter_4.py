"""Graded questions on Re-attention."""

from random import Random
from textwrap import indent

from ..question import Question, Test, number_test, template

IMPORTS = """\
import math

import torch
import torch.nn.functional as F
from torch import nn

from deepvit_edu.nn.attention import ReAttention
"""

# How a norm of maps is told, how a student may write it, and another way that the hidden test compares with.
NORMS = {
    "row": (
        "takes from every row of a mixed map the row's mean, and divides it by the root of the row's variance plus $e$",
        "mean, variance = mixed.mean(-1, keepdim=True), mixed.var(-1, keepdim=True, correction=0)\n"
        "normed = (mixed - mean) / (variance + {eps}).sqrt()",
        "F.layer_norm(mixed, mixed.shape[-1:], eps={eps})",
    ),
    "column": (
        "takes from every *column* of a mixed map its mean over the queries, and divides the column by the root of its "
        "variance plus $e$",
        "mean, variance = mixed.mean(-2, keepdim=True), mixed.var(-2, keepdim=True, correction=0)\n"
        "normed = (mixed - mean) / (variance + {eps}).sqrt()",
        "F.layer_norm(mixed.mT, mixed.shape[-2:-1], eps={eps}).mT",
    ),
    "map": (
        "takes from every mixed map of every image its mean over all entries, and divides it by the root of their "
        "variance plus $e$",
        "mean, variance = mixed.mean((-2, -1), keepdim=True), mixed.var((-2, -1), keepdim=True, correction=0)\n"
        "normed = (mixed - mean) / (variance + {eps}).sqrt()",
        "F.instance_norm(mixed, eps={eps})",
    ),
    "deviation": (
        "takes from every mixed map of every image its mean over all entries, and divides it by their mean absolute "
        "deviation plus $e$",
        "centred = mixed - mixed.mean((-2, -1), keepdim=True)\n"
        "normed = centred / (centred.abs().mean((-2, -1), keepdim=True) + {eps})",
        "torch.stack([(m - m.mean()) / ((m - m.mean()).abs().sum() / m.numel() + {eps}) for m in mixed.flatten(0, 1)])"
        ".unflatten(0, mixed.shape[:2])",
    ),
}


@template(4)
def norm_of_maps(draw: Random) -> Question:
    """Re-attention from bare tensors, with another norm than the book's."""
    norm, eps = draw.choice(list(NORMS)), draw.choice([1e-4, 1e-3, 1e-2])
    told, code, reference = NORMS[norm]
    head = '''\
def normed_re_attention(query, key, value, theta):
    """Queries, keys, values (B, H, N, D) and a mixing (H, H) to outputs (B, H, N, D)."""
'''
    body = f"""\
scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
mixed = torch.einsum("gh,bhqt->bgqt", theta, scores.softmax(dim=-1))
{code.format(eps=eps)}
return normed @ value
"""
    hidden = f"""\
for scale in (1.0, 0.02):  # sharp maps, and flat ones, where e decides
    query, key, value = torch.randn(3, 2, 3, 6, 4)
    query, theta = scale * query, torch.randn(3, 3)
    maps = [(query[:, h] @ key[:, h].mT / 2).softmax(-1) for h in range(3)]
    mixed = torch.stack([sum(theta[g, h] * maps[h] for h in range(3)) for g in range(3)], dim=1)
    wanted = {reference.format(eps=eps)} @ value
    torch.testing.assert_close(normed_re_attention(query, key, value, theta), wanted, rtol=1e-3, atol=1e-4)
"""
    text = (
        "Write Re-attention with another norm than BatchNorm. From queries, keys and values of all heads, and a mixing "
        "`theta` whose row $g$ makes new head $g$, to the outputs of all heads: scores divided by $\\sqrt{D}$, softmax "
        "over keys, mixing, and then a "
        f"norm that {told}, with $e = {eps}$. It has no gain and no shift."
    )
    shape = """\
query, key, value = torch.randn(3, 2, 3, 5, 4)
out = normed_re_attention(query, key, value, torch.randn(3, 3))
assert out is not None, "return the outputs"
assert out.shape == (2, 3, 5, 4), "the outputs have the shape of the values"
"""
    return Question(
        exercise="4.1",
        variant=f"norm of each {norm}, e = {eps}",
        text=text,
        stub=head + "    ...\n",
        solution=head + indent(body, "    "),
        tests=(
            Test(1, shape, "assert out.isfinite().all()\n"),
            Test(4, "# Here the outputs are compared with those of loops over heads.\n", hidden),
        ),
    )


@template(4)
def faulty_fold(draw: Random) -> Question:
    """A fold of norm, mixing and map's factor into one, with a fault that the seed chooses."""
    lines = {
        "slope": "slope = attn.map_scale * norm.weight * (norm.running_var + norm.eps).rsqrt()",
        "theta": "theta = slope[:, None] * attn.mix.weight.flatten(1)",
        "c": "c = slope * (attn.mix.bias - norm.running_mean) + attn.map_scale * norm.bias",
    }
    faults = [
        ("slope", "slope = attn.map_scale * norm.weight / (norm.running_var + norm.eps)"),
        ("slope", "slope = attn.map_scale * (norm.running_var + norm.eps).rsqrt()"),
        ("slope", "slope = attn.map_scale * norm.weight * norm.running_var.rsqrt()"),
        ("theta", "theta = slope[None, :] * attn.mix.weight.flatten(1)"),
        ("theta", "theta = slope[:, None] * attn.mix.weight.flatten(1).T"),
        ("c", "c = slope * (attn.mix.bias + norm.running_mean) + attn.map_scale * norm.bias"),
        ("c", "c = slope * (attn.mix.bias - norm.running_mean) + norm.bias"),
    ]
    place, wrong = draw.choice(faults)
    wanted = draw.choice(["map", "row"])
    told, head, last, found = {
        "map": (
            "`theta` times the softmax maps, plus `c`, must be the map in use",
            "The mixing (H, H) and shift (H,) that do in evaluation what mixing, norm and factor do together.",
            "return theta, c\n",
            "torch.einsum('gh,bhqt->bgqt', theta, maps) + c[:, None, None] - wanted",
        ),
        "row": (
            "each row of a map in use of `tokens` tokens must sum to the head's number in the result",
            "What the rows of the map in use sum to, in evaluation, for each head (H,).",
            "return theta.sum(dim=1) + tokens * c\n",
            "sums[:, None] - wanted.sum(dim=-1)",
        ),
    }[wanted]
    call = {"map": "theta, c = folded(attn)", "row": "sums = folded(attn, 5)"}[wanted]
    signature = {"map": "def folded(attn):", "row": "def folded(attn, tokens):"}[wanted]
    first = f'{signature}\n    """{head}"""\n    norm = attn.norm.batch\n'

    def written(parts: dict[str, str]) -> str:
        return first + indent("\n".join([*parts.values(), last]), "    ")

    hidden = f"""\
for size in (1.0, 1e-5):  # maps as sharp as after training, and as flat as before
    attn = ReAttention(24, num_heads=6, map_scale=0.4).eval()
    norm = attn.norm.batch
    for numbers in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(numbers, 0.3, 1.8)
    norm.running_var.mul_(size)
    maps = torch.randn(2, 6, 5, 5).softmax(dim=-1)
    with torch.no_grad():
        {call}
        wanted = attn.map_scale * norm(attn.mix(maps))
        difference = {found}
        assert difference.abs().max() < 1e-3 * wanted.abs().max()
"""
    text = (
        "In evaluation the norm, the mixing and the factor `attn.map_scale` behind the norm are one affine function of "
        f"the softmax maps. In this function, {told}. It runs, and one line of it is wrong. Mend it."
    )
    shape = {
        "map": "theta, c = folded(attn)\nassert theta.shape == (4, 4)\n",
        "row": "assert folded(attn, 5).shape == (4,)\n",
    }
    return Question(
        exercise="4.3",
        variant=f"{wanted}: {wrong}",
        text=text,
        stub=written({**lines, place: wrong}),
        solution=written(lines),
        tests=(Test(4, f"attn = ReAttention(16, num_heads=4).eval()\n{shape[wanted]}", hidden),),
    )


@template(4)
def cost_of_mixing(draw: Random) -> Question:
    """Count what mixing adds to a block."""
    heads, dim = draw.choice([(8, 32), (12, 32), (12, 64), (16, 24), (16, 64)])
    side = draw.choice([7, 8, 14, 16, 24])
    tokens, channels = side * side + 1, heads * dim
    mixing = heads**2 * tokens**2
    share = mixing / (2 * tokens**2 * channels)
    text = (
        f"A block has {heads} heads of {dim} channels and {side} × {side} patches, with a class token in front. Count, "
        "for one image: (a) the multiplications of the mixing, without its bias; (b) these as a share of those of "
        "scores and values, $Q K^T$ and $A V$ together. Assign numbers, or expressions that compute them."
    )
    solution = f"""\
tokens = {side} ** 2 + 1
mixing_macs = {heads} ** 2 * tokens ** 2
share = mixing_macs / (2 * tokens ** 2 * {channels})
"""
    return Question(
        exercise="4.3",
        variant=f"{heads} heads of {dim}, {side} × {side} patches",
        text=text,
        stub="mixing_macs = ...\nshare = ...\n",
        solution=solution,
        tests=(
            number_test(2, "mixing_macs", f"assert mixing_macs == {mixing}\n"),
            number_test(2, "share", f"assert abs(share - {share:.6f}) < 0.005\n"),
        ),
        secrets=(str(mixing), f"{mixing:,}", f"{share:.4f}"),
    )


# What three arms gain over plain, in points: norm only, exchange only, both; and how that is to be read.
GAINS = [
    ((1.9, 0.1, 2.0), "The norm alone gains as much as both; the interval of the exchange alone holds zero."),
    ((0.1, 1.7, 1.8), "The exchange alone gains as much as both; the interval of the norm alone holds zero."),
    (
        (0.2, 0.1, 2.1),
        "The intervals of both single parts hold zero: by themselves no gain is shown. Both together gain: an "
        "interaction, which arms of single parts would miss.",
    ),
    (
        (1.2, 1.1, 1.3),
        "Each part alone gains about as much as both: substitutes, as if they mended one and the same thing.",
    ),
]


@template(4)
def reading_arms(draw: Random) -> Question:
    """What a table of arms shows, in words."""
    base, half = draw.randint(600, 800) / 10, draw.choice([0.3, 0.4, 0.6])
    gains, reading = draw.choice(GAINS)
    arms = zip(("norm only", "exchange only", "both"), gains, strict=True)
    rows = "\n".join(f"| {name} | {base + gain:.1f} | {gain:+.1f} ± {half} |" for name, gain in arms)
    text = f"""\
A study on made-up numbers, ten seeds an arm, paired:

| arm | accuracy, % | difference to plain, points, 95 % interval |
|---|---|---|
| plain | {base:.1f} | – |
{rows}

Write four to six sentences. Which part of the remedy does the work here? Does the table show that similar attention
maps were what held the plain model back? Which arm or measurement would you add first, and what would you conclude from
each of its outcomes?"""
    answer = (
        f"{reading} The table says nothing about similar maps: no row measures them, and a remedy may help for another "
        "reason. To test the cause, force the maps of a plain model to be shared, or penalise their likeness. If "
        "accuracy does not move, likeness is a symptom; if it falls with sharing, a cause worth the name. First "
        "measure the maps: do blocks repeat one another, heads matched, and does replacing the maps cost anything?"
    )
    rubric = (
        "1: compares single parts with both, not with plain only",
        "1: says which intervals hold zero, and claims no gain there",
        "1: a remedy that works does not show the cause",
        "1: names an arm or a measurement that tests the cause",
        "1: says what each of its outcomes would mean",
    )
    return Question("4.5", f"{gains}, {base}, {half}", text, "", answer, points=5, rubric=rubric, secrets=(reading,))
