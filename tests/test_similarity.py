"""How similar the layers of any Vision Transformer are: the command, its file, and what it says."""

import json
import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from deepvit_edu import data, similarity
from deepvit_edu.checkpoints import save_model, to_official
from deepvit_edu.cli import main
from deepvit_edu.diagnostics import aliveness, at_initialisation, collapse_report, excess_report
from deepvit_edu.experiment.measure import rounded
from deepvit_edu.records import load_measurement
from deepvit_edu.zoo import create_model

FEW = ["--count", "6", "--device", "cpu"]
TIMM = "test_vit"  # timm's smallest


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A folder with a small model of this package, which knows what it was trained on."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    model = create_model("cifar_vit_4x64", depth=4, patch_size=8, num_classes=10, attention=("re",))
    save_model(
        model, "run/model.safetensors", name="mine", dataset="shapes", classes=data.load("shapes", "test").classes
    )
    return tmp_path


@pytest.fixture
def timm_file(tmp_path, monkeypatch):
    """Weights of timm's smallest model, as if trained further on three classes."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    torch.save(timm.create_model(TIMM, num_classes=3).state_dict(), "tuned.pth")
    return "tuned.pth"


def measured(arguments: list[str]) -> dict:
    """The file that the command writes."""
    assert main(["similarity", *arguments, *FEW, "--out", "report.json"]) == 0
    return load_measurement("report.json")


@pytest.mark.parametrize("which", ["softmax", "used"])
def test_numbers_are_those_of_the_measures_beside_new_weights(run_folder, which):
    report = measured(["run", "--which", which])
    subject = similarity.find_subject("run")
    images = similarity.find_images(subject, None, 6)
    inputs = images.normalise(images.images)
    excess = excess_report(subject.model, [at_initialisation(subject.model, seed) for seed in range(5)], inputs, which)
    for name in similarity.MEASURES:
        for key in (name, f"{name}_excess", f"{name}_deviation"):
            assert [row[key] for row in report["rows"]][-3:] == rounded(excess[key])[-3:]
    trained = rounded(collapse_report(subject.model, inputs))
    prefix = "used_" if which == "used" else ""
    assert [row["adjacent"] for row in report["rows"]] == [None, *trained[f"{prefix}adjacent"]]
    effects = aliveness(subject.model, inputs, images.labels)
    assert report["aliveness"]["uniform"]["loss"][0] == pytest.approx(effects["uniform"]["loss"][0], abs=1e-5)
    assert (report["labels"], report["model"]["name"], report["images"]["count"]) == ("of shapes", "mine", 6)


def test_a_file_that_can_be_sent_in_names_no_folder(run_folder):
    text = json.dumps(measured(["--checkpoint", "run/model.safetensors"]))
    assert str(run_folder) not in text
    assert '"weights": "model.safetensors"' in text
    assert re.search(r'"weights_hash": "[0-9a-f]{64}"', text)


def test_new_weights_have_no_excess_over_themselves(run_folder):
    report = measured(["cifar_vit_4x64", "--seed", "2"])
    assert report["model"]["weights"] == "new, seed 2"
    assert report["rows"][1]["adjacent"] == pytest.approx(report["rows"][1]["adjacent_new"], abs=0.05)
    assert all(abs(row["repetition_excess"]) < 0.3 for row in report["rows"][1:])
    assert report["labels"] == similarity.OWN_PREDICTIONS  # it has the classes of ImageNet


def test_weights_of_timm_are_measured_by_their_own_classes(timm_file):
    report = measured(["--timm", TIMM, "--checkpoint", timm_file])
    assert (report["model"]["blocks"], report["model"]["heads"], report["images"]["side"]) == (6, 2, 160)
    assert report["labels"] == similarity.OWN_PREDICTIONS
    assert report["aliveness"]["none"]["accuracy"][0] <= 0  # the model's own answer cannot be answered better
    subject = similarity.find_subject(timm_name=TIMM, checkpoint=timm_file)
    weights = torch.load(timm_file)
    assert torch.equal(subject.model.head.weight, weights["head.weight"])
    assert not torch.equal(subject.new_model(0).blocks[0].attn.qkv.weight, weights["blocks.0.attn.qkv.weight"])
    assert torch.equal(subject.new_model(4).head.weight, subject.new_model(4).head.weight)


def test_a_model_without_classes_is_measured_without_a_loss(timm_file, capsys):
    torch.save(timm.create_model(TIMM, num_classes=0).state_dict(), "backbone.pth")
    random = torch.random.get_rng_state()
    report = measured(["--timm", TIMM, "--checkpoint", "backbone.pth"])
    assert report["rows"][3]["repetition"] is not None
    assert "aliveness" not in report
    assert "The model has no classes, so no loss says whether" in capsys.readouterr().out
    assert torch.equal(torch.random.get_rng_state(), random)


def test_files_of_the_authors_are_read(run_folder):
    small = create_model("deepvit_16b")
    torch.save(to_official(small.state_dict(), "deepvit_16b"), "authors.pth")
    subject = similarity.find_subject("deepvit_16b", checkpoint="authors.pth")
    assert torch.equal(subject.model.blocks[3].mlp.fc1.weight, small.blocks[3].mlp.fc1.weight)
    assert (subject.weights, subject.mean) == ("authors.pth", (0.5, 0.5, 0.5))


def test_any_folder_of_images_will_do(run_folder):
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        (run_folder / "holiday/sea").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(run_folder / f"holiday/sea/{number}.png")
    report = measured(["run", "--images", "holiday"])
    assert report["images"]["name"] == "holiday"
    assert report["images"]["count"] == 5
    assert report["labels"] == similarity.OWN_PREDICTIONS


def test_table_and_picture_show_the_model_beside_new_weights(run_folder, capsys):
    assert main(["similarity", "run", *FEW, "--plot", "maps.png"]) == 0
    images, title, header, *rows = capsys.readouterr().out.splitlines()
    assert "6 images of 32 × 32 pixels" in images
    assert title.startswith("mine (model.safetensors): 4 blocks of 4 heads, softmax maps of 6 images")
    assert header.split("  ")[0] == "block"
    assert re.fullmatch(r"2 +0\.\d{3} +0\.\d{3} ± 0\.\d{3} .*", rows[2])
    assert rows[0].split()[1] == "–"  # there is no block before the first
    assert (run_folder / "maps.png").read_bytes().startswith(b"\x89PNG")


def test_neighbours_are_told_beside_blocks_far_apart(run_folder, capsys):
    deep = create_model("cifar_vit_4x64", depth=6, patch_size=8, num_classes=10)
    save_model(
        deep, "deep/model.safetensors", name="deep", dataset="shapes", classes=data.load("shapes", "test").classes
    )
    report = measured(["deep"])
    assert -1 <= report["repetition_unrelated"] <= 1
    near = np.mean([row["repetition"] for row in report["rows"][1:]])
    told = f"neighbours are {near:.3f} similar, blocks four or more apart {report['repetition_unrelated']:.3f}."
    assert told in capsys.readouterr().out
    shallow = measured(["run"])  # no two of its four blocks
    assert shallow["repetition_unrelated"] is None
    assert "four or more apart" not in capsys.readouterr().out


def test_an_empty_cell_has_its_reason(run_folder, capsys):
    model = create_model("cifar_vit_4x64", depth=4, patch_size=8, num_classes=10)
    with torch.no_grad():
        model.blocks[2].attn.qkv.weight[:64] = 0  # no queries: all scores are equal, so its maps are uniform
        model.blocks[2].attn.qkv.bias[:64] = 0
    save_model(
        model, "flat/model.safetensors", name="flat", dataset="shapes", classes=data.load("shapes", "test").classes
    )
    assert measured(["flat"])["rows"][2]["query_independence"] is None
    out = capsys.readouterr().out
    assert "–: the maps of block 2 are uniform, up to rounding, so no variance is left to explain" in out
    assert "–: at block 3 a map of the pair is the same row for every query" in out


def report_with(effect: tuple[float, float], matters: bool | None) -> dict:
    return {
        "rows": [{"repetition_excess": value} for value in (None, 0.1, 0.3)],
        "aliveness": {"uniform": {"loss": effect}, "none": {"loss": (9.0, 0.1)}},
        "least_harmful": "uniform",
        "map_matters": matters,
        "blocks_replaced": [2, 3],
        "labels": "of shapes",
    }


@pytest.mark.parametrize(
    ("effect", "matters", "said"),
    [
        ((0.5, 0.01), True, "+0.5000 ± 0.0100 nats (labels: of shapes): they matter."),
        ((0.001, 0.002), False, "they do not matter."),
        ((0.03, 0.05), None, "more images are needed to decide."),
    ],
)
def test_sentences_follow_the_numbers(effect, matters, said):
    first, second = similarity.verdicts(report_with(effect, matters))
    assert "0.200 more similar than with new weights" in first
    assert "blocks 2 to 3 ('uniform', the least harmful way)" in second
    assert second.endswith(said)


def test_trained_weights_that_cannot_be_downloaded_are_named(run_folder, capsys, monkeypatch):
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("no network")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    assert main(["similarity", "--timm", TIMM, *FEW]) == 1
    assert f"weights of {TIMM} cannot be downloaded (ConnectionError); fetch them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name one model"),
        (["run", "--timm", TIMM], "name one model"),
        (["vit_16"], "neither a file nor a model named 'vit_16'; did you mean 'vit_16b'"),
        (["--timm", "test_vitt"], "timm has no model 'test_vitt'; did you mean 'test_vit"),
        (["--timm", "test_resnet"], "the attention maps of a ResNet cannot be found"),
        (["--timm", TIMM, "--checkpoint", "words.txt"], "words.txt cannot be read"),
        (["--timm", TIMM, "--checkpoint", "run/model.safetensors"], f"do not fit {TIMM}"),
        (["--timm", TIMM, "--checkpoint", "none.pth"], "there is no file none.pth; name"),
        (["run", "--checkpoint", "words.txt"], "leave one of the two out"),
        (["run", "--count", "1"], "--count is 1; maps of different images are compared, so choose 2 or more"),
        (["run", "--images", "no-such-set"], "no-such-set"),
        (["run", "--images", "empty"], "empty holds no image"),
    ],
)
def test_bad_input_gets_one_sentence(run_folder, capsys, arguments, said):
    (run_folder / "words.txt").write_text("no weights")
    (run_folder / "empty").mkdir()
    assert main(["similarity", "--device", "cpu", *arguments]) == 1
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
