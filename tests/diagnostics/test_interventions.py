import math

import pytest
import torch
import torch.nn.functional as F

from deepvit_edu.diagnostics import INTERVENTIONS, intervene, intervene_all
from tests.diagnostics.test_recording import cait_model, hooks_left, timm_model
from tests.helpers import tiny_model

IMAGES = torch.randn(6, 3, 8, 8)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def sharp_model(**options):
    """A model whose maps are far from uniform, so that it matters which is used."""
    return tiny_model(**{"depth": 3, "init_std": 0.5, **options})


def sharp_cait_model():
    model = cait_model()
    for weight in model.parameters():
        weight.data *= 10 if weight.dim() == 2 else 1
    return model


def sharp_timm_model():
    model = timm_model()
    for block in model.blocks:
        block.attn.qkv.weight.data *= 25
    return model


@pytest.mark.parametrize("how", INTERVENTIONS)
@pytest.mark.parametrize(
    "model",
    [sharp_model(), sharp_model(attention=("re",)), sharp_timm_model(), sharp_cait_model()],
    ids=["ours", "re", "timm", "cait"],
)
def test_replacing_a_map_matters_and_leaves_the_model_as_it_was(model, how):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = model.eval()(IMAGES)
    effect = intervene(model.train(), IMAGES, 1, how, LABELS)
    assert effect["kl"] > 1e-6
    assert effect["loss"] != 0
    assert model.training
    assert not hooks_left(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.eval()(IMAGES), logits)


def no_queries(model):
    for block in model.blocks:
        block.attn.qkv.weight.data[:16] = 0  # every map is uniform
    return model


def stripes_only(model):
    for block in model.blocks:
        block.attn.qkv.weight.data[:16], block.attn.qkv.bias.data[:16] = 0, 3  # the same query for every token
    return model


def equal_heads(model):
    for block in model.blocks:
        for start in (0, 16):  # queries, keys
            block.attn.qkv.weight.data[start + 8 : start + 16] = block.attn.qkv.weight.data[start : start + 8]
    return model


def no_values(model):
    for block in model.blocks:
        block.attn.qkv.weight.data[32:], block.attn.qkv.bias.data[32:] = 0, 0
    return model


@pytest.mark.parametrize(
    ("how", "model", "images"),
    [
        ("previous", sharp_model(attention=("handing", "handed", "handed")), IMAGES),
        ("previous", no_queries(sharp_model()), IMAGES),
        ("uniform", no_queries(sharp_model()), IMAGES),
        ("query-mean", no_queries(sharp_model()), IMAGES),
        ("query-mean", stripes_only(sharp_model()), IMAGES),
        ("other image", sharp_model(), IMAGES[:1].expand(3, -1, -1, -1)),
        ("permute heads", equal_heads(sharp_model()), IMAGES),
        ("no attention", no_values(sharp_model()), IMAGES),
    ],
)
def test_a_map_replaced_by_its_equal_changes_nothing(how, model, images):
    assert intervene(model, images, 1, how)["kl"] == pytest.approx(0, abs=1e-9)


def test_effects_are_after_minus_before():
    model = sharp_model(depth=1)
    block = model.blocks[0]
    with torch.no_grad():
        x = model.eval().embed(IMAGES)
        mean = block.attn.split_heads(block.attn.qkv(block.norm1(x)))[2].mean(dim=2, keepdim=True).expand(-1, -1, 5, -1)
        x = x + block.attn.merge_heads(mean)
        after = model.forward_head(model.norm(x + block.mlp(block.norm2(x))))
        before = model(IMAGES)
    effect = intervene(model, IMAGES, 0, "uniform", LABELS)
    old, new = before.softmax(dim=-1), after.softmax(dim=-1)
    assert effect["kl"] == pytest.approx((old * (old / new).log()).sum(dim=-1).mean().item(), rel=1e-3)
    assert effect["loss"] == pytest.approx(
        (F.cross_entropy(after, LABELS) - F.cross_entropy(before, LABELS)).item(), abs=1e-5
    )
    right = [(logits.argmax(dim=-1) == LABELS).float().mean().item() for logits in (before, after)]
    assert effect["accuracy"] == pytest.approx(right[1] - right[0])
    assert set(intervene(model, IMAGES, 0, "uniform")) == {"kl", "kl_error"}


def test_errors_are_those_of_paired_differences():
    # An effect that is the same on all images has no error, however much their losses differ.
    model = sharp_model()
    six, twelve = (
        intervene(model, IMAGES.repeat(times, 1, 1, 1), 1, "uniform", LABELS.repeat(times)) for times in (1, 2)
    )
    for name in ("kl", "loss", "accuracy"):
        assert twelve[f"{name}_error"] == pytest.approx(six[f"{name}_error"] * (5 / 11) ** 0.5, rel=1e-4)
    each = torch.tensor(
        [intervene(model, IMAGES[i : i + 1], 1, "uniform", LABELS[i : i + 1])["loss"] for i in range(6)]
    )
    assert six["loss"] == pytest.approx(each.mean().item(), abs=1e-6)
    assert six["loss_error"] == pytest.approx(each.std().item() / 6**0.5, rel=1e-3)
    assert math.isnan(intervene(model, IMAGES[:1], 1, "uniform")["kl_error"])
    assert intervene(no_values(model), IMAGES, 1, "no attention", LABELS)["loss_error"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("model", [sharp_model(depth=4), sharp_model(depth=4, attention=("accumulated", "reused"))])
def test_several_maps_are_replaced_in_one_pass(model):
    # By hand: each block's map is replaced by a hook of ours.
    model.eval()
    for how, other in (
        ("uniform", lambda attn: attn.mean(dim=-1, keepdim=True).expand_as(attn)),
        ("query-mean", lambda attn: attn.mean(dim=-2, keepdim=True).expand_as(attn)),
        ("other image", lambda attn: attn.roll(1, 0)),
    ):
        hooks = [
            model.blocks[layer].attn.used_map.register_forward_hook(lambda module, args, attn, other=other: other(attn))
            for layer in (1, 3)
        ]
        with torch.no_grad():
            after = model(IMAGES)
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            loss = F.cross_entropy(after, LABELS) - F.cross_entropy(model(IMAGES), LABELS)
        assert intervene(model, IMAGES, (1, 3), how, LABELS)["loss"] == pytest.approx(loss.item(), abs=1e-5)


def test_several_blocks_in_a_row_all_use_the_map_before_them():
    model = sharp_model(depth=4)
    copied = sharp_model(depth=4, attention=("plain", "handing", "handed", "handed"))
    intermediate = intervene(model, IMAGES, (1, 2, 3), "previous", LABELS)
    for block, own in zip(copied.blocks, model.blocks, strict=True):
        state = own.state_dict()
        if not hasattr(block.attn, "qkv"):
            for kind in ("weight", "bias"):
                state[f"attn.value.{kind}"] = state.pop(f"attn.qkv.{kind}")[32:]
        block.load_state_dict(state)
    for name in ("patch_embed", "norm", "head"):
        getattr(copied, name).load_state_dict(getattr(model, name).state_dict())
    copied.pos_embed.data, copied.cls_token.data = model.pos_embed.data, model.cls_token.data
    with torch.no_grad():
        before, after = model.eval()(IMAGES), copied.eval()(IMAGES)
    # `copied` makes its map in block 1 and uses it to the end; so does `model` where 2 and 3 use the map of block 1.
    effect = intervene(model, IMAGES, (2, 3), "previous", LABELS)
    assert effect["loss"] == pytest.approx(
        (F.cross_entropy(after, LABELS) - F.cross_entropy(before, LABELS)).item(), abs=1e-5
    )
    assert intermediate["loss"] != pytest.approx(effect["loss"])
    # Block 0 has none before it: it keeps its own, and passes it on.
    assert intervene(model, IMAGES, range(4), "previous", LABELS) == pytest.approx(intermediate)


def test_the_table_has_every_intervention_that_there_is():
    model = sharp_model(depth=2)
    rows = intervene_all(model, IMAGES, LABELS)
    assert [(row["layer"], row["how"]) for row in rows] == [
        (0, "uniform"),
        (0, "query-mean"),
        (0, "other image"),
        (0, "permute heads"),
        (0, "no attention"),
        *((1, how) for how in INTERVENTIONS),
    ]
    assert rows[5] == {"layer": 1, "how": "previous", **intervene(model, IMAGES, 1, "previous", LABELS)}
    alone = intervene_all(sharp_model(depth=2, num_heads=1), IMAGES[:1])
    assert [(row["layer"], row["how"]) for row in alone] == [
        *((0, how) for how in ("uniform", "query-mean", "no attention")),
        *((1, how) for how in ("previous", "uniform", "query-mean", "no attention")),
    ]


@pytest.mark.parametrize(
    ("layer", "how", "said"),
    [
        (0, "previous", "the first block, 0, has none before it"),
        (1, "upside down", "unknown intervention 'upside down'; choose one of previous"),
        (3, "uniform", "there is no block 3; choose one from 0 to 2"),
        (-1, "uniform", "there is no block -1"),
        ((0, 3), "uniform", "there is no block 3"),
        ((), "uniform", "name at least one block"),
        (1, "other image", "there is one image"),
        (1, "permute heads", "there is one head"),
    ],
)
def test_what_cannot_be_replaced_is_refused_in_a_sentence(layer, how, said):
    with pytest.raises(ValueError, match=said):
        intervene(sharp_model(num_heads=1), IMAGES[:1], layer, how)
