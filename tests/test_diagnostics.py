import pytest
import torch

from deepvit_edu.diagnostics import record_attention
from tests.helpers import tiny_model

IMAGES = torch.randn(2, 3, 8, 8)


def test_one_map_a_block_and_each_is_a_distribution():
    maps = record_attention(tiny_model(depth=3), IMAGES)
    assert len(maps) == 3
    for attn in maps:
        assert attn.shape == (2, 2, 5, 5)
        torch.testing.assert_close(attn.sum(dim=-1), torch.ones(2, 2, 5))


def test_first_map_is_that_of_the_first_block_on_its_own_input():
    model = tiny_model().eval()
    block = model.blocks[0]
    expected = block.attn.forward_with_map(block.norm1(model.embed(IMAGES)))[1]
    torch.testing.assert_close(record_attention(model, IMAGES)[0], expected)


def test_recording_leaves_the_model_as_it_was():
    model = tiny_model(attn_drop_rate=0.5).train()
    before = model.eval()(IMAGES)
    model.train()
    first, second = record_attention(model, IMAGES), record_attention(model, IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))  # no dropout while recording
    assert model.training
    assert not any(block.attn.used_map._forward_hooks for block in model.blocks)
    assert torch.equal(model.eval()(IMAGES), before)


def test_an_error_leaves_no_hook_behind():
    model = tiny_model()
    with pytest.raises(ValueError, match="do not fit this model"):
        record_attention(model, torch.randn(1, 3, 9, 9))
    assert not any(block.attn.used_map._forward_hooks for block in model.blocks)


def test_unknown_map_is_refused():
    with pytest.raises(ValueError, match="choose 'softmax' or 'used'"):
        record_attention(tiny_model(), IMAGES, which="other")
