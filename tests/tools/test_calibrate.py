"""The convolutional network that calibrates the data files."""

from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F

from deepvit_edu import data
from deepvit_edu.records import load_measurement
from tools.measure.calibrate import Calibration, CalibrationNet, Recipe, calibrate, main, rate_factor, shifted

TINY = Recipe(epochs=4, batch_size=20, average_from=1, whitening_bias_epochs=1)


@pytest.fixture(scope="module")
def tiny_sets():
    return data.load("shapes", "train", limit=60), data.load("shapes", "test", limit=20)


def test_the_network_has_as_many_parameters_as_it_should():
    model = CalibrationNet(10)
    assert sum(p.numel() for p in model.parameters()) == 1_972_792
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_whitened_patches_have_unit_covariance():
    mixed = torch.einsum("ij,bjhw->bihw", torch.randn(3, 3), torch.randn(50, 3, 32, 32))
    model = CalibrationNet(10)
    model.whiten_patches(mixed)
    directions = model.whiten(mixed)[:, :12].transpose(0, 1).flatten(1)
    torch.testing.assert_close(directions @ directions.T / directions.shape[1], torch.eye(12), atol=0.02, rtol=0.02)


def test_images_move_by_whole_pixels_and_are_mirrored_at_the_edge():
    images = torch.randn(30, 3, 8, 8)
    padded = F.pad(images, (2,) * 4, mode="reflect")
    for image, frame in zip(shifted(images, 2, torch.Generator().manual_seed(0)), padded, strict=True):
        assert any(torch.equal(image, frame[:, y : y + 8, x : x + 8]) for y in range(5) for x in range(5))


def test_the_rate_rises_then_falls():
    factors = [rate_factor(step, 100) for step in range(101)]
    assert (factors[0], max(factors), factors[-1]) == (0.2, 1.0, 0.07)
    assert factors.index(1.0) == 23


def test_a_run_that_was_cut_goes_on_to_the_same_end(tiny_sets, tmp_path, monkeypatch):
    whole = calibrate(*tiny_sets, TINY, 0, tmp_path / "whole")
    cut = Calibration(tiny_sets[0], TINY, 0, tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(cut, "_move_average", lambda: 1 / 0)  # in the second epoch
        with pytest.raises(ZeroDivisionError):
            cut.train()
    assert Calibration(tiny_sets[0], TINY, 0, tmp_path / "cut").step == 3
    resumed = calibrate(*tiny_sets, TINY, 0, tmp_path / "cut")
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}
    assert not list(tmp_path.iterdir())


def test_the_end_is_the_average(tiny_sets, tmp_path):
    run = Calibration(tiny_sets[0], TINY, 0, tmp_path / "state")
    run.train()
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, run.average[name])


def test_what_does_not_fit_is_refused(tiny_sets, tmp_path):
    with pytest.raises(ValueError, match="a batch of 1024 is more than the 60 training images"):
        calibrate(*tiny_sets, Recipe(), 0, tmp_path / "state")
    run = Calibration(tiny_sets[0], TINY, 0, tmp_path / "state")
    run._save()
    with pytest.raises(ValueError, match="state belongs to a run with another recipe or other images; delete it"):
        Calibration(tiny_sets[0], replace(TINY, epochs=5), 0, tmp_path / "state")


def test_recorded_seeds_are_kept_and_only_with_the_same_recipe(tiny_sets, tmp_path, monkeypatch):
    calls = []

    def instant(train_set, test_set, recipe, seed, state_path):
        calls.append(seed)
        return {"seed": seed, "accuracy": 0.9, **asdict(recipe)}

    monkeypatch.setattr("tools.measure.calibrate.calibrate", instant)
    monkeypatch.setattr(data, "load", lambda name, split: tiny_sets[split == "test"])
    out = str(tmp_path / "record.json")
    for seeds in (["0"], ["0", "1"]):
        monkeypatch.setattr("sys.argv", ["calibrate.py", "--device", "cpu", "--out", out, "--seeds", *seeds])
        main()
    assert calls == [0, 1]
    assert [row["seed"] for row in load_measurement(out)["rows"]] == [0, 1]
    monkeypatch.setattr("sys.argv", ["calibrate.py", "--device", "cpu", "--out", out, "--epochs", "1"])
    with pytest.raises(SystemExit, match="belongs to another recipe or other images"):
        main()


def test_an_error_is_one_sentence_and_leaves_no_record(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "sys.argv", ["calibrate.py", "--data", "no/such/folder", "--out", str(tmp_path / "record.json")]
    )
    with pytest.raises(SystemExit, match=r"calibrate: .*no/such/folder"):
        main()
    assert not list(tmp_path.iterdir())
