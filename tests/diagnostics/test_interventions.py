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
    assert set(intervene(model, IMAGES, 0, "uniform")) == {"kl"}


def test_the_table_has_every_intervention_that_there_is():
    model = sharp_model(depth=2)
    rows = intervene_all(model, IMAGES, LABELS)
    assert [(row["layer"], row["how"]) for row in rows] == [
        (0, "uniform"),
        (0, "other image"),
        (0, "permute heads"),
        (0, "no attention"),
        *((1, how) for how in INTERVENTIONS),
    ]
    assert rows[4] == {"layer": 1, "how": "previous", **intervene(model, IMAGES, 1, "previous", LABELS)}
    alone = intervene_all(sharp_model(depth=2, num_heads=1), IMAGES[:1])
    assert [(row["layer"], row["how"]) for row in alone] == [
        *((0, how) for how in ("uniform", "no attention")),
        *((1, how) for how in ("previous", "uniform", "no attention")),
    ]


@pytest.mark.parametrize(
    ("layer", "how", "said"),
    [
        (0, "previous", "the first block, 0, has none before it"),
        (1, "upside down", "there is no intervention 'upside down'; choose one of previous"),
        (3, "uniform", "there is no block 3; choose one from 0 to 2"),
        (-1, "uniform", "there is no block -1"),
        (1, "other image", "there is one image"),
        (1, "permute heads", "there is one head"),
    ],
)
def test_what_cannot_be_replaced_is_refused_in_a_sentence(layer, how, said):
    with pytest.raises(ValueError, match=said):
        intervene(sharp_model(num_heads=1), IMAGES[:1], layer, how)
