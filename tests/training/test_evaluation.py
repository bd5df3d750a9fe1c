import argparse
import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform

from deepvit_edu.checkpoints import load_model, save_model, to_official
from deepvit_edu.cli import main
from deepvit_edu.data.tars import Place
from deepvit_edu.records import load_measurement, load_record
from deepvit_edu.training import evaluate, evaluation
from deepvit_edu.training.evaluation import real_labels_of, released
from deepvit_edu.training.image_files import Files, find_validation
from deepvit_edu.training.processes import Processes, started
from deepvit_edu.zoo import create_model, list_models
from tests.training.helpers import CLASSES, make_imagenet, small_setup, together

ALONE = Processes(0, 1, torch.device("cpu"))
ABOUT = {"name": "t2t_vit_14", "dataset": "imagenet", "classes": list(CLASSES), "images_from": "files"}
ABOUT |= {"mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_imagenet(tmp_path_factory.mktemp("imagenet"), train=2, val=5)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return small_setup("t2t_vit_14").build().eval()


def by_hand(model, root):
    """Loss and top-1 image by image, with timm's transform and no loader of ours."""
    config = model.default_cfg
    options = {key: config[key] for key in ("mean", "std", "crop_pct", "interpolation")}
    prepare = create_transform(32, is_training=False, **options)
    paths = sorted((root / "val").rglob("*.JPEG"))
    images = torch.stack([prepare(Image.open(path).convert("RGB")) for path in paths])
    labels = torch.tensor(
        [sorted(entry.name for entry in (root / "val").iterdir()).index(p.parent.name) for p in paths]
    )
    with torch.no_grad():
        logits = model(images)
    return F.cross_entropy(logits, labels).item(), (logits.argmax(dim=1) == labels).float().mean().item(), logits


def measured(model, root, processes=ALONE, **options):
    files = find_validation(root, processes, 3).prepared_for(model)
    return evaluate(model, files, 4, processes=processes, workers=0, **options)


def test_numbers_are_those_of_timms_transform(model, root):
    found = measured(model, root)
    loss, top1, _ = by_hand(model, root)
    assert found["loss"] == pytest.approx(loss, abs=1e-4)
    assert found["accuracy"] == pytest.approx(top1)
    assert (found["images"], found["top5"], found["real"]) == (15, 1.0, None)


def shared(model, root, out):
    with started("cpu") as processes:
        found = measured(model, root, processes)
        if processes.is_first:
            out.write_text(json.dumps(found))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_count_every_image_once(model, root, tmp_path, count):
    together(count, shared, model, root, tmp_path / "found.json")
    found, alone = json.loads((tmp_path / "found.json").read_text()), measured(model, root)
    assert (found["images"], found["accuracy"], found["top5"]) == (alone["images"], alone["accuracy"], alone["top5"])
    assert found["loss"] == pytest.approx(alone["loss"], rel=1e-6)


def test_real_labels_follow_the_numbers_in_the_names(model, root):
    guesses = by_hand(model, root)[2].argmax(dim=1).tolist()
    # Right for the first ten, nothing known of three, wrong for two.
    real = [[guess, 2] for guess in guesses[:10]] + [[]] * 3 + [[(guess + 1) % 3] for guess in guesses[13:]]
    assert measured(model, root, real_labels=real)["real"] == pytest.approx(10 / 12)


def test_unreadable_image_is_left_out_and_named(model, tmp_path):
    root = make_imagenet(tmp_path, train=1, val=3)
    path = sorted((root / "val").rglob("*.JPEG"))[4]
    path.write_bytes(b"nothing")
    found = measured(model, root)
    assert found["images"] == 8
    assert found["unreadable"] == [path.relative_to(root / "val").as_posix()]


def command(root, weights, *more):
    return main(["evaluate", str(weights), "--data", str(root), "--workers", "0", "--device", "cpu", *more])


def test_our_file_gives_a_record(model, root, tmp_path, capsys):
    save_model(model, tmp_path / "model.safetensors", **ABOUT)
    assert command(root, tmp_path / "model.safetensors", "--out", str(tmp_path / "v.json")) == 0
    row = load_measurement(tmp_path / "v.json")["rows"][0]
    assert row["images"] == 15
    assert "15 images in 3 classes, read from their files" in capsys.readouterr().out
    model.default_cfg, before = {**model.default_cfg, "mean": (0.5,) * 3, "std": (0.5,) * 3}, model.default_cfg
    assert row["loss"] == pytest.approx(measured(model, root)["loss"], rel=1e-5)
    model.default_cfg = before


def test_authors_file_is_held_to_their_number(root, tmp_path, capsys, monkeypatch):
    torch.manual_seed(0)
    whole = create_model("t2t_vit_7", num_classes=3, img_size=32)
    path = tmp_path / "71.7_T2T_ViT_7.pth.tar"
    options = argparse.Namespace(model="t2t_vit_7")
    weights = to_official(whole.state_dict(), "t2t_vit_7", num_classes=3, img_size=32)
    torch.save({"state_dict_ema": weights, "args": options, "metric": 71.68}, path)
    sizes = ["--model", "t2t_vit_7", "--model-options", "num_classes=3", "img_size=32"]
    assert command(root, path, *sizes) == 0  # nothing is published for 32 pixels
    assert "the file itself says top-1 71.68 %" in capsys.readouterr().out
    promised = [{"file": path.name, "model": "t2t_vit_7", "img_size": 32, "top1": 99.0}]
    monkeypatch.setattr(evaluation, "released", lambda: promised)
    assert command(root, path, *sizes) == 1
    told = capsys.readouterr()
    assert "its authors publish top-1 99.00 %" in told.out
    assert "differs from the published number" in told.err


@pytest.mark.parametrize(
    ("weights", "more", "message"),
    [
        ("none.pth.tar", [], "say which model"),
        ("none.pth.tar", ["--model", "t2t_vit_7"], "there is no file"),
        ("none.safetensors", [], "there is no model file"),
        ("none.safetensors", ["--model", "t2t_vit_7"], "knows its model; leave out --model"),
        ("none.safetensors", ["--out", f"{__file__}/v.json"], "is a file, so nothing can be written below it"),
    ],
)
def test_what_goes_wrong_is_one_sentence(root, capsys, weights, more, message):
    assert command(root, weights, *more) == 1
    assert message in capsys.readouterr().err


def test_classes_that_the_model_did_not_learn_are_refused(model, root, tmp_path, capsys):
    save_model(model, tmp_path / "model.safetensors", **ABOUT)
    assert command(root, tmp_path / "model.safetensors") == 0
    save_model(model, tmp_path / "model.safetensors", **{**ABOUT, "classes": [*CLASSES[1:], "n99999999"]})
    assert command(root, tmp_path / "model.safetensors") == 1
    assert "this model learned the 3 classes of imagenet, not these 3 of imagenet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "count", "classes", "message"),
    [
        (["a/ILSVRC2012_val_00000003.JPEG"], 2, 1000, "is not one of the 2 images that ImageNet-ReaL labels"),
        (["a/ILSVRC2012_val_00000000.JPEG"], 2, 1000, "is not one of the 2 images"),
        (["a/photo.JPEG"], 2, 1000, "is not one of the 2 images"),
        (["a/ILSVRC2012_val_00000001.JPEG"], 2, 3, "labels of 1000 classes, the data 3; leave out"),
    ],
)
def test_real_labels_of_other_images_are_refused(tmp_path, names, count, classes, message):
    files = Files([Place("x")], names, [0] * len(names), ["a"] * classes)
    (tmp_path / "real.json").write_text(json.dumps([[0]] * count))
    with pytest.raises(ValueError, match=message):
        real_labels_of(files, tmp_path / "real.json")


@pytest.mark.parametrize("labels", [[["1"]], [[1000]], [[-1]], [[1.5]], [3], {"a": [1]}])
def test_real_labels_that_are_no_classes_are_refused(tmp_path, labels):
    files = Files([Place("x")], ["a/ILSVRC2012_val_00000001.JPEG"], [0], ["a"] * 1000)
    (tmp_path / "real.json").write_text(json.dumps(labels))
    with pytest.raises(ValueError, match="holds no list of labels for each image"):
        real_labels_of(files, tmp_path / "real.json")


def test_a_models_file_says_how_its_test_images_are_prepared(tmp_path, capsys):
    """Crop and interpolation as in training, not as another model's."""
    root = make_imagenet(tmp_path / "imagenet", train=4, val=3)
    options = ["--model", "cifar_vit_4x64", "--model-options", "depth=1", "--images-from", "files", "--epochs", "1"]
    options += ["--smallest-crop", "0.5", "--batch-size", "4", "--workers", "0", "--learning-rate", "3e-3", "--quiet"]
    assert main(["train", "--data", str(root), "--out", str(tmp_path / "run"), "--device", "cpu", *options]) == 0
    model, about = load_model(tmp_path / "run" / "model.safetensors")
    assert (about["crop_pct"], about["interpolation"]) == (1.0, "bicubic")
    assert (model.default_cfg["crop_pct"], model.default_cfg["mean"]) == (1.0, tuple(about["mean"]))
    capsys.readouterr()
    for change, same in (({}, True), ({"crop_pct": 0.5}, False)):
        save_model(model, tmp_path / "again.safetensors", **{**about, **change})
        assert main(["evaluate", str(tmp_path / "again.safetensors"), "--data", str(root), "--device", "cpu"]) == 0
        loss = load_record(tmp_path / "run" / "record.json")["test_loss"]
        assert (f"loss {loss:.4f}" in capsys.readouterr().out) == same
    save_model(model, tmp_path / "again.safetensors", **{**about, "crop_pct": 0})
    with pytest.raises(ValueError, match="its crop_pct is 0; it must be above 0"):
        load_model(tmp_path / "again.safetensors")


def test_released_files_are_of_models_that_there_are():
    assert {entry["model"] for entry in released()} <= set(list_models())
    assert len({(entry["file"]) for entry in released()}) == len(released())
