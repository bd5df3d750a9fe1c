import pytest
import torch

from deepvit_edu.map_penalty import map_likeness


def test_likeness_of_maps_is_the_mean_cosine_over_heads():
    one = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    other = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    assert map_likeness([one, 3 * one]).item() == pytest.approx(1)
    assert map_likeness([one, other]).item() == pytest.approx(0)
    assert map_likeness([one, one, other]).item() == pytest.approx(0.5)
