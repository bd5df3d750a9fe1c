import weakref

import pytest
import timm
import torch
from torch import nn

from deepvit_edu.diagnostics import attention_blocks, record_attention, record_features, stream_attention
from deepvit_edu.nn.attention import legible_attention
from tests.helpers import tiny_model

IMAGES = torch.randn(2, 3, 8, 8)
FAMILIES = {
    "plain": {},
    "re-attention": {"attention": ("re",)},
    "refined": {"attention": ("refined",)},
    "refiner's released code": {"attention": ("accumulated", "reused")},
    "squeeze-excite": {"attention": ("squeeze-excite",)},
    "ghost": {"attention": ("ghost",), "mlp": "ghost"},
    "handed on": {"attention": ("handing", "handed", "handed", "handed")},
    "dense": {"dense_stages": (2, 2), "growth": 16},
    "mean pooling": {"class_token": False},
}


def timm_model(**options):
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 3}
    return timm.create_model("vit_tiny_patch16_224", **{**sizes, **options})


def hooks_left(model):
    return [name for name, module in model.named_modules() if module._forward_hooks or module._forward_pre_hooks]


@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES)
def test_every_family_is_recorded_and_computes_what_it_would_have(options):
    model = tiny_model(**{"depth": 4, **options}).train()
    with torch.no_grad(), legible_attention():
        expected = model.eval()(IMAGES)
    outputs = []
    watching = model.register_forward_hook(lambda module, inputs, out: outputs.append(out))
    softmax, used = (record_attention(model.train(), IMAGES, which) for which in ("softmax", "used"))
    watching.remove()
    assert all(torch.equal(out, expected) for out in outputs)
    assert len(softmax) == len(used) == 4
    tokens = 4 + int(model.cls_token is not None)
    assert {attn.shape for attn in softmax + used} == {(2, 2, tokens, tokens)}
    for attn in softmax:
        torch.testing.assert_close(attn.sum(dim=-1), torch.ones(2, 2, tokens))
    assert all(module.training for module in model.modules())
    assert not hooks_left(model)


def test_the_used_map_is_the_one_that_multiplies_the_values():
    block = (model := tiny_model(attention=("re",)).eval()).blocks[0]
    expected = block.attn.forward_with_map(block.norm1(model.embed(IMAGES)))[1]
    torch.testing.assert_close(record_attention(model, IMAGES)[0], expected)
    assert not torch.allclose(record_attention(model, IMAGES, "softmax")[0], expected)


def test_a_block_that_reuses_a_map_has_its_partners_softmax():
    softmax = record_attention(tiny_model(depth=4, attention=("accumulated", "reused")), IMAGES, "softmax")
    assert torch.equal(softmax[0], softmax[1])
    assert torch.equal(softmax[2], softmax[3])
    assert not torch.allclose(softmax[1], softmax[2])


@pytest.mark.parametrize("options", [{}, {"class_token": False, "global_pool": "avg"}], ids=["class token", "pooled"])
def test_timms_vision_transformer(options):
    model = timm_model(**options).eval()
    before = model(IMAGES)
    maps, features = record_attention(model, IMAGES), record_features(model, IMAGES)
    assert len(maps) == len(features) == 3
    first, last = model.blocks[0], model.blocks[-1]
    x = model.patch_embed(IMAGES)
    x = first.norm1(model._pos_embed(x))
    query, key, _ = first.attn.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(maps[0], (query @ key.mT * 8**-0.5).softmax(dim=-1))
    torch.testing.assert_close(model.forward_head(model.norm(features[-1])), before)
    assert last.attn.fused_attn == timm_model().blocks[0].attn.fused_attn
    assert torch.equal(model(IMAGES), before)
    assert not hooks_left(model)


def cait_model():
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 3}
    return timm.create_model("cait_xxs24_224", **sizes, init_values=1.0)


def test_timms_cait_with_its_two_mixings():
    model = cait_model().eval()
    before = model(IMAGES)
    softmax, used = record_attention(model, IMAGES, "softmax"), record_attention(model, IMAGES)
    torch.testing.assert_close(softmax[1].sum(dim=-1), torch.ones(2, 2, 4))
    mixing = model.blocks[1].attn.proj_w
    torch.testing.assert_close(
        used[1], torch.einsum("gh,bhqk->bgqk", mixing.weight, softmax[1]) + mixing.bias[:, None, None]
    )
    features = record_features(model, IMAGES)
    torch.testing.assert_close(features[-1], model.blocks(model.patch_embed(IMAGES) + model.pos_embed))
    assert torch.equal(model(IMAGES), before)
    assert not hooks_left(model)


def test_streaming_keeps_no_map():
    seen = []

    def visit(layer, attn):
        assert layer == len(seen)
        assert all(earlier() is None for earlier in seen)
        seen.append(weakref.ref(attn))

    stream_attention(tiny_model(depth=4), IMAGES, visit)
    assert len(seen) == 4


@pytest.mark.parametrize("options", [{}, {"attention": ("accumulated", "reused")}])
def test_features_are_the_tokens_after_each_block(options):
    model = tiny_model(depth=3, **options).eval()
    _, expected = model.forward_intermediates(IMAGES, output_fmt="NLC", return_prefix_tokens=True)
    features = record_features(model, IMAGES)
    assert len(features) == 3
    for ours, (patches, prefix) in zip(features, expected, strict=True):
        torch.testing.assert_close(ours, torch.cat([prefix, patches], dim=1))


def test_recording_uses_no_dropout_and_gives_each_module_its_mode_back():
    model = tiny_model(attn_drop_rate=0.5).train()
    model.blocks[0].eval()  # frozen by its owner
    first, second = record_attention(model, IMAGES), record_attention(model, IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert model.blocks[1].attn.training
    assert not model.blocks[0].attn.training


def test_an_error_leaves_nothing_behind():
    model = tiny_model().train()
    with pytest.raises(ValueError, match="do not fit this model"):
        record_attention(model, torch.randn(1, 3, 9, 9))
    with pytest.raises(ZeroDivisionError):
        stream_attention(model, IMAGES, lambda layer, attn: 1 / 0)
    assert not hooks_left(model)
    assert model.training


def test_unknown_maps_and_models_are_refused():
    with pytest.raises(ValueError, match="choose 'softmax' or 'used'"):
        record_attention(tiny_model(), IMAGES, which="other")
    strange = tiny_model()
    strange.blocks[1].attn = nn.Identity()
    parallel = timm_model(block_fn=timm.models.vision_transformer.ParallelThingsBlock)
    for model in (nn.Linear(1, 1), strange, parallel):
        with pytest.raises(ValueError, match=f"maps of a {type(model).__name__} cannot be found"):
            attention_blocks(model)
