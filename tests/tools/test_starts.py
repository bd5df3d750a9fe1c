"""What is measured of a network before it is trained, where the right numbers are known."""

import pytest
import torch

from deepvit_edu.nn.model import VisionTransformer, ViTConfig
from tools.measure.starts import measure_start


def test_uniform_maps_have_rows_of_known_length_and_no_deviation():
    model = VisionTransformer(ViTConfig(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3))
    for block in model.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight)
    start = measure_start(model, torch.randn(2, 3, 16, 16))
    assert start == pytest.approx({"map_deviation": 0, "row_length": 17**-0.5, "branch_share": 0}, abs=1e-6)


def test_a_branch_that_adds_the_stream_itself_has_a_share_of_one():
    model = VisionTransformer(ViTConfig(img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=3))
    block = model.blocks[0]
    block.norm1, block.attn.proj = torch.nn.Identity(), torch.nn.Identity()
    block.attn.softmax_of = lambda query, key: torch.eye(17).expand(len(query), 2, 17, 17)
    with torch.no_grad():
        block.attn.qkv.weight.copy_(torch.cat([torch.zeros(32, 16), torch.eye(16)]))
    assert measure_start(model, torch.randn(2, 3, 16, 16))["branch_share"] == pytest.approx(1)
