import copy
from dataclasses import replace

import pytest
import timm
import torch

from deepvit_edu.nn.attention import legible_attention
from deepvit_edu.nn.model import VisionTransformer, ViTConfig
from deepvit_edu.zoo import create_model

TINY = ViTConfig(img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=4, num_classes=7)


def test_logits_equal_timm_under_the_same_weights():
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "mlp_ratio": 3.0}
    theirs = timm.models.VisionTransformer(**options, num_classes=11).eval()
    ours = VisionTransformer(ViTConfig(**options, num_classes=11)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # so that no zero or one hides a difference
    assert ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.forward_features(images), theirs.forward_features(images), rtol=1e-5, atol=1e-5)


def test_logits_equal_timm_at_full_size():
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=10).eval()
    ours = create_model("vit_12b", num_classes=10, embed_dim=192, num_heads=3, mlp_ratio=4.0).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_shapes_and_gradients_reach_every_parameter():
    model = VisionTransformer(TINY)
    images = torch.randn(2, 3, 16, 16)
    assert model.forward_features(images).shape == (2, 17, 24)
    logits = model(images)
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_mean_pooling_has_no_class_token():
    model = VisionTransformer(ViTConfig(**{**TINY.__dict__, "class_token": False})).eval()
    images = torch.randn(2, 3, 16, 16)
    features = model.forward_features(images)
    assert features.shape == (2, 16, 24)
    torch.testing.assert_close(model(images), model.head(features.mean(dim=1)))


def test_legible_path_gives_the_same_logits():
    model, images = VisionTransformer(TINY).eval(), torch.randn(2, 3, 16, 16)
    fast = model(images)
    with legible_attention():
        torch.testing.assert_close(model(images), fast, rtol=1e-5, atol=1e-6)


def test_drop_path_grows_linearly_and_only_acts_in_training():
    model = VisionTransformer(ViTConfig(**{**TINY.__dict__, "drop_path_rate": 0.4}))
    assert [block.drop_path.drop_prob for block in model.blocks] == pytest.approx([0.0, 0.2, 0.4])
    images = torch.randn(8, 3, 16, 16)
    assert not torch.equal(model.train()(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


@pytest.mark.parametrize("name", ["deepvit_16b", "refiner_vit_s", "t2t_vit_dense"])
def test_gradient_checkpointing_changes_no_gradient_and_no_statistics(name):
    model = create_model(name, img_size=32, depth=2, embed_dim=64, num_heads=2).double()
    start = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)

    def gradients():
        torch.manual_seed(1)  # the Performer drops
        return torch.autograd.grad(model(images).square().sum(), [p for p in model.parameters() if p.requires_grad])

    plain, statistics = gradients(), dict(model.named_buffers())
    statistics = {key: value.clone() for key, value in statistics.items()}
    model.load_state_dict(start)
    model.set_grad_checkpointing()
    torch.testing.assert_close(gradients(), plain)
    torch.testing.assert_close(dict(model.named_buffers()), statistics)


@pytest.fixture
def dense():
    return VisionTransformer(ViTConfig(**{**TINY.__dict__, "dense_head": True})).eval()


def test_dense_logits_are_those_of_the_two_heads(dense):
    images = torch.randn(3, 3, 16, 16)
    tokens = dense.forward_features(images)
    class_logits, token_logits = dense.forward_dense(images)
    torch.testing.assert_close(class_logits, dense.head(tokens[:, 0]))
    torch.testing.assert_close(token_logits, dense.dense_head(tokens[:, 1:]))
    torch.testing.assert_close(dense(images), class_logits + 0.5 * token_logits.amax(dim=1))


def test_a_box_of_patches_is_mixed_before_positions_and_token_logits_are_unmixed(dense):
    images, box = torch.randn(3, 3, 16, 16), (1, 0, 3, 2)
    mixed = images.clone()
    mixed[:, :, 4:12, 0:8] = images.flip(0)[:, :, 4:12, 0:8]  # patches of 4: the box in pixels
    class_logits, of_mixed = dense.forward_dense(mixed)
    expected = of_mixed.unflatten(1, (4, 4)).clone()
    expected[:, 1:3, 0:2] = of_mixed.flip(0).unflatten(1, (4, 4))[:, 1:3, 0:2]
    torch.testing.assert_close(dense.forward_dense(images, box), (class_logits, expected.flatten(1, 2)))


def test_a_box_over_everything_is_the_flipped_batch(dense):
    images = torch.randn(3, 3, 16, 16)
    class_logits, token_logits = dense.forward_dense(images)
    expected = (class_logits.flip(0), token_logits)  # the tokens' logits are flipped back
    torch.testing.assert_close(dense.forward_dense(images, (0, 0, 4, 4)), expected)


def test_dense_logits_need_a_dense_head(dense):
    dense.reset_classifier(0)
    with pytest.raises(ValueError, match="no dense head; create it with dense_head=True"):
        dense.forward_dense(torch.randn(1, 3, 16, 16))


def test_head_can_be_reset_and_taken_off():
    model, images = VisionTransformer(TINY).eval(), torch.randn(2, 3, 16, 16)
    model.reset_classifier(3)
    assert model(images).shape == (2, 3)
    assert model.get_classifier() is model.head
    model.reset_classifier(0)
    torch.testing.assert_close(model(images), model.forward_head(model.forward_features(images), pre_logits=True))


def test_head_is_reset_as_timm_does_it():
    model = VisionTransformer(TINY)
    model.reset_classifier(0, "")
    with pytest.raises(ValueError, match="global_pool is 'avg'; leave it out"):
        model.reset_classifier(3, "avg")
    assert model.num_classes == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": ("re",), "attention_options": {"nomr": "batch"}}, "attention 're' does not take .*'nomr'"),
        ({"token_options": {"stride": 2}}, "tokens 'patch' does not take .*'stride'"),
        ({"attention": ("refined",), "attention_options": {"expansion": 0}}, "expansion is 0; it must be a whole"),
        ({"attention": ("refined",), "attention_options": {"expansion": 1.5}}, "expansion is 1.5; it must be a whole"),
        ({"attention": ("refined",), "attention_options": {"kernel_size": -1}}, "kernel_size is -1; an odd one"),
    ],
)
def test_options_that_a_part_does_not_have_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        VisionTransformer(replace(TINY, **options))


@pytest.mark.parametrize(
    ("option", "value"), [("depth", 0), ("num_classes", -1), ("drop_rate", 1.0), ("drop_path_rate", -0.1)]
)
def test_numbers_out_of_range_are_named(option, value):
    with pytest.raises(ValueError, match=option):
        ViTConfig(**{option: value})


def test_weights_start_at_the_spread_asked_for():
    model = VisionTransformer(ViTConfig(embed_dim=192, depth=1, init_std=0.05))
    assert model.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.05, rel=0.02)
    assert model.blocks[0].mlp.fc1.bias.abs().max() == 0


@pytest.mark.parametrize("kind", ["handed", "reused"])
def test_a_block_without_a_map_to_take_says_so(kind):
    model = create_model("cifar_vit_4x64", depth=2, attention=("plain", kind))
    with pytest.raises(ValueError, match="needs the map of the block before it, but that block passes none on"):
        model(torch.randn(1, 3, 32, 32))
