"""The control attentions: what each is made to force holds, and models of them train, are saved and read again."""

import copy

import pytest
import torch

from deepvit_edu.checkpoints import load_model, save_model
from deepvit_edu.diagnostics import record_attention
from deepvit_edu.nn.model import VisionTransformer, ViTConfig

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def small_model(*attention: str, depth: int = 4) -> VisionTransformer:
    torch.manual_seed(0)
    config = ViTConfig(
        img_size=16,
        patch_size=4,
        num_classes=5,
        embed_dim=16,
        depth=depth,
        num_heads=2,
        attention=attention,
        init_std=0.3,
    )
    return VisionTransformer(config)


def maps_of(model: VisionTransformer) -> list[torch.Tensor]:
    return record_attention(model.eval(), IMAGES)


def test_all_queries_of_query_mean_attention_use_the_mean_of_their_rows():
    mean, plain = small_model("query-mean", depth=1), small_model("plain", depth=1)
    mean.load_state_dict(plain.state_dict())
    rows = maps_of(plain)[0].mean(dim=-2, keepdim=True)
    torch.testing.assert_close(maps_of(mean)[0], rows.expand(-1, -1, rows.shape[-1], -1))
    assert not torch.allclose(mean(IMAGES), plain(IMAGES)), "the output uses the mean row, too"


def test_tied_blocks_share_queries_and_keys_and_nothing_else():
    model = small_model("plain", "plain", "tied", "tied")
    tied = [block.attn.qkv for block in model.blocks[2:]]
    assert tied[0].query_key is tied[1].query_key
    assert tied[0].value is not tied[1].value
    maps = maps_of(model)
    assert not torch.allclose(maps[2], maps[3]), "each block makes its map from tokens of its own"


def test_tied_blocks_are_tied_to_the_block_right_before_only():
    model = small_model("tied", "plain", "tied", "tied")
    first, _, second, third = (block.attn.qkv for block in model.blocks)
    assert second.query_key is third.query_key
    assert first.query_key is not second.query_key


def test_a_tied_block_alone_is_plain_attention():
    model, plain = small_model("tied", depth=1), small_model("plain", depth=1)
    weights = plain.state_dict()
    for name in ("weight", "bias"):
        both = weights.pop(f"blocks.0.attn.qkv.{name}")
        weights[f"blocks.0.attn.qkv.query_key.{name}"], weights[f"blocks.0.attn.qkv.value.{name}"] = both.split(
            [32, 16]
        )
    model.load_state_dict(weights)
    torch.testing.assert_close(model(IMAGES), plain(IMAGES))


def test_a_tied_projection_is_one_parameter_with_the_gradients_of_all_its_blocks():
    model = small_model("tied", depth=3)
    model(IMAGES).sum().backward()
    shared = model.blocks[0].attn.qkv.query_key.weight
    assert sum(parameter is shared for parameter in model.parameters()) == 1
    apart = copy.deepcopy(model)
    for block in apart.blocks[1:]:
        block.attn.qkv.query_key = copy.deepcopy(block.attn.qkv.query_key)
    apart.zero_grad()
    apart(IMAGES).sum().backward()
    parts = [block.attn.qkv.query_key.weight.grad for block in apart.blocks]
    torch.testing.assert_close(shared.grad, sum(parts))


@pytest.mark.parametrize("attention", [("tied",), ("plain", "query-mean"), ("handing", "handed")])
def test_models_of_controls_are_saved_and_read_again(attention, tmp_path):
    model = small_model(*attention).eval()
    read, _ = load_model(save_model(model, tmp_path / "model.safetensors"))
    torch.testing.assert_close(read(IMAGES), model(IMAGES))
    if attention == ("tied",):
        assert read.blocks[0].attn.qkv.query_key is read.blocks[3].attn.qkv.query_key
