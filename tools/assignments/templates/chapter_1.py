"""Graded questions on the Vision Transformer."""

from random import Random
from textwrap import indent

from ..question import Question, Test, all_or_nothing, number_test, template

IMPORTS = """\
import math

import torch
import torch.nn.functional as F
from torch import nn

from deepvit_edu.zoo import create_model
"""


@template(1)
def attention_with_a_rule(draw: Random) -> Question:
    """Attention in which some tokens may not be attended to, at a temperature."""
    window, temperature = draw.choice([1, 2]), draw.choice([0.5, 2.0, 4.0])
    described, allowed = draw.choice(
        [
            ("no token attends to itself", "t != q"),
            (
                "only the class token attends to the class token (it is token 0, and may attend to all)",
                "(t != 0) | (q == 0)",
            ),
            ("a token attends only to itself and to the tokens before it", "t <= q"),
            (
                f"a token attends only to tokens whose number differs from its own by at most {window}",
                f"abs(t - q) <= {window}",
            ),
        ]
    )
    head = '''\
def ruled_attention(query, key, value):
    """Queries, keys and values (B, H, N, D) to the outputs of all heads side by side (B, N, H * D)."""
'''
    body = f"""\
number = torch.arange(query.shape[-2])
q, t = number[:, None], number
allowed = {allowed}  # (N, N)
scores = query @ key.transpose(-2, -1) / ({temperature} * math.sqrt(query.shape[-1]))
attn = scores.masked_fill(~allowed, -math.inf).softmax(dim=-1)
return (attn @ value).transpose(1, 2).flatten(2)
"""
    rule = f"""\
query, key, value = torch.randn(3, 2, 3, 6, 4)
query = 0.3 * query
before = ruled_attention(query, key, value)
for t in range(6):
    other = value.clone()
    other[:, :, t] += 1
    change = (ruled_attention(query, key, other) - before).abs().amax(dim=(0, 2))  # (N,)
    for q in range(6):
        assert bool(change[q] > 1e-5) == bool({allowed}), "the rule of who attends to whom"
"""
    numbers = f"""\
query, key, value = torch.randn(3, 2, 3, 6, 4)
wanted = torch.zeros(2, 6, 12)
for h in range(3):
    for q in range(6):
        seen = [t for t in range(6) if {allowed}]
        scores = torch.stack([(query[:, h, q] * key[:, h, t]).sum(-1) for t in seen], dim=-1)
        shares = (scores / (2 * {temperature})).softmax(-1)  # the root of 4 channels is 2
        wanted[:, q, 4 * h : 4 * h + 4] = sum(shares[:, i, None] * value[:, h, t] for i, t in enumerate(seen))
torch.testing.assert_close(ruled_attention(query, key, value), wanted, rtol=1e-3, atol=1e-4)
"""
    return Question(
        exercise="1.2",
        variant=f"{described}; temperature {temperature}",
        text=(
            f"Write attention with several heads and one rule: *{described}*. The probabilities of a query over the "
            "tokens that it may attend to sum to 1, and all others get exactly 0. The scores are "
            f"$Q K^\\top / (T \\sqrt{{D}})$ with the temperature $T = {temperature}$. There is no linear layer, "
            "before or after; the heads' outputs stand side by side, all of head 0 first."
        ),
        stub=head + "    ...\n",
        solution=head + indent(body, "    "),
        tests=(
            Test(
                1,
                "query, key, value = torch.randn(3, 2, 3, 5, 4)\n"
                "out = ruled_attention(query, key, value)\n"
                "assert out.shape == (2, 5, 12), 'the outputs of 3 heads of 4 channels, side by side'\n",
                "assert out.isfinite().all()\n",
            ),
            Test(2, "# Here one value after the other is changed, to see whose outputs change.\n", rule),
            Test(3, "# The numbers are compared here with those of loops over heads and tokens.\n", numbers),
        ),
    )


@template(1)
def faulty_forward(draw: Random) -> Question:
    """A model's forward pass, written out, with a fault that the seed chooses, and a reading of its own."""
    lines = {
        "tokens": "x = model.patch_embed.proj(images).flatten(2).transpose(1, 2)",
        "first": "x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1)",
        "positions": "x = x + model.pos_embed",
        "loop": "for block in model.blocks:",
        "attention": "    x = x + block.attn(block.norm1(x))",
        "mlp": "    x = x + block.mlp(block.norm2(x))",
        "norm": "x = model.norm(x)",
    }
    patches = "x[:, 1:].mean(dim=1)"
    described, read, wrong_read = draw.choice(
        [
            ("the mean over the patch tokens, without the class token", patches, "x.mean(dim=1)"),
            (
                "the sum of the class token and the mean over the patch tokens",
                f"x[:, 0] + {patches}",
                "x[:, 0] + x.mean(dim=1)",
            ),
            (
                "the largest number over all patch tokens, channel by channel, without the class token",
                "x[:, 1:].amax(dim=1)",
                "x.amax(dim=1)",
            ),
        ]
    )
    lines["read"] = f"return model.head({read})"
    place, wrong = draw.choice(
        [
            ("tokens", "x = model.patch_embed.proj(images).transpose(2, 3).flatten(2).transpose(1, 2)"),
            ("tokens", "x = model.patch_embed.proj(images).flatten(2).reshape(len(images), -1, model.num_features)"),
            ("first", "x = torch.cat([x, model.cls_token.expand(len(x), -1, -1)], dim=1)"),
            ("positions", "x = x + model.pos_embed[:, :1]"),
            ("attention", "    x = block.attn(block.norm1(x))"),
            ("attention", "    x = block.norm1(x + block.attn(x))"),
            ("mlp", "    x = x + block.mlp(block.norm1(x))"),
            ("mlp", "    x = block.norm2(x) + block.mlp(block.norm2(x))"),
            ("norm", "x = F.normalize(x, dim=-1)"),
            ("read", f"return model.head({wrong_read})"),
        ]
    )
    head = '''\
@torch.no_grad()
def logits_of(model, images):
    """Images (B, 3, H, W) to logits (B, K), from the parts of a model of the package."""
'''

    def write(parts: dict[str, str]) -> str:
        return head + indent("\n".join(parts.values()) + "\n", "    ")

    hidden = f"""\
model = create_model("cifar_vit_4x64", num_classes=7, img_size=16, depth=3, embed_dim=24, num_heads=3).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    images = torch.randn(5, 3, 16, 16)
    x = model.forward_features(images)
    wanted = model.head({read})
torch.testing.assert_close(logits_of(model, images), wanted, rtol=1e-3, atol=1e-3)
"""
    return Question(
        exercise="1.2",
        variant=f"reads {read}; {wrong.strip()}",
        text=(
            "This function should compute a model's logits from its parts, the way the package's plain Vision "
            f"Transformer does, with one difference: the head reads {described}, after the last norm. The function "
            "runs, and one line of it is wrong. Mend it."
        ),
        stub=write({**lines, place: wrong}),
        solution=write(lines),
        tests=(
            all_or_nothing(
                Test(
                    1,
                    'model = create_model("cifar_vit_4x64", num_classes=3)\n'
                    "logits = logits_of(model, torch.randn(2, 3, 32, 32))\n"
                    "assert logits.shape == (2, 3), 'one logit for each image and class'\n",
                    "assert logits.isfinite().all()\n",
                ),
                Test(4, "# The logits are compared here with the package's, with numbers as after training.\n", hidden),
            ),
        ),
    )


@template(1)
def cost_of_a_model(draw: Random) -> Question:
    """Count parameters and multiplications of a model that the seed chooses."""
    colours, patch, side = draw.choice([1, 4, 6]), draw.choice([4, 8, 16]), draw.choice([7, 10, 12, 20])
    heads, dim = draw.choice([(3, 64), (4, 48), (5, 40), (6, 32), (8, 32)])
    ratio, depth, classes = draw.choice([2, 3, 4]), draw.choice([5, 7, 9, 11]), draw.choice([15, 37, 120])
    class_token = draw.choice([True, False])
    channels, tokens = heads * dim, side**2 + class_token
    hidden = ratio * channels
    embed = colours * patch**2 * channels + channels + tokens * channels + class_token * channels
    block = 4 * channels + 4 * (channels**2 + channels) + 2 * channels * hidden + hidden + channels
    parameters = embed + depth * block + 2 * channels + channels * classes + classes
    linear = depth * tokens * (4 * channels**2 + 2 * channels * hidden)
    maps = depth * 2 * tokens**2 * channels
    reading = (
        "A class token stands first, with a position of its own, and the head reads it."
        if class_token
        else "There is no class token: the head reads the mean over the patch tokens."
    )
    return Question(
        exercise="1.3",
        variant=f"{colours} colours, {side} x {side} patches of {patch}, {depth} blocks of {heads} x {dim}, "
        f"ratio {ratio}, {classes} classes, class token {class_token}",
        text=(
            f"A Vision Transformer takes images of {side * patch} × {side * patch} pixels with {colours} colour "
            f"channel{'s' if colours > 1 else ''}, in patches of {patch}. It has {depth} blocks with {heads} heads of "
            f"{dim} channels, and its MLPs widen a token by a factor of {ratio}. There are {classes} classes. "
            f"{reading} All linear layers have biases, norms have a scale and a shift, positions are learned. Count "
            "(a) the parameters of the whole model; (b) the multiplications of the linear layers in all blocks, for "
            "one image; (c) those of the two products with maps in all blocks, for one image. Assign numbers, or "
            "expressions that compute them."
        ),
        stub="num_parameters = ...\nlinear_macs = ...\nmaps_macs = ...\n",
        solution=f"C, M, n = {channels}, {hidden}, {tokens}\n"
        f"embed = ({colours} * {patch} ** 2 * C + C) + n * C{' + C' if class_token else ''}\n"
        "block = 4 * C + (3 * C * C + 3 * C) + (C * C + C) + (2 * C * M + M + C)\n"
        f"num_parameters = embed + {depth} * block + 2 * C + (C * {classes} + {classes})\n"
        f"linear_macs = {depth} * n * (4 * C * C + 2 * C * M)\n"
        f"maps_macs = {depth} * 2 * n * n * C\n",
        tests=(
            number_test(3, "num_parameters", f"assert num_parameters == {parameters}\n"),
            number_test(2, "linear_macs", f"assert linear_macs == {linear}\n"),
            number_test(2, "maps_macs", f"assert maps_macs == {maps}\n"),
        ),
        secrets=tuple(word for count in (parameters, linear, maps) for word in (str(count), f"{count:,}")),
    )


@template(1)
def reach_of_heads(draw: Random) -> Question:
    """Measure over what distance the heads of a map attend."""
    metric, code, rule = draw.choice(
        [
            (
                "the straight line between their centres",
                "((row[:, None] - row) ** 2 + (column[:, None] - column) ** 2).sqrt()",
                "math.hypot(r - u, c - v)",
            ),
            (
                "the steps along rows plus the steps along columns",
                "(row[:, None] - row).abs() + (column[:, None] - column).abs()",
                "abs(r - u) + abs(c - v)",
            ),
            (
                "the steps along rows or along columns, whichever are more",
                "torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())",
                "max(abs(r - u), abs(c - v))",
            ),
        ]
    )
    without = draw.choice([True, False])
    of_class = (
        "The class token counts neither as query nor as key: leave both out, and divide each row by what is left of "
        "it, so that it sums to 1 again."
        if without
        else "The class token does not count as a query. As a key it counts with the distance 0; rows stay as they are."
    )
    centre = draw.choice(["mean", "largest"])
    of_queries = "the mean over all" if centre == "mean" else "the largest among the"
    head = '''\
def reach(maps, side):
    """Maps (B, H, N + 1, N + 1), class token first, of side * side patches, to the reach of every head (H,)."""
'''
    rescale = "shares = shares / shares.sum(dim=-1, keepdim=True)\n" if without else ""
    over_queries = "mean(dim=-1)" if centre == "mean" else "amax(dim=-1)"
    body = f"""\
row = torch.arange(side).repeat_interleave(side).float()  # (N,)
column = torch.arange(side).repeat(side).float()
distance = {code}  # (N, N)
shares = maps[:, :, 1:, 1:]  # (B, H, N, N)
{rescale}expected = (shares * distance).sum(dim=-1)  # (B, H, N)
return expected.{over_queries}.mean(dim=0)
"""
    loops = f"""\
def looped(maps, side):
    places = [(r, c) for r in range(side) for c in range(side)]
    out = torch.zeros(maps.shape[:2])
    for b in range(maps.shape[0]):
        for h in range(maps.shape[1]):
            queries = []
            for i, (r, c) in enumerate(places):
                shares = maps[b, h, i + 1, 1:].tolist()
                whole = sum(shares) if {without} else 1.0
                queries.append(sum(a * ({rule}) for a, (u, v) in zip(shares, places)) / whole)
            out[b, h] = {"sum(queries) / len(queries)" if centre == "mean" else "max(queries)"}
    return out.mean(dim=0)

"""
    random_maps = """\
maps = (2 * torch.randn(2, 3, 17, 17)).softmax(dim=-1)
torch.testing.assert_close(reach(maps, 4), looped(maps, 4), rtol=1e-3, atol=1e-4)
"""
    simple_maps = """\
neighbour = torch.zeros(1, 2, 10, 10)
neighbour[0, 0] = torch.eye(10)
neighbour[0, 1] = 1 / 10
torch.testing.assert_close(reach(neighbour, 3), looped(neighbour, 3), rtol=1e-3, atol=1e-4)
"""
    return Question(
        exercise="1.4",
        variant=f"{metric}; class token left out: {without}; {centre} over queries",
        text=(
            "How far do heads look? The *reach of a query* is its mean distance to the patches that it attends to, "
            f"each patch weighted by its share. The distance of two patches, in patches, is {metric}; patches next to "
            f"each other in a row have the distance 1. {of_class} The *reach of a head* is, for each image, "
            f"{of_queries} patch queries' reaches, and then the mean over the images. Write a function that gives it "
            "for every head. Patches are numbered row by row."
        ),
        stub=head + "    ...\n",
        solution=head + indent(body, "    "),
        tests=(
            Test(
                1,
                "itself = torch.eye(10).expand(2, 4, 10, 10)\n"
                "assert reach(itself, 3).shape == (4,), 'one number for each head'\n"
                "assert reach(itself, 3).abs().max() < 1e-6, 'who attends to itself alone has the reach 0'\n",
                "assert reach(torch.eye(17).expand(1, 2, 17, 17), 4).abs().max() < 1e-6\n",
            ),
            Test(2, "# Here every query attends to all tokens alike.\n", loops + simple_maps),
            Test(2, "# Here maps are random, and compared with loops.\n", loops + random_maps),
        ),
    )


@template(1)
def reading_a_jigsaw(draw: Random) -> Question:
    """What a jigsaw experiment shows of a model, in words."""
    base = draw.randint(720, 880) / 10
    loss = draw.randint(150, 300) / 10
    story = draw.choice(["placeless", "both", "layout", "not restored", "nearly"])
    shuffled, restored, reading, test = {
        "placeless": (
            base,
            base,
            "The shuffle changes nothing, so this model knows no places: its position embeddings are missing or zero, "
            "and it reads the classes from what patches hold.",
            "set the position embeddings to zero. If nothing changes, the model never used them; if the accuracy "
            "falls, it does know places, and neither images nor positions can really have been shuffled",
        ),
        "both": (
            base - loss,
            base,
            "The model uses both: many classes can be told from the patches alone, and the positions give the rest; "
            "moving them along restores every logit.",
            "repeat it with other shuffles. If the second row stays about the same, it is a property of the model; if "
            "it varies much, some shuffles keep more of the layout than others",
        ),
        "layout": (
            10.0,
            base,
            "Shuffled images are at chance, so the model reads the classes from how patches lie and hardly from what "
            "they hold; moving the positions along restores everything.",
            "put each patch's mean colour in the place of its pixels. If the accuracy stays, the layout is all that "
            "it reads; if it falls, the model needs the inside of patches as well as their places",
        ),
        "not restored": (
            base - loss,
            base - loss - 0.6,
            "Moving the positions should have restored every logit, and it restored nothing: most likely they were "
            "moved by the inverse of the shuffle, or by one that is off by the class token's row.",
            "move the positions by the inverse shuffle instead. If that restores the logits, the direction was wrong; "
            "if not, exchange two patches only, and see which rows of the positions really moved",
        ),
        "nearly": (
            base - loss,
            base - 1.4,
            "The positions were moved rightly on the whole, yet rounding cannot cost whole points: something else "
            "knows places, such as a stem whose convolutions overlap, or the class token's row was moved as well.",
            "compare the tokens before the first block with those of the unshuffled image, put in the same order. If "
            "only the class token differs, its row was moved; if patches differ, the stem sees beyond its patch",
        ),
    }[story]
    return Question(
        exercise="1.5",
        variant=f"{story}, {base:.1f}, {shuffled:.1f}, {restored:.1f}",
        text=(
            "A friend repeats the jigsaw experiment on a trained model of their own (made-up numbers, 10 classes, 5000 "
            "test images). All images are cut into patches, shuffled in one way, and put together again.\n\n"
            "| images | position embeddings | accuracy, % |\n|---|---|---|\n"
            f"| as they are | as trained | {base:.1f} |\n"
            f"| shuffled | as trained | {shuffled:.1f} |\n"
            f"| shuffled | rows moved in the same way | {restored:.1f} |\n\n"
            "Write four to six sentences. What should the third row be for a plain Vision Transformer, and why? What "
            "do the rows show of this model, or of how the experiment was done? Which one test would you run next, "
            "and what would each of its outcomes mean?"
        ),
        stub="",
        solution=(
            "For a plain Vision Transformer the third row equals the first: attention and everything else treat "
            "tokens alike, wherever they stand, so with its own position every patch gives what it gave before, in "
            f"each logit up to rounding. {reading} As the next test, {test}."
        ),
        points=5,
        rubric=(
            "1: the third row should equal the first, in logits and not only in accuracy",
            "1: the reason: all parts but the positions treat tokens alike, wherever they stand",
            "2: reads this table's second and third row rightly, with a cause that fits the numbers",
            "1: names a test that can tell causes apart, and what its outcomes would mean",
        ),
        secrets=(reading, test),
    )
