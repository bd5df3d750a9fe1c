"""The products that the fast paths are made of, by themselves; `test_fast.py` compares whole layers."""

import pytest
import torch
from torch import Tensor, nn

from deepvit_edu.nn import kernels
from deepvit_edu.nn.refiner import ReusedAttention


@pytest.mark.parametrize("entries", [(2, 3), (1, 17)])
def test_the_variance_of_mixed_maps_follows_from_their_covariance(entries):
    images, tokens = entries
    maps = torch.randn(images, 4, tokens, tokens, dtype=torch.float64).softmax(dim=-1)
    centred, mixing = maps - 1 / tokens, torch.randn(5, 4, dtype=torch.float64)
    covariance = kernels.head_products(centred, centred) / (images * tokens**2)
    mixed = kernels.mix_heads(mixing, maps)
    found = kernels.mixed_variance(mixing, covariance)
    torch.testing.assert_close(found, mixed.var(dim=(0, 2, 3), correction=0))


def test_batch_norm_by_other_kernels_is_batch_norm():
    maps = 3 + torch.randn(2, 4, 5, 5, requires_grad=True)
    ours, torchs = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    found, expected = kernels.batch_norm(ours, maps), torchs(maps)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    grads = [torch.autograd.grad((out * upstream).sum(), maps)[0] for out in (found, expected)]
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(ours.state_dict(), torchs.state_dict())


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_the_refinement_by_finite_differences(training):
    attn = ReusedAttention(6, 3, expansion=2).double().train(training)
    for norm in (attn.refine.norm1, attn.refine.norm2, attn.refine.norm3):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
    maps = torch.randn(2, 3, 3, 3, dtype=torch.float64).softmax(dim=-1).requires_grad_()
    assert torch.autograd.gradcheck(lambda maps: kernels.refine_in_training(maps, attn.refine), (maps,))


def test_gradients_by_finite_differences():
    query, key, value = torch.randn(3, 2, 3, 4, 2, dtype=torch.float64).requires_grad_().unbind()
    mixing = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)

    def step(query: Tensor, key: Tensor, value: Tensor, mixing: Tensor) -> tuple[Tensor, Tensor]:
        centred, covariance = kernels.CentredMap.apply(query, key, 0.7)
        return kernels.MixedValues.apply(centred, value, mixing), covariance

    assert torch.autograd.gradcheck(step, (query, key, value, mixing))
