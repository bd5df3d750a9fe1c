import pytest
import torch

from deepvit_edu.devices import pick_device, pick_precision


def test_precision_follows_the_device():
    assert pick_precision("auto", torch.device("cpu")) == torch.float32
    assert pick_precision("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_a_device_that_is_not_here_is_refused():
    with pytest.raises(ValueError, match="cannot be used here"):
        pick_device("no-such-device")
