"""Fine-tuning: `train --from FILE`, with files of ours and of the authors, on other classes and at another size."""

import warnings

import pytest
import torch

from deepvit_edu.checkpoints import load_model, save_model, to_official
from deepvit_edu.cli import main
from deepvit_edu.records import load_record
from deepvit_edu.zoo import create_model
from tests.data.archives import write_images
from tests.data.test_pictures import tiny_imagenet

FAST = (
    "--batch-size",
    "4",
    "--epochs",
    "1",
    "--quiet",
    "--device",
    "cpu",
    "--learning-rate",
    "0",
    "--weight-decay",
    "0",
)
ABOUT = {"name": "cifar_vit_4x64", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "pets", classes=("cat", "dog", "eel"), count=4)
    return tmp_path


def test_our_file_knows_its_model_and_its_normalisation(here, capsys):
    source = create_model("cifar_vit_4x64", num_classes=10, depth=2)
    save_model(source, here / "model.safetensors", **ABOUT)
    assert main(["train", "--from", "model.safetensors", "--data", "pets", "--out", "run", *FAST]) == 0
    assert "weights from model.safetensors; new: head.bias, head.weight" in capsys.readouterr().out
    model, about = load_model("run/model.safetensors")
    assert (model.config.depth, model.config.num_classes, about["mean"]) == (2, 3, ABOUT["mean"])
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight, atol=1e-4, rtol=0)
    assert main(["evaluate", "run", "--data", "pets", "--device", "cpu"]) == 0
    assert f"accuracy {load_record('run/record.json')['test_accuracy']:.2%}" in capsys.readouterr().out


def test_an_authors_file_on_tiny_imagenet_as_it_is_published(here, capsys):
    tiny_imagenet(here / "tiny-imagenet-200")
    options = {"depth": 2, "img_size": 64}
    source = create_model("t2t_vit_7", **options)
    torch.save({"state_dict_ema": to_official(source.state_dict(), "t2t_vit_7", **options)}, here / "t2t.pth.tar")
    arguments = ["train", "--from", "t2t.pth.tar", "--data", "tiny-imagenet-200", "--img-size", "32", "--out", "run"]
    assert main([*arguments, *FAST]) == 1
    assert "say which model t2t.pth.tar belongs to: --model" in capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the test folder without labels
        assert main([*arguments, "--model", "t2t_vit_7", "--model-options", "depth=2", *FAST]) == 0
    assert "new: head.bias, head.weight" in capsys.readouterr().out
    model, about = load_model("run/model.safetensors")
    assert (model.config.img_size, about["classes"], len(about["mean"])) == (32, ["n01", "n02"], 3)
    assert torch.equal(model.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "none.pth"), "there is no file none.pth"),
        (("--from", "model.safetensors", "--model", "t2t_vit_7"), "is a cifar_vit_4x64 and no t2t_vit_7"),
        (("--from", "unnamed.safetensors"), "does not say its name"),
        (("--from", "pets"), "there is no file"),
    ],
)
def test_files_that_start_nothing_are_told(here, capsys, arguments, message):
    save_model(create_model("cifar_vit_4x64", num_classes=10), here / "model.safetensors", **ABOUT)
    save_model(create_model("cifar_vit_4x64", num_classes=10), here / "unnamed.safetensors")
    assert main(["train", *arguments, "--data", "pets", "--out", "run", *FAST]) == 1
    assert message in capsys.readouterr().err
    assert not (here / "run").exists()


def test_four_lines_of_python(here):
    """As the page on fine-tuning has them."""
    from deepvit_edu import data
    from deepvit_edu.checkpoints import load_pretrained
    from deepvit_edu.training import Recipe, train

    save_model(create_model("cifar_vit_4x64", num_classes=10), here / "model.safetensors", **ABOUT)
    train_set, test_set = (data.load("pets", split, img_size=32) for split in ("train", "test"))
    model = create_model("cifar_vit_4x64", num_classes=train_set.num_classes)
    load_pretrained(model, "model.safetensors")
    record = train(model, train_set, test_set, Recipe(epochs=1, batch_size=4, learning_rate=1e-4), device="cpu")
    assert 0 <= record["test_accuracy"] <= 1


def test_frozen_blocks_stay_as_they_were(here):
    from deepvit_edu import data
    from deepvit_edu.training import Recipe, train

    train_set, test_set = (data.load("pets", split, img_size=32) for split in ("train", "test"))
    model = create_model("cifar_vit_4x64", num_classes=3)
    for parameter in model.blocks[:3].parameters():
        parameter.requires_grad_(False)
    frozen, free = model.blocks[0].mlp.fc1.weight.clone(), model.blocks[3].mlp.fc1.weight.clone()
    train(model, train_set, test_set, Recipe(epochs=1, batch_size=4), device="cpu", progress=False)
    assert torch.equal(model.blocks[0].mlp.fc1.weight, frozen)
    assert not torch.equal(model.blocks[3].mlp.fc1.weight, free)
