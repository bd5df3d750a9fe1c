"""The convolutional network that calibrates the data files."""

import pytest
import torch

from calibrate import CnnConfig, SmallImageResNet, main


def test_small_images_keep_their_size_until_the_second_stage():
    model = SmallImageResNet(CnnConfig(num_classes=10, img_size=32)).eval()
    seen = []
    model.resnet.layer1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert seen == [(2, 64, 32, 32)]


def test_what_does_not_fit_is_one_sentence_and_leaves_no_record(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["calibrate.py", "--data", "shapes", "--limit", "100", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="calibrate: a batch of 256 is more than the 100 training images"):
        main()
    assert not list(tmp_path.glob("*.json"))
